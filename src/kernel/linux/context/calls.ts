/**
 * The calls of a program that have to do with the kernel that runs it: helpers and kernel functions that are handed the
 * context get the real one, or what main has read takes their place; kernel functions get their number there.
 */

import { ProgramBuilder, R0, R1, R2, R3 } from '../../../bpf/builder.js';
import { HELPER } from '../../../bpf/helpers.js';
import { type BpfInsn, CALL, CLASS, JMP } from '../../../bpf/instruction.js';
import { KFUNC, kfuncName } from '../../../bpf/kfuncs.js';
import { BpfError, errnoNumber } from '../../errno.js';
import type { Edit } from './edit.js';
import type { ContextKernel, ContextProgram } from './form.js';
import { type ContextPlan, PLACE } from './plan.js';
import { CONTEXT_HELPERS, type ContextUse, SESSION_KFUNCS } from './use.js';

const CALL_OPCODE = CLASS.JMP | JMP.CALL;
const WORD = 8;

/** Makes r1, a pointer, the number that it is: negated twice the verifier takes it for one. */
export const AS_NUMBER: readonly BpfInsn[] = new ProgramBuilder().neg(R1).neg(R1).build();

interface CallInput {
  readonly program: ContextProgram;
  readonly use: ContextUse;
  readonly plan: ContextPlan;
  readonly kernel: ContextKernel;
  /** A session program's half: which. */
  readonly isReturn: boolean;
}

/** The edits of all calls. Throws EOPNOTSUPP for a function that this kernel does not have, or not in this form. */
export function callEdits(input: CallInput): Map<number, Edit> {
  const edits = new Map<number, Edit>();
  for (const [index, insn] of input.program.insns.entries()) {
    if (insn.opcode !== CALL_OPCODE) continue;
    const edit =
      insn.src === CALL.HELPER
        ? helperEdit(insn.imm, input)
        : insn.src === CALL.KFUNC
          ? kfuncEdit(insn, input)
          : undefined;
    if (edit !== undefined) edits.set(index, edit);
  }
  return edits;
}

/** r1 = what the kernel handed to main. */
const REAL_CONTEXT: readonly BpfInsn[] = new ProgramBuilder().load(8, R1, R1, PLACE.real).build();

function inPlace(write: (b: ProgramBuilder) => void): Edit {
  const b = new ProgramBuilder();
  write(b);
  return { before: b.build(), drop: true };
}

function helperEdit(helper: number, { program, use, plan }: CallInput): Edit | undefined {
  if (!CONTEXT_HELPERS.has(helper)) return undefined;
  if (plan.context === 'pt_regs') {
    switch (helper) {
      case HELPER.get_func_arg:
        return inPlace(b => emitGetArgument(b, use.argumentWords));
      case HELPER.get_func_ret:
        return inPlace(b =>
          b
            .load(8, R1, R1, WORD * use.argumentWords)
            .store(8, R2, 0, R1)
            .mov(R0, 0),
        );
      case HELPER.get_func_arg_cnt:
        if (program.prototype === undefined)
          throw new BpfError(
            'EOPNOTSUPP',
            `program ${program.name} asks how many arguments the function has, which a kprobe does not know`,
          );
        return inPlace(b => b.mov(R0, use.argumentWords));
      default:
    }
  }
  return plan.main ? { before: REAL_CONTEXT } : undefined;
}

/** `bpf_get_func_arg` on what main has read: r1 the context, r2 which word, r3 where to. */
function emitGetArgument(b: ProgramBuilder, words: number): void {
  const out = b.label();
  b.mov(R0, -errnoNumber('EINVAL'));
  b.mov32(R2, R2);
  b.jump('ge', R2, words, out);
  b.lsh(R2, 3);
  b.add(R1, R2);
  b.load(8, R1, R1);
  b.store(8, R3, 0, R1);
  b.mov(R0, 0);
  b.bind(out);
}

function kfuncEdit(insn: BpfInsn, { program, plan, kernel, isReturn }: CallInput): Edit | undefined {
  const name = kfuncName(insn.imm);
  // One of the kernel's own.
  if (name === undefined) return undefined;
  if (plan.emulated || insn.imm === KFUNC.bpf_session_frame) {
    switch (insn.imm) {
      case KFUNC.bpf_session_is_return:
        return inPlace(b => b.mov(R0, isReturn ? 1 : 0));
      case KFUNC.bpf_session_cookie:
        return inPlace(b => b.mov(R0, R1).add(R0, PLACE.cookie));
      case KFUNC.bpf_session_frame:
        return inPlace(b => {
          if (plan.main) b.load(8, R0, R1, PLACE.frame);
          else {
            for (const negate of AS_NUMBER) b.emit(negate);
            b.mov(R0, R1);
          }
        });
      default:
    }
  }
  const id = kernel.kfunc(name);
  if (id === undefined)
    throw new BpfError(
      'EOPNOTSUPP',
      `program ${program.name} calls ${name}, which this kernel does not have`,
    );
  const call = { ...insn, imm: id };
  const before = plan.main && SESSION_KFUNCS.has(insn.imm) ? REAL_CONTEXT : [];
  return { before: [...before, call], drop: true };
}

/**
 * Calls of the program's own functions: static ones are walked with what they are called with, global ones are walked
 * once by themselves, with anything that fits their types (the kernel's `check_func_call` and `btf_prepare_func_args`).
 */

import { FIRST_ARGUMENT, RESULT } from '../../../bpf/instruction.js';
import type { Btf, BtfFuncProto } from '../../../btf/btf.js';
import { BpfError } from '../../errno.js';
import { checkFixed } from './arguments.js';
import { checkDepth, clobberArguments } from './callback.js';
import { checkWholeContext } from './memory_access.js';
import type { Step } from './path.js';
import { UNKNOWN } from './scalar.js';
import { Frame, State } from './state.js';
import type { Subprogram } from './subprograms.js';
import { CONTEXT, memory, NOT_INIT, type Value } from './value.js';

const MOST_ARGUMENTS = 5;

/** What a global function takes: a number, the context, or memory of a size. */
type GlobalArgument =
  | { readonly kind: 'scalar' }
  | { readonly kind: 'ctx' }
  | { readonly kind: 'mem'; readonly size: number; readonly nullable: boolean };

/** Checks a call; returns the index of the instruction that is walked next. */
export function checkSubprogramCall(step: Step): number {
  const { analysis, state } = step;
  const { subprograms } = analysis.program;
  const number = subprograms.named[step.index] as number;
  const callee = subprograms.list[number] as Subprogram;
  if (state.lock !== undefined) step.fail('EINVAL', 'function calls are not allowed while holding a lock');
  if (callee.isGlobal) {
    checkGlobalCall(step, number, callee);
    return step.index + 1;
  }
  checkDepth(step, state);
  const frame = Frame.enter(number, step.index, state.frames.length, step.findings.newId());
  for (let register = FIRST_ARGUMENT; register <= MOST_ARGUMENTS; register++) {
    frame.registers[register] = state.get(register);
  }
  clobberArguments(step);
  state.set(RESULT, NOT_INIT);
  state.frames.push(frame);
  return callee.start;
}

/** A function returns to its caller; gives the index of the instruction behind the call. */
export function leaveSubprogram(step: Step, frame: Frame): number {
  const { state } = step;
  const result = state.get(RESULT);
  if (result.kind === 'fp' && result.frame >= state.frames.length - 1) {
    step.fail('EINVAL', 'cannot return stack pointer to the caller', RESULT);
  }
  state.frames.pop();
  clobberArguments(step);
  state.set(RESULT, result);
  return frame.callsite + 1;
}

function checkGlobalCall(step: Step, number: number, callee: Subprogram): void {
  const args = argumentsOf(step.env.btf as Btf, callee);
  args.forEach((argument, i) => {
    const register = FIRST_ARGUMENT + i;
    const value = step.read(register);
    if (argument.kind === 'scalar') {
      if (value.kind !== 'scalar' && value.kind !== 'ptr_') {
        step.fail(
          'EINVAL',
          `R${register} is not a scalar: func ${callee.name ?? number} takes a number there`,
          register,
        );
      }
    } else if (argument.kind === 'ctx') {
      if (value.kind !== 'ctx')
        step.fail('EINVAL', `arg#${i} expected pointer to ctx, but got ${value.kind}`, register);
      checkWholeContext(step, register, value);
    } else if (argument.nullable && value.kind === 'scalar' && value.max === 0n) {
      step.matters(register);
    } else {
      const { nullable } = argument;
      checkFixed(step, register, argument.size, false, 'fp, map_value, mem', nullable);
      checkFixed(step, register, argument.size, true, 'fp, map_value, mem', nullable);
    }
  });
  clobberArguments(step);
  step.state.set(RESULT, UNKNOWN);
}

/** The state in which a global function is walked. */
export function globalEntry(btf: Btf, number: number, callee: Subprogram, newId: () => number): State {
  const frame = Frame.enter(number, -1, 0, newId());
  argumentsOf(btf, callee).forEach((argument, i) => {
    frame.registers[FIRST_ARGUMENT + i] = entryValue(argument, newId);
  });
  return new State([frame]);
}

function entryValue(argument: GlobalArgument, newId: () => number): Value {
  if (argument.kind === 'scalar') return UNKNOWN;
  if (argument.kind === 'ctx') return CONTEXT;
  return memory('mem', argument.size, argument.nullable ? { id: newId(), maybeNull: true } : {});
}

/** What a global function's type says of its arguments. Throws `BpfError` EINVAL where the verifier can't go by it. */
function argumentsOf(btf: Btf, callee: Subprogram): GlobalArgument[] {
  const proto = callee.proto as BtfFuncProto;
  const name = callee.name ?? 'a function';
  if (proto.params.length > MOST_ARGUMENTS) {
    throw new BpfError(
      'EINVAL',
      `Global function ${name}() with ${proto.params.length} > ${MOST_ARGUMENTS} args. Buggy compiler.`,
    );
  }
  const returns = btf.type(btf.resolve(proto.returnType)).kind;
  if (returns !== 'int' && returns !== 'enum' && returns !== 'enum64' && returns !== 'void') {
    throw new BpfError(
      'EINVAL',
      `Global function ${name}() doesn't return scalar. Only those are supported.`,
    );
  }
  const tags = tagsOf(btf, callee.typeId ?? 0);
  return proto.params.map(({ type: typeId }, i): GlobalArgument => {
    const tag = tags.get(i) ?? new Set<string>();
    if (tag.has('arg:ctx')) return { kind: 'ctx' };
    const type = btf.type(btf.resolve(typeId));
    if (type.kind === 'int' || type.kind === 'enum' || type.kind === 'enum64') return { kind: 'scalar' };
    if (type.kind === 'ptr') {
      const pointed = btf.resolve(type.type);
      const { kind } = btf.type(pointed);
      const sized = kind !== 'void' && kind !== 'fwd' && kind !== 'func_proto' && kind !== 'func';
      if (sized) return { kind: 'mem', size: btf.sizeOf(pointed), nullable: !tag.has('arg:nonnull') };
      if (i === 0 && kind === 'void') return { kind: 'ctx' };
    }
    throw new BpfError('EINVAL', `Arg#${i} type ${btf.typeName(typeId)} in ${name}() is not supported yet.`);
  });
}

const tagsOfBtf = new WeakMap<Btf, Map<number, Map<number, Set<string>>>>();

/** The declaration tags of a function's parameters. */
function tagsOf(btf: Btf, typeId: number): Map<number, Set<string>> {
  let all = tagsOfBtf.get(btf);
  if (all === undefined) {
    all = new Map();
    for (let id = 1; id <= btf.typeCount; id++) {
      const type = btf.type(id);
      if (type.kind !== 'decl_tag' || type.component < 0) continue;
      const ofType = all.get(type.type) ?? new Map<number, Set<string>>();
      const ofParameter = ofType.get(type.component) ?? new Set<string>();
      ofParameter.add(type.tag);
      ofType.set(type.component, ofParameter);
      all.set(type.type, ofType);
    }
    tagsOfBtf.set(btf, all);
  }
  return all.get(typeId) ?? new Map();
}

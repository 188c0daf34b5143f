/**
 * The JIT: a verified program as x86-64 machine code (the kernel's `bpf_int_jit_compile`). One instruction after
 * the other, each with its own few instructions; before that plan.ts finds what needs no code at all.
 *
 * The code is called with the context in rdi. It changes the caller-saved registers that it says and the flags,
 * nothing else. A modify-return program's result is in rax; of other programs nobody reads one, and there is none.
 */

import { rsp } from '../../../x86/assembler.js';
import { BpfError } from '../../errno.js';
import { isVerified, type VerifiedProgram } from '../verifier/verifier.js';
import { emitBinary, emitMov, emitMovAdd, emitMovsx, emitNeg, emitShift, emitSwap } from './alu.js';
import { emitAtomic } from './atomics.js';
import { emitCall, emitCheckedLookup } from './calls.js';
import { emitDivision } from './division.js';
import { Emitter } from './emitter.js';
import type { JitEnv } from './environment.js';
import { emitBranch, emitGoto } from './jumps.js';
import { emitLoad, emitLoadImmediate, emitStore } from './memory.js';
import { type CallPlan, planProgram } from './plan.js';
import type { RegisterMask } from './register_map.js';

/** Machine code of a program. */
export interface JitCode {
  /** bytes */
  readonly size: number;
  /** the caller-saved registers that the program changes: bit n is the register with hardware number n */
  readonly clobbers: RegisterMask;
  /** where the code of each instruction begins, in bytes, by index of instruction */
  readonly offsets: Int32Array;
  /** the code as it must stand at `address` */
  place(address: bigint): Uint8Array;
}

/** Compiles `program` for `env`. Throws `BpfError` EINVAL for a program that `verifyProgram` did not make. */
export function compileProgram(program: VerifiedProgram, env: JitEnv): JitCode {
  if (!isVerified(program))
    throw new BpfError('EINVAL', 'only a program that the verifier passed is compiled');
  const plan = planProgram(program, env);
  const e = new Emitter(program, plan, env);
  const count = program.insns.length;
  const offsets = new Int32Array(count);

  for (const register of plan.saved) e.a.push(register);
  if (plan.reserved > 0) e.a.sub(rsp, plan.reserved);
  let index = 0;
  while (index < count) {
    e.begin(index);
    const from = e.a.length;
    const written = emitInstruction(e, index);
    for (let i = index; i < index + written; i++) {
      offsets[i] = from;
      if (i > index) e.begin(i);
    }
    index += written;
  }
  e.finish();
  return {
    size: e.a.length,
    clobbers: e.clobbers,
    offsets,
    place: address => e.a.finish(address),
  };
}

/** Writes the code of instruction `index` and of those behind it that it is one with; returns how many. */
function emitInstruction(e: Emitter, index: number): number {
  const operation = e.operationAt(index);
  const { kept } = e.plan;
  if (e.program.reached[index] === 0) {
    // Nothing leads here; where code falls in or jumps in anyway, the verifier was wrong: stop.
    e.a.ud2();
    return 1;
  }
  if (kept[index] === 0) return 1;
  switch (operation.kind) {
    case 'mov':
      if (emitMovAdd(e, index)) return 2;
      emitMov(e, index, operation);
      return 1;
    case 'movsx':
      emitMovsx(e, index, operation);
      return 1;
    case 'neg':
      emitNeg(e, index, operation);
      return 1;
    case 'swap':
      emitSwap(e, index, operation);
      return 1;
    case 'alu':
      emitAlu(e, index, operation);
      return 1;
    case 'loadImmediate':
      emitLoadImmediate(e, index);
      return 1;
    case 'load':
      emitLoad(e, index, operation);
      return 1;
    case 'store':
      emitStore(e, index, operation);
      return 1;
    case 'atomic':
      emitAtomic(e, index, operation);
      return 1;
    case 'branch':
      emitBranch(e, index, operation);
      return 1;
    case 'goto':
      emitGoto(e, e.program.flow.targets[index] as number, index + 1);
      return 1;
    case 'call': {
      const plan = e.plan.calls.get(index) as CallPlan;
      if (emitCheckedLookup(e, index, plan)) return 2;
      emitCall(e, plan);
      return 1;
    }
    case 'exit':
      emitExit(e);
      return 1;
    default:
      throw new RangeError(`the verifier passed a ${operation.kind} instruction, which has no code`);
  }
}

function emitAlu(e: Emitter, index: number, operation: Parameters<typeof emitBinary>[2]): void {
  switch (operation.name) {
    case 'div':
    case 'sdiv':
    case 'mod':
    case 'smod':
      emitDivision(e, index, operation);
      return;
    case 'lsh':
    case 'rsh':
    case 'arsh':
      emitShift(e, index, operation);
      return;
    default:
      emitBinary(e, index, operation);
  }
}

function emitExit(e: Emitter): void {
  const { reserved, saved } = e.plan;
  if (reserved > 0) e.a.add(rsp, reserved);
  for (const register of saved.toReversed()) e.a.pop(register);
  e.a.ret();
}

/** Each kind of instruction, and where its code is written. */

import { emitBinary, emitMov, emitMovAdd, emitMovsx, emitNeg, emitShift, emitSwap } from './alu.js';
import { emitAtomic } from './atomics.js';
import type { CallPlan } from './call_plan.js';
import { emitCall, emitCheckedLookup } from './calls.js';
import { emitDivision } from './division.js';
import type { Emitter } from './emitter.js';
import { emitExit, emitMayGoto } from './functions.js';
import { emitBranch, emitGoto } from './jumps.js';
import { emitLoad, emitLoadImmediate, emitStore } from './memory.js';

/** Writes the code of instruction `index` and of those behind it that it is one with; returns how many. */
export function emitInstruction(e: Emitter, index: number): number {
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
    case 'mayGoto':
      emitMayGoto(e, index);
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

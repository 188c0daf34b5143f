/**
 * What is decided before any code is written: which instructions need code at all, which registers are live
 * around each, how each call is compiled, and what each function needs of the stack.
 */

import { type BpfInsn, PSEUDO, RESULT } from '../../../bpf/instruction.js';
import { layoutOf } from '../../../bpf/layout.js';
import {
  type Liveness,
  liveRegisters,
  type RegisterSet,
  registersRead,
  registersWritten,
} from '../../../bpf/liveness.js';
import type { Operation } from '../../../bpf/operation.js';
import { fallsThrough } from '../verifier/control_flow.js';
import { type CallPlan, CallPlanner, callReads, leaves, readsThread, runsFunctions } from './call_plan.js';
import type { JitEnv } from './environment.js';
import type { FunctionFacts, ProgramFacts } from './facts.js';
import { type FrameWord, type FunctionPlan, planFrame } from './frame_plan.js';
import { CALLER_SAVED, homesOf, maskOf, type RegisterMask } from './register_map.js';

export interface Plan {
  /** by index of instruction: whether code is made for it */
  readonly kept: Uint8Array;
  readonly liveness: Liveness;
  readonly calls: ReadonlyMap<number, CallPlan>;
  /** atomics whose operand is written into the instruction; by index */
  readonly immediates: ReadonlyMap<number, number>;
  /** 16-byte loads of a function's address: the index of its first instruction; by index */
  readonly functionLoads: ReadonlyMap<number, number>;
  /** caller-saved registers that instructions write as their destination */
  readonly written: RegisterMask;
  /** in the order of instructions; the first is the main program */
  readonly functions: readonly FunctionPlan[];
}

/** Whether an instruction does nothing but give a register a value. */
function onlyWrites(operation: Operation): boolean {
  switch (operation.kind) {
    case 'alu':
    case 'mov':
    case 'movsx':
    case 'neg':
    case 'swap':
    case 'load':
    case 'loadImmediate':
      return true;
    default:
      return false;
  }
}

/** The operands of atomics that need no register: numbers of 32 bits, where nothing is fetched. */
function planImmediates(program: ProgramFacts): ReadonlyMap<number, number> {
  const immediates = new Map<number, number>();
  for (const [index, operand] of program.atomicOperands) {
    const operation = program.operations[index];
    if (operation?.kind !== 'atomic' || operation.fetch) continue;
    const value = BigInt.asIntN(operation.size * 8, operand);
    if (value === BigInt.asIntN(32, value)) immediates.set(index, Number(value));
  }
  return immediates;
}

/** Plans the code of `program`. */
export function planProgram(program: ProgramFacts, env: JitEnv): Plan {
  const { insns, operations, reached, subprograms } = program;
  const layout = layoutOf(insns);
  const planner = new CallPlanner(program, env, layout);
  const calls = new Map<number, CallPlan>();
  const functionLoads = new Map<number, number>();
  operations.forEach((operation, index) => {
    if (reached[index] === 0) return;
    if (operation.kind === 'call') calls.set(index, planner.plan(index, operation.target));
    const { src, imm } = insns[index] as BpfInsn;
    if (operation.kind === 'loadImmediate' && src === PSEUDO.FUNC) {
      functionLoads.set(index, layout.indexAt[(layout.slotOf[index] as number) + 1 + imm] as number);
    }
  });

  const immediates = planImmediates(program);
  const mainEnd = (subprograms[0] as FunctionFacts).end;
  const reads = (index: number): RegisterSet => {
    if (reached[index] === 0) return 0;
    const operation = operations[index] as Operation;
    // Only where somebody reads the main program's result does it have one.
    if (operation.kind === 'exit') return index < mainEnd && !program.hasResult ? 0 : 1 << RESULT;
    const call = calls.get(index);
    if (call !== undefined) return callReads(call);
    if (immediates.has(index)) return 1 << (insns[index] as BpfInsn).dst;
    return registersRead(insns[index] as BpfInsn, operation);
  };
  const writes = (index: number): RegisterSet =>
    registersWritten(insns[index] as BpfInsn, operations[index] as Operation);

  const liveness = liveRegisters({
    length: insns.length,
    targets: program.flow.targets,
    fallsThrough: index => fallsThrough(operations[index] as Operation),
    reads,
    writes,
    onlyWrites: index => onlyWrites(operations[index] as Operation),
  });

  const kept = new Uint8Array(insns.length);
  let written: RegisterSet = 0;
  const planFunction = (facts: FunctionFacts): FunctionPlan => {
    let used: RegisterSet = 0;
    let callsOut = false;
    const words = new Set<FrameWord>();
    for (let index = facts.start; index < facts.end; index++) {
      if (reached[index] === 0) continue;
      const operation = operations[index] as Operation;
      const idle = ((liveness.after[index] as number) & writes(index)) === 0;
      if (idle && onlyWrites(operation)) continue;
      kept[index] = 1;
      const call = calls.get(index);
      if (call !== undefined) {
        callsOut ||= leaves(call);
        wordsOfCall(program, call, words);
      }
      if (operation.kind === 'mayGoto') words.add('mayGoto');
      used |= reads(index) | (call === undefined ? writes(index) : 1 << RESULT);
      written |= call === undefined ? writes(index) : 1 << RESULT;
    }
    return planFrame(facts, used, callsOut, words);
  };
  const functions = subprograms.map(planFunction);
  return {
    kept,
    liveness,
    calls,
    immediates,
    functionLoads,
    functions,
    written: homesOf(written).reduce((mask, register) => mask | maskOf(register), 0) & CALLER_SAVED,
  };
}

/** Adds the words that a function's frame holds for the sake of `call`. */
function wordsOfCall(program: ProgramFacts, call: CallPlan, words: Set<FrameWord>): void {
  const runs = runsFunctions(call);
  if (call.kind === 'tail_call' || (runs && program.needs.tailCalls)) words.add('tailCalls');
  if (readsThread(call) || (runs && program.needs.thread)) words.add('thread');
  if (call.kind === 'override') words.add('override');
  if (call.kind === 'loop' || call.kind === 'for_each') words.add('loop');
}

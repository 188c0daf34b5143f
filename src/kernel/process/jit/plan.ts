/**
 * What is decided before any code is written: which instructions need code at all, which registers are live
 * around each, and what the program needs of the stack.
 */

import { HELPER } from '../../../bpf/helpers.js';
import { type BpfInsn, FIRST_ARGUMENT, FRAME_POINTER, RESULT } from '../../../bpf/instruction.js';
import {
  type Liveness,
  liveRegisters,
  type RegisterSet,
  registersRead,
  registersWritten,
} from '../../../bpf/liveness.js';
import type { Operation } from '../../../bpf/operation.js';
import type { Reg } from '../../../x86/assembler.js';
import { fallsThrough } from '../verifier/control_flow.js';
import type { VerifiedProgram } from '../verifier/verifier.js';
import { isArray, type JitArray, type JitEnv } from './environment.js';
import { CALLER_SAVED, homesOf, maskOf, type RegisterMask } from './register_map.js';

/** How a call of a helper is compiled. */
export type CallPlan =
  /** an array's lookup, in place; the key is `keyOffset` from r10, or what r2 points to */
  | { readonly kind: 'array_lookup'; readonly map: JitArray; readonly keyOffset: number | undefined }
  /** a routine: its address */
  | { readonly kind: 'routine'; readonly address: bigint; readonly arguments: number }
  /** a few instructions that read what the trampoline laid out around the context */
  | { readonly kind: 'inline'; readonly helper: number; readonly arguments: number };

export interface Plan {
  /** by index of instruction: whether code is made for it */
  readonly kept: Uint8Array;
  readonly liveness: Liveness;
  readonly calls: ReadonlyMap<number, CallPlan>;
  /** atomics whose operand is written into the instruction; by index */
  readonly immediates: ReadonlyMap<number, number>;
  /** registers to save, because the caller keeps them and the program changes them */
  readonly saved: readonly Reg[];
  /** caller-saved registers that instructions write as their destination */
  readonly written: RegisterMask;
  /** from rsp, once registers are saved, up to r10 */
  readonly frameSize: number;
  /** bytes to take from rsp: `frameSize`, or 0 where the stack fits below rsp */
  readonly reserved: number;
}

/** Bytes below rsp that signal handlers leave alone (System V ABI, "red zone"). */
const RED_ZONE = 128;
const STACK_ALIGNMENT = 8;

/** Arguments of the helpers that are compiled in place. */
const INLINE: ReadonlyMap<number, number> = new Map([
  [HELPER.get_func_ip, 1],
  [HELPER.get_attach_cookie, 1],
  [HELPER.get_func_arg_cnt, 1],
  [HELPER.get_func_arg, 3],
]);

function planCall(program: VerifiedProgram, env: JitEnv, index: number): CallPlan {
  const helper = (program.insns[index] as BpfInsn).imm;
  const inline = INLINE.get(helper);
  if (inline !== undefined) return { kind: 'inline', helper, arguments: inline };

  const spec = program.callMaps.get(index);
  const map = spec === undefined ? undefined : env.maps.get(spec.id);
  if (map === undefined) {
    // The verifier and the environment are made from the same maps and helpers; this is our own mistake.
    throw new RangeError(`helper ${helper} at instruction ${index} has no code in this environment`);
  }
  const array = isArray(map);
  switch (helper) {
    case HELPER.map_lookup_elem:
      if (array) return { kind: 'array_lookup', map, keyOffset: program.keyOffsets.get(index) };
      return { kind: 'routine', address: env.routine('hashLookup'), arguments: 2 };
    case HELPER.map_update_elem:
      return { kind: 'routine', address: env.routine(array ? 'arrayUpdate' : 'hashUpdate'), arguments: 4 };
    case HELPER.map_delete_elem:
      return { kind: 'routine', address: env.routine(array ? 'arrayDelete' : 'hashDelete'), arguments: 2 };
    default:
      throw new RangeError(`helper ${helper} at instruction ${index} has no code`);
  }
}

/** The BPF registers that the code of a call reads. */
function callReads(plan: CallPlan): RegisterSet {
  if (plan.kind === 'array_lookup') {
    return 1 << (plan.keyOffset === undefined ? FIRST_ARGUMENT + 1 : FRAME_POINTER);
  }
  return ((1 << plan.arguments) - 1) << FIRST_ARGUMENT;
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
function planImmediates(program: VerifiedProgram): ReadonlyMap<number, number> {
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
export function planProgram(program: VerifiedProgram, env: JitEnv): Plan {
  const { insns, operations, reached } = program;
  const calls = new Map<number, CallPlan>();
  operations.forEach((operation, index) => {
    if (operation.kind === 'call' && reached[index] === 1) calls.set(index, planCall(program, env, index));
  });

  const immediates = planImmediates(program);

  // Only modify-return programs have a result that somebody reads.
  const exitReads = program.env.attachType === 'fmod_ret' ? 1 << RESULT : 0;
  const reads = (index: number): RegisterSet => {
    if (reached[index] === 0) return 0;
    const operation = operations[index] as Operation;
    if (operation.kind === 'exit') return exitReads;
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
  let used: RegisterSet = 0;
  let written: RegisterSet = 0;
  let routines = false;
  for (let index = 0; index < insns.length; index++) {
    if (reached[index] === 0) continue;
    const idle = ((liveness.after[index] as number) & writes(index)) === 0;
    if (idle && onlyWrites(operations[index] as Operation)) continue;
    kept[index] = 1;
    const call = calls.get(index);
    if (call?.kind === 'routine') routines = true;
    used |= reads(index) | (call === undefined ? writes(index) : 1 << RESULT);
    written |= call === undefined ? writes(index) : 1 << RESULT;
  }

  const frameUsed = (used & (1 << FRAME_POINTER)) !== 0;
  const frame = frameUsed ? Math.ceil(program.stackDepth / STACK_ALIGNMENT) * STACK_ALIGNMENT : 0;
  const belowStackPointer = !routines && frame <= RED_ZONE;
  const reserved = belowStackPointer ? 0 : frame;
  return {
    kept,
    liveness,
    calls,
    immediates,
    saved: homesOf(used).filter(register => (maskOf(register) & CALLER_SAVED) === 0),
    written: homesOf(written).reduce((mask, register) => mask | maskOf(register), 0) & CALLER_SAVED,
    frameSize: reserved,
    reserved,
  };
}

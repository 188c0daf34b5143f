/**
 * Calls of helpers. Map operations are routines in the process; an array's lookup and the helpers that read what
 * the trampoline laid out are a few instructions in place.
 */

import { HELPER } from '../../../bpf/helpers.js';
import { FRAME_POINTER, RESULT } from '../../../bpf/instruction.js';
import { type Assembler, type Label, mem, type Reg, r9, rax, rdi, rdx, rsi } from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { ENTRY, RECORD } from '../kfunc_md/record.js';
import { THREAD } from '../threads/layout.js';
import { FRAME } from '../trampoline/frame.js';
import type { CallPlan } from './call_plan.js';
import type { Emitter } from './emitter.js';
import type { JitPerCpuArray } from './environment.js';
import { emitForEach, emitLoop, emitOverride, emitSubprogramCall } from './functions.js';
import { emitGoto } from './jumps.js';
import { emitKernelFunction } from './kernel_functions.js';
import { CALLER_SAVED } from './register_map.js';
import { emitTailCall } from './tail_call.js';

type ArrayLookup = CallPlan & { readonly kind: 'array_lookup' | 'percpu_lookup' };

const WORD = 8;

/** `register` = the number of the thread's slot. */
export function emitSlot(e: Emitter, register: Reg): void {
  e.a.mov(register, e.word('thread'));
  e.a.mov(register, mem(register, THREAD.slot), 4);
}

/** Calls an absolute address, which may be further away than a relative call reaches. */
function emitRoutineCall(e: Emitter, address: bigint, slot: boolean): void {
  if (slot) emitSlot(e, r9);
  e.a.movImm64(rax, address);
  e.a.callReg(rax);
  e.clobbers |= CALLER_SAVED;
}

/**
 * `rax = values + index * stride`, where index < maxEntries; otherwise goes to `absent`. The key is on the stack,
 * or where rsi points.
 */
function emitArrayIndex(e: Emitter, plan: ArrayLookup, absent: Label): void {
  const { a } = e;
  const { map, keyOffset } = plan;
  e.target(RESULT);
  a.mov(rax, keyOffset === undefined ? mem(rsi) : e.memory(FRAME_POINTER, keyOffset), 4);
  a.cmp(rax, map.maxEntries | 0, 4);
  a.jcc('ae', absent);
  if (plan.kind === 'percpu_lookup') {
    emitPerCpuAddress(e, plan.map);
    return;
  }
  // Arguments are lost at a call: a register of theirs takes the address, if that spares the trampoline nothing.
  const values = e.changedArgument();
  if (values !== undefined) a.movImm64(values, map.values);
  if (values !== undefined && map.stride === WORD) {
    a.lea(rax, mem(values, 0, rax, WORD));
    return;
  }
  emitScale(a, rax, map.stride);
  a.add(rax, values ?? e.constant(map.values));
}

/** `rax = values + slot * slotStride + rax * stride`. */
function emitPerCpuAddress(e: Emitter, map: JitPerCpuArray): void {
  const { a } = e;
  // The key was read: what pointed to it is free.
  const slot = e.changing(r9);
  emitScale(a, rax, map.stride);
  emitSlot(e, slot);
  emitScale(a, slot, map.slotStride);
  a.add(rax, slot);
  a.add(rax, e.constant(map.values));
}

function emitScale(a: Assembler, register: Reg, factor: number): void {
  if ((factor & (factor - 1)) === 0) a.shl(register, Math.log2(factor));
  else a.imul3(register, register, factor);
}

/** An array's lookup whose result is used in some other way than being compared with zero at once. */
function emitArrayLookup(e: Emitter, plan: ArrayLookup): void {
  const { a } = e;
  const absent = a.label();
  const done = a.label();
  emitArrayIndex(e, plan, absent);
  a.bind(done);
  e.apart(() => {
    a.bind(absent);
    a.xor(rax, rax, 4);
    a.jmp(done);
  });
}

/**
 * An array's lookup and the comparison of its result with zero that follows it: an index that is too large goes
 * where the comparison would. Returns whether `index` is followed by such a comparison, and both were written.
 */
export function emitCheckedLookup(e: Emitter, index: number, plan: CallPlan): boolean {
  const check = index + 1;
  if ((plan.kind !== 'array_lookup' && plan.kind !== 'percpu_lookup') || e.program.flow.isTarget[check] === 1)
    return false;
  const operation = e.operationAt(check);
  if (operation.kind !== 'branch' || operation.width !== 64 || !operation.immediate) return false;
  const { dst, imm } = e.insnAt(check);
  if (dst !== RESULT || imm !== 0 || (operation.condition !== 'eq' && operation.condition !== 'ne'))
    return false;

  const { a } = e;
  const target = e.program.flow.targets[check] as number;
  const isNull = operation.condition === 'eq' ? target : check + 1;
  const isValue = operation.condition === 'eq' ? check + 1 : target;
  const readsNull = ((e.plan.liveness.before[isNull] as number) & (1 << RESULT)) !== 0;
  const absent = readsNull ? a.label() : e.labelOf(isNull);
  emitArrayIndex(e, plan, absent);
  emitGoto(e, isValue, check + 1);
  if (readsNull) {
    e.apart(() => {
      a.bind(absent);
      a.xor(rax, rax, 4);
      a.jmp(e.labelOf(isNull));
    });
  }
  return true;
}

/**
 * get_func_arg(ctx, n, value): `*value = argument n` and 0, or `*value = 0` and -EINVAL where the function has no
 * argument n. The number is 32 bits. The kernel leaves `*value` alone there; but the verifier counts it as written,
 * and nobody should find in it what was on the stack before.
 */
function emitFunctionArgument(e: Emitter): void {
  const { a } = e;
  const absent = a.label();
  const done = a.label();
  e.changing(rsi);
  a.mov(rax, mem(rdi, FRAME.record));
  a.mov(rsi, rsi, 4);
  a.cmp(rsi, mem(rax, RECORD.nrArgs), 4);
  a.jcc('ae', absent);
  a.mov(rax, mem(rdi, 0, rsi, WORD));
  a.mov(mem(rdx), rax);
  a.xor(rax, rax, 4);
  a.bind(done);
  e.apart(() => {
    a.bind(absent);
    a.mov(mem(rdx), 0);
    a.mov(rax, -errnoNumber('EINVAL'));
    a.jmp(done);
  });
}

/**
 * get_func_ret(ctx, value): `*value = the traced function's result`, behind its arguments as the program knows them
 * (another program on the function may know more, or fewer), and 0; where there is none yet, `*value = 0` and
 * -EOPNOTSUPP.
 */
function emitFunctionResult(e: Emitter): void {
  const { a } = e;
  const { returnAt } = e.program;
  if (returnAt === undefined) {
    a.mov(mem(rsi), 0);
    a.mov(rax, -errnoNumber('EOPNOTSUPP'));
    return;
  }
  a.mov(rax, mem(rdi, returnAt * WORD));
  a.mov(mem(rsi), rax);
  a.xor(rax, rax, 4);
}

function emitInline(e: Emitter, helper: number): void {
  const { a } = e;
  e.target(RESULT);
  switch (helper) {
    case HELPER.get_func_ip:
      a.mov(rax, mem(rdi, FRAME.record));
      a.mov(rax, mem(rax, RECORD.func));
      return;
    case HELPER.get_attach_cookie:
      a.mov(rax, mem(rdi, FRAME.entry));
      a.mov(rax, mem(rax, ENTRY.cookie));
      return;
    case HELPER.get_func_arg_cnt:
      a.mov(rax, mem(rdi, FRAME.record));
      a.mov(rax, mem(rax, RECORD.nrArgs), 4);
      return;
    case HELPER.get_func_arg:
      emitFunctionArgument(e);
      return;
    case HELPER.get_func_ret:
      emitFunctionResult(e);
      return;
    case HELPER.get_smp_processor_id:
      emitSlot(e, rax);
      return;
    default:
      throw new RangeError(`helper ${helper} is not compiled in place`);
  }
}

/** The call of instruction `index`. */
export function emitCall(e: Emitter, plan: CallPlan): void {
  switch (plan.kind) {
    case 'array_lookup':
    case 'percpu_lookup':
      emitArrayLookup(e, plan);
      return;
    case 'routine':
      emitRoutineCall(e, plan.address, plan.slot);
      return;
    case 'inline':
      emitInline(e, plan.helper);
      return;
    case 'kfunc':
      emitKernelFunction(e, plan.id);
      return;
    case 'subprogram':
      emitSubprogramCall(e, plan.start);
      return;
    case 'loop':
      emitLoop(e);
      return;
    case 'for_each':
      emitForEach(e, plan.iterate, plan.slot);
      return;
    case 'tail_call':
      emitTailCall(e, plan.map);
      return;
    case 'override':
      emitOverride(e);
  }
}

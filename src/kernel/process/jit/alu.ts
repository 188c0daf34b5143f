/**
 * Moves and arithmetic but division. A 32-bit instruction of x86-64 clears the upper half of its destination, as
 * BPF's do.
 */

import { FRAME_POINTER } from '../../../bpf/instruction.js';
import type { Operation } from '../../../bpf/operation.js';
import { type Assembler, mem, type Reg, rcx, rsp } from '../../../x86/assembler.js';
import { bytesOf, type Emitter } from './emitter.js';
import { homeOf } from './register_map.js';

type Kind<K extends Operation['kind']> = Operation & { readonly kind: K };

/** `register = value`; flags change. */
export function emitConstant(a: Assembler, register: Reg, value: bigint): void {
  if (value === 0n) a.xor(register, register, 4);
  else a.movImm64(register, value);
}

export function emitMov(e: Emitter, index: number, operation: Kind<'mov'>): void {
  const { dst, src, imm } = e.insnAt(index);
  const target = e.target(dst);
  if (operation.immediate) {
    const value = operation.width === 32 ? BigInt.asUintN(32, BigInt(imm)) : BigInt(imm);
    emitConstant(e.a, target, value);
  } else if (src === FRAME_POINTER) {
    e.a.lea(target, mem(rsp, e.fn.frameSize));
  } else if (operation.width === 32) {
    e.a.mov(target, homeOf(src), 4);
  } else if (src !== dst) {
    e.a.mov(target, homeOf(src));
  }
}

/**
 * `dst = src; dst += distance` in one instruction, where instruction `index + 1` is the second and nothing jumps
 * there. Returns whether it was written.
 */
export function emitMovAdd(e: Emitter, index: number): boolean {
  const mov = e.operationAt(index);
  if (mov.kind !== 'mov' || mov.width !== 64 || mov.immediate) return false;
  if (index + 1 >= e.program.insns.length || e.program.flow.isTarget[index + 1] === 1) return false;
  const next = e.operationAt(index + 1);
  if (next.kind !== 'alu' || next.name !== 'add' || next.width !== 64 || !next.immediate) return false;
  const first = e.insnAt(index);
  const second = e.insnAt(index + 1);
  const reach = 2 ** 30;
  if (first.dst !== second.dst || e.plan.kept[index + 1] === 0 || Math.abs(second.imm) > reach) return false;
  e.a.lea(e.target(first.dst), e.memory(first.src, second.imm));
  return true;
}

export function emitMovsx(e: Emitter, index: number, operation: Kind<'movsx'>): void {
  const { dst, src } = e.insnAt(index);
  const from = (operation.bits / 8) as 1 | 2 | 4;
  e.a.movsx(e.target(dst), homeOf(src), from, bytesOf(operation.width));
}

export function emitNeg(e: Emitter, index: number, operation: Kind<'neg'>): void {
  e.a.neg(e.target(e.insnAt(index).dst), bytesOf(operation.width));
}

export function emitSwap(e: Emitter, index: number, operation: Kind<'swap'>): void {
  const target = e.target(e.insnAt(index).dst);
  const swaps = operation.name !== 'le';
  switch (operation.bits) {
    case 16:
      if (swaps) e.a.rol(target, 8, 2);
      e.a.movzx(target, target, 2);
      return;
    case 32:
      if (swaps) e.a.bswap(target, 4);
      else e.a.mov(target, target, 4);
      return;
    case 64:
      if (swaps) e.a.bswap(target, 8);
  }
}

/** add, sub, mul, or, and, xor. */
export function emitBinary(e: Emitter, index: number, operation: Kind<'alu'>): void {
  const { dst, src, imm } = e.insnAt(index);
  const size = bytesOf(operation.width);
  const target = e.target(dst);
  const operand = operation.immediate ? imm : e.source(src);
  switch (operation.name) {
    case 'add':
      e.a.add(target, operand, size);
      return;
    case 'sub':
      e.a.sub(target, operand, size);
      return;
    case 'or':
      e.a.or(target, operand, size);
      return;
    case 'and':
      e.a.and(target, operand, size);
      return;
    case 'xor':
      e.a.xor(target, operand, size);
      return;
    case 'mul':
      if (typeof operand === 'number') e.a.imul3(target, target, operand, size);
      else e.a.imul(target, operand, size);
      return;
    default:
      throw new RangeError(`${operation.name} is not one of the plain operations`);
  }
}

type ShiftName = 'lsh' | 'rsh' | 'arsh';

function emitShiftBy(e: Emitter, name: ShiftName, register: Reg, count: number | 'cl', size: 4 | 8): void {
  if (name === 'lsh') e.a.shl(register, count, size);
  else if (name === 'rsh') e.a.shr(register, count, size);
  else e.a.sar(register, count, size);
}

/**
 * Shifts. x86-64 takes a count that is not constant from cl only, which is r4's; it uses the low 5 or 6 bits of the
 * count, as BPF does.
 */
export function emitShift(e: Emitter, index: number, operation: Kind<'alu'>): void {
  const { dst, src, imm } = e.insnAt(index);
  const size = bytesOf(operation.width);
  const name = operation.name as ShiftName;
  const target = e.target(dst);
  if (operation.immediate) {
    if (imm !== 0) emitShiftBy(e, name, target, imm, size);
    else if (size === 4) e.a.mov(target, target, 4);
    return;
  }
  const count = homeOf(src);
  if (count === rcx) {
    emitShiftBy(e, name, target, 'cl', size);
    return;
  }
  if (target === rcx) {
    const shifted = e.borrow();
    e.a.mov(shifted, rcx);
    e.a.mov(rcx, count);
    emitShiftBy(e, name, shifted, 'cl', size);
    e.a.mov(rcx, shifted);
    return;
  }
  if (e.isFree(rcx)) {
    e.a.mov(e.changing(rcx), count);
    emitShiftBy(e, name, target, 'cl', size);
    return;
  }
  const kept = e.borrow();
  e.a.mov(kept, rcx);
  e.a.mov(rcx, count);
  emitShiftBy(e, name, target, 'cl', size);
  e.a.mov(e.changing(rcx), kept);
}

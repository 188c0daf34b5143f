/**
 * The 512 bytes of stack that a frame has, as slots of eight bytes: what was written, what was spilled, and the
 * objects (dynptrs, iterators) that live there. Slots never change: a frame gets another one.
 */

import { STACK_SIZE } from '../../../bpf/instruction.js';
import { constant, isConstant, lowHalf, type Scalar, UNKNOWN, unknownOf, withId } from './scalar.js';
import { scalarBinary } from './scalar_alu.js';
import { describeValue, type Value, ZERO } from './value.js';

/** Bytes of a stack slot: the unit that a register is spilled to. */
export const STACK_SLOT = 8;
export const STACK_SLOTS = STACK_SIZE / STACK_SLOT;
const ALL_BYTES = 0xff;
const LOW_BYTES = 0x0f;
const HIGH_BYTES = 0xf0;
const HALF = 4;

/** Half of a dynptr: sixteen bytes that only helpers read and write. */
export interface DynptrSlot {
  readonly kind: 'dynptr';
  readonly type: 'local' | 'ringbuf';
  readonly first: boolean;
  readonly id: number;
  readonly ref: number;
}

/** An open-coded iterator over numbers. */
export interface IteratorSlot {
  readonly kind: 'iter';
  readonly ref: number;
  readonly drained: boolean;
  /** how often it gave a number */
  readonly depth: number;
}

export type StackObject = DynptrSlot | IteratorSlot;

/** Eight aligned bytes of the stack. */
export interface StackSlot {
  /** bit n: byte n was written */
  readonly written: number;
  /** bit n: byte n is zero */
  readonly zero: number;
  /** what an 8-byte store put there */
  readonly value: Value | undefined;
  /** what 4-byte stores put there */
  readonly low: Scalar | undefined;
  readonly high: Scalar | undefined;
  readonly object: StackObject | undefined;
}

export const EMPTY: StackSlot = {
  written: 0,
  zero: 0,
  value: undefined,
  low: undefined,
  high: undefined,
  object: undefined,
};
const MISC: StackSlot = { ...EMPTY, written: ALL_BYTES };
const ZEROS: StackSlot = { ...EMPTY, written: ALL_BYTES, zero: ALL_BYTES, value: ZERO };

/** The slot that the byte at `offset` below the frame pointer is in: 0 is the one at -8. */
export function slotAt(offset: number): number {
  return (-offset - 1) >> 3;
}

/** The slot's first byte's place in the byte masks. */
function bytesMask(offset: number, size: number): number {
  return (((1 << size) - 1) << (offset & 7)) & ALL_BYTES;
}

/** A slot that holds `value` whole. */
export function spilledSlot(value: Value): StackSlot {
  if (value === ZERO) return ZEROS;
  const zero = value.kind === 'scalar' && isConstant(value) && value.min === 0n ? ALL_BYTES : 0;
  return { written: ALL_BYTES, zero, value, low: undefined, high: undefined, object: undefined };
}

export function objectSlot(object: StackObject): StackSlot {
  return { ...MISC, object };
}

/** The slot after `size` bytes at `offset` in it got `value`, which is `undefined` where it may be anything. */
export function storedSlot(
  slot: StackSlot,
  offset: number,
  size: number,
  value: Scalar | undefined,
): StackSlot {
  const bytes = bytesMask(offset, size);
  const isZero = value !== undefined && zeroBytes(value, size);
  if (bytes === ALL_BYTES) return value === undefined ? MISC : spilledSlot(value);
  const zero = isZero ? slot.zero | bytes : slot.zero & ~bytes;
  let { low, high } = slot;
  if (slot.value?.kind === 'scalar') {
    low = withId(lowHalf(slot.value), 0);
    high = scalarBinary('rsh', 64, slot.value, constant(32));
  }
  if ((bytes & LOW_BYTES) !== 0) low = undefined;
  if ((bytes & HIGH_BYTES) !== 0) high = undefined;
  if (value !== undefined && size === HALF) {
    // No links: states are not compared for those of parts.
    const half = withId(lowHalf(value), 0);
    if (bytes === LOW_BYTES) low = half;
    else if (bytes === HIGH_BYTES) high = half;
  }
  return { written: slot.written | bytes, zero, value: undefined, low, high, object: undefined };
}

function zeroBytes(value: Scalar, size: number): boolean {
  if (!isConstant(value)) return false;
  return size === STACK_SLOT ? value.min === 0n : (value.min & ((1n << BigInt(size * 8)) - 1n)) === 0n;
}

/** Whether the `size` bytes at `offset` in the slot were written. */
export function isWritten(slot: StackSlot, offset: number, size: number): boolean {
  const bytes = bytesMask(offset, size);
  return (slot.written & bytes) === bytes;
}

/** What a load of `size` bytes at `offset` in the slot gives; it holds no pointer. */
export function loadedFrom(slot: StackSlot, offset: number, size: number): Scalar {
  const bytes = bytesMask(offset, size);
  if ((slot.zero & bytes) === bytes) return ZERO;
  const at = offset & 7;
  if (slot.value?.kind === 'scalar') return size === STACK_SLOT ? slot.value : part(slot.value, at, size);
  if ((bytes & HIGH_BYTES) === 0 && slot.low !== undefined) return part(slot.low, at, size);
  if ((bytes & LOW_BYTES) === 0 && slot.high !== undefined) return part(slot.high, at - HALF, size);
  if (bytes === ALL_BYTES) return whole(slot);
  return unknownOf(size * 8);
}

/** The eight bytes of a slot that was written in halves. */
function whole(slot: StackSlot): Scalar {
  const low = slot.low ?? ((slot.zero & LOW_BYTES) === LOW_BYTES ? ZERO : undefined);
  const high = slot.high ?? ((slot.zero & HIGH_BYTES) === HIGH_BYTES ? ZERO : undefined);
  if (low === undefined || high === undefined) return UNKNOWN;
  return scalarBinary('or', 64, scalarBinary('lsh', 64, high, constant(32)), low);
}

function part(value: Scalar, at: number, size: number): Scalar {
  if (size === HALF && at === 0) return lowHalf(value);
  const moved = at === 0 ? value : scalarBinary('rsh', 64, value, constant(at * 8));
  if (size === STACK_SLOT) return moved;
  if (size === HALF) return lowHalf(moved);
  return scalarBinary('and', 64, moved, constant(2 ** (size * 8) - 1));
}

/** For the log, as the kernel writes it: a spilled value, an object, or a letter for each byte from the last one on. */
export function describeSlot(slot: StackSlot): string {
  const { object, value, written, zero } = slot;
  if (object?.kind === 'dynptr') return `dynptr_${object.type}`;
  if (object?.kind === 'iter') {
    return `iter_num(ref_id=${object.ref},state=${object.drained ? 'drained' : 'active'},depth=${object.depth})`;
  }
  if (value !== undefined) return describeValue(value);
  let bytes = '';
  for (let byte = STACK_SLOT - 1; byte >= 0; byte--) {
    const bit = 1 << byte;
    bytes += (written & bit) === 0 ? '?' : (zero & bit) !== 0 ? '0' : 'm';
  }
  return bytes;
}

/**
 * What arithmetic instructions compute, on numbers: the one definition that the interpreter runs and the
 * verifier folds constants with (RFC 9669, sections 4.1 to 4.3). All values are unsigned 64-bit bigints.
 */

import type { BinaryName, Condition, SwapName, Width } from './operation.js';

const ALL_ONES = 0xffff_ffff_ffff_ffffn;

/** An immediate as the 64-bit operand that it stands for: sign-extended. */
export function immediateOperand(imm: number): bigint {
  return BigInt.asUintN(64, BigInt(imm));
}

/**
 * `dst NAME src` at `width` bits. Division by zero gives 0 and modulo by zero gives `dst`; a shift uses the low
 * 6 (of 32 bits: 5) bits of its count. A 32-bit result is zero-extended.
 */
export function compute(name: BinaryName, width: Width, dst: bigint, src: bigint): bigint {
  const a = BigInt.asUintN(width, dst);
  const b = BigInt.asUintN(width, src);
  return BigInt.asUintN(width, computeUnwrapped(name, width, a, b));
}

function computeUnwrapped(name: BinaryName, width: Width, a: bigint, b: bigint): bigint {
  const count = b & BigInt(width - 1);
  switch (name) {
    case 'add':
      return a + b;
    case 'sub':
      return a - b;
    case 'mul':
      return a * b;
    case 'div':
      return b === 0n ? 0n : a / b;
    case 'mod':
      return b === 0n ? a : a % b;
    case 'sdiv':
      return b === 0n ? 0n : BigInt.asIntN(width, a) / BigInt.asIntN(width, b);
    case 'smod':
      return b === 0n ? a : BigInt.asIntN(width, a) % BigInt.asIntN(width, b);
    case 'or':
      return a | b;
    case 'and':
      return a & b;
    case 'xor':
      return a ^ b;
    case 'lsh':
      return a << count;
    case 'rsh':
      return a >> count;
    case 'arsh':
      return BigInt.asIntN(width, a) >> count;
  }
}

/** The low `bits` of `value`, sign-extended to `width` bits and then zero-extended. */
export function signExtend(value: bigint, bits: number, width: Width): bigint {
  return BigInt.asUintN(width, BigInt.asIntN(bits, value));
}

/** The low `bits` of `value` in the byte order asked for, on a little-endian machine; the rest is zero. */
export function swapBytes(name: SwapName, bits: 16 | 32 | 64, value: bigint): bigint {
  const low = BigInt.asUintN(bits, value);
  if (name === 'le') return low;
  let swapped = 0n;
  for (let at = 0n; at < BigInt(bits); at += 8n) swapped = (swapped << 8n) | ((low >> at) & 0xffn);
  return swapped;
}

/** Whether a conditional jump at `width` bits is taken. */
export function holds(condition: Condition, width: Width, dst: bigint, src: bigint): boolean {
  const a = BigInt.asUintN(width, dst);
  const b = BigInt.asUintN(width, src);
  switch (condition) {
    case 'eq':
      return a === b;
    case 'ne':
      return a !== b;
    case 'gt':
      return a > b;
    case 'ge':
      return a >= b;
    case 'lt':
      return a < b;
    case 'le':
      return a <= b;
    case 'set':
      return (a & b) !== 0n;
    default:
      return signedHolds(condition, BigInt.asIntN(width, a), BigInt.asIntN(width, b));
  }
}

function signedHolds(condition: 'sgt' | 'sge' | 'slt' | 'sle', a: bigint, b: bigint): boolean {
  switch (condition) {
    case 'sgt':
      return a > b;
    case 'sge':
      return a >= b;
    case 'slt':
      return a < b;
    case 'sle':
      return a <= b;
  }
}

/** The value that an atomic operation other than xchg and cmpxchg leaves in memory. */
export function atomicResult(
  name: 'add' | 'or' | 'and' | 'xor',
  size: 4 | 8,
  old: bigint,
  operand: bigint,
): bigint {
  return compute(name, size === 4 ? 32 : 64, old, operand & ALL_ONES);
}

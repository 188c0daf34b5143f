/** What the scan (scan.ts) knows of a result, and of a branch: numbers that are known, offsets from the context. */

import type { BpfInsn } from '../../../bpf/instruction.js';
import { FRAME_POINTER } from '../../../bpf/instruction.js';
import type { Condition, Operation } from '../../../bpf/operation.js';
import { ANY_OFFSET, CONTEXT, constant, FRAME, NOTHING, type Value } from './scan_state.js';

type Arithmetic = Extract<Operation, { kind: 'alu' | 'mov' | 'movsx' | 'neg' | 'swap' }>;

/** What the destination holds afterwards. */
export function arithmetic(operation: Arithmetic, insn: BpfInsn, registers: readonly Value[]): Value {
  const of = (register: number): Value =>
    register === FRAME_POINTER ? { kind: FRAME, offset: 0 } : registers[register];
  if (operation.kind === 'mov') {
    const value = operation.immediate ? constant(BigInt(insn.imm)) : of(insn.src);
    return operation.width === 64 ? value : low(value);
  }
  if (operation.kind !== 'alu') {
    const value = of(operation.kind === 'movsx' ? insn.src : insn.dst);
    return value.kind === CONTEXT ? { kind: CONTEXT, offset: ANY_OFFSET } : NOTHING;
  }
  const left = of(insn.dst);
  const right = operation.immediate ? constant(BigInt(insn.imm)) : of(insn.src);
  const { name, width } = operation;
  if (name === 'add' || name === 'sub') {
    const moved = width === 64 ? moveBy(left, right, name === 'add' ? 1 : -1) : undefined;
    if (moved !== undefined) return moved;
    const other = name === 'add' && width === 64 ? moveBy(right, left, 1) : undefined;
    if (other !== undefined) return other;
  }
  if (left.kind === CONTEXT || right.kind === CONTEXT) return { kind: CONTEXT, offset: ANY_OFFSET };
  if (left.kind !== 'constant' || right.kind !== 'constant') return NOTHING;
  const value = compute(name, left.value, right.value, width);
  if (value === undefined) return NOTHING;
  return width === 64 ? constant(value) : low(constant(value));
}

/** A pointer and a known number. */
function moveBy(pointer: Value, by: Value, sign: 1 | -1): Value | undefined {
  if (pointer.kind !== CONTEXT && pointer.kind !== FRAME) return undefined;
  if (by.kind !== 'constant' || pointer.offset === ANY_OFFSET)
    return { kind: pointer.kind, offset: ANY_OFFSET };
  const offset = pointer.offset + sign * Number(BigInt.asIntN(64, by.value));
  return { kind: pointer.kind, offset };
}

/** The low 32 bits. */
function low(value: Value): Value {
  if (value.kind === 'constant') return constant(BigInt.asUintN(32, value.value));
  return value.kind === CONTEXT ? { kind: CONTEXT, offset: ANY_OFFSET } : NOTHING;
}

function compute(name: string, left: bigint, right: bigint, width: 32 | 64): bigint | undefined {
  const shift = right & BigInt(width - 1);
  switch (name) {
    case 'add':
      return left + right;
    case 'sub':
      return left - right;
    case 'and':
      return left & right;
    case 'or':
      return left | right;
    case 'xor':
      return left ^ right;
    case 'lsh':
      return left << shift;
    case 'rsh':
      return BigInt.asUintN(width, left) >> shift;
    default:
      return undefined;
  }
}

/** Whether a branch jumps; `undefined` where it may go on, too. */
export function branchTaken(
  { condition, width }: { readonly condition: Condition; readonly width: 32 | 64 },
  left: Value,
  right: Value,
): boolean | undefined {
  if (left.kind !== 'constant' || right.kind !== 'constant') return undefined;
  const a = BigInt.asUintN(width, left.value);
  const b = BigInt.asUintN(width, right.value);
  const sa = BigInt.asIntN(width, left.value);
  const sb = BigInt.asIntN(width, right.value);
  const decided: Readonly<Record<Condition, boolean>> = {
    eq: a === b,
    ne: a !== b,
    gt: a > b,
    ge: a >= b,
    lt: a < b,
    le: a <= b,
    sgt: sa > sb,
    sge: sa >= sb,
    slt: sa < sb,
    sle: sa <= sb,
    set: (a & b) !== 0n,
  };
  return decided[condition];
}

/**
 * Arithmetic and moves: on numbers, and the little that may be done with pointers (the kernel's
 * `check_alu_op` and `adjust_ptr_min_max_vals`).
 */

import type { BinaryName, Operation } from '../../../bpf/operation.js';
import type { Step } from './path.js';
import { distanceBetween, movePointer } from './pointer_arithmetic.js';
import { constant, isConstant, lowHalf, type Scalar, unknownOf, withId } from './scalar.js';
import { scalarBinary, scalarNegate, scalarSignExtend, scalarSwap } from './scalar_alu.js';
import type { Pointer, Value } from './value.js';

/** The 64-bit number that an immediate stands for. */
export function immediate(step: Step): Scalar {
  return constant(step.insn.imm);
}

const HALF = 0xffff_ffffn;
/** How far apart numbers may be, and be linked. */
const FARTHEST = 0x7fff_ffffn;

/** A copy of the number in `register`: what is learnt of one is learnt of both. */
function copied(step: Step, register: number, value: Scalar): Scalar {
  if (isConstant(value)) return value;
  if (value.id !== 0) return value;
  const linked = withId(value, step.findings.newId());
  step.state.set(register, linked);
  return linked;
}

function checkMov(step: Step, operation: Operation & { kind: 'mov' }): Value {
  if (operation.immediate) return operation.width === 32 ? lowHalf(immediate(step)) : immediate(step);
  const { src } = step.insn;
  const value = step.read(src);
  if (value.kind === 'scalar') {
    if (operation.width === 64 || value.max <= HALF) return copied(step, src, value);
    return lowHalf(value);
  }
  if (operation.width === 64) return value;
  // The traced process's own pointers are numbers of its own; ours are not given away.
  if (value.kind === 'ptr_') return unknownOf(32);
  return step.fail('EACCES', `R${src} partial copy of pointer`, src);
}

/**
 * `result`, which stays linked to the copies of `left` where a constant was added to it. One that was at a distance before
 * is linked to what is the same number only: distances that grow would keep loops from coming together.
 */
function distant(
  step: Step,
  name: BinaryName,
  left: Scalar,
  right: Scalar,
  result: Scalar,
  narrow: boolean,
): Scalar {
  if ((name !== 'add' && name !== 'sub') || !isConstant(right) || isConstant(result)) return result;
  const { smin } = right;
  if (smin > FARTHEST || smin < -FARTHEST) return result;
  const id = left.delta === 0 && !left.narrow ? left.id : ownId(step, left);
  return withId(result, id, name === 'add' ? Number(smin) : -Number(smin), narrow);
}

/** An id of their own for all that are the same number as that in the destination; 0 where there are no others. */
function ownId({ state, findings }: Step, number: Scalar): number {
  const id = findings.newId();
  let others = 0;
  state.replace(old => {
    if (old.kind !== 'scalar' || old.id !== number.id) return old;
    if (old.delta !== number.delta || old.narrow !== number.narrow) return old;
    others++;
    return withId(old, id);
  });
  return others > 1 ? id : 0;
}

function checkBinary(step: Step, operation: Operation & { kind: 'alu' }): Value {
  const { insn } = step;
  const { name, width } = operation;
  if (operation.immediate) {
    const divides = name === 'div' || name === 'mod' || name === 'sdiv' || name === 'smod';
    if (divides && insn.imm === 0) step.fail('EINVAL', 'div by zero');
    const shifts = name === 'lsh' || name === 'rsh' || name === 'arsh';
    if (shifts && (insn.imm < 0 || insn.imm >= width)) step.fail('EINVAL', `invalid shift ${insn.imm}`);
  }
  const right = operation.immediate ? immediate(step) : step.read(insn.src);
  const left = step.read(insn.dst);
  if (left.kind === 'scalar' && right.kind === 'scalar') {
    // A number less itself, or with its own bits taken away, is zero, whatever it is.
    if (!operation.immediate && insn.src === insn.dst && (name === 'sub' || name === 'xor'))
      return constant(0);
    const result = scalarBinary(name, width, left, right);
    return left.id !== 0 ? distant(step, name, left, right, result, width === 32) : result;
  }
  if (left.kind === 'scalar')
    return checkPointer(step, operation, insn.src, right as Pointer, insn.dst, left, true);
  if (right.kind === 'scalar') {
    const other = operation.immediate ? undefined : insn.src;
    return checkPointer(step, operation, insn.dst, left as Pointer, other, right, false);
  }
  if (width === 32) step.fail('EACCES', `R${insn.dst} 32-bit pointer arithmetic prohibited`, insn.dst);
  const between = name === 'sub' ? distanceBetween(left, right) : undefined;
  if (between !== undefined) return between;
  if (name !== 'add' && name !== 'sub') {
    step.fail('EACCES', `R${insn.dst} pointer arithmetic with ${name} operator prohibited`, insn.dst);
  }
  const sign = name === 'add' ? '+=' : '-=';
  return step.fail('EACCES', `R${insn.dst} pointer ${sign} pointer prohibited`, insn.dst, insn.src);
}

function checkPointer(
  step: Step,
  operation: Operation & { kind: 'alu' },
  register: number,
  pointer: Pointer,
  other: number | undefined,
  number: Scalar,
  swapped: boolean,
): Value {
  const { name, width } = operation;
  if (
    pointer.kind === 'ptr_' &&
    (width === 32 || (name !== 'add' && name !== 'sub') || (swapped && name === 'sub'))
  ) {
    return unknownOf(width);
  }
  if (width === 32) step.fail('EACCES', `R${register} 32-bit pointer arithmetic prohibited`, register);
  if (name !== 'add' && name !== 'sub') {
    step.fail('EACCES', `R${register} pointer arithmetic with ${name} operator prohibited`, register);
  }
  if (swapped && name === 'sub') {
    const { dst, src } = step.insn;
    step.fail('EACCES', `R${dst} tried to subtract pointer from scalar`, dst, src);
  }
  return movePointer(step, register, pointer, other, number, name === 'sub');
}

/** What the destination of an arithmetic instruction or move gets. */
export function checkArithmetic(
  step: Step,
  operation: Operation & { kind: 'alu' | 'mov' | 'movsx' | 'neg' | 'swap' },
): Value {
  const { dst, src } = step.insn;
  switch (operation.kind) {
    case 'mov':
      return checkMov(step, operation);
    case 'alu':
      return checkBinary(step, operation);
    case 'movsx': {
      const value = step.readScalar(src, `R${src} sign-extension part of pointer`);
      // Numbers that the extension does not change stay the same number.
      const most = 1n << BigInt(operation.bits - 1);
      if (operation.width === 64 && value.smin >= -most && value.smax < most) return copied(step, src, value);
      return scalarSignExtend(operation.bits, operation.width, value);
    }
    case 'neg':
      return scalarNegate(
        operation.width,
        step.readScalar(dst, `R${dst} pointer arithmetic with neg operator prohibited`),
      );
    case 'swap':
      return scalarSwap(
        operation.name,
        operation.bits,
        step.readScalar(dst, `R${dst} pointer arithmetic with ${operation.name} operator prohibited`),
      );
  }
}

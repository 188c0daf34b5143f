/**
 * Numbers added to and subtracted from pointers (the kernel's `adjust_ptr_min_max_vals`). Where the result points is
 * checked when it is used; here only that it can not wrap around.
 */

import type { Step } from './path.js';
import { constant, isConstant, type Scalar, UNKNOWN, withId } from './scalar.js';
import { scalarBinary } from './scalar_alu.js';
import {
  kindName,
  type MemoryPointer,
  type Pointer,
  pointerAt,
  type StackPointer,
  type Value,
} from './value.js';

/** The largest offset that a pointer may get, either way (the kernel's BPF_MAX_VAR_OFF). */
const LARGEST_OFFSET = 2 ** 29;
const LARGEST = BigInt(LARGEST_OFFSET);
const UNBOUNDED = -(1n << 63n);

/** `pointer + number` or, with `negative`, `pointer - number`. `register` is the pointer's, `other` the number's, if any. */
export function movePointer(
  step: Step,
  register: number,
  pointer: Pointer,
  other: number | undefined,
  number: Scalar,
  negative: boolean,
): Value {
  if (other !== undefined) step.matters(other);
  if ('maybeNull' in pointer && pointer.maybeNull) {
    const name = kindName(pointer);
    step.fail(
      'EACCES',
      `R${register} pointer arithmetic on ${name} prohibited, null-check it first`,
      register,
    );
  }
  switch (pointer.kind) {
    case 'ctx':
      if (isConstant(number))
        return { ...pointer, offset: moved(step, register, other, pointer, number, negative) };
      return step.fail('EACCES', `R${register} pointer arithmetic on ctx prohibited`, register);
    case 'map_ptr':
    case 'func':
      return step.fail('EACCES', `R${register} pointer arithmetic on ${pointer.kind} prohibited`, register);
    case 'ptr_':
      return isConstant(number)
        ? { ...pointer, offset: moved(step, register, other, pointer, number, negative) }
        : step.fail(
            'EACCES',
            `R${register} is ${kindName(pointer)} invalid variable offset: copy it with a helper`,
            register,
          );
    default:
      if (isConstant(number)) {
        return pointerAt(pointer, moved(step, register, other, pointer, number, negative), pointer.variable);
      }
      return pointerAt(pointer, pointer.offset, movedBy(step, register, other, pointer, number, negative));
  }
}

function moved(
  step: Step,
  register: number,
  other: number | undefined,
  pointer: Pointer & { readonly offset: number },
  number: Scalar,
  negative: boolean,
): number {
  const distance = number.smin;
  if (distance >= LARGEST || distance <= -LARGEST) {
    step.fail(
      'EACCES',
      `math between ${pointer.kind} pointer and ${distance} is not allowed`,
      ...both(register, other),
    );
  }
  const offset = pointer.offset + Number(negative ? -distance : distance);
  if (Math.abs(offset) >= LARGEST_OFFSET) {
    step.fail(
      'EACCES',
      `value ${distance} makes ${pointer.kind} pointer be out of bounds`,
      ...both(register, other),
    );
  }
  return offset;
}

function movedBy(
  step: Step,
  register: number,
  other: number | undefined,
  pointer: StackPointer | MemoryPointer,
  number: Scalar,
  negative: boolean,
): Scalar {
  const variable = scalarBinary(negative ? 'sub' : 'add', 64, pointer.variable, number);
  if (number.smin === UNBOUNDED || variable.smin === UNBOUNDED) {
    const reason = `math between ${pointer.kind} pointer and register with unbounded min value is not allowed`;
    step.fail('EACCES', reason, step.insn.dst, step.insn.src);
  }
  if (variable.smin <= -LARGEST || variable.smin >= LARGEST) {
    const reason = `value ${variable.smin} makes ${pointer.kind} pointer be out of bounds`;
    step.fail('EACCES', reason, ...both(register, other));
  }
  return withId(variable, 0);
}

/** The registers that a message is about: the pointer's, and the number's if it is in one. */
function both(register: number, other: number | undefined): number[] {
  return other === undefined ? [register] : [register, other];
}

/** The distance between two pointers into the same thing; `undefined` where they are not. */
export function distanceBetween(left: Value, right: Value): Scalar | undefined {
  if (left.kind === 'fp' && right.kind === 'fp' && left.frame === right.frame) return distance(left, right);
  if (left.kind === 'ptr_' && right.kind === 'ptr_') return UNKNOWN;
  if ('variable' in left && 'variable' in right && left.kind === right.kind && left.kind !== 'fp') {
    return left.map === (right as MemoryPointer).map ? UNKNOWN : undefined;
  }
  return undefined;
}

function distance(left: StackPointer, right: StackPointer): Scalar {
  const a = scalarBinary('add', 64, constant(left.offset), left.variable);
  return scalarBinary('sub', 64, a, scalarBinary('add', 64, constant(right.offset), right.variable));
}

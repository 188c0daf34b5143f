/**
 * Arithmetic and moves: on numbers, and the little that may be done with pointers (the kernel's
 * `check_alu_op` and `adjust_ptr_min_max_vals`).
 */

import { FRAME_POINTER } from '../../../bpf/instruction.js';
import type { Operation } from '../../../bpf/operation.js';
import { movePointer } from './memory_access.js';
import type { Step } from './path.js';
import { constant, lowHalf, type Scalar } from './scalar.js';
import { scalarBinary, scalarNegate, scalarSignExtend, scalarSwap } from './scalar_alu.js';
import type { Value } from './value.js';

/** Refuses a write to the frame pointer. */
export function checkWritable(step: Step, register: number): void {
  if (register === FRAME_POINTER) step.fail('EACCES', 'frame pointer is read only');
}

/** The 64-bit number that an immediate stands for. */
export function immediate(step: Step): Scalar {
  return constant(step.insn.imm);
}

function checkMov(step: Step, operation: Operation & { kind: 'mov' }): Value {
  if (operation.immediate) return operation.width === 32 ? lowHalf(immediate(step)) : immediate(step);
  const value = step.read(step.insn.src);
  if (operation.width === 64) return value;
  if (value.kind !== 'scalar')
    step.fail('EACCES', `R${step.insn.src} partial copy of pointer`, step.insn.src);
  return lowHalf(value);
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
  if (left.kind === 'scalar' && right.kind === 'scalar') return scalarBinary(name, width, left, right);

  const pointer = left.kind === 'scalar' ? insn.src : insn.dst;
  if (width === 32) step.fail('EACCES', `R${pointer} 32-bit pointer arithmetic prohibited`, pointer);
  if (name !== 'add' && name !== 'sub') {
    step.fail('EACCES', `R${pointer} pointer arithmetic with ${name} operator prohibited`, pointer);
  }
  if (right.kind === 'scalar') return movePointer(step, insn.dst, left, right, name === 'sub');
  if (left.kind !== 'scalar') {
    step.fail(
      'EACCES',
      `R${insn.dst} pointer ${name === 'add' ? '+=' : '-='} pointer prohibited`,
      insn.dst,
      insn.src,
    );
  }
  if (name === 'sub') {
    step.fail('EACCES', `R${insn.dst} tried to subtract pointer from scalar`, insn.dst, insn.src);
  }
  return movePointer(step, insn.src, right, left, false);
}

/** What the destination of an arithmetic instruction or move gets. */
export function checkArithmetic(
  step: Step,
  operation: Operation & { kind: 'alu' | 'mov' | 'movsx' | 'neg' | 'swap' },
): Value {
  const { dst, src } = step.insn;
  checkWritable(step, dst);
  switch (operation.kind) {
    case 'mov':
      return checkMov(step, operation);
    case 'alu':
      return checkBinary(step, operation);
    case 'movsx': {
      const value = step.readScalar(src, `R${src} sign-extension part of pointer`);
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

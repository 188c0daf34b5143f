/**
 * Dynptrs: sixteen bytes of stack that stand for memory of a size known at run time, which only helpers read and write.
 */

import type { Step } from './path.js';
import { isConstant } from './scalar.js';
import { type DynptrSlot, EMPTY, objectSlot, STACK_SLOT, slotAt } from './stack.js';
import { checkStackRange, clobberStack, invalidateSlices, noteStackRead } from './stack_access.js';
import type { Frame } from './state.js';
import type { StackPointer } from './value.js';

/** Bytes of `struct bpf_dynptr`. */
export const DYNPTR_SIZE = 16;

function place(step: Step, register: number): { pointer: StackPointer; frame: Frame; slot: number } {
  const pointer = step.read(register);
  if (pointer.kind !== 'fp') {
    return step.fail(
      'EINVAL',
      `arg#${register - 1} expected pointer to stack or const struct bpf_dynptr`,
      register,
    );
  }
  if (!isConstant(pointer.variable)) step.fail('EINVAL', 'dynptr has to be at a constant offset', register);
  if (pointer.offset % STACK_SLOT !== 0) {
    step.fail('EINVAL', `cannot pass in dynptr at an offset=${pointer.offset}`, register);
  }
  checkStackRange(step, register, pointer, 0, DYNPTR_SIZE, 'write');
  const frame = step.state.frames[pointer.frame] as Frame;
  return { pointer, frame, slot: slotAt(pointer.offset) };
}

/** The dynptr that `register` points to; `release`: it is given back. */
export function checkDynptr(step: Step, register: number, release: boolean): DynptrSlot {
  const { pointer, frame, slot } = place(step, register);
  noteStackRead(step, pointer.frame, pointer.offset, pointer.offset + DYNPTR_SIZE);
  const { object } = frame.slot(slot);
  if (object?.kind !== 'dynptr' || !object.first) {
    return step.fail('EINVAL', `Expected an initialized dynptr as arg #${register - 1}`, register);
  }
  if (!release) return object;
  if (object.ref === 0) {
    step.fail(
      'EINVAL',
      `arg ${register} is an unacquired reference: the dynptr is of local memory`,
      register,
    );
  }
  frame.setSlot(slot, EMPTY);
  frame.setSlot(slot - 1, EMPTY);
  invalidateSlices(step, object.id);
  return object;
}

/** Makes the sixteen bytes that `register` points to a dynptr. */
export function makeDynptr(step: Step, register: number, type: 'local' | 'ringbuf'): void {
  const { pointer, frame, slot } = place(step, register);
  clobberStack(step, register, pointer.frame, pointer.offset, pointer.offset + DYNPTR_SIZE);
  const id = step.findings.newId();
  const ref = type === 'ringbuf' ? step.findings.newId() : 0;
  if (ref !== 0) step.state.acquire(ref, step.slot);
  frame.setSlot(slot, objectSlot({ kind: 'dynptr', type, first: true, id, ref }));
  frame.setSlot(slot - 1, objectSlot({ kind: 'dynptr', type, first: false, id, ref }));
}

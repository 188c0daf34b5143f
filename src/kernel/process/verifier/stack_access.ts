/**
 * Loads and stores of the stack: within its 512 bytes, aligned where the offset is known, and what they leave there
 * (the kernel's `check_stack_read` and `check_stack_write`).
 */

import { STACK_SIZE } from '../../../bpf/instruction.js';
import type { AccessSize } from '../../../bpf/operation.js';
import type { Step } from './path.js';
import { isConstant, unknownOf, withId } from './scalar.js';
import {
  EMPTY,
  isWritten,
  loadedFrom,
  STACK_SLOT,
  type StackSlot,
  slotAt,
  spilledSlot,
  storedSlot,
} from './stack.js';
import type { Frame } from './state.js';
import type { StackPointer, Value } from './value.js';

type Use = 'read' | 'write';

/** The bytes of the stack that an access can touch: from `low` to before `high`, offsets from the frame pointer. */
interface StackRange {
  readonly low: number;
  readonly high: number;
  readonly fixed: boolean;
}

/** Refuses an access of `size` bytes at `pointer + offset` that leaves the stack. */
export function checkStackRange(
  step: Step,
  register: number,
  pointer: StackPointer,
  offset: number,
  size: number,
  use: Use,
): StackRange {
  const { variable } = pointer;
  const fixed = isConstant(variable);
  const base = pointer.offset + offset;
  const low = base + (fixed ? 0 : Number(variable.smin));
  const high = base + (fixed ? 0 : Number(variable.smax)) + size;
  if (low < -STACK_SIZE || high > 0) {
    const where = use === 'read' ? 'read from' : 'write to';
    if (fixed) step.fail('EACCES', `invalid ${where} stack R${register} off=${low} size=${size}`, register);
    const reason = `invalid variable-offset ${where} stack R${register} min_off=${low} max_off=${high - size} size=${size}`;
    step.fail('EACCES', reason, register);
  }
  const frame = step.state.frames[pointer.frame] as Frame;
  step.findings.useStack(frame.subprogram, low);
  return { low, high, fixed };
}

/** The call in progress in the frame that `pointer` points to; -1 for the frame that runs. */
function callsiteOf(step: Step, frame: number): number {
  return step.state.frames[frame + 1]?.callsite ?? -1;
}

/** Notes for the facts that the instruction uses these bytes by a load or store. */
function noteUse(step: Step, frame: number, range: StackRange, use: Use, whole: boolean): void {
  const callsite = callsiteOf(step, frame);
  for (let slot = slotAt(range.high - 1); slot <= slotAt(range.low); slot++) {
    if (callsite < 0) step.facts.useSlot(step.index, slot, whole);
    else step.facts.useOuterSlot(step.index, callsite, slot, use === 'read');
  }
}

/** Notes for the facts that a helper reads these bytes. */
export function noteStackRead(step: Step, frame: number, low: number, high: number): void {
  const callsite = callsiteOf(step, frame);
  for (let slot = slotAt(high - 1); slot <= slotAt(low); slot++) {
    step.facts.readSlot(step.index, slot);
    if (callsite >= 0) step.facts.readSlot(callsite, slot);
  }
}

function checkAligned(step: Step, register: number, offset: number, size: number): void {
  if (offset % size !== 0)
    step.fail('EACCES', `misaligned stack access off ${offset} size ${size}`, register);
}

/** `size` bytes at `pointer + offset`: what a load gives. */
export function loadStack(
  step: Step,
  register: number,
  pointer: StackPointer,
  offset: number,
  size: AccessSize,
): Value {
  const range = checkStackRange(step, register, pointer, offset, size, 'read');
  const frame = step.state.frames[pointer.frame] as Frame;
  noteUse(step, pointer.frame, range, 'read', false);
  if (!range.fixed) {
    checkReadable(step, register, pointer.frame, range.low, range.high, true);
    return unknownOf(size * 8);
  }
  const at = range.low;
  checkAligned(step, register, at, size);
  const index = slotAt(at);
  const slot = frame.slot(index);
  if (!isWritten(slot, at, size)) step.findings.readsUnwritten = true;
  if (slot.object !== undefined) {
    step.fail('EACCES', `invalid read from stack off ${at}: a ${slot.object.kind} is there`, register);
  }
  const spilled = slot.value;
  if (spilled !== undefined && spilled.kind !== 'scalar') {
    if (size !== STACK_SLOT) step.fail('EACCES', 'invalid size of register fill', register);
    return spilled;
  }
  // The register and the slot hold the same number from now on.
  if (spilled !== undefined && size === STACK_SLOT && spilled.id === 0 && !isConstant(spilled)) {
    const linked = withId(spilled, step.findings.newId());
    frame.setSlot(index, spilledSlot(linked));
    return linked;
  }
  return loadedFrom(slot, at, size);
}

/** Refuses bytes that hold an object, or a pointer where any of them may be meant; those never written are zero. */
export function checkReadable(
  step: Step,
  register: number,
  frame: number,
  low: number,
  high: number,
  variable: boolean,
): void {
  const f = step.state.frames[frame] as Frame;
  for (let at = low; at < high; at++) {
    const slot = f.slot(slotAt(at));
    if ((slot.written & (1 << (at & 7))) === 0) step.findings.readsUnwritten = true;
    if (slot.object !== undefined) {
      step.fail('EACCES', `R${register} cannot pass in ${slot.object.kind} at an offset=${at}`, register);
    }
    if (variable && slot.value !== undefined && slot.value.kind !== 'scalar') {
      step.fail('EACCES', `R${register} variable-offset read of a spilled pointer`, register);
    }
  }
}

/** Refuses to overwrite an object that holds a reference, and lets go of one that does not. */
function overwriteObject(step: Step, frame: Frame, index: number, register: number): void {
  const { object } = frame.slot(index);
  if (object === undefined) return;
  if (object.kind === 'iter') {
    step.fail('EINVAL', 'cannot overwrite an iterator on the stack: destroy it first', register);
  }
  if (object.ref !== 0) step.fail('EINVAL', 'cannot overwrite referenced dynptr', register);
  const other = object.first ? index - 1 : index + 1;
  frame.setSlot(other, EMPTY);
  frame.setSlot(index, EMPTY);
  invalidateSlices(step, object.id);
}

/** Memory that a dynptr gave is of no use once that is gone. */
export function invalidateSlices(step: Step, dynptr: number): void {
  step.state.replace(old => ('dynptr' in old && old.dynptr === dynptr ? unknownOf(64) : old));
}

/** `*(size *)(pointer + offset) = stored`. */
export function storeStack(
  step: Step,
  register: number,
  pointer: StackPointer,
  offset: number,
  size: number,
  stored: Value,
): void {
  const range = checkStackRange(step, register, pointer, offset, size, 'write');
  const frame = step.state.frames[pointer.frame] as Frame;
  noteUse(step, pointer.frame, range, 'write', range.fixed && size === STACK_SLOT);
  if (range.fixed) {
    checkAligned(step, register, range.low, size);
    const index = slotAt(range.low);
    overwriteObject(step, frame, index, register);
    if (stored.kind !== 'scalar') {
      if (size !== STACK_SLOT) step.fail('EACCES', 'invalid size of register spill', register);
      if (stored.kind === 'fp' && stored.frame > pointer.frame) {
        step.fail('EINVAL', 'cannot spill pointers to stack into stack frame of the caller', register);
      }
      frame.setSlot(index, spilledSlot(stored));
      return;
    }
    if (size === STACK_SLOT) {
      frame.setSlot(index, spilledSlot(stored));
      return;
    }
    const slot = frame.slot(index);
    // A compiler puts another variable where one was whose life is over: what is left of a pointer is none.
    const before = slot.value === undefined || slot.value.kind === 'scalar' ? slot : EMPTY;
    frame.setSlot(index, storedSlot(before, range.low, size, stored));
    return;
  }
  // Any of the bytes may be written: what they hold is not known any more.
  for (let index = slotAt(range.high - 1); index <= slotAt(range.low); index++) {
    overwriteObject(step, frame, index, register);
    const slot = frame.slot(index);
    const low = Math.max(range.low, -8 * (index + 1));
    const high = Math.min(range.high, -8 * index);
    let now: StackSlot = slot;
    for (let at = low; at < high; at++) now = storedSlot(now, at, 1, undefined);
    frame.setSlot(index, now);
  }
}

/** A helper writes `high - low` bytes from `low` on. */
export function clobberStack(step: Step, register: number, frame: number, low: number, high: number): void {
  const f = step.state.frames[frame] as Frame;
  const callsite = callsiteOf(step, frame);
  for (let index = slotAt(high - 1); index <= slotAt(low); index++) {
    overwriteObject(step, f, index, register);
    const from = Math.max(low, -8 * (index + 1));
    const to = Math.min(high, -8 * index);
    let slot = f.slot(index);
    if (to - from === STACK_SLOT) slot = storedSlot(EMPTY, from, STACK_SLOT, undefined);
    else for (let at = from; at < to; at++) slot = storedSlot(slot, at, 1, undefined);
    f.setSlot(index, slot);
    // Bytes beside those written are kept, so the slot as a whole is read again where it is.
    if (callsite >= 0) step.facts.readSlot(callsite, index);
  }
}

/**
 * Conditional jumps: which of the two ways can be taken, and what is known on each (the kernel's `check_cond_jmp_op`).
 */

import { FRAME_POINTER } from '../../../bpf/instruction.js';
import type { Operation } from '../../../bpf/operation.js';
import { immediate } from './arithmetic_check.js';
import type { Step } from './path.js';
import { constant, intersect, isConstant, type Scalar, withId } from './scalar.js';
import { scalarBinary } from './scalar_alu.js';
import { refineBranch } from './scalar_branch.js';
import type { StackSlot } from './stack.js';
import type { State } from './state.js';
import { mapValue, type Pointer, type Value, ZERO } from './value.js';

/** The state on each way; `undefined` for a way that can't be. One of them is the state that came in. */
export interface Ways {
  readonly taken: State | undefined;
  readonly fallen: State | undefined;
}

/** Both ways of a conditional jump. */
export function checkBranch(step: Step, operation: Operation & { kind: 'branch' }): Ways {
  const { insn } = step;
  const left = step.read(insn.dst);
  const right: Value = operation.immediate ? immediate(step) : step.read(insn.src);
  if (left.kind === 'scalar' && right.kind === 'scalar') return compareNumbers(step, operation, left, right);
  return comparePointers(step, operation, left, right);
}

function compareNumbers(
  step: Step,
  operation: Operation & { kind: 'branch' },
  left: Scalar,
  right: Scalar,
): Ways {
  const { insn, state } = step;
  const same = !operation.immediate && insn.src === insn.dst;
  const { taken, fallen } = refineBranch(operation.condition, operation.width, left, right);
  if (taken === undefined || fallen === undefined) {
    // Which way it goes was decided by the numbers: they matter.
    step.matters(insn.dst);
    if (!operation.immediate) step.matters(insn.src);
    return { taken: taken && state, fallen: fallen && state };
  }
  // A register compared with itself: both ways stay as they are.
  if (same) return { taken: state.copy(), fallen: state };
  const other = state.copy();
  learn(step, other, insn.dst, left, taken.dst);
  learn(step, state, insn.dst, left, fallen.dst);
  if (!operation.immediate) {
    learn(step, other, insn.src, right, taken.src);
    learn(step, state, insn.src, right, fallen.src);
  }
  return { taken: other, fallen: state };
}

/** What is known of `value` once `old`, which is the same number at some distance, is known to be `now`. */
function atDistance(value: Scalar, old: Scalar, now: Scalar): Scalar {
  if (value.delta === old.delta && value.narrow === old.narrow)
    return isConstant(now) ? now : withId(now, old.id, old.delta, old.narrow);
  // Of a sum of 32 bits only the lower half of the other number is known.
  if (old.narrow && !value.narrow) return value;
  const width = value.narrow ? 32 : 64;
  const moved = scalarBinary('add', width, now, constant(value.delta - old.delta));
  const both = intersect(value, moved) ?? value;
  return isConstant(both) ? both : withId(both, value.id, value.delta, value.narrow);
}

/** Gives `register`, and every copy of its number, what was learnt. */
function learn(step: Step, state: State, register: number, old: Scalar, now: Scalar): void {
  if (now === old) return;
  const known = atDistance(old, old, now);
  state.set(register, known);
  if (old.id === 0) return;
  let linked = 0;
  let elsewhere = false;
  const top = state.frames.length - 1;
  state.frames.forEach(({ registers, stack }, number) => {
    for (let r = 0; r < FRAME_POINTER; r++) {
      const value = registers[r] as Value;
      if (value.kind !== 'scalar' || value.id !== old.id || value === known) continue;
      registers[r] = atDistance(value, old, now);
      if (number === top) linked |= 1 << r;
      else elsewhere = true;
    }
    for (let s = 0; s < stack.length; s++) {
      const slot = stack[s] as StackSlot;
      if (slot.value?.kind !== 'scalar' || slot.value.id !== old.id) continue;
      stack[s] = { ...slot, value: atDistance(slot.value, old, now) };
      elsewhere = true;
    }
  });
  if (linked !== 0) step.facts.link(step.index, linked);
  if (elsewhere && !isImmediate(step)) {
    step.matters(step.insn.dst);
    step.matters(step.insn.src);
  }
}

/** A copy of what is compared with a constant learns nothing that depends on another register. */
function isImmediate(step: Step): boolean {
  return (step.insn.opcode & 0x08) === 0;
}

function isNull(value: Value): boolean {
  return value.kind === 'scalar' && isConstant(value) && value.min === 0n;
}

function comparePointers(
  step: Step,
  operation: Operation & { kind: 'branch' },
  left: Value,
  right: Value,
): Ways {
  const { insn, state } = step;
  const equality = operation.condition === 'eq' || operation.condition === 'ne';
  const zero = isNull(left) ? insn.dst : operation.immediate ? undefined : insn.src;
  if (operation.width === 64 && equality && (isNull(left) || isNull(right))) {
    const pointer = (left.kind === 'scalar' ? right : left) as Pointer;
    if (zero !== undefined) step.matters(zero);
    return checkNull(state, pointer, operation.condition === 'eq');
  }
  const bothWays = (): Ways => ({ taken: state.copy(), fallen: state });
  // Pointers of the traced process are numbers to it, and may be compared as such; so may addresses of ours, whole:
  // nothing is learnt of them.
  const numbers = [left, right].every(({ kind }) => kind === 'ptr_' || kind === 'scalar');
  if (numbers || operation.width === 64) return bothWays();
  const pointer = left.kind === 'scalar' ? insn.src : insn.dst;
  return step.fail('EACCES', `R${pointer} pointer comparison prohibited`, pointer);
}

/** A comparison with zero: pointers that may be null are, on one way, and are not, on the other. */
function checkNull(state: State, pointer: Pointer, equal: boolean): Ways {
  const ways = (isZero: State | undefined, isNot: State | undefined): Ways =>
    equal ? { taken: isZero, fallen: isNot } : { taken: isNot, fallen: isZero };
  // A traced process may hand on any address, and null too, whatever its types say.
  if (pointer.kind === 'ptr_') {
    return { taken: state.copy(), fallen: state };
  }
  if (!('maybeNull' in pointer) || !pointer.maybeNull) return ways(undefined, state);
  const { id } = pointer;
  const without = state.copy();
  const matches = (old: Value): old is Pointer => 'maybeNull' in old && old.maybeNull && old.id === id;
  without.replace(old => (matches(old) ? ZERO : old));
  // What was not there needs not be given back.
  if ('ref' in pointer && pointer.ref !== 0) without.release(pointer.ref);
  state.replace(old => (matches(old) ? found(old) : old));
  return ways(without, state);
}

/** The pointer, known not to be null. */
function found(pointer: Pointer): Value {
  if (pointer.kind === 'map_ptr') return { ...pointer, maybeNull: false };
  if (!('maybeNull' in pointer)) return pointer;
  // Which lookup it came from matters on only where a lock is in it.
  const keep = pointer.kind === 'map_value' && pointer.map?.btfValueTypeId !== undefined;
  if (pointer.kind === 'map_value' && pointer.offset === 0 && !keep && pointer.map !== undefined) {
    return mapValue(pointer.map);
  }
  return { ...pointer, maybeNull: false, id: keep ? pointer.id : 0 };
}

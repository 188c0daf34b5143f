/**
 * Whether a path that was found safe from one state on is safe from another (the kernel's `states_equal`): everything
 * that the new state allows was allowed by the old one, in all that the instructions to come care about (facts.ts).
 */

import { FRAME_POINTER } from '../../../bpf/instruction.js';
import { type Facts, keptInCall } from './facts.js';
import { coversScalar, type Scalar } from './scalar.js';
import { loadedFrom, type StackSlot } from './stack.js';
import type { Frame, State } from './state.js';
import { isMemory, type Value } from './value.js';

/** Compares an old state with a new one. One object for each comparison: it pairs the ids of both. */
export class Comparison {
  /** whether the answer rests on something not mattering */
  loose = false;
  private readonly olds: number[] = [];
  private readonly nows: number[] = [];
  private readonly links: { readonly old: number; readonly now: number; readonly distance: number }[] = [];
  private readonly facts: Facts;
  /** everything matters: the states are the same where it holds both ways */
  private readonly exact: boolean;

  constructor(facts: Facts, exact = false) {
    this.facts = facts;
    this.exact = exact;
  }

  states(old: State, now: State, index: number): boolean {
    const depth = old.frames.length;
    if (depth !== now.frames.length || old.references.length !== now.references.length) return false;
    if ((old.lock === undefined) !== (now.lock === undefined)) return false;
    for (let f = depth - 1; f >= 0; f--) {
      const a = old.frames[f] as Frame;
      const b = now.frames[f] as Frame;
      if (a.callsite !== b.callsite || a.subprogram !== b.subprogram) return false;
      const inner = old.frames[f + 1];
      if (!this.frames(a, b, inner, index)) return false;
    }
    for (let i = 0; i < old.references.length; i++) {
      if (!this.ids(old.references[i]?.id ?? 0, now.references[i]?.id ?? 0)) return false;
    }
    if (old.lock !== undefined && now.lock !== undefined) {
      return old.lock.map === now.lock.map && this.ids(old.lock.id, now.lock.id);
    }
    return true;
  }

  private frames(old: Frame, now: Frame, inner: Frame | undefined, index: number): boolean {
    const { facts } = this;
    let live: number;
    let precise: number;
    let first = index;
    let second = index;
    if (inner === undefined) {
      live = facts.live[index] as number;
      precise = facts.preciseRegisters(index);
    } else {
      // In the middle of a call: what is read after it; and by the call itself, where that calls back again.
      first = inner.callsite;
      second = first + 1;
      live = keptInCall(facts.live[second] as number);
      precise = keptInCall(facts.preciseRegisters(second));
      if (inner.callback !== undefined) {
        live |= facts.live[first] as number;
        precise |= facts.preciseRegisters(first);
      }
    }
    for (let r = 0; r < FRAME_POINTER; r++) {
      const a = old.registers[r] as Value;
      const b = now.registers[r] as Value;
      if ((live & (1 << r)) === 0) {
        if (a !== b) this.loose = true;
        continue;
      }
      if (!this.values(a, b, (precise & (1 << r)) !== 0)) return false;
    }
    for (let s = 0; s < old.stack.length; s++) {
      const a = old.slot(s);
      const b = now.slot(s);
      const isLive = facts.isLive(first, s) || facts.isLive(second, s);
      const held = a.object !== undefined && a.object.ref !== 0;
      if (!isLive && !held) {
        // What is the same slot in both may yet be linked to something else in one of them only.
        if (a !== b || hasIdentity(a)) this.loose = true;
        continue;
      }
      const isPrecise = facts.isPrecise(first, s) || facts.isPrecise(second, s);
      if (!this.slots(a, b, isPrecise)) return false;
    }
    return true;
  }

  private ids(old: number, now: number): boolean {
    if (old === 0) return true;
    if (now === 0) return false;
    for (let i = 0; i < this.olds.length; i++) {
      if (this.olds[i] === old) return this.nows[i] === now;
      if (this.nows[i] === now) return false;
    }
    this.olds.push(old);
    this.nows.push(now);
    return true;
  }

  /**
   * Numbers known to be the same, at a distance, must be so now. They may be the same as others besides: that only
   * makes fewer of what may be.
   */
  private scalarIds(old: Scalar, now: Scalar): boolean {
    if (old.id === 0) return true;
    const distance = now.delta - old.delta;
    const id = now.narrow === old.narrow ? now.id : 0;
    for (const link of this.links) {
      if (link.old === old.id) return id !== 0 && link.now === id && link.distance === distance;
    }
    this.links.push({ old: old.id, now: id, distance });
    return true;
  }

  private scalars(old: Scalar, now: Scalar, precise: boolean): boolean {
    if (!this.scalarIds(old, now)) return false;
    if (precise || this.exact) return coversScalar(old, now);
    if (!this.loose && old !== now && !coversScalar(old, now)) this.loose = true;
    return true;
  }

  private values(old: Value, now: Value, precise: boolean): boolean {
    if (old.kind === 'not_init') return true;
    if (old.kind === 'scalar') return now.kind === 'scalar' && this.scalars(old, now, precise);
    if (old.kind !== now.kind) return false;
    switch (old.kind) {
      case 'ctx':
        return now.kind === 'ctx' && now.offset === old.offset;
      case 'fp':
        return (
          now.kind === 'fp' &&
          now.frame === old.frame &&
          now.offset === old.offset &&
          coversScalar(old.variable, now.variable)
        );
      case 'map_ptr':
        return (
          now.kind === 'map_ptr' &&
          now.map === old.map &&
          now.maybeNull === old.maybeNull &&
          now.inner === old.inner &&
          this.ids(old.id, now.id)
        );
      case 'ptr_':
        return (
          now.kind === 'ptr_' &&
          now.btf === old.btf &&
          now.type === old.type &&
          now.offset === old.offset &&
          now.trusted === old.trusted
        );
      case 'func':
        return now.kind === 'func' && now.subprogram === old.subprogram;
      default:
        return (
          isMemory(now) &&
          now.map === old.map &&
          now.size === old.size &&
          now.offset === old.offset &&
          now.maybeNull === old.maybeNull &&
          this.ids(old.id, now.id) &&
          this.ids(old.ref, now.ref) &&
          this.ids(old.dynptr, now.dynptr) &&
          coversScalar(old.variable, now.variable)
        );
    }
  }

  private slots(old: StackSlot, now: StackSlot, precise: boolean): boolean {
    if (old.object !== undefined || now.object !== undefined) return this.objects(old, now);
    if ((old.written & ~now.written) !== 0) return false;
    if (old.written === 0) return true;
    if (old.value !== undefined && old.value.kind !== 'scalar') {
      return now.value !== undefined && this.values(old.value, now.value, precise);
    }
    if (now.value !== undefined && now.value.kind !== 'scalar') return false;
    if (old.value !== undefined) {
      if (old === now && old.value.id === 0) return true;
      // Bytes of the new slot that were never written are none that an old one read.
      return this.scalars(old.value, loadedFrom(now, -8, 8), precise);
    }
    if (old === now) return true;
    const matters = precise || this.exact;
    const same =
      (old.zero & ~now.zero) === 0 &&
      (old.low === undefined || coversScalar(old.low, loadedFrom(now, -8, 4))) &&
      (old.high === undefined || coversScalar(old.high, loadedFrom(now, -4, 4)));
    if (same) return true;
    if (!matters) this.loose = true;
    return !matters;
  }

  private objects(old: StackSlot, now: StackSlot): boolean {
    const a = old.object;
    const b = now.object;
    if (a === undefined || b === undefined) return false;
    if (a.kind === 'iter') return b.kind === 'iter' && a.drained === b.drained && this.ids(a.ref, b.ref);
    return (
      b.kind === 'dynptr' &&
      a.type === b.type &&
      a.first === b.first &&
      this.ids(a.id, b.id) &&
      this.ids(a.ref, b.ref)
    );
  }
}

/** Whether others may be known to be the same as what the slot holds. */
function hasIdentity({ value }: StackSlot): boolean {
  return value !== undefined && 'id' in value && value.id !== 0;
}

/**
 * Where paths end early: states remembered at instructions that several ways lead to, and the rule for loops (the
 * kernel's `is_state_visited`). A state that an earlier one covers needs no further walk; one that comes back to a state
 * which is still being walked is a loop, and must have something that ends it.
 */

import { FRAME_POINTER } from '../../../bpf/instruction.js';
import { Comparison } from './covers.js';
import type { Facts } from './facts.js';
import { withId } from './scalar.js';
import type { StackSlot } from './stack.js';
import type { Frame, State } from './state.js';
import type { Value } from './value.js';
import { widenState } from './widening.js';

/** States remembered at one instruction, the latest ones. */
const STATES_AT_INSTRUCTION = 64;
/** A state that covers others more rarely than this is forgotten. */
const MISSES_FOR_EACH_HIT = 8;
/** Rounds of a loop that are walked as they are, before what changes in it is widened. */
const ROUNDS_BEFORE_WIDENING = 40;

/** A state remembered, and how much of what follows it is not walked yet. */
export class Node {
  readonly parent: Node | undefined;
  readonly state: State;
  /** paths that come from here and have not ended */
  branches = 1;
  /** states above this one that paths from here ended at, as loops do */
  entries: Node[] | undefined;
  /** how often it covered another state, and how often it did not */
  hits = 0;
  misses = 0;

  constructor(parent: Node | undefined, state: State) {
    this.parent = parent;
    this.state = state;
  }
}

/** A path that came from `node` has ended. */
export function endPath(node: Node | undefined): void {
  for (let at = node; at !== undefined; at = at.parent) {
    at.branches--;
    if (at.branches > 0) return;
  }
}

/** Paths from `node` ended at `entry`, which is above it: all between are part of that loop. */
function noteEntry(node: Node | undefined, entry: Node): void {
  for (let at = node; at !== undefined && at !== entry; at = at.parent) {
    at.entries ??= [];
    if (!at.entries.includes(entry)) at.entries.push(entry);
  }
}

/**
 * Whether something between the two states counted towards an end: an iterator, `may_goto`, or a call that calls back.
 * It must be the same one that counted: one that begins anew each time ends nothing.
 */
function progressed(old: State, now: State): boolean {
  const depth = Math.min(old.frames.length, now.frames.length);
  for (let f = 0; f < depth; f++) {
    const a = old.frames[f] as Frame;
    const b = now.frames[f] as Frame;
    if (a.instance !== b.instance) return false;
    if (b.mayGotos > a.mayGotos) return true;
    if (a.call !== 0 && a.call === b.call && b.unrolled > a.unrolled) return true;
    for (let s = 0; s < a.stack.length; s++) {
      const x = (a.stack[s] as StackSlot).object;
      const y = b.stack[s]?.object;
      if (x?.kind === 'iter' && y?.kind === 'iter' && x.ref === y.ref && y.depth > x.depth) return true;
    }
  }
  return false;
}

/** Whether both are at the same place in the same calls. */
function sameCalls(old: State, now: State): boolean {
  if (old.frames.length !== now.frames.length) return false;
  return old.frames.every((frame, f) => frame.callsite === now.frames[f]?.callsite);
}

/** Whether both are before, or both in the middle of, a call that calls back. */
function sameCallbacks(old: State, now: State): boolean {
  return old.frames.every(({ call }, f) => (call === 0) === (now.frames[f]?.call === 0));
}

export type Verdict = 'covered' | 'loop' | 'new';

export class Pruning {
  private readonly facts: Facts;
  private readonly seen = new Map<number, Node[]>();
  totalStates = 0;
  peakStates = 0;
  /** whether numbers were widened */
  widened = false;
  private readonly widens: boolean;
  private states = 0;

  constructor(facts: Facts, widens: boolean) {
    this.facts = facts;
    this.widens = widens;
  }

  /** Whether an earlier path through `index` proves this one safe, or this one goes in a circle. */
  judge(index: number, state: State, parent: Node | undefined): Verdict {
    const earlier = this.seen.get(index);
    if (earlier === undefined) return 'new';
    for (let i = earlier.length - 1; i >= 0; i--) {
      const old = earlier[i] as Node;
      if (old.branches === 0 && old.misses > MISSES_FOR_EACH_HIT * (old.hits + 1)) {
        earlier.splice(i, 1);
        this.states--;
        continue;
      }
      old.misses++;
      if (old.branches > 0) {
        if (!progressed(old.state, state)) {
          if (sameCallbacks(old.state, state) && this.same(old.state, state, index)) return 'loop';
          continue;
        }
        if (!this.covers(old.state, state, index)) continue;
        noteEntry(parent, old);
        old.hits++;
        return 'covered';
      }
      const open = old.entries?.filter(entry => entry.branches > 0) ?? [];
      if (open.some(entry => !progressed(entry.state, state))) continue;
      if (!this.covers(old.state, state, index)) continue;
      for (const entry of open) noteEntry(parent, entry);
      old.hits++;
      return 'covered';
    }
    return 'new';
  }

  /** In a loop that went round often, takes what changes to go on changing. */
  settleLoop(index: number, state: State): void {
    if (!this.widens) return;
    const rounds = this.seen
      .get(index)
      ?.filter(old => old.branches > 0 && sameCalls(old.state, state) && progressed(old.state, state));
    const last = rounds?.[rounds.length - 1];
    if (rounds === undefined || last === undefined || rounds.length < ROUNDS_BEFORE_WIDENING) return;
    this.widened = true;
    widenState(this.facts, last.state, state, index);
  }

  /** Remembers a state; it becomes the parent of what follows. */
  remember(index: number, state: State, parent: Node | undefined): Node {
    const node = new Node(parent, forgetSingleIds(state.copy()));
    const list = this.seen.get(index);
    this.totalStates++;
    if (list === undefined) {
      this.seen.set(index, [node]);
      this.states++;
    } else {
      if (list.length >= STATES_AT_INSTRUCTION) list.shift();
      else this.states++;
      list.push(node);
    }
    if (this.states > this.peakStates) this.peakStates = this.states;
    return node;
  }

  private covers(old: State, now: State, index: number): boolean {
    const comparison = new Comparison(this.facts);
    if (!comparison.states(old, now, index)) return false;
    if (comparison.loose) this.rely(index, now);
    return true;
  }

  /** Both states are the same in everything that is read again. */
  private same(old: State, now: State, index: number): boolean {
    if (!new Comparison(this.facts, true).states(old, now, index)) return false;
    // The remembered one has lost the ids of numbers without copies: compare back with the same loss.
    if (!new Comparison(this.facts, true).states(forgetSingleIds(now.copy()), old, index)) return false;
    this.rely(index, now);
    return true;
  }

  /** What is known now of what matters decided the answer. */
  private rely(index: number, state: State): void {
    this.facts.relied[index] = 1;
    for (const { callsite } of state.frames) {
      if (callsite < 0) continue;
      this.facts.relied[callsite] = 1;
      this.facts.relied[callsite + 1] = 1;
    }
  }
}

/** The state in which each number's id was last seen by `forgetSingleIds`, and how often there; by id. */
let seenIn = new Int32Array(1024);
let times = new Int32Array(1024);
let round = 0;
let single = 0;

function count(value: Value | undefined): void {
  if (value?.kind !== 'scalar' || value.id === 0) return;
  const { id } = value;
  if (id >= seenIn.length) {
    const longer = new Int32Array(2 * id);
    longer.set(seenIn);
    seenIn = longer;
    const counts = new Int32Array(2 * id);
    counts.set(times);
    times = counts;
  }
  if (seenIn[id] !== round) {
    seenIn[id] = round;
    times[id] = 1;
    single++;
  } else if (times[id]++ === 1) single--;
}

/** A number that is no other's copy needs no id: without it, it compares with any. */
function forgetSingleIds(state: State): State {
  round++;
  single = 0;
  for (const { registers, stack } of state.frames) {
    for (let r = 0; r < FRAME_POINTER; r++) count(registers[r]);
    for (let s = 0; s < stack.length; s++) count((stack[s] as StackSlot).value);
  }
  if (single === 0) return state;
  state.replace(old => (old.kind === 'scalar' && old.id !== 0 && times[old.id] === 1 ? withId(old, 0) : old));
  return state;
}

/**
 * Which trees are shown, and when: a tree as a whole once it is known to be wanted, or piece by piece while it grows where
 * every tree is.
 */

import { type ResultFilter, resultPasses } from '../filters.js';
import { resultSize } from '../signature.js';
import type { Call, Tree, TreeListener } from './call_tree.js';

/** A call was entered, or closed. */
export interface Step {
  readonly call: Call;
  readonly closed: boolean;
}

/** A tree, or the next piece of one. */
export interface Block {
  readonly tree: Tree;
  readonly steps: readonly Step[];
  /** An earlier block has the tree's beginning. */
  readonly continued: boolean;
  /** The tree's root is closed. */
  readonly complete: boolean;
  /** Calls that were left out because the tree has too many, in this block. */
  readonly leftOut: number;
}

/** Where blocks go. */
export interface TraceSink {
  block(block: Block): void;
}

export interface SelectionOptions {
  /** Of a tree's root, ns. */
  readonly minDuration?: number;
  /** On the result of a tree's root. */
  readonly result?: ResultFilter;
  /** Calls that are deeper are left out; the root has depth 1. */
  readonly depth?: number;
  /** Calls that are shown in all. */
  readonly maxCalls: number;
}

/** A piece of a tree that goes on is shown after so long, or so many steps. */
const PIECE_MS = 250;
const PIECE_STEPS = 20_000;
/** Calls that are kept of a tree that is not known to be wanted yet. */
const MAX_HELD = 100_000;

interface Growing {
  steps: Step[];
  /** Calls among the steps. */
  calls: number;
  leftOut: number;
  /** Calls whose entry was left out, and that are open. */
  readonly hidden: Set<Call>;
  since: number;
  continued: boolean;
}

export class TreeSelection implements TreeListener {
  readonly #options: SelectionOptions;
  readonly #sinks: readonly TraceSink[];
  readonly #growing = new Map<Tree, Growing>();
  readonly #filters: boolean;
  #shown = 0;
  /** Calls of trees that are shown in any case, and are not shown yet. */
  #waiting = 0;
  #trees = 0;
  #filtered = 0;
  /** Told once, when as many calls were shown as may be. */
  full: () => void = () => {};

  constructor(options: SelectionOptions, sinks: readonly TraceSink[]) {
    this.#options = options;
    this.#sinks = sinks;
    this.#filters = options.minDuration !== undefined || options.result !== undefined;
  }

  /** Calls that were shown. */
  get shown(): number {
    return this.#shown;
  }
  /** Trees that were shown, as far as they got. */
  get trees(): number {
    return this.#trees;
  }
  /** Trees that the filters left out. */
  get filtered(): number {
    return this.#filtered;
  }
  get isFull(): boolean {
    return this.#shown + this.#waiting >= this.#options.maxCalls;
  }

  entered(tree: Tree, call: Call): void {
    if (!tree.wanted) return;
    let growing = this.#growing.get(tree);
    if (growing === undefined) {
      if (this.isFull) return;
      growing = {
        steps: [],
        calls: 0,
        leftOut: 0,
        hidden: new Set(),
        since: performance.now(),
        continued: false,
      };
      this.#growing.set(tree, growing);
    }
    if (this.#options.depth !== undefined && call.depth >= this.#options.depth) {
      growing.hidden.add(call);
      return;
    }
    if (growing.calls >= MAX_HELD || this.isFull) {
      growing.hidden.add(call);
      growing.leftOut++;
      return;
    }
    if (growing.steps.length === 0) growing.since = performance.now();
    growing.calls++;
    growing.steps.push({ call, closed: false });
    if (this.#filters) return;
    this.#waiting++;
    if (this.isFull) this.full();
  }

  closed(tree: Tree, call: Call): void {
    const growing = this.#growing.get(tree);
    if (growing === undefined || growing.hidden.delete(call)) return;
    if (growing.steps.length === 0) growing.since = performance.now();
    growing.steps.push({ call, closed: true });
  }

  ended(tree: Tree): void {
    const growing = this.#growing.get(tree);
    if (growing === undefined) return;
    this.#growing.delete(tree);
    if (this.#passes(tree.root)) this.#show(tree, growing, true);
    else this.#filtered++;
  }

  /** Shows pieces of trees that go on, where they have waited for long enough. */
  showPieces(): void {
    if (this.#filters) return;
    const now = performance.now();
    for (const [tree, growing] of this.#growing) {
      const { steps, since } = growing;
      if (steps.length >= PIECE_STEPS || (steps.length > 0 && now - since >= PIECE_MS))
        this.#show(tree, growing, false);
    }
  }

  #passes({ fn, start, end, outcome, result }: Call): boolean {
    const { minDuration, result: filter } = this.#options;
    if (minDuration !== undefined && end - start < minDuration) return false;
    if (filter === undefined) return true;
    if (outcome !== 'returned') return false;
    const size = fn.signature && resultSize(fn.signature);
    if (fn.signature !== undefined && size === undefined) return false;
    return resultPasses(result[0], size, filter);
  }

  #show(tree: Tree, growing: Growing, complete: boolean): void {
    const { steps, calls, leftOut, continued } = growing;
    growing.steps = [];
    growing.calls = 0;
    growing.leftOut = 0;
    growing.continued = true;
    if (steps.length === 0) return;
    if (!continued) this.#trees++;
    const wasFull = this.isFull;
    this.#shown += calls;
    if (!this.#filters) this.#waiting -= calls;
    for (const sink of this.#sinks) sink.block({ tree, steps, continued, complete, leftOut });
    if (!wasFull && this.isFull) this.full();
  }
}

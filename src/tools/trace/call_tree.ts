/**
 * Trees of calls, from the events of entries and returns. What belongs to what is told by frames, never by the order of
 * events alone: of two calls on one stack the inner one has the lower frame, and a call whose frame is not above that of
 * one that begins has been left, by longjmp, by an exception, or with its thread. Such a call is closed without a result,
 * and what comes later is no child of it.
 *
 * A thread may have several stacks (signal handlers with a stack of their own, coroutines): a call on another one begins a
 * tree of its own, and the first tree goes on behind it.
 */

import type { Entered, Returned, Unwound } from './records.js';
import type { TracedFunction } from './traced_function.js';

/**
 * How a call ended: it returned; it was left by a jump or an exception; its thread or process ended; tracing ended while it
 * ran; or returns were lost, and it may have returned.
 */
export type Outcome = 'open' | 'returned' | 'left' | 'ended' | 'untraced' | 'lost';

export interface Call {
  /** Counts from 1 in the order of entries. */
  readonly id: number;
  readonly fn: TracedFunction;
  readonly frame: number;
  /** ns, as `bpf_ktime_get_ns`. */
  readonly start: number;
  /** When it returned, or was known to have been left; `start` before. */
  end: number;
  readonly parent: Call | undefined;
  /** 0 for the root of a tree. */
  readonly depth: number;
  /** Words of the arguments, and of the result. */
  readonly words: BigUint64Array;
  readonly texts: readonly (Uint8Array | undefined)[];
  outcome: Outcome;
  result: BigUint64Array;
  resultText: Uint8Array | undefined;
}

export interface Tree {
  /** Counts from 1. */
  readonly id: number;
  readonly pid: number;
  readonly tid: number;
  /** 0 unless the thread has other trees open, on other stacks. */
  readonly stack: number;
  readonly root: Call;
  /** The root is a function that trees may begin at. */
  readonly wanted: boolean;
  /** Calls found no room while it was open: some may be missing. */
  incomplete: boolean;
}

/** What is told of trees as they grow. */
export interface TreeListener {
  entered(tree: Tree, call: Call): void;
  /** `call` is closed; of nested ones the innermost comes first. */
  closed(tree: Tree, call: Call): void;
  ended(tree: Tree): void;
}

/** Tells stacks apart: a number for the stack that an address is on, `undefined` where that is not known. */
export type StackOf = (address: number) => number | undefined;

const NO_RESULT = new BigUint64Array(2);
/** Addresses of stacks of which nothing is known are on one stack if they are no further apart. */
const LARGEST_STACK = 8 << 20;
/** A call that begins so far above a tree's root, at most, shows that the root was left. */
const LEFT_BEHIND_BYTES = 64 << 10;

/** A tree that is open: the calls that are under way, the outermost first. */
interface OpenTree {
  readonly tree: Tree;
  readonly calls: Call[];
  /** Of its last event: a signal handler's calls may have earlier ones than the call that it interrupted at its entry. */
  time: number;
  readonly stackId: number | undefined;
}

interface Thread {
  readonly pid: number;
  readonly tid: number;
  open: OpenTree[];
  lost: number;
}

export class CallTrees {
  readonly #listener: TreeListener;
  readonly #stackOf: StackOf;
  readonly #threads = new Map<number, Thread>();
  #calls = 0;
  #trees = 0;
  /** Records of returns were lost: a call that seems to have been left may have returned. */
  returnsLost = false;

  constructor(listener: TreeListener, stackOf: StackOf = () => undefined) {
    this.#listener = listener;
    this.#stackOf = stackOf;
  }

  /** Calls so far. */
  get calls(): number {
    return this.#calls;
  }

  /** Threads with open trees. */
  get openThreads(): readonly { readonly pid: number; readonly tid: number }[] {
    return [...this.#threads.values()].filter(({ open }) => open.length > 0);
  }

  enter(event: Entered, fn: TracedFunction): void {
    const { frame, time } = event;
    const thread = this.#thread(event);
    // What encloses it may have found no room.
    const gap = noteLost(thread, event.lost);
    const found = this.#enclosing(thread, frame, time);
    const calls = found?.calls ?? [];
    const parent = calls.at(-1);
    const start = Math.max(time, found?.time ?? 0);
    const call: Call = {
      id: ++this.#calls,
      fn,
      frame,
      start,
      end: start,
      parent,
      depth: calls.length,
      words: event.words,
      texts: event.texts ?? [],
      outcome: 'open',
      result: NO_RESULT,
      resultText: undefined,
    };
    const open = found ?? this.#begin(thread, call, event.root, gap);
    open.time = start;
    open.calls.push(call);
    this.#listener.entered(open.tree, call);
  }

  return(event: Returned): void {
    const thread = this.#threads.get(event.tid);
    if (thread === undefined) return;
    noteLost(thread, event.lost);
    for (const open of thread.open) {
      const at = open.calls.findLastIndex(call => call.frame === event.frame);
      if (at < 0) continue;
      this.#leave(open, at + 1, event.time);
      const call = open.calls[at];
      call.result = event.result;
      call.resultText = event.text;
      this.#close(open, 'returned', event.time);
      this.#endIfEmpty(thread, open);
      return;
    }
    // It was taken for left already: nothing is known of it any more.
  }

  unwind(event: Unwound): void {
    const thread = this.#threads.get(event.tid);
    if (thread === undefined) return;
    const stackId = this.#stackOf(event.address);
    for (const open of [...thread.open]) {
      if (!isOn(open, event.address, stackId)) continue;
      this.#leaveUpTo(open, event.address, event.time);
      this.#endIfEmpty(thread, open);
    }
  }

  /** Closes what a thread has open: it ended. */
  endThread(tid: number): void {
    const thread = this.#threads.get(tid);
    if (thread === undefined) return;
    this.#endAll(thread, 'ended');
    this.#threads.delete(tid);
  }

  /** Closes everything: the process ended, or tracing did. */
  end(outcome: 'ended' | 'untraced'): void {
    for (const thread of this.#threads.values()) this.#endAll(thread, outcome);
    this.#threads.clear();
  }

  #thread({ pid, tid, lost }: Entered): Thread {
    let thread = this.#threads.get(tid);
    if (thread === undefined || thread.pid !== pid) {
      if (thread !== undefined) this.#endAll(thread, 'ended');
      thread = { pid, tid, open: [], lost };
      this.#threads.set(tid, thread);
    }
    return thread;
  }

  /** The open tree whose innermost call encloses the frame, after closing what the frame shows to have been left. */
  #enclosing(thread: Thread, frame: number, time: number): OpenTree | undefined {
    if (thread.open.length === 0) return undefined;
    const stackId = this.#stackOf(frame);
    let nearest: OpenTree | undefined;
    for (const open of [...thread.open]) {
      if (!isOn(open, frame, stackId)) continue;
      const base = open.tree.root.frame;
      if (base > frame) {
        if (nearest === undefined || base < nearest.tree.root.frame) nearest = open;
      } else if (frame - base <= LEFT_BEHIND_BYTES) {
        this.#leave(open, 0, time);
        this.#endIfEmpty(thread, open);
      }
    }
    if (nearest !== undefined) this.#leaveUpTo(nearest, frame, time);
    return nearest;
  }

  #begin(thread: Thread, root: Call, wanted: boolean, incomplete: boolean): OpenTree {
    let stack = 0;
    while (thread.open.some(({ tree }) => tree.stack === stack)) stack++;
    const { pid, tid } = thread;
    const tree: Tree = { id: ++this.#trees, pid, tid, stack, root, wanted, incomplete };
    const open = { tree, calls: [], time: root.start, stackId: this.#stackOf(root.frame) };
    thread.open.push(open);
    return open;
  }

  /** Closes the calls whose frames are not above `address`. */
  #leaveUpTo(open: OpenTree, address: number, time: number): void {
    const at = open.calls.findLastIndex(({ frame }) => frame > address);
    this.#leave(open, at + 1, time);
  }

  /** Closes the calls from place `from` on, the innermost first. */
  #leave(open: OpenTree, from: number, time: number): void {
    while (open.calls.length > from) this.#close(open, this.returnsLost ? 'lost' : 'left', time);
  }

  #close(open: OpenTree, outcome: Outcome, time: number): void {
    const call = open.calls.pop()!;
    open.time = Math.max(open.time, time);
    call.outcome = outcome;
    call.end = open.time;
    this.#listener.closed(open.tree, call);
  }

  #endIfEmpty(thread: Thread, open: OpenTree): void {
    if (open.calls.length > 0) return;
    thread.open = thread.open.filter(other => other !== open);
    this.#listener.ended(open.tree);
  }

  #endAll(thread: Thread, outcome: Outcome): void {
    for (const open of [...thread.open]) {
      while (open.calls.length > 0) this.#close(open, outcome, open.time);
      this.#endIfEmpty(thread, open);
    }
  }
}

/** Whether calls, of any thread, found no room since the thread's last event; its open trees may lack some then. */
function noteLost(thread: Thread, lost: number): boolean {
  if (thread.lost === lost) return false;
  for (const { tree } of thread.open) tree.incomplete = true;
  thread.lost = lost;
  return true;
}

function isOn(open: OpenTree, address: number, stackId: number | undefined): boolean {
  if (open.stackId !== undefined && stackId !== undefined) return open.stackId === stackId;
  return Math.abs(open.tree.root.frame - address) <= LARGEST_STACK;
}

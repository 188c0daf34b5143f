/** What a row of the benchmark is, and what comes out of it. */

import type { OurMachine } from './our_machine.js';
import type { Target, TracedProgram } from './target.js';

/** A row that can't run here, and why: no failure. */
export class NotHere extends Error {
  override readonly name = 'NotHere';
}

/** What a row measures with in one round: a process that only this round has, and our kernel on it. */
export interface Round {
  readonly program: TracedProgram;
  readonly target: Target;
  readonly ours: OurMachine;
}

/** A row in its place in one round: something hooked, or nothing. */
export interface Attached {
  /** The process whose calls are timed; the round's own where left out. */
  readonly target?: Target;
  /** Events that were seen since it was attached, asked once, after `detach`; `undefined` where nothing counts. */
  count?(): number | Promise<number>;
  /** How many functions it is attached to, where that is more than those that are called. */
  readonly functions?: number;
  /** Called after each run: a sample is several runs then, where `mostCalls` keeps one run short. */
  between?(): void;
  /** Takes the hook away. */
  detach(): void | Promise<void>;
}

/** Rows are printed in this order, under these titles. */
export const GROUPS = {
  baseline: 'baselines',
  ours: 'multitrace',
  limit: 'the limit: hooks written by hand',
  peer: 'peers on the same function',
  producers: 'more threads',
  operation: 'operations of programs',
} as const;

/** One thing that is timed, over and over. */
export interface Row {
  readonly name: string;
  /** What it is, for people. */
  readonly what: string;
  readonly group: keyof typeof GROUPS;
  /** What the traced program calls. */
  readonly calls: string;
  /** Threads that call; as many as `--producers` says where left out. */
  readonly threads?: number;
  /** Events for each call, as `count` sees them; 1 where left out. */
  readonly eventsPerCall?: number;
  /** Operations for each call, where one call does several: the row is told for each operation. */
  readonly operations?: number;
  /** What each call returns; 1 where left out, -1 for "the same number every time, more than zero". */
  readonly returns?: number;
  /** Calls of one sample, where they must not be more. */
  readonly mostCalls?: number;
  /** One thread is timed by the clock too, not by the processor's time: it waits for others, or is compared with several. */
  readonly byClock?: boolean;
  /** Takes part in so many rounds only: putting it in place takes seconds. */
  readonly rounds?: number;
  /** Puts it in place. Throws `NotHere` where that can't be done on this machine. */
  attach(round: Round): Attached | Promise<Attached>;
}

/** What a row came to. Rates are of events; with several threads, of all together. */
export interface Result {
  readonly name: string;
  readonly what: string;
  readonly group: keyof typeof GROUPS;
  /** ns for each event in each round that it took part in, by the round's number. */
  readonly samples: ReadonlyMap<number, number>;
  /** How many functions it was attached to, where that is worth telling. */
  readonly functions?: number;
  readonly unavailable?: string;
}

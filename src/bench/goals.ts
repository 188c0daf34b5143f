/**
 * The ratios that the benchmark is for, with what they should be. Each is the median of the ratios of the rounds, so
 * that both sides of a ratio were measured within a second of each other.
 */

import type { AttachResult } from './attach.js';
import type { Result } from './row.js';
import { median, spread } from './statistics.js';

/** A ratio as it was measured; `undefined` where a row of it is not here. */
export interface Goal {
  readonly what: string;
  /** What the seed series has in the kernel. */
  readonly series?: number;
  /** What it should be here: at least, or at most. */
  readonly atLeast?: number;
  readonly atMost?: number;
  readonly measured?: number;
  readonly spread?: number;
  /** Rounds that it was measured in. */
  readonly rounds: number;
}

type Wish = Pick<Goal, 'what' | 'series' | 'atLeast' | 'atMost'> & {
  /** Rows that a round must have, and what is made of their ns for an event. */
  readonly rows: readonly string[];
  ratio(...ns: number[]): number;
};

/** Events a second of the first to those of the second. */
const rate = (a: number, b: number): number => b / a;
/** Time of the first to that of the second. */
const time = (a: number, b: number): number => a / b;
/** Time that the first adds to the third, to what the second adds. */
const added = (a: number, b: number, bare: number): number => (a - bare) / (b - bare);

const WISHES: readonly Wish[] = [
  { what: 'fentry-multi / fentry', series: 0.925, atLeast: 1, rows: ['fentry-multi', 'fentry'], ratio: rate },
  {
    what: 'fentry-multi-all / fentry-multi',
    series: 0.988,
    atLeast: 0.97,
    rows: ['fentry-multi-all', 'fentry-multi'],
    ratio: rate,
  },
  { what: 'fexit-multi / fexit', series: 0.98, atLeast: 1, rows: ['fexit-multi', 'fexit'], ratio: rate },
  {
    what: 'fmodret-multi / fmodret',
    series: 0.951,
    atLeast: 1,
    rows: ['fmodret-multi', 'fmodret'],
    ratio: rate,
  },
  {
    what: 'time added by fentry-multi / by the hand-written limit',
    atMost: 2,
    rows: ['fentry-multi', 'limit', 'target-count'],
    ratio: added,
  },
  {
    what: 'time of uprobe / of fentry-multi',
    atLeast: 100,
    rows: ['uprobe', 'fentry-multi'],
    ratio: time,
  },
  {
    what: 'the same, with a counter for each thread',
    atLeast: 100,
    rows: ['uprobe-thread', 'fentry-multi-thread'],
    ratio: time,
  },
  {
    what: 'time of uretprobe / of fexit-multi',
    atLeast: 60,
    rows: ['uretprobe', 'fexit-multi'],
    ratio: time,
  },
  {
    what: 'the same, with a counter for each thread',
    atLeast: 60,
    rows: ['uretprobe-thread', 'fexit-multi-thread'],
    ratio: time,
  },
  {
    what: 'events a second, 2 threads / 1 thread, same function',
    atLeast: 1.9,
    rows: ['fentry-multi-thread@2-same', 'fentry-multi-thread@1'],
    ratio: rate,
  },
];

/** Ratios without a goal, which say where a number comes from. */
const BESIDE: readonly Wish[] = [
  { what: 'fsession-multi / fsession', rows: ['fsession-multi', 'fsession'], ratio: rate },
  {
    what: 'record by hash (nop sled) / by stub, fentry-multi',
    rows: ['fentry-multi-sled', 'fentry-multi'],
    ratio: rate,
  },
  {
    what: 'a counter for each thread: time added by fentry-multi / by the limit',
    rows: ['fentry-multi-thread', 'limit-thread', 'target-count'],
    ratio: added,
  },
  { what: 'time of uprobe on nop5 / of fentry-multi', rows: ['uprobe-nop5', 'fentry-multi'], ratio: time },
  {
    what: 'events a second, 2 threads / 1 thread, untraced',
    rows: ['target-count@2-same', 'target-count@1'],
    ratio: rate,
  },
  {
    what: 'events a second, 2 threads / 1 thread, different functions',
    rows: ['fentry-multi-thread@2-different', 'fentry-multi-thread@1'],
    ratio: rate,
  },
];

function measured(wish: Wish, results: readonly Result[]): Goal {
  const { rows, ratio, ...said } = wish;
  const sides = rows.map(name => results.find(result => result.name === name)?.samples ?? new Map());
  const ratios = [...sides[0].keys()]
    .filter(round => sides.every(side => side.has(round)))
    .map(round => ratio(...sides.map(side => side.get(round) as number)));
  return withRatios(said, ratios);
}

function withRatios(said: Omit<Goal, 'rounds'>, ratios: readonly number[]): Goal {
  if (ratios.length === 0) return { ...said, rounds: 0 };
  return { ...said, measured: median(ratios), spread: Math.abs(spread(ratios)), rounds: ratios.length };
}

const ATTACHED = 5000;

/** The ratios with a goal first, then those without. */
export function goalsOf(results: readonly Result[], attaching: readonly AttachResult[]): Goal[] {
  const kernel = attaching.find(({ name }) => name === `attach-uprobe-multi-${ATTACHED}`)?.samples;
  const ours = attaching.find(({ name }) => name === `attach-multi-${ATTACHED}`)?.samples;
  const ratios = [...(kernel?.keys() ?? [])]
    .filter(round => ours?.has(round))
    .map(round => kernel!.get(round)!.attachMs / ours!.get(round)!.attachMs);
  const detached = [...(kernel?.keys() ?? [])]
    .filter(round => ours?.has(round))
    .map(round => kernel!.get(round)!.detachMs / ours!.get(round)!.detachMs);
  return [
    ...WISHES.map(wish => measured(wish, results)),
    withRatios({ what: `attaching ${ATTACHED} functions: time of uprobe-multi / ours`, atLeast: 1 }, ratios),
    ...BESIDE.map(wish => measured(wish, results)),
    withRatios({ what: `detaching ${ATTACHED} functions: time of uprobe-multi / ours` }, detached),
  ];
}

/** Whether it is what it should be; `undefined` where it has no goal or was not measured. */
export function isMet({ measured: ratio, atLeast, atMost }: Goal): boolean | undefined {
  if (ratio === undefined || (atLeast === undefined && atMost === undefined)) return undefined;
  return ratio >= (atLeast ?? -Infinity) && ratio <= (atMost ?? Infinity);
}

/**
 * `multitrace latency`: how long functions take.
 */

import type { Kernel } from '../kernel/kernel.js';
import { SelectorSet } from '../process/symbols/selector.js';
import { parseDuration, parseResultFilter } from '../tools/filters.js';
import { measureOverhead, type Overhead } from '../tools/latency/calibrate.js';
import {
  BUCKETS,
  byPowersOfTwo,
  callsIn,
  formatPowers,
  type Histogram,
  longest,
  percentile,
} from '../tools/latency/histogram.js';
import { type FunctionLatency, Latency } from '../tools/latency/latency.js';
import type { LatencyFilters } from '../tools/latency/program.js';
import { durationText } from '../tools/trace/call_text.js';
import { isKernel, threadsOf, type What } from './machine.js';
import { grouped, note, print, table } from './output.js';
import {
  attachedText,
  type EndedSession,
  followSession,
  SelectorTool,
  type SessionOptions,
  sessionAsJson,
  sessionStatus,
  tellSkipped,
} from './selector_tool.js';

export const HISTOGRAM_KINDS = ['all', 'each'] as const;

export interface LatencyOptions extends SessionOptions {
  /** Seconds. */
  readonly interval?: number;
  readonly top?: number;
  /** One over all functions, or one for each. */
  readonly histogram?: (typeof HISTOGRAM_KINDS)[number] | true;
  readonly minDuration?: string;
  readonly retval?: string;
  readonly tid?: string;
}

/** What is done with functions, and by what. */
const DONE = { process: 'timed by one program through one link', kernel: 'timed' } as const;

/** Durations over all machines of a session. */
class LatencyTool extends SelectorTool<Latency> {
  readonly #selectors: SelectorSet;
  readonly #filters: LatencyFilters;
  readonly #past = new Map<string, FunctionLatency>();

  constructor(selectors: SelectorSet, filters: LatencyFilters) {
    super();
    this.#selectors = selectors;
    this.#filters = filters;
  }

  protected attach(kernel: Kernel, attaching: (functions: number) => void): Latency {
    return new Latency(kernel, this.#selectors, this.#filters, attaching);
  }

  protected leave(latency: Latency): void {
    for (const row of latency.read()) add(this.#past, row);
  }

  /** All functions that were called so far, by total time. */
  read(): FunctionLatency[] {
    const rows = new Map(this.#past);
    for (const row of this.current?.read() ?? []) add(rows, row);
    return sorted([...rows.values()]);
  }
}

function sorted(rows: FunctionLatency[]): FunctionLatency[] {
  return rows.sort((a, b) => b.total - a.total || (keyOf(a) < keyOf(b) ? -1 : 1));
}

/** One function of a library that lies elsewhere in the next program is one row. */
function keyOf({ module, function: name, address }: FunctionLatency): string {
  return `${module}\0${name}\0${address & 0xfffn}`;
}

function add(rows: Map<string, FunctionLatency>, row: FunctionLatency): void {
  const key = keyOf(row);
  const before = rows.get(key);
  if (before === undefined) {
    rows.set(key, row);
    return;
  }
  rows.set(key, {
    ...row,
    calls: row.calls + before.calls,
    total: row.total + before.total,
    max: Math.max(row.max, before.max),
    histogram: row.histogram.map((calls, i) => calls + before.histogram[i]),
  });
}

/** What came since `before`; the maximum is that of its highest bucket. */
function since(row: FunctionLatency, before: FunctionLatency | undefined): FunctionLatency {
  if (before === undefined) return row;
  const histogram = row.histogram.map((calls, i) => Math.max(0, calls - before.histogram[i]));
  return {
    ...row,
    calls: callsIn(histogram),
    total: row.total - before.total,
    max: Math.min(longest(histogram), row.max),
    histogram,
  };
}

/** Runs the command; the exit status. */
export async function latency(
  selectorTexts: readonly string[],
  what: What,
  options: LatencyOptions,
): Promise<number> {
  const filters: LatencyFilters = {
    threads: threadsOf(what, options.tid),
    ...(options.minDuration === undefined ? {} : { minDuration: parseDuration(options.minDuration) }),
    ...(options.retval === undefined ? {} : { result: parseResultFilter(options.retval) }),
  };
  const tool = new LatencyTool(SelectorSet.parse(selectorTexts), filters);
  const ended = await followSession(tool, selectorTexts, what, options, 'timing', ({ pid }) => {
    if (options.interval === undefined) return () => {};
    const timer = everyInterval(tool, pid, options, options.interval);
    return () => clearInterval(timer);
  });
  report(tool, ended, options, isKernel(what) ? undefined : measureOverhead());
  return sessionStatus(tool, selectorTexts, ended);
}

function everyInterval(
  tool: LatencyTool,
  pid: number | undefined,
  options: LatencyOptions,
  interval: number,
): NodeJS.Timeout {
  let before = new Map<string, FunctionLatency>();
  return setInterval(() => {
    const rows = tool.read();
    const fresh = sorted(
      rows.map(row => since(row, before.get(keyOf(row)))).filter(({ calls }) => calls > 0),
    );
    before = new Map(rows.map(row => [keyOf(row), row]));
    const shown = options.top === undefined ? fresh : fresh.slice(0, options.top);
    if (options.json)
      print(
        `${JSON.stringify({ command: 'latency', pid: pid ?? null, interval, functions: shown.map(row => asJson(row, options)) })}\n`,
      );
    else print(`\n${new Date().toISOString().slice(11, 19)}\n${shownAs(fresh, shown, options)}`);
  }, interval * 1000);
}

function round(ns: number): number {
  return Math.round(ns * 100) / 100;
}

function asJson(row: FunctionLatency, options: LatencyOptions): object {
  const { module, function: name, address, calls, total, max, histogram } = row;
  return {
    module,
    function: name,
    address: `0x${address.toString(16)}`,
    calls,
    totalNs: total,
    meanNs: round(total / calls),
    p50Ns: percentile(histogram, 0.5, max),
    p99Ns: percentile(histogram, 0.99, max),
    maxNs: max,
    ...(options.histogram === 'each' ? { histogram: powersAsJson(histogram) } : {}),
  };
}

/** `[{ "from": 512, "to": 1023, "calls": 7 }, …]`, without those that have none. */
function powersAsJson(histogram: Histogram): object[] {
  return byPowersOfTwo(histogram).flatMap((calls, power) =>
    calls === 0 ? [] : [{ fromNs: power === 0 ? 0 : 2 ** power, toNs: 2 ** (power + 1) - 1, calls }],
  );
}

function sum(rows: readonly FunctionLatency[]): Histogram {
  const all = new Float64Array(BUCKETS);
  for (const { histogram } of rows) for (let i = 0; i < BUCKETS; i++) all[i] += histogram[i];
  return all;
}

/** The table, and the histograms that are asked for. */
function shownAs(
  rows: readonly FunctionLatency[],
  shown: readonly FunctionLatency[],
  { histogram }: LatencyOptions,
): string {
  const text = latencyTable(shown);
  if (histogram === undefined) return text;
  if (histogram !== 'each') return `${text}\n${formatPowers(byPowersOfTwo(sum(rows)))}`;
  return [
    text,
    ...shown.map(row => `\n${row.module}:${row.function}\n${formatPowers(byPowersOfTwo(row.histogram))}`),
  ].join('');
}

function latencyTable(rows: readonly FunctionLatency[]): string {
  return table(
    [
      ['CALLS', 'TOTAL', 'MEAN', 'P50', 'P99', 'MAX', 'FUNCTION', 'MODULE'],
      ...rows.map(({ module, function: name, calls, total, max, histogram }) => [
        grouped(calls),
        durationText(total),
        durationText(total / calls),
        durationText(percentile(histogram, 0.5, max)),
        durationText(percentile(histogram, 0.99, max)),
        durationText(max),
        name,
        module,
      ]),
    ],
    [0, 1, 2, 3, 4, 5],
  );
}

function report(
  tool: LatencyTool,
  ended: EndedSession,
  options: LatencyOptions,
  overhead: Overhead | undefined,
): void {
  const rows = tool.read();
  const shown = options.top === undefined ? rows : rows.slice(0, options.top);
  if (options.json) {
    const object = {
      command: 'latency',
      ...sessionAsJson(tool, ended),
      overhead:
        overhead === undefined
          ? null
          : { perCallNs: round(overhead.perCall), measuredNs: round(overhead.measured) },
      ...(options.histogram === undefined ? {} : { histogram: powersAsJson(sum(rows)) }),
      functions: shown.map(row => asJson(row, options)),
    };
    print(`${JSON.stringify(object)}\n`);
  } else {
    const calls = rows.reduce((all, row) => all + row.calls, 0);
    print(`\n${shownAs(rows, shown, options)}\n`);
    note(
      `${attachedText(tool, ended, DONE[ended.session.machine])};` +
        ` ${grouped(rows.length)} of them were called, ${grouped(calls)} times in all`,
    );
    if (ended.session.machine === 'process')
      note(
        overhead === undefined
          ? 'what tracing adds to a call could not be measured: there is no folder to run a program from'
          : `each traced call costs about ${durationText(overhead.perCall)}, of which ${durationText(overhead.measured)} are inside the measured time`,
      );
    if (tool.missed > 0n) note(`${grouped(tool.missed)} calls could not be timed: too many were under way`);
  }
  tellSkipped(tool.skipped, 'timed', options);
}

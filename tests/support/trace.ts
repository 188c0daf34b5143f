/** What `multitrace trace` prints and writes, as the tests read it: checked strictly by each format's own rules. */

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Ajv } from 'ajv';
import { expect } from 'vitest';
import { describeRun, multitrace, type Run, type RunOptions } from './command.js';

export interface JsonCall {
  readonly id: number;
  readonly parent: number | null;
  readonly tree: number;
  readonly depth: number;
  readonly pid: number;
  readonly tid: number;
  readonly thread: string;
  readonly module: string;
  readonly function: string;
  readonly args?: readonly { readonly name: string; readonly value: unknown; readonly text?: string }[];
  readonly registers?: readonly string[];
  readonly startNs: number;
  readonly durationNs: number | null;
  readonly end: string;
  readonly result: unknown;
  readonly resultText?: string;
}

export interface TraceEnd {
  readonly pid: number;
  readonly exit: { readonly code: number | null; readonly signal: string | null };
  readonly matched: number;
  readonly attached: number;
  readonly skipped: readonly { readonly function: string; readonly reason: string }[];
  readonly missed: number;
  readonly calls: number;
  readonly shown: number;
  readonly trees: number;
  readonly filtered: number;
  readonly lost: number;
  readonly lostReturns: number;
}

export interface Trace {
  readonly calls: readonly JsonCall[];
  readonly end: TraceEnd;
  readonly run: Run;
}

/** The lines of `trace --json`: calls that fit together, and the last one. */
export function parseTrace(run: Run): Trace {
  const lines = run.stdout.trimEnd().split('\n');
  let objects: { command: string; type: string }[];
  try {
    objects = lines.map(line => JSON.parse(line));
  } catch {
    throw new Error(`not lines of JSON: ${describeRun(run)}`);
  }
  const last = objects.pop() as unknown as TraceEnd & { type: string };
  expect(last?.type, describeRun(run)).toBe('end');
  // There may be very many: no matcher for each.
  const bad = objects.find(({ command, type }) => command !== 'trace' || type !== 'call');
  expect(bad).toBe(undefined);
  const calls = (objects as unknown as JsonCall[]).sort((a, b) => a.id - b.id);
  const byId = new Map(calls.map(call => [call.id, call]));
  for (const call of calls) {
    const parent = call.parent === null ? undefined : byId.get(call.parent);
    if (!fits(call, parent))
      throw new Error(`${JSON.stringify(call)} does not fit into ${JSON.stringify(parent)}`);
  }
  expect(calls.length).toBe(last.shown);
  return { calls, end: last, run };
}

function fits(call: JsonCall, parent: JsonCall | undefined): boolean {
  if (parent === undefined) return call.parent === null && call.depth === 0;
  const { tree, tid, depth, startNs, durationNs } = parent;
  return (
    call.tree === tree &&
    call.tid === tid &&
    call.depth === depth + 1 &&
    call.startNs >= startNs &&
    (call.durationNs === null ||
      durationNs === null ||
      call.startNs + call.durationNs <= startNs + durationNs)
  );
}

/** Runs `trace --json` on a command. */
export async function traceCommand(
  selectors: readonly string[],
  command: readonly string[],
  more: readonly string[] = [],
  options: RunOptions = {},
): Promise<Trace> {
  return parseTrace(await multitrace(['trace', ...selectors, '--json', ...more, '--', ...command], options));
}

/** Each tree as text, in the order of their beginnings: `top(middle(leaf leaf) leaf)`, `!` behind a call that never returned. */
export function shapes(calls: readonly JsonCall[]): string[] {
  const children = new Map<number, JsonCall[]>();
  for (const call of calls) {
    if (call.parent === null) continue;
    const list = children.get(call.parent);
    if (list === undefined) children.set(call.parent, [call]);
    else list.push(call);
  }
  const text = (call: JsonCall): string => {
    const inner = (children.get(call.id) ?? []).map(text);
    return `${call.function}${call.end === 'returned' ? '' : '!'}${inner.length > 0 ? `(${inner.join(' ')})` : ''}`;
  };
  return calls.filter(({ parent }) => parent === null).map(text);
}

export interface ChromeEvent {
  readonly name: string;
  readonly ph: string;
  readonly pid: number;
  readonly tid: number;
  readonly ts: number;
  readonly dur: number;
  readonly cat: string;
  readonly args: Record<string, string>;
}

/** A file of Chrome's trace event format: complete events that nest on each track, and names of threads. */
export function readChromeTrace(path: string): {
  calls: readonly ChromeEvent[];
  threads: Map<number, string>;
} {
  const file = JSON.parse(readFileSync(path, 'utf8')) as {
    traceEvents: ChromeEvent[];
    displayTimeUnit: string;
  };
  expect(Object.keys(file).sort()).toEqual(['displayTimeUnit', 'traceEvents']);
  expect(['ms', 'ns']).toContain(file.displayTimeUnit);
  const threads = new Map<number, string>();
  const tracks = new Map<string, ChromeEvent[]>();
  const calls: ChromeEvent[] = [];
  for (const event of file.traceEvents) {
    expect(Number.isInteger(event.pid) && Number.isInteger(event.tid), JSON.stringify(event)).toBe(true);
    expect(typeof event.name).toBe('string');
    if (event.ph === 'M') {
      expect(['thread_name', 'process_name']).toContain(event.name);
      expect(typeof event.args.name).toBe('string');
      if (event.name === 'thread_name') threads.set(event.tid, event.args.name);
      continue;
    }
    expect(event.ph).toBe('X');
    expect(Number.isFinite(event.ts) && event.ts > 0).toBe(true);
    expect(Number.isFinite(event.dur) && event.dur >= 0).toBe(true);
    calls.push(event);
    const key = `${event.pid} ${event.tid}`;
    const track = tracks.get(key);
    if (track === undefined) tracks.set(key, [event]);
    else track.push(event);
  }
  // Rounding of microseconds to a double.
  const slack = 0.002;
  for (const track of tracks.values()) {
    track.sort((a, b) => a.ts - b.ts || b.dur - a.dur);
    const open: ChromeEvent[] = [];
    for (const event of track) {
      while (open.length > 0 && open[open.length - 1].ts + open[open.length - 1].dur <= event.ts + slack)
        open.pop();
      const around = open[open.length - 1];
      if (around !== undefined)
        expect(event.ts + event.dur, 'events of a track nest').toBeLessThanOrEqual(
          around.ts + around.dur + slack,
        );
      open.push(event);
    }
  }
  for (const { tid } of calls) expect(threads.has(tid), 'every track has a name').toBe(true);
  return { calls, threads };
}

interface SpeedscopeFile {
  readonly shared: { readonly frames: readonly { readonly name: string; readonly file?: string }[] };
  readonly profiles: readonly {
    readonly type: string;
    readonly name: string;
    readonly startValue: number;
    readonly endValue: number;
    readonly events: readonly { readonly type: 'O' | 'C'; readonly frame: number; readonly at: number }[];
  }[];
}

/** A speedscope file: by the schema that speedscope publishes, and by what its importer insists on. Calls by function. */
export function readSpeedscope(path: string): { profiles: readonly string[]; calls: Map<string, number> } {
  const file = JSON.parse(readFileSync(path, 'utf8')) as SpeedscopeFile;
  const require = createRequire(import.meta.url);
  const schema = require('speedscope/dist/release/file-format-schema.json') as object;
  const ajv = new Ajv({ strict: false });
  expect(ajv.validate(schema, file), ajv.errorsText()).toBe(true);
  const calls = new Map<string, number>();
  for (const { type, startValue, endValue, events } of file.profiles) {
    expect(type).toBe('evented');
    const open: number[] = [];
    let last = startValue;
    for (const { type: kind, frame, at } of events) {
      expect(at).toBeGreaterThanOrEqual(last);
      last = at;
      const { name } = file.shared.frames[frame];
      if (kind === 'O') {
        open.push(frame);
        calls.set(name, (calls.get(name) ?? 0) + 1);
      } else expect(open.pop(), 'frames close in the order in which they were opened').toBe(frame);
    }
    expect(open).toEqual([]);
    expect(last).toBeLessThanOrEqual(endValue);
  }
  return { profiles: file.profiles.map(({ name }) => name), calls };
}

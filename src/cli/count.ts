/**
 * `multitrace count`: how often each function is called.
 */

import type { Kernel } from '../kernel/kernel.js';
import { SelectorSet } from '../process/symbols/selector.js';
import { Counter, type FunctionCount } from '../tools/count.js';
import type { ThreadChoice } from '../tools/thread_choice.js';
import { threadsOf, type What } from './machine.js';
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

export interface CountOptions extends SessionOptions {
  /** Seconds. */
  readonly interval?: number;
  readonly top?: number;
  readonly all?: boolean;
}

/** What is done with functions, and by what. */
const DONE = { process: 'counted by one program through one link', kernel: 'counted' } as const;

/** Counts over all machines of a session. */
class CountTool extends SelectorTool<Counter> {
  readonly #selectors: SelectorSet;
  readonly #threads: ThreadChoice;
  readonly #past = new Map<string, FunctionCount>();

  constructor(selectors: SelectorSet, threads: ThreadChoice) {
    super();
    this.#selectors = selectors;
    this.#threads = threads;
  }

  protected attach(kernel: Kernel, attaching: (functions: number) => void): Counter {
    return new Counter(kernel, this.#selectors, attaching, this.#threads);
  }

  protected leave(counter: Counter): void {
    for (const row of counter.read()) add(this.#past, row);
  }

  /** All counts so far, highest first, then by name. */
  read(): FunctionCount[] {
    const counts = new Map(this.#past);
    for (const row of this.current?.read() ?? []) add(counts, row);
    return sorted([...counts.values()]);
  }
}

function sorted(rows: FunctionCount[]): FunctionCount[] {
  return rows.sort((a, b) => {
    if (a.count !== b.count) return a.count > b.count ? -1 : 1;
    return (
      compareText(a.function, b.function) ||
      compareText(a.module, b.module) ||
      (a.address < b.address ? -1 : 1)
    );
  });
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/**
 * Adds a row to those of earlier programs of the process. One function of a library that lies elsewhere in the next
 * program is one row, with its last address.
 */
function add(counts: Map<string, FunctionCount>, row: FunctionCount): void {
  const key = `${row.module}\0${row.function}\0${row.address & 0xfffn}`;
  const before = counts.get(key);
  counts.set(key, before === undefined ? row : { ...row, count: row.count + before.count });
}

/** Runs the command; the exit status. */
export async function count(
  selectorTexts: readonly string[],
  what: What,
  options: CountOptions,
): Promise<number> {
  const tool = new CountTool(SelectorSet.parse(selectorTexts), threadsOf(what));
  const ended = await followSession(tool, selectorTexts, what, options, 'counting', ({ pid }) => {
    if (options.interval === undefined) return () => {};
    const timer = everyInterval(tool, pid, options, options.interval);
    return () => clearInterval(timer);
  });
  report(tool, ended, options);
  return sessionStatus(tool, selectorTexts, ended);
}

function everyInterval(
  tool: CountTool,
  pid: number | undefined,
  options: CountOptions,
  interval: number,
): NodeJS.Timeout {
  let before = new Map<string, bigint>();
  return setInterval(() => {
    const rows = tool.read();
    const now = new Map(rows.map(row => [`${row.module}:${row.address}`, row.count]));
    const since = rows.map(row => ({
      ...row,
      count: row.count - (before.get(`${row.module}:${row.address}`) ?? 0n),
    }));
    before = now;
    const shown = chosen(sorted(since), options);
    if (options.json)
      print(
        `${JSON.stringify({ command: 'count', pid: pid ?? null, interval, functions: shown.map(asJson) })}\n`,
      );
    else print(`\n${new Date().toISOString().slice(11, 19)}\n${countTable(shown)}`);
  }, interval * 1000);
}

function chosen(rows: readonly FunctionCount[], options: CountOptions): FunctionCount[] {
  const counted = options.all ? [...rows] : rows.filter(row => row.count > 0n);
  return options.top === undefined ? counted : counted.slice(0, options.top);
}

function asJson(row: FunctionCount): object {
  return {
    module: row.module,
    function: row.function,
    address: `0x${row.address.toString(16)}`,
    // Exact below 2^53, as every JSON reader has it.
    count: Number(row.count),
  };
}

function countTable(rows: readonly FunctionCount[]): string {
  return table(
    [['CALLS', 'FUNCTION', 'MODULE'], ...rows.map(r => [grouped(r.count), r.function, r.module])],
    [0],
  );
}

function report(tool: CountTool, ended: EndedSession, options: CountOptions): void {
  const rows = tool.read();
  const shown = chosen(rows, options);
  if (options.json) {
    const object = {
      command: 'count',
      ...sessionAsJson(tool, ended),
      functions: shown.map(asJson),
    };
    print(`${JSON.stringify(object)}\n`);
  } else {
    const called = rows.filter(row => row.count > 0n);
    const calls = called.reduce((sum, row) => sum + row.count, 0n);
    print(`\n${countTable(shown)}\n`);
    note(
      `${attachedText(tool, ended, DONE[ended.session.machine])};` +
        ` ${grouped(called.length)} of them were called, ${grouped(calls)} times in all`,
    );
  }
  tellSkipped(tool.skipped, 'counted', options);
}

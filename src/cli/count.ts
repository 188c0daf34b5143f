/**
 * `multitrace count`: how often each function is called.
 */

import { BpfError } from '../kernel/errno.js';
import type { SkippedFunction } from '../kernel/kernel.js';
import type { ProcessKernel } from '../kernel/process/machine.js';
import { Session, type SessionEnd, type SessionTool } from '../kernel/process/session.js';
import { SelectorSet } from '../process/symbols/selector.js';
import { Counter, type FunctionCount } from '../tools/count.js';
import { EXIT_FAILURE, exitCodeOf, signalName, type What } from './options.js';
import { grouped, note, print, table } from './output.js';

export interface CountOptions {
  /** Seconds. */
  readonly duration?: number;
  /** Seconds. */
  readonly interval?: number;
  readonly top?: number;
  readonly json?: boolean;
  readonly all?: boolean;
  readonly verbose?: boolean;
}

/** How long a command has to end by itself after Ctrl-C, which the terminal sends it too, ms. */
const INTERRUPT_GRACE_MS = 300;
const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** From here on attaching takes about a second, and is announced. */
const MANY = 20_000;

/** Counts over all programs of a session. */
class CountTool implements SessionTool {
  readonly #selectors: SelectorSet;
  readonly #past = new Map<string, FunctionCount>();
  readonly #skipped: SkippedFunction[] = [];
  #matched = 0;
  #attached = 0;
  #attachMs = 0;
  #pauseMs = 0;
  #missed = 0n;
  #counter: Counter | undefined;
  readonly #modules = new Set<string>();

  constructor(selectors: SelectorSet) {
    this.#selectors = selectors;
  }

  opened(kernel: ProcessKernel): void {
    for (const module of kernel.modules()) this.#modules.add(module);
    this.#counter = new Counter(kernel, this.#selectors, found => {
      if (found >= MANY) note(`attaching to ${grouped(found)} functions…`);
    });
    this.#notePause();
  }

  modulesChanged(kernel: ProcessKernel): void {
    for (const module of kernel.modules()) this.#modules.add(module);
    this.#notePause();
  }

  #notePause(): void {
    this.#pauseMs = Math.max(this.#pauseMs, this.#counter?.pauseMs ?? 0);
  }

  closed(_kernel: ProcessKernel): void {
    const counter = this.#counter;
    if (counter === undefined) return;
    for (const row of counter.read()) add(this.#past, row);
    for (const skipped of counter.skipped) this.#skipped.push(skipped);
    this.#matched += counter.matched;
    this.#attached += counter.attached;
    this.#attachMs += counter.attachMs;
    this.#missed += counter.missed;
    this.#counter = undefined;
  }

  refused(error: BpfError): void {
    note(`not traced from here on: ${error.message}`);
  }

  /** Names of all modules seen. */
  get modules(): readonly string[] {
    return [...this.#modules];
  }

  get matched(): number {
    return this.#matched + (this.#counter?.matched ?? 0);
  }
  get attached(): number {
    return this.#attached + (this.#counter?.attached ?? 0);
  }
  get skipped(): readonly SkippedFunction[] {
    return [...this.#skipped, ...(this.#counter?.skipped ?? [])];
  }
  get attachMs(): number {
    return this.#attachMs + (this.#counter?.attachMs ?? 0);
  }
  get pauseMs(): number {
    return this.#pauseMs;
  }
  get missed(): bigint {
    return this.#missed + (this.#counter?.missed ?? 0n);
  }

  /** All counts so far, highest first, then by name. */
  read(): FunctionCount[] {
    const counts = new Map(this.#past);
    for (const row of this.#counter?.read() ?? []) add(counts, row);
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
  const selectors = SelectorSet.parse(selectorTexts);
  const tool = new CountTool(selectors);
  const session =
    'pid' in what
      ? Session.attach(what.pid, tool)
      : Session.start(what.command, tool, options.json ? { stdout: 2 } : {});
  const { pid } = session.process;
  if ('pid' in what && tool.matched === 0) {
    session.stop();
    await session.end;
    throw noMatch(selectorTexts, tool, pid);
  }
  const timers: NodeJS.Timeout[] = [];
  const stop = (): void => session.stop();
  const interrupt = (): void => {
    if (session.process.isChild) timers.push(setTimeout(stop, INTERRUPT_GRACE_MS));
    else stop();
  };
  for (const signal of STOP_SIGNALS) process.on(signal, interrupt);
  if (options.duration !== undefined) timers.push(setTimeout(stop, options.duration * 1000));
  if (options.interval !== undefined) timers.push(everyInterval(tool, pid, options, options.interval));
  if (!options.json && 'pid' in what)
    note(
      `counting ${grouped(tool.attached)} of ${grouped(tool.matched)} functions of process ${pid}${options.duration === undefined ? ', Ctrl-C ends' : ''}`,
    );

  let end: SessionEnd;
  try {
    end = await session.end;
  } finally {
    for (const timer of timers) clearTimeout(timer);
  }
  report(tool, pid, end, options);
  if (end.kind === 'stopped' && session.process.isChild && session.process.alive())
    note(`process ${pid} goes on without us`);
  const status = end.kind === 'ended' ? exitCodeOf(end.exit) : 0;
  if (tool.matched > 0) return status;
  note(noMatch(selectorTexts, tool, pid).message);
  return status === 0 ? EXIT_FAILURE : status;
}

function noMatch(texts: readonly string[], tool: CountTool, pid: number): BpfError {
  const { modules } = tool;
  const some = modules.length > 12 ? [...modules.slice(0, 12), '…'] : modules;
  const where = modules.length === 0 ? '' : ` in ${some.join(', ')}`;
  return new BpfError(
    'ENOENT',
    `no function of process ${pid} matched ${texts.join(' ')}${where}; a library's functions are LIBRARY:FUNCTION, and \`multitrace list\` shows what there is`,
  );
}

function everyInterval(
  tool: CountTool,
  pid: number,
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
      print(`${JSON.stringify({ command: 'count', pid, interval, functions: shown.map(asJson) })}\n`);
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

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

function report(tool: CountTool, pid: number, end: SessionEnd, options: CountOptions): void {
  const { skipped } = tool;
  const rows = tool.read();
  if (options.json) {
    const exit = end.kind === 'ended' ? end.exit : undefined;
    const object = {
      command: 'count',
      pid,
      exit: {
        code: exit !== undefined && 'code' in exit ? exit.code : null,
        signal: exit !== undefined && 'signal' in exit ? signalName(exit.signal) : null,
      },
      matched: tool.matched,
      attached: tool.attached,
      skipped: skipped.map(s => ({ module: s.module, function: s.function, reason: s.reason })),
      attachMs: round(tool.attachMs),
      pauseMs: round(tool.pauseMs),
      missed: Number(tool.missed),
      functions: chosen(rows, options).map(asJson),
    };
    print(`${JSON.stringify(object)}\n`);
  } else {
    const shown = chosen(rows, options);
    const called = rows.filter(row => row.count > 0n);
    const calls = called.reduce((sum, row) => sum + row.count, 0n);
    print(`\n${countTable(shown)}\n`);
    note(
      `${grouped(tool.attached)} of ${grouped(tool.matched)} functions counted by one program through one link` +
        ` (attached in ${Math.round(tool.attachMs)} ms, the process stood still for ${tool.pauseMs.toFixed(1)} ms);` +
        ` ${grouped(called.length)} of them were called, ${grouped(calls)} times in all`,
    );
  }
  if (skipped.length === 0) return;
  if (options.verbose) {
    for (const s of skipped) note(`not counted: ${s.module}:${s.function}: ${s.reason}: ${s.detail}`);
  } else if (!options.json) {
    const reasons = new Map<string, number>();
    for (const { reason } of skipped) reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
    const list = [...reasons].sort((a, b) => b[1] - a[1]).map(([reason, n]) => `${reason} ${grouped(n)}`);
    note(`not counted: ${list.join(', ')}; --verbose names them`);
  }
}

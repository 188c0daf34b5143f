/**
 * `multitrace trace`: live trees of calls, with arguments, results and durations.
 */

import { isatty } from 'node:tty';
import type { Kernel } from '../kernel/kernel.js';
import { SelectorSet } from '../process/symbols/selector.js';
import { parseDuration, parseResultFilter } from '../tools/filters.js';
import { CallTrees } from '../tools/trace/call_tree.js';
import { ChromeExport } from '../tools/trace/chrome.js';
import { ExportFile, type ExportFormat, formatOf, type TraceExport } from '../tools/trace/export_file.js';
import { JsonCalls } from '../tools/trace/json_calls.js';
import { coloured, plain, TreePrinter } from '../tools/trace/print_tree.js';
import type { TraceEvent } from '../tools/trace/records.js';
import { type TraceSink, TreeSelection } from '../tools/trace/selection.js';
import { SpeedscopeExport } from '../tools/trace/speedscope.js';
import { kernelStack, stacksOf } from '../tools/trace/stacks.js';
import { ThreadNames, threadRuns } from '../tools/trace/thread_names.js';
import { Tracer, type TracerOptions } from '../tools/trace/tracer.js';
import { toJson } from './json.js';
import { isKernel, numberedByKernel, threadsOf, type What } from './machine.js';
import { EXIT_FAILURE } from './options.js';
import { grouped, note, print } from './output.js';
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

export interface TraceOptions extends SessionOptions {
  /** Selectors. */
  readonly entry?: readonly string[];
  readonly minDuration?: string;
  readonly retval?: string;
  readonly tid?: string;
  readonly depth?: number;
  readonly maxCalls?: number;
  readonly registers?: boolean;
  readonly output?: string;
  readonly format?: ExportFormat;
}

/** Calls that are shown unless `--max-calls` says otherwise: on a terminal, and to a file or a program. */
const SHOWN_CALLS = 100_000;
const WRITTEN_CALLS = 1_000_000;

/** Records that are taken before others have their turn. */
const BATCH = 4096;
/** How long the reader waits for records, at most, before pieces of trees are shown, ms. */
const WAIT_MS = 100;
/** How often threads with open trees are looked for, ms. */
const THREADS_MS = 500;

/** Trees over all programs of a session. */
class TraceTool extends SelectorTool<Tracer> {
  readonly #options: TracerOptions;
  readonly #selection: TreeSelection;
  readonly #names: ThreadNames;
  #trees: CallTrees | undefined;
  #pid = 0;
  #calls = 0;
  #roots = 0;
  #lost = { calls: 0, returns: 0 };
  #failure: unknown;
  #full = false;

  constructor(options: TracerOptions, selection: TreeSelection, names: ThreadNames) {
    super();
    this.#options = options;
    this.#selection = selection;
    this.#names = names;
    selection.full = () => {
      this.#full = true;
      // Not in the middle of the records.
      setImmediate(() => this.stop());
    };
  }

  protected attach(kernel: Kernel, attaching: (functions: number) => void, pid?: number): Tracer {
    if (pid !== undefined) {
      this.#pid = pid;
      this.#names.name(pid, pid);
    }
    const trees = new CallTrees(this.#selection, pid === undefined ? kernelStack : stacksOf(pid));
    const tracer = new Tracer(kernel, this.#options, attaching);
    this.#trees = trees;
    this.#read(tracer, trees).catch(cause => {
      this.#failure ??= cause;
      this.stop();
    });
    return tracer;
  }

  async #read(tracer: Tracer, trees: CallTrees): Promise<void> {
    const take = this.#taker(tracer, trees);
    // Nothing is printed before all is ready for it: signals, for one, end tracing in order from here on.
    await new Promise(resolve => setImmediate(resolve));
    let looked = performance.now();
    while (!tracer.closed) {
      const taken = tracer.consume(take, BATCH);
      trees.returnsLost = tracer.lost.returns > 0;
      this.#selection.showPieces();
      if (performance.now() - looked >= THREADS_MS) {
        looked = performance.now();
        this.#endThreads(tracer, trees);
      }
      if (taken === BATCH) await new Promise(resolve => setImmediate(resolve));
      else await tracer.wait(WAIT_MS);
    }
  }

  #taker(tracer: Tracer, trees: CallTrees): (event: TraceEvent) => void {
    return found => {
      // A thread without an id (a program without a C library, or before it begins) goes by its process.
      const event = found.tid === 0 ? { ...found, pid: this.#pid, tid: this.#pid } : found;
      if (event.kind === 'entered') {
        this.#calls++;
        this.#names.name(event.pid, event.tid);
        trees.enter(event, tracer.functions[event.slot]);
      } else if (event.kind === 'returned') trees.return(event);
      else trees.unwind(event);
    };
  }

  /** Closes the trees of threads that are gone, behind their last records. */
  #endThreads(tracer: Tracer, trees: CallTrees): void {
    const gone = trees.openThreads.filter(({ pid, tid }) => !threadRuns(pid, tid));
    if (gone.length === 0) return;
    tracer.consume(this.#taker(tracer, trees));
    for (const { tid } of gone) trees.endThread(tid);
  }

  protected leave(tracer: Tracer, gone: boolean): void {
    const trees = this.#trees;
    if (trees === undefined) return;
    const lost = tracer.lost;
    trees.returnsLost = lost.returns > 0;
    tracer.consume(this.#taker(tracer, trees));
    trees.end(gone ? 'ended' : 'untraced');
    this.#lost = { calls: this.#lost.calls + lost.calls, returns: this.#lost.returns + lost.returns };
    this.#trees = undefined;
    this.#roots += tracer.roots;
    tracer.close();
  }

  /** Throws what went wrong while records were read, if anything did. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Calls whose entry was seen. */
  get calls(): number {
    return this.#calls;
  }
  get lost(): { readonly calls: number; readonly returns: number } {
    return this.#lost;
  }
  /** Functions at which trees may begin, over all programs. */
  get roots(): number {
    return this.#roots + (this.current?.roots ?? 0);
  }
  /** As many calls as may be were shown. */
  get full(): boolean {
    return this.#full;
  }
}

/** Runs the command; the exit status. */
export async function trace(
  selectorTexts: readonly string[],
  what: What,
  options: TraceOptions,
): Promise<number> {
  const traced = [...selectorTexts, ...(options.entry ?? [])];
  const tracerOptions: TracerOptions = {
    selectors: SelectorSet.parse(traced),
    ...(options.entry === undefined ? {} : { roots: SelectorSet.parse(options.entry) }),
    threads: {
      ...threadsOf(what, options.tid),
      // Our own calls come of our reading what others called, without an end.
      ...(isKernel(what) && numberedByKernel() ? { exceptPid: process.pid } : {}),
    },
    ...(isKernel(what) ? await kernelOptions() : {}),
  };
  const names = new ThreadNames();
  const written = options.output !== undefined || options.json === true;
  const selectionOptions = {
    ...(options.minDuration === undefined ? {} : { minDuration: parseDuration(options.minDuration) }),
    ...(options.retval === undefined ? {} : { result: parseResultFilter(options.retval) }),
    ...(options.depth === undefined ? {} : { depth: options.depth }),
    maxCalls: options.maxCalls ?? (written ? WRITTEN_CALLS : SHOWN_CALLS),
  };
  const sinks: TraceSink[] = [];
  let file: (TraceExport & TraceSink) | undefined;
  if (options.output !== undefined) {
    const format = options.format ?? formatOf(options.output);
    const output = new ExportFile(options.output);
    file =
      format === 'chrome'
        ? new ChromeExport(output, names.name)
        : new SpeedscopeExport(output, names.name, `multitrace trace ${selectorTexts.join(' ')}`);
    sinks.push(file);
  }
  if (options.json) sinks.push(new JsonCalls(names.name, call => print(`${toJson(call)}\n`)));
  else if (file === undefined) sinks.push(printer(names, options));
  const selection = new TreeSelection(selectionOptions, sinks);
  const tool = new TraceTool(tracerOptions, selection, names);
  const ended = await followSession(tool, traced, what, options, 'tracing');
  file?.finish();
  tool.check();
  report(tool, selection, ended, options);
  const status = sessionStatus(tool, traced, ended);
  if (options.entry === undefined || tool.matched === 0 || tool.roots > 0) return status;
  note(`no function matched --entry ${options.entry.join(' --entry ')}, so no tree could begin`);
  return status === 0 ? EXIT_FAILURE : status;
}

async function kernelOptions(): Promise<Partial<TracerOptions>> {
  const { KernelFeatures } = await import('../kernel/linux/features.js');
  return {
    ofKernel: true,
    readsKernel: new KernelFeatures().has('kernel_memory'),
  };
}

function printer(names: ThreadNames, options: TraceOptions): TreePrinter {
  const colours = isatty(1) && (process.env.NO_COLOR ?? '') === '' && process.env.TERM !== 'dumb';
  // bpf_ktime_get_ns is CLOCK_MONOTONIC, as hrtime is.
  const offset = Date.now() - Number(process.hrtime.bigint()) / 1e6;
  return new TreePrinter({
    paint: colours ? coloured : plain,
    registers: options.registers === true,
    threadName: names.name,
    wallTime: ns => offset + ns / 1e6,
    write: print,
  });
}

function report(tool: TraceTool, selection: TreeSelection, ended: EndedSession, options: TraceOptions): void {
  const { calls, lost } = tool;
  if (options.json) {
    print(
      `${toJson({
        command: 'trace',
        type: 'end',
        ...sessionAsJson(tool, ended),
        calls,
        shown: selection.shown,
        trees: selection.trees,
        filtered: selection.filtered,
        lost: lost.calls,
        lostReturns: lost.returns,
      })}\n`,
    );
  } else {
    const filtered = selection.filtered === 0 ? '' : `, ${counted(selection.filtered, 'tree')} filtered out`;
    const where = options.output === undefined ? 'shown' : `written to ${options.output}`;
    note(
      `${attachedText(tool, ended, 'traced')};` +
        ` ${counted(selection.shown, 'call')} in ${counted(selection.trees, 'tree')} ${where} of ${grouped(calls)} seen${filtered}`,
    );
  }
  if (tool.full) note(`ended after ${grouped(selection.shown)} calls; --max-calls N shows more`);
  if (lost.calls > 0)
    note(
      `${counted(lost.calls, 'call')} found no room: they came faster than they could be read; trace fewer functions`,
    );
  if (lost.returns > 0) note(`the returns of ${counted(lost.returns, 'call')} found no room`);
  if (tool.missed > 0n) note(`${grouped(tool.missed)} calls could not be followed: too many were under way`);
  tellSkipped(tool.skipped, 'traced', options);
}

function counted(n: number, noun: string): string {
  return `${grouped(n)} ${noun}${n === 1 ? '' : 's'}`;
}

/**
 * Chrome's trace event format, which Perfetto and chrome://tracing read ("Trace Event Format", JSON object form): a
 * complete event (`X`) for each call, times in microseconds, and metadata events with the names of processes and threads.
 */

import { argumentsOf, argumentText, resultText } from './call_text.js';
import type { Call, Tree } from './call_tree.js';
import type { ExportFile, TraceExport } from './export_file.js';
import { OUTCOME_TEXT } from './print_tree.js';
import type { Block, TraceSink } from './selection.js';

/** Trees that a thread has on other stacks go to tracks of their own: events of one track must nest. */
const OTHER_STACK = 0x4000_0000;

export class ChromeExport implements TraceSink, TraceExport {
  readonly #file: ExportFile;
  readonly #threadName: (pid: number, tid: number) => string;
  /** By process, thread and stack. */
  readonly #tracks = new Map<string, { readonly tree: Tree; readonly track: number }>();
  #first = true;

  constructor(file: ExportFile, threadName: (pid: number, tid: number) => string) {
    this.#file = file;
    this.#threadName = threadName;
    file.write('{"displayTimeUnit":"ns","traceEvents":[');
  }

  block({ tree, steps }: Block): void {
    const tid = this.#track(tree);
    for (const { call, closed } of steps) {
      if (!closed) continue;
      this.#event({
        name: call.fn.name,
        cat: call.fn.module,
        ph: 'X',
        ts: call.start / 1000,
        dur: (call.end - call.start) / 1000,
        pid: tree.pid,
        tid,
        args: details(call),
      });
    }
  }

  finish(): void {
    // Threads are named after they have begun: at the end names are known best.
    const processes = new Set<number>();
    for (const { tree, track } of this.#tracks.values()) {
      const { pid, tid, stack } = tree;
      const name = this.#threadName(pid, tid);
      if (!processes.has(pid)) this.#name('process_name', pid, track, this.#threadName(pid, pid));
      processes.add(pid);
      this.#name('thread_name', pid, track, stack === 0 ? name : `${name} (${tid}, stack ${stack + 1})`);
    }
    this.#file.write('\n]}\n');
    this.#file.close();
  }

  #name(name: string, pid: number, tid: number, shown: string): void {
    this.#event({ name, ph: 'M', pid, tid, args: { name: shown } });
  }

  #track(tree: Tree): number {
    const key = `${tree.pid} ${tree.tid} ${tree.stack}`;
    let known = this.#tracks.get(key);
    if (known === undefined) {
      known = { tree, track: tree.stack === 0 ? tree.tid : OTHER_STACK + this.#tracks.size };
      this.#tracks.set(key, known);
    }
    return known.track;
  }

  #event(event: object): void {
    this.#file.write(`${this.#first ? '\n' : ',\n'}${JSON.stringify(event)}`);
    this.#first = false;
  }
}

function details(call: Call): Record<string, string> {
  const { fn, outcome } = call;
  const args: Record<string, string> = {};
  if (fn.signature !== undefined && argumentsOf(call).length > 0) args.arguments = argumentText(call, false);
  if (outcome === 'returned') {
    const result = resultText(call);
    if (result !== '') args.result = result;
  } else if (outcome !== 'open') args.end = OUTCOME_TEXT[outcome];
  return args;
}

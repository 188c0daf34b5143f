/**
 * What the commands that attach one tool to everything that selectors match have in common: the tool on each program
 * of a session, numbers over all of them, and the session itself, from its start to the exit status.
 */

import { BpfError } from '../kernel/errno.js';
import type { Kernel, SkippedFunction, TracingMultiLink, Way } from '../kernel/kernel.js';
import type { SessionEnd, SessionTool, TracingSession } from '../kernel/session.js';
import { SelectorSet } from '../process/symbols/selector.js';
import { isKernel, openSession, type What } from './machine.js';
import { EXIT_FAILURE, exitCodeOf, signalName } from './options.js';
import { grouped, note } from './output.js';
import { StopSignals } from './stop_signals.js';

/** A tool on one machine: a program of a process, or the kernel. */
export interface Attachment {
  /** Functions that matched, and those of them that are attached. */
  readonly matched: number;
  readonly attached: number;
  readonly skipped: readonly SkippedFunction[];
  /** How long attaching took once the functions were known, ms. */
  readonly attachMs: number;
  /** How long the process stood still for the last change, ms. */
  readonly pauseMs: number;
  /** Calls that the program could not see. */
  readonly missed: bigint;
  /** The links that count, time or trace. */
  readonly links: readonly TracingMultiLink[];
  /** Attaches to what libraries brought, where its links do not do so themselves. */
  extend?(): void;
}

/** From here on attaching takes about a second, and is announced. */
const MANY = 20_000;
/** Modules that the message about selectors without a match names. */
const NAMED_MODULES = 12;

/** A tool over all machines of a session. */
export abstract class SelectorTool<A extends Attachment> implements SessionTool {
  /** On the machine that is there now. */
  protected current: A | undefined;
  readonly #modules = new Set<string>();
  readonly #skipped: SkippedFunction[] = [];
  #matched = 0;
  #attached = 0;
  #attachMs = 0;
  #pauseMs = 0;
  #missed = 0n;
  #ways: readonly Way[] = [];
  /** Ends tracing, once the session is there. */
  stop: () => void = () => {};

  /** The tool on a machine that was just opened; `attaching` is to be told how many functions there are, before. */
  protected abstract attach(kernel: Kernel, attaching: (functions: number) => void, pid?: number): A;
  /** A last look: maps can still be read. `gone`: the program ended, or was execed away. */
  protected abstract leave(attachment: A, gone: boolean): void;

  opened(kernel: Kernel, pid?: number): void {
    this.#look(kernel);
    const attaching = (found: number): void => {
      if (found >= MANY) note(`attaching to ${grouped(found)} functions…`);
    };
    this.current = this.attach(kernel, attaching, pid);
    this.#notePause();
  }

  modulesChanged(kernel: Kernel): void {
    this.#look(kernel);
    this.current?.extend?.();
    this.#notePause();
  }

  #look(kernel: Kernel): void {
    for (const module of kernel.modules()) this.#modules.add(module);
  }

  #notePause(): void {
    this.#pauseMs = Math.max(this.#pauseMs, this.current?.pauseMs ?? 0);
  }

  closed(_kernel: Kernel, gone: boolean): void {
    const attachment = this.current;
    if (attachment === undefined) return;
    this.leave(attachment, gone);
    this.#ways = waysOf(attachment.links);
    for (const skipped of attachment.skipped) this.#skipped.push(skipped);
    this.#matched += attachment.matched;
    this.#attached += attachment.attached;
    this.#attachMs += attachment.attachMs;
    this.#missed += attachment.missed;
    this.current = undefined;
  }

  refused(error: BpfError): void {
    note(`not traced from here on: ${error.message}`);
  }

  /** Names of all modules seen. */
  get modules(): readonly string[] {
    return [...this.#modules];
  }
  get matched(): number {
    return this.#matched + (this.current?.matched ?? 0);
  }
  get attached(): number {
    return this.#attached + (this.current?.attached ?? 0);
  }
  get skipped(): readonly SkippedFunction[] {
    return [...this.#skipped, ...(this.current?.skipped ?? [])];
  }
  get attachMs(): number {
    return this.#attachMs + (this.current?.attachMs ?? 0);
  }
  get pauseMs(): number {
    return this.#pauseMs;
  }
  get missed(): bigint {
    return this.#missed + (this.current?.missed ?? 0n);
  }
  /** By which ways functions are attached to, a way for each link of the machine. */
  get ways(): readonly Way[] {
    return this.current === undefined ? this.#ways : waysOf(this.current.links);
  }
}

/** A machine has a multi-link for the functions of each module that has types of its own. */
export function waysOf(links: readonly TracingMultiLink[]): Way[] {
  return links.flatMap(({ way, targets }) =>
    way === 'tracing_multi'
      ? [...new Set(targets.map(({ target }) => target.module))].map(() => way)
      : way === 'tracing'
        ? targets.map(() => way)
        : targets.length === 0
          ? []
          : [way],
  );
}

export interface SessionOptions {
  /** Seconds. */
  readonly duration?: number;
  readonly json?: boolean;
  readonly verbose?: boolean;
}

/** A session that is over. */
export interface EndedSession {
  readonly session: TracingSession;
  readonly end: SessionEnd;
}

/**
 * Runs a session to its end: a signal, `duration`, the tool's `stop`, or the end of the process or command.
 * `doing` says what is done to functions, for people who wait at a running machine. `started` is told the session, and
 * gives back what to do at the end. Throws ENOENT where a running machine has no function that matches.
 */
export async function followSession<A extends Attachment>(
  tool: SelectorTool<A>,
  selectors: readonly string[],
  what: What,
  options: SessionOptions,
  doing: string,
  started: (session: TracingSession) => () => void = () => () => {},
): Promise<EndedSession> {
  const signals = new StopSignals();
  const session = await openSession(what, tool, {
    signals,
    ...(options.json ? { stdout: 2 } : {}),
    before: kernel => {
      if (kernel.functions(SelectorSet.parse(selectors)).length === 0)
        throw noMatch(selectors, kernel.modules());
    },
  });
  if ('pid' in what && tool.matched === 0) {
    session.stop();
    await session.end;
    throw noMatch(selectors, tool.modules, what.pid);
  }
  tool.stop = () => session.stop();
  const over = signals.follow(session, options.duration);
  if (!options.json && !('command' in what)) {
    const whose = isKernel(what) && what.kernel.pid !== undefined ? ` for process ${what.kernel.pid}` : '';
    const where = isKernel(what) ? `the kernel ${byWays(tool.ways)}${whose}` : `process ${what.pid}`;
    note(
      `${doing} ${grouped(tool.attached)} of ${grouped(tool.matched)} functions of ${where}${options.duration === undefined ? ', Ctrl-C ends' : ''}`,
    );
  }
  const ended = started(session);
  try {
    return { session, end: await session.end };
  } finally {
    ended();
    over();
  }
}

/** The exit status of a command whose session is over; says what there is to say about it. */
export function sessionStatus<A extends Attachment>(
  tool: SelectorTool<A>,
  selectors: readonly string[],
  { session, end }: EndedSession,
): number {
  const { pid } = session;
  if (end.kind === 'stopped' && session.commandRuns) note(`process ${pid} goes on without us`);
  const status = end.kind === 'ended' ? exitCodeOf(end.exit) : 0;
  if (tool.matched > 0) return status;
  note(noMatch(selectors, tool.modules, pid).message);
  return status === 0 ? EXIT_FAILURE : status;
}

/** `pid`: of the process; left out for the kernel. */
function noMatch(texts: readonly string[], modules: readonly string[], pid?: number): BpfError {
  if (pid === undefined)
    return new BpfError(
      'ENOENT',
      `no function of the kernel matched ${texts.join(' ')}; a kernel module's functions are MODULE:FUNCTION, and \`multitrace list\` shows what there is`,
    );
  const some = modules.length > NAMED_MODULES ? [...modules.slice(0, NAMED_MODULES), '…'] : modules;
  const where = modules.length === 0 ? '' : ` in ${some.join(', ')}`;
  return new BpfError(
    'ENOENT',
    `no function of process ${pid} matched ${texts.join(' ')}${where}; a library's functions are LIBRARY:FUNCTION, and \`multitrace list\` shows what there is`,
  );
}

/** By which ways functions of the kernel are attached to, for people. */
export function byWays(ways: readonly Way[]): string {
  const counts = new Map<Way, number>();
  for (const way of ways) counts.set(way, (counts.get(way) ?? 0) + 1);
  return [...counts]
    .map(([way, n]) => (n === 1 ? `by one ${LINKS[way]}` : `by ${grouped(n)} ${LINKS[way]}s`))
    .join(' and ');
}

const LINKS: Readonly<Record<Way, string>> = {
  tracing_multi: 'native tracing multi-link',
  kprobe_multi: 'kprobe multi-link',
  tracing: 'tracing link',
};

/** "12 of 12 functions counted by one program through one link (attached in 3 ms, …)". */
export function attachedText<A extends Attachment>(
  tool: SelectorTool<A>,
  { session }: EndedSession,
  done: string,
): string {
  const how = `${grouped(tool.attached)} of ${grouped(tool.matched)} functions`;
  const took = `attached in ${Math.round(tool.attachMs)} ms`;
  if (session.machine === 'kernel') return `${how} of the kernel ${done} ${byWays(tool.ways)} (${took})`;
  return `${how} ${done} (${took}, the process stood still for ${tool.pauseMs.toFixed(1)} ms)`;
}

/** The fields that the objects of all such commands have. */
export function sessionAsJson<A extends Attachment>(tool: SelectorTool<A>, ended: EndedSession) {
  const { machine, pid = null } = ended.session;
  return {
    machine,
    ...(machine === 'kernel' ? { way: tool.ways[0] ?? null } : {}),
    pid,
    exit: exitAsJson(ended),
    matched: tool.matched,
    attached: tool.attached,
    skipped: skippedAsJson(tool.skipped),
    attachMs: roundMs(tool.attachMs),
    ...(machine === 'kernel' ? {} : { pauseMs: roundMs(tool.pauseMs) }),
    missed: Number(tool.missed),
  };
}

/** How the process ended, as `--json` has it. */
function exitAsJson({ end }: EndedSession): { code: number | null; signal: string | null } {
  const exit = end.kind === 'ended' ? end.exit : undefined;
  return {
    code: exit !== undefined && 'code' in exit ? exit.code : null,
    signal: exit !== undefined && 'signal' in exit ? signalName(exit.signal) : null,
  };
}

/** What `--json` says of functions that were left out. */
function skippedAsJson(
  skipped: readonly SkippedFunction[],
): { module: string; function: string; reason: string }[] {
  return skipped.map(s => ({ module: s.module, function: s.function, reason: s.reason }));
}

/** Tells which functions were left out: how many for each reason, or each of them. */
export function tellSkipped(
  skipped: readonly SkippedFunction[],
  participle: string,
  { json, verbose }: SessionOptions,
): void {
  if (skipped.length === 0) return;
  if (verbose) {
    for (const s of skipped) note(`not ${participle}: ${s.module}:${s.function}: ${s.reason}: ${s.detail}`);
  } else if (!json) {
    const reasons = new Map<string, number>();
    for (const { reason } of skipped) reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
    const list = [...reasons].sort((a, b) => b[1] - a[1]).map(([reason, n]) => `${reason} ${grouped(n)}`);
    note(`not ${participle}: ${list.join(', ')}; --verbose names them`);
  }
}

/** To a thousandth of a millisecond. */
function roundMs(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

/**
 * What the commands that attach one tool to everything that selectors match have in common: the tool on each program
 * of a session, numbers over all of them, and the session itself, from its start to the exit status.
 */

import { BpfError } from '../kernel/errno.js';
import type { SkippedFunction } from '../kernel/kernel.js';
import type { ProcessKernel } from '../kernel/process/machine.js';
import { Session, type SessionEnd, type SessionTool } from '../kernel/process/session.js';
import { EXIT_FAILURE, exitCodeOf, signalName, type What } from './options.js';
import { grouped, note } from './output.js';
import { stopOnSignals } from './session_end.js';

/** A tool on one program of a process. */
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
  /** Attaches to what libraries brought, where its links do not do so themselves. */
  extend?(): void;
}

/** From here on attaching takes about a second, and is announced. */
const MANY = 20_000;
/** Modules that the message about selectors without a match names. */
const NAMED_MODULES = 12;

/** A tool over all programs of a session. */
export abstract class SelectorTool<A extends Attachment> implements SessionTool {
  /** On the program that runs now. */
  protected current: A | undefined;
  readonly #modules = new Set<string>();
  readonly #skipped: SkippedFunction[] = [];
  #matched = 0;
  #attached = 0;
  #attachMs = 0;
  #pauseMs = 0;
  #missed = 0n;
  /** Ends tracing, once the session is there. */
  stop: () => void = () => {};

  /** The tool on a program that was just opened; `attaching` is to be told how many functions there are, before. */
  protected abstract attach(kernel: ProcessKernel, attaching: (functions: number) => void): A;
  /** A program's last look: its maps can still be read. */
  protected abstract leave(attachment: A, kernel: ProcessKernel): void;

  opened(kernel: ProcessKernel): void {
    this.#look(kernel);
    this.current = this.attach(kernel, found => {
      if (found >= MANY) note(`attaching to ${grouped(found)} functions…`);
    });
    this.#notePause();
  }

  modulesChanged(kernel: ProcessKernel): void {
    this.#look(kernel);
    this.current?.extend?.();
    this.#notePause();
  }

  #look(kernel: ProcessKernel): void {
    for (const module of kernel.modules()) this.#modules.add(module);
  }

  #notePause(): void {
    this.#pauseMs = Math.max(this.#pauseMs, this.current?.pauseMs ?? 0);
  }

  closed(kernel: ProcessKernel): void {
    const attachment = this.current;
    if (attachment === undefined) return;
    this.leave(attachment, kernel);
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
}

export interface SessionOptions {
  /** Seconds. */
  readonly duration?: number;
  readonly json?: boolean;
  readonly verbose?: boolean;
}

/** A session that is over. */
export interface EndedSession {
  readonly session: Session;
  readonly pid: number;
  readonly end: SessionEnd;
}

/**
 * Runs a session to its end: a signal, `duration`, the tool's `stop`, or the process's own end.
 * `doing` says what is done to functions, for people who wait at a running process. `started` is told the process, and
 * gives back what to do at the end. Throws ENOENT where a running process has no function that matches.
 */
export async function followSession<A extends Attachment>(
  tool: SelectorTool<A>,
  selectors: readonly string[],
  what: What,
  options: SessionOptions,
  doing: string,
  started: (pid: number) => () => void = () => () => {},
): Promise<EndedSession> {
  const session =
    'pid' in what
      ? Session.attach(what.pid, tool)
      : Session.start(what.command, tool, options.json ? { stdout: 2 } : {});
  const { pid } = session.process;
  if ('pid' in what && tool.matched === 0) {
    session.stop();
    await session.end;
    throw noMatch(selectors, tool.modules, pid);
  }
  tool.stop = () => session.stop();
  const over = stopOnSignals(session, options.duration);
  if (!options.json && 'pid' in what)
    note(
      `${doing} ${grouped(tool.attached)} of ${grouped(tool.matched)} functions of process ${pid}${options.duration === undefined ? ', Ctrl-C ends' : ''}`,
    );
  const ended = started(pid);
  try {
    return { session, pid, end: await session.end };
  } finally {
    ended();
    over();
  }
}

/** The exit status of a command whose session is over; says what there is to say about it. */
export function sessionStatus<A extends Attachment>(
  tool: SelectorTool<A>,
  selectors: readonly string[],
  { session, pid, end }: EndedSession,
): number {
  if (end.kind === 'stopped' && session.process.isChild && session.process.alive())
    note(`process ${pid} goes on without us`);
  const status = end.kind === 'ended' ? exitCodeOf(end.exit) : 0;
  if (tool.matched > 0) return status;
  note(noMatch(selectors, tool.modules, pid).message);
  return status === 0 ? EXIT_FAILURE : status;
}

function noMatch(texts: readonly string[], modules: readonly string[], pid: number): BpfError {
  const some = modules.length > NAMED_MODULES ? [...modules.slice(0, NAMED_MODULES), '…'] : modules;
  const where = modules.length === 0 ? '' : ` in ${some.join(', ')}`;
  return new BpfError(
    'ENOENT',
    `no function of process ${pid} matched ${texts.join(' ')}${where}; a library's functions are LIBRARY:FUNCTION, and \`multitrace list\` shows what there is`,
  );
}

/** How the process ended, as `--json` has it. */
export function exitAsJson({ end }: EndedSession): { code: number | null; signal: string | null } {
  const exit = end.kind === 'ended' ? end.exit : undefined;
  return {
    code: exit !== undefined && 'code' in exit ? exit.code : null,
    signal: exit !== undefined && 'signal' in exit ? signalName(exit.signal) : null,
  };
}

/** What `--json` says of functions that were left out. */
export function skippedAsJson(
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
export function roundMs(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

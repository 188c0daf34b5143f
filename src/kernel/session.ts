/**
 * A session: tracing on a machine from its beginning to its end, whichever machine it is. A live process may exec other
 * programs, each a machine of its own; the running kernel is one. Types only.
 */

import type { ExitStatus } from '../process/process.js';
import type { BpfError } from './errno.js';
import type { Kernel } from './kernel.js';

/** What a tool does with the machines of a session. `pid` is that of the process; there is none for the kernel. */
export interface SessionTool<K extends Kernel = Kernel> {
  /**
   * The machine is there: a program with its first libraries, none of whose code has run (a command), or that runs (a
   * PID); or the kernel.
   */
  opened(kernel: K, pid?: number): void;
  /** Libraries came or went; the code of new ones has not run. */
  modulesChanged(kernel: K, pid?: number): void;
  /**
   * Links are detached, maps can still be read. `gone`: the program was execed away, or ended; else the machine is let go,
   * and runs on.
   */
  closed(kernel: K, gone: boolean): void;
  /** A program that was execed can't be traced; it runs on without us. */
  refused(error: BpfError): void;
}

/** Why a session ended: the traced process did, or the command that ran for it; or it was stopped. */
export type SessionEnd =
  | { readonly kind: 'ended'; readonly exit: ExitStatus | undefined }
  | { readonly kind: 'stopped' };

/** A session that is under way. */
export interface TracingSession {
  /** What is traced. */
  readonly machine: 'process' | 'kernel';
  /** The process that is traced, or the command that runs while the kernel is; `undefined` where there is none. */
  readonly pid: number | undefined;
  /** It started a command, which has not ended. */
  readonly commandRuns: boolean;
  /** How it ends; rejects where the tool threw. */
  readonly end: Promise<SessionEnd>;
  /** Ends tracing; what was traced goes on. */
  stop(): void;
  /** Ends the command that it started, if it did. */
  killCommand(): void;
}

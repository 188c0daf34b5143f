/**
 * The running kernel from the moment when a tool is attached to it to the end of tracing: until it is stopped, or until a
 * command ends, which is started once everything is attached, or a process that is watched. The command is an ordinary
 * child: nothing is traced in it.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import { EndWatch } from '../../process/end_watch.js';
import type { ExitStatus } from '../../process/process.js';
import { resolveCommand } from '../../process/spawn.js';
import { BpfError } from '../errno.js';
import type { SessionEnd, SessionTool, TracingSession } from '../session.js';
import type { LinuxKernel } from './machine.js';

export interface KernelSessionOptions {
  /** Our file descriptor that becomes the command's standard output; its own (ours) where left out. */
  readonly stdout?: number;
  /** The session ends with this process. */
  readonly pid?: number;
}

/** A process is looked at so often, ms. */
const LOOK_MS = 100;

export class KernelSession implements TracingSession {
  readonly machine = 'kernel';
  readonly end: Promise<SessionEnd>;
  readonly #kernel: LinuxKernel;
  readonly #tool: SessionTool;
  #command: ChildProcess | undefined;
  readonly #watched: EndWatch | undefined;
  /** Nothing else keeps node running where there is no command. */
  readonly #alive: NodeJS.Timeout;
  #over = false;
  #resolve!: (end: SessionEnd) => void;
  #reject!: (cause: unknown) => void;

  private constructor(kernel: LinuxKernel, tool: SessionTool, pid: number | undefined) {
    this.#kernel = kernel;
    this.#tool = tool;
    this.#watched = pid === undefined ? undefined : new EndWatch(pid);
    this.#alive = setInterval(
      () => {
        if (this.#watched?.ended) this.#finish({ kind: 'ended', exit: undefined });
      },
      this.#watched === undefined ? 1 << 30 : LOOK_MS,
    );
    this.end = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever awaits `end` is told; nobody may yet.
    this.end.catch(() => {});
  }

  /**
   * Attaches the tool, then starts the command, if there is one. Throws where either
   * can't be done.
   */
  static start(
    kernel: LinuxKernel,
    command: readonly string[] | undefined,
    tool: SessionTool,
    options: KernelSessionOptions = {},
  ): KernelSession {
    const path = command && resolveCommand(command[0], process.env);
    const session = new KernelSession(kernel, tool, options.pid);
    try {
      tool.opened(kernel);
    } catch (cause) {
      session.#end();
      kernel.close();
      throw cause;
    }
    if (command !== undefined && path !== undefined) session.#run(path, command, options.stdout ?? 1);
    return session;
  }

  #run(path: string, [name, ...args]: readonly string[], stdout: number): void {
    const child = spawn(path, args, { argv0: name, stdio: [0, stdout, 2] });
    this.#command = child;
    child.once('error', cause => {
      this.#fail(new BpfError('ENOEXEC', `could not run ${path}: ${cause.message}`, { cause }));
    });
    child.once('exit', (code, signal) => {
      const exit: ExitStatus = signal === null ? { code: code ?? 0 } : { signal: constants.signals[signal] };
      this.#finish({ kind: 'ended', exit });
    });
  }

  get pid(): number | undefined {
    return this.#command?.pid ?? this.#watched?.pid;
  }

  get commandRuns(): boolean {
    const child = this.#command;
    return child?.pid !== undefined && child.exitCode === null && child.signalCode === null;
  }

  stop(): void {
    this.#finish({ kind: 'stopped' });
  }

  killCommand(): void {
    this.#command?.kill('SIGKILL');
  }

  #end(): void {
    this.#over = true;
    clearInterval(this.#alive);
    this.#watched?.[Symbol.dispose]();
  }

  #finish(end: SessionEnd): void {
    if (this.#over) return;
    this.#end();
    try {
      this.#kernel.detach();
      this.#tool.closed(this.#kernel, false);
      this.#kernel.close();
      this.#resolve(end);
    } catch (cause) {
      this.#reject(cause);
    }
  }

  #fail(cause: unknown): void {
    if (this.#over) return;
    this.#end();
    try {
      this.#kernel.close();
    } catch {
      // The first error is the one to tell.
    }
    this.#reject(cause);
  }
}

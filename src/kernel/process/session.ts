/**
 * A command or a process from the first program it runs to the end of tracing: every program that it execs is opened
 * as a machine of its own, libraries are seen as they load, signals and exit are passed on.
 */

import { constants } from 'node:os';
import { openProcess, programIdentity, type TracedProcess } from '../../process/process.js';
import { ProgramWatch } from '../../process/program_watch.js';
import { type SpawnOptions, spawnStopped } from '../../process/spawn.js';
import { preloadDecoder } from '../../x86/decoder.js';
import { BpfError } from '../errno.js';
import type { SessionEnd, SessionTool, TracingSession } from '../session.js';
import { ProcessKernel } from './machine.js';

/** How often a process that is not our child is looked at, ms. */
const LOOK_MS = 50;

/** What a tool does with the programs of a process. */
type ProcessTool = SessionTool<ProcessKernel>;

export class Session implements TracingSession {
  readonly machine = 'process';
  readonly process: TracedProcess;
  readonly #tool: ProcessTool;
  #kernel: ProcessKernel | undefined;
  #waitsForLinker = false;
  #resolve!: (end: SessionEnd) => void;
  #reject!: (cause: unknown) => void;
  #over = false;
  /** How the session ends; rejects where the tool threw. */
  readonly end: Promise<SessionEnd>;
  #timer: NodeJS.Timeout | undefined;
  readonly #onChild = (): void => this.#guard(() => this.#look());

  private constructor(process: TracedProcess, tool: ProcessTool) {
    this.process = process;
    this.#tool = tool;
    this.end = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // The tool's error is thrown to whoever awaits `end`; nobody may yet.
    this.end.catch(() => {});
  }

  get pid(): number {
    return this.process.pid;
  }
  get commandRuns(): boolean {
    return this.process.isChild && this.process.alive();
  }
  killCommand(): void {
    if (this.process.isChild) this.process.kill(constants.signals.SIGKILL);
  }

  /** Starts a command. Throws where it can't be started or traced. */
  static start(argv: readonly string[], tool: ProcessTool, options: SpawnOptions = {}): Session {
    const session = new Session(spawnStopped(argv, options), tool);
    globalThis.process.on('SIGCHLD', session.#onChild);
    session.process.changed = session.#onChild;
    try {
      session.#openStanding();
    } catch (cause) {
      // Killed by somebody while we opened it: its end is told as any other.
      if (!session.process.gone) {
        // Nothing of it has run, and nothing shall: it was asked for traced.
        session.#finish();
        session.process.kill(constants.signals.SIGKILL);
        throw cause;
      }
    }
    // While the dynamic linker works there is nothing else to do.
    preloadDecoder();
    // A fallback for a SIGCHLD that came before the handler, and for nothing else.
    session.#timer = setInterval(session.#onChild, 500);
    return session;
  }

  /** Attaches to a running process. Throws where there is none, or it can't be traced. */
  static attach(pid: number, tool: ProcessTool): Session {
    preloadDecoder();
    const session = new Session(openProcess(pid), tool);
    session.#watchProgram();
    session.process.changed = session.#onChild;
    try {
      session.#open();
    } catch (cause) {
      // The process goes on as it was.
      session.#fail(cause);
      throw cause;
    }
    session.#timer = setInterval(session.#onChild, LOOK_MS);
    return session;
  }

  /** Of a process that is not our child. */
  #program: ProgramWatch | undefined;

  #watchProgram(): void {
    this.#program?.[Symbol.dispose]();
    this.#program = new ProgramWatch(this.process.task);
  }

  /** Opens the program of a child that stands at its first instruction, and lets it go on. */
  #openStanding(): void {
    const kernel = new ProcessKernel(this.process);
    this.#kernel = kernel;
    // A dynamic program has no libraries yet: the linker tells when they are there, before their code runs.
    this.#waitsForLinker = kernel.waitsForLinker;
    if (!this.#waitsForLinker) this.#tool.opened(kernel, this.pid);
    this.#watch(kernel);
    this.process.resumeAll();
  }

  #open(): void {
    const kernel = new ProcessKernel(this.process);
    this.#kernel = kernel;
    // First: what is loaded meanwhile waits until the tool is ready for it.
    this.#watch(kernel);
    this.#tool.opened(kernel, this.pid);
  }

  #watch(kernel: ProcessKernel): void {
    kernel
      .watchModules(() => {
        if (this.#over || kernel !== this.#kernel) return;
        try {
          if (this.#waitsForLinker) {
            this.#waitsForLinker = false;
            this.#tool.opened(kernel, this.pid);
          } else this.#tool.modulesChanged(kernel, this.pid);
        } catch (cause) {
          // The process ended or execed in the middle: the next look sees it.
          if (!kernel.void) throw cause;
        }
      })
      .catch(cause => this.#fail(cause));
  }

  /** What became of the process since. */
  #look(): void {
    if (this.#over) return;
    if (this.process.isChild || this.process.following || this.process.execPending) {
      const state = this.process.poll();
      if (state === 'ended') this.#ended();
      else if (state === 'exec') {
        if (this.#program !== undefined) this.#watchProgram();
        this.#execed(() => this.#openStanding());
      }
      return;
    }
    if (this.#program?.unchanged) return;
    if (!this.process.alive()) {
      this.#ended();
      return;
    }
    // In the middle of its exec, or of its end.
    const program = programIdentity(this.process.task);
    if (program === '') return;
    const known = program === this.#program?.identity;
    this.#watchProgram();
    // Only the thread that was looked at ended.
    if (known) return;
    this.#execed(() => this.#open());
  }

  #ended(): void {
    this.#leave();
    this.#finish();
    this.#resolve({ kind: 'ended', exit: this.process.exit });
  }

  #execed(open: () => void): void {
    this.process.markReplaced();
    this.#leave();
    try {
      open();
    } catch (cause) {
      if (!(cause instanceof BpfError)) throw cause;
      this.#tool.refused(cause);
      try {
        this.#kernel?.close();
      } catch {
        // The refusal is what is told.
      }
      this.#kernel = undefined;
      if (this.process.stopped.size > 0) this.process.resumeAll();
    }
  }

  /** Gives the tool its last look at the program, and the program its bytes back. */
  #leave(): void {
    const kernel = this.#kernel;
    if (kernel === undefined) return;
    this.#kernel = undefined;
    kernel.close();
    // A program that ended before its libraries were there was never opened.
    if (!this.#waitsForLinker) this.#tool.closed(kernel, kernel.void);
    this.#waitsForLinker = false;
  }

  /** Ends tracing while the process goes on. */
  stop(): void {
    if (this.#over) return;
    this.#guard(() => {
      // A command that the same Ctrl-C ended has a status of its own.
      if (this.process.isChild && !this.process.alive()) this.#look();
      if (this.#over) return;
      this.#leave();
      this.#finish();
      this.process.release();
      this.#resolve({ kind: 'stopped' });
    });
  }

  #guard(work: () => void): void {
    try {
      work();
    } catch (cause) {
      this.#fail(cause);
    }
  }

  #fail(cause: unknown): void {
    if (this.#over) return;
    this.#finish();
    try {
      this.#kernel?.close();
    } catch {
      // The first error is the one to tell.
    }
    this.process.release();
    this.#reject(cause);
  }

  #finish(): void {
    this.#over = true;
    this.process.changed = undefined;
    clearInterval(this.#timer);
    globalThis.process.off('SIGCHLD', this.#onChild);
    this.#program?.[Symbol.dispose]();
  }
}

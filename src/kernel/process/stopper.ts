/**
 * The stop: everything that must happen while no thread of the process runs, in one piece and timed.
 */

import { constants } from 'node:os';
import { SystemError } from '../../ffi/libc.js';
import { findGadgets, type Gadgets } from '../../process/heal.js';
import { readMappings } from '../../process/mappings.js';
import type { StoppedThread, TracedProcess } from '../../process/process.js';
import { RemoteThread } from '../../process/remote.js';
import { BpfError } from '../errno.js';

const { ESRCH } = constants.errno;

/** How often a process all of whose threads take signals is stopped again, and how long after, ms. */
const SIGNAL_TRIES = 100;
const SIGNAL_WAIT_MS = 0.5;

/** What can be done during a stop. */
export interface Stop {
  readonly threads: readonly StoppedThread[];
  /** The id of a thread that stands still, to write text through. */
  readonly tid: number;
  /** Borrows a thread for system calls in the process. */
  remote<T>(work: (remote: RemoteThread) => T): T;
}

/** EAGAIN: the process execed: what was known of it is void. */
export class ImageReplacedError extends BpfError {
  constructor(pid: number) {
    super('EAGAIN', `process ${pid} started another program while multitrace worked on it`);
  }
}

export class Stopper {
  readonly process: TracedProcess;
  readonly #image: number;
  readonly #gadgets: Gadgets;

  /** The process must be readable; its threads may run. */
  constructor(process: TracedProcess) {
    this.process = process;
    this.#image = process.image;
    const gadgets = findGadgets(process, readMappings(process.task));
    if (gadgets === undefined && !process.alive()) throw process.goneError();
    if (gadgets === undefined)
      throw new BpfError(
        'ENOEXEC',
        `process ${process.pid} maps no \`syscall\` instruction that could be borrowed; it can't be traced`,
      );
    this.#gadgets = gadgets;
  }

  /** Code of the process that borrowed threads run: it must stay as it is. */
  get borrowed(): readonly bigint[] {
    const { syscall, restorer } = this.#gadgets;
    return restorer === undefined ? [syscall] : [syscall, restorer];
  }

  /** The program that this was made for is gone: execed away, or ended. */
  get void(): boolean {
    return this.process.gone || this.process.image !== this.#image;
  }

  /**
   * Stops the process (where it does not stand still already), does `work`, and lets it go on. Returns what `work`
   * returned and how long the process stood still for it, ms. Throws ESRCH where it ended, EAGAIN where it execed.
   */
  during<T>(work: (stop: Stop) => T): { value: T; ms: number } {
    const { process } = this;
    if (this.void) throw process.gone ? process.goneError() : new ImageReplacedError(process.pid);
    const standing = process.stopped.size > 0;
    const from = performance.now();
    try {
      if (!standing) this.#stopAll();
      if (this.void) throw new ImageReplacedError(process.pid);
      const value = work({
        threads: [...process.stopped.values()],
        tid: process.stopped.keys().next().value!,
        remote: use => this.#borrow(use),
      });
      return { value, ms: performance.now() - from };
    } catch (cause) {
      // Killed while it stood still: from then on nothing works on it.
      if (cause instanceof SystemError && cause.errno === ESRCH) throw process.goneError();
      throw cause;
    } finally {
      // An exec that came in between is the watcher's to deal with: it finds the process standing.
      if (!standing && !process.execPending) process.resumeAll();
    }
  }

  /** Stops all threads; again, a little later, where each of them was found just about to take a signal. */
  #stopAll(): void {
    const { process } = this;
    process.stopAll();
    for (let tries = 0; tries < SIGNAL_TRIES && this.#allTakeSignals(); tries++) {
      process.resumeAll();
      process.pause(SIGNAL_WAIT_MS);
      if (this.void) return;
      process.stopAll();
    }
  }

  #allTakeSignals(): boolean {
    const { process } = this;
    if (process.execPending || process.borrowableThread() !== undefined) return false;
    return [...process.stopped.values()].some(thread => !thread.jobStopped);
  }

  #borrow<T>(work: (remote: RemoteThread) => T): T {
    const remote = RemoteThread.borrow(this.process, this.#gadgets, readMappings(this.process.task));
    try {
      return work(remote);
    } finally {
      remote.giveBack();
    }
  }
}

/**
 * All threads of a process seized while it runs, so that a fault in our code reaches us before it reaches the process.
 *
 * Everything that a thread reports meanwhile is passed on as if nobody were there: signals are delivered, stops of job
 * control kept (PTRACE_LISTEN), new threads followed from their first instruction. A child that shares the memory (vfork,
 * posix_spawn) is followed until it execs; one that has its own is not.
 */

import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import {
  addressOf,
  PTRACE,
  ptrace,
  ptraceBuffer,
  SystemError,
  systemCall,
  WALL,
  WNOHANG,
  waitpid,
} from '../ffi/libc.js';
import { BpfError } from '../kernel/errno.js';
import { getRegisters, type Registers, setRegisters } from './registers.js';

const { SIGBUS, SIGSEGV, SIGSTOP, SIGTRAP, SIGTSTP, SIGTTIN, SIGTTOU } = constants.signals;
export const STOP_SIGNALS: readonly number[] = [SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU];

const SYS_WAITID = 247;
const SYS_KCMP = 312;
const KCMP_VM = 1;
const P_ALL = 0;
const WEXITED = 4;
const WSTOPPED = 2;
const WNOWAIT = 0x0100_0000;
const GETEVENTMSG = 0x4201;
const EVENT_FORK = 1;
const EVENT_VFORK = 2;
const EVENT_CLONE = 3;
/** PTRACE_O_TRACEVFORK, PTRACE_O_TRACECLONE. */
export const FOLLOW_OPTIONS = (1 << EVENT_VFORK) | (1 << EVENT_CLONE);
/** Of `siginfo_t` for SIGCHLD. */
const SI_PID = 16;

/** A thread that faulted; it stands before the signal is delivered. */
export interface Fault {
  readonly tid: number;
  /** SIGSEGV or SIGBUS. */
  readonly signal: number;
  readonly registers: Registers;
}

/**
 * Decides about a fault: true where it was in our code, and `registers` are those to go on with, without the signal.
 */
export type FaultHandler = (fault: Fault) => boolean;

/** What became of a task that reported something. */
export type Report =
  | { readonly kind: 'gone' | 'exec' }
  /** It was dealt with and runs again. */
  | { readonly kind: 'runs' }
  /** It stands still. `signal` is delivered when it goes on. */
  | { readonly kind: 'stands'; readonly signal: number; readonly jobStopped: boolean };

const peeked = Buffer.allocUnsafeSlow(4096);

/** A task that has something to report, ours or not, without taking the report. */
function peek(): number | undefined {
  peeked.writeInt32LE(0, SI_PID);
  try {
    const options = WEXITED | WSTOPPED | WNOHANG | WNOWAIT | WALL;
    systemCall('waitid', SYS_WAITID, P_ALL, 0, addressOf(peeked), options, 0);
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    return undefined;
  }
  const pid = peeked.readInt32LE(SI_PID);
  return pid === 0 ? undefined : pid;
}

/** ptrace(2) on a task that may be killed at any time: false where it was. */
function tryPtrace(request: number, tid: number, data: number): boolean {
  try {
    ptrace(request, tid, 0, data);
    return true;
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    return false;
  }
}

function sharesMemory(pid: number, tid: number): boolean {
  try {
    return systemCall('kcmp', SYS_KCMP, pid, tid, KCMP_VM, 0, 0) === 0n;
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    return false;
  }
}

function parentOf(pid: number): number {
  try {
    return Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0);
  } catch {
    return 0;
  }
}

/** Whether we trace task `tid`, which was made by process `pid`, already. */
function isOursAlready(pid: number, tid: number): boolean {
  try {
    const status = readFileSync(`/proc/${tid}/status`, 'latin1');
    const field = (name: string): number =>
      Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? -1);
    return field('TracerPid') === process.pid && (field('Tgid') === pid || field('PPid') === pid);
  } catch {
    return false;
  }
}

/** Tasks that any process of ours is followed by: nobody else's report is taken. */
const followed = new Set<number>();

export class Follower {
  readonly #pid: number;
  readonly #onFault: FaultHandler;
  /** Every task that we trace: threads of the process, and children that share its memory. */
  readonly #tasks = new Set<number>();
  /** Those of them that are no threads of the process. */
  readonly sharing = new Set<number>();
  /** Faults that were ours. */
  faults = 0;

  /**
   * `isChild`: the process is a child that `spawnStopped` made. EINVAL for one that node made: its own waiting for
   * children would take the reports.
   */
  constructor(pid: number, isChild: boolean, onFault: FaultHandler) {
    if (!isChild && parentOf(pid) === process.pid)
      throw new BpfError(
        'EINVAL',
        `process ${pid} was started by this node, which takes from multitrace what its threads report; start it with multitrace, or from another process`,
      );
    this.#pid = pid;
    this.#onFault = onFault;
  }

  add(tid: number): void {
    this.#tasks.add(tid);
    followed.add(tid);
  }

  remove(tid: number): void {
    this.#tasks.delete(tid);
    this.sharing.delete(tid);
    followed.delete(tid);
  }

  /** Nothing is followed any more. */
  clear(): void {
    for (const tid of this.#tasks) followed.delete(tid);
    this.#tasks.clear();
    this.sharing.clear();
  }

  has(tid: number): boolean {
    return this.#tasks.has(tid);
  }

  /** A thread that is traced by us since it was made, and whose maker did not report it yet. */
  adoptUnreported(tid: number): boolean {
    if (!isOursAlready(this.#pid, tid)) return false;
    this.add(tid);
    return true;
  }

  /** What task `tid` has to report, taken; `undefined` for nothing, `'gone'` where it is no task of ours any more. */
  takeReport(tid: number): number | 'gone' | undefined {
    try {
      return waitpid(tid, WALL | WNOHANG)?.status;
    } catch (cause) {
      if (!(cause instanceof SystemError)) throw cause;
      return 'gone';
    }
  }

  /** The next task of ours with something to report, whose report was taken. */
  next(): { tid: number; status: number | 'gone' } | undefined {
    const first = peek();
    if (first === undefined) return undefined;
    if (!this.#tasks.has(first) && !followed.has(first) && isOursAlready(this.#pid, first))
      this.#adopt(first);
    const candidates = this.#tasks.has(first) ? [first] : this.#tasks;
    for (const tid of candidates) {
      const status = this.takeReport(tid);
      if (status !== undefined) return { tid, status };
    }
    return undefined;
  }

  /** A task that the process made is traced by us from its beginning. */
  #adopt(tid: number): void {
    if (this.#tasks.has(tid)) return;
    if (existsSync(`/proc/${this.#pid}/task/${tid}`)) {
      this.add(tid);
      return;
    }
    if (sharesMemory(this.#pid, tid)) {
      this.add(tid);
      this.sharing.add(tid);
      return;
    }
    // It has memory of its own: let it go, from the stop that it begins with.
    try {
      const got = waitpid(tid, WALL);
      if (got === undefined || (got.status & 0xff) !== 0x7f) return;
      const isEvent = got.status >> 16 !== 0;
      tryPtrace(PTRACE.DETACH, tid, isEvent ? 0 : got.status >> 8);
    } catch (cause) {
      if (!(cause instanceof SystemError)) throw cause;
    }
  }

  /** Deals with a report as far as it is the same whether the process runs or is being stopped. */
  take(tid: number, status: number | 'gone'): Report {
    if (status === 'gone' || (status & 0xff) !== 0x7f) {
      this.remove(tid);
      return { kind: 'gone' };
    }
    const signal = (status >> 8) & 0xff;
    switch (status >> 16) {
      case 0:
        if (signal === (SIGTRAP | 0x80)) return { kind: 'stands', signal: 0, jobStopped: false };
        if ((signal === SIGSEGV || signal === SIGBUS) && this.#fixed(tid, signal))
          return { kind: 'stands', signal: 0, jobStopped: false };
        return { kind: 'stands', signal, jobStopped: false };
      case PTRACE.EVENT_STOP:
        return { kind: 'stands', signal: 0, jobStopped: STOP_SIGNALS.includes(signal) };
      case PTRACE.EVENT_EXEC:
        if (!this.sharing.has(tid)) return { kind: 'exec' };
        this.remove(tid);
        tryPtrace(PTRACE.DETACH, tid, 0);
        return { kind: 'runs' };
      case EVENT_FORK:
      case EVENT_VFORK:
      case EVENT_CLONE: {
        const message = new BigUint64Array(1);
        try {
          ptraceBuffer(GETEVENTMSG, tid, 0, new Uint8Array(message.buffer));
          this.#adopt(Number(message[0]));
        } catch (cause) {
          if (!(cause instanceof SystemError)) throw cause;
        }
      }
    }
    // In the middle of a system call, whose result is still to be stored: nothing can be done with it here.
    tryPtrace(PTRACE.CONT, tid, 0);
    return { kind: 'runs' };
  }

  #fixed(tid: number, signal: number): boolean {
    try {
      const registers = getRegisters(tid);
      if (!this.#onFault({ tid, signal, registers })) return false;
      setRegisters(tid, registers);
      this.faults++;
      return true;
    } catch (cause) {
      // Killed meanwhile.
      if (!(cause instanceof SystemError)) throw cause;
      return false;
    }
  }

  /** Lets a task go on that stands, as `report` says. */
  resume(tid: number, report: { readonly signal: number; readonly jobStopped: boolean }): void {
    const { jobStopped, signal } = report;
    tryPtrace(jobStopped ? PTRACE.LISTEN : PTRACE.CONT, tid, jobStopped ? 0 : signal);
  }

  /** Lets children that share the memory go for good. */
  letSharingGo(): void {
    for (const tid of [...this.sharing]) {
      tryPtrace(PTRACE.INTERRUPT, tid, 0);
      for (;;) {
        let got: ReturnType<typeof waitpid>;
        try {
          got = waitpid(tid, WALL);
        } catch (cause) {
          if (!(cause instanceof SystemError)) throw cause;
          break;
        }
        if (got === undefined) break;
        const report = this.take(tid, got.status);
        if (report.kind === 'gone' || !this.sharing.has(tid)) break;
        if (report.kind !== 'stands') continue;
        tryPtrace(PTRACE.DETACH, tid, report.signal);
        break;
      }
      this.remove(tid);
    }
  }
}

/**
 * A live process from outside: its threads stopped and let go with ptrace(2), its memory read and written.
 *
 * Between stops no thread is traced, but for the main thread of a command that we started: it stays seized so that
 * we see it exec. A stop covers every thread: list, seize, interrupt and wait until a listing shows no new one.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import {
  PTRACE,
  ptrace,
  readProcessMemory,
  SYS,
  SystemError,
  systemCall,
  WALL,
  WNOHANG,
  waitpid,
} from '../ffi/libc.js';
import { BpfError } from '../kernel/errno.js';
import { type Mapping, readMappings } from './mappings.js';
import { getRegisters, R, type Registers, setRegisters } from './registers.js';

const { EPERM, ESRCH } = constants.errno;
const { SIGSTOP, SIGTRAP, SIGTSTP, SIGTTIN, SIGTTOU } = constants.signals;
const STOP_SIGNALS: readonly number[] = [SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU];
const EINTR = 4n;

/**
 * System calls that answer EINTR to a ptrace stop, where others are restarted by the kernel (signal(7), last
 * section): epoll_wait, epoll_pwait, epoll_pwait2, rt_sigtimedwait, semop, semtimedop, io_getevents, io_pgetevents.
 * A stop of ours must not be seen by the program, so we restart them ourselves.
 */
const EINTR_CALLS: ReadonlySet<bigint> = new Set([232n, 281n, 441n, 128n, 65n, 220n, 208n, 333n]);
/** `syscall` is two bytes. */
const SYSCALL_LENGTH = 2n;

/** How a process ended: a code, or the number of the signal that killed it. */
export type ExitStatus = { readonly code: number } | { readonly signal: number };

/** A thread that stands still for us. */
export interface StoppedThread {
  readonly tid: number;
  /** A signal that was about to be delivered when the thread stopped; delivered when it goes on. */
  readonly signal: number;
  /** The thread is stopped by job control and stays so when we let go. */
  readonly jobStopped: boolean;
  registers: Registers;
}

function decodeExit(status: number): ExitStatus {
  const signal = status & 0x7f;
  return signal === 0 ? { code: (status >> 8) & 0xff } : { signal };
}

function isStopStatus(status: number): boolean {
  return (status & 0xff) === 0x7f;
}

const OPTIONS = PTRACE.O_TRACESYSGOOD | PTRACE.O_TRACEEXEC;
/** Until a command has begun, it ends with us. */
const OPENING_OPTIONS = OPTIONS | PTRACE.O_EXITKILL;

export class TracedProcess {
  readonly pid: number;
  /** We started it: its main thread stays seized, and its exit status is ours to collect. */
  readonly isChild: boolean;
  /** The threads that stand still now; empty while the process runs. */
  readonly stopped = new Map<number, StoppedThread>();
  #exit: ExitStatus | undefined;
  #gone = false;
  #execPending = false;
  /** The memory map, as it is in this stop. */
  #mappings: readonly Mapping[] | undefined;
  /** A command has been let go for the first time. */
  #begun = true;
  /** Counts the programs this process has been: rises at each exec. */
  #image = 0;

  constructor(pid: number, isChild: boolean) {
    this.pid = pid;
    this.isChild = isChild;
  }

  /** How it ended; `undefined` while it runs, and for a process that is not our child. */
  get exit(): ExitStatus | undefined {
    return this.#exit;
  }

  /** The process has ended. */
  get gone(): boolean {
    return this.#gone;
  }

  /** The main thread stands at an exec and waits for `resumeAll`. */
  get execPending(): boolean {
    return this.#execPending;
  }

  /**
   * A thread through which /proc and memory calls reach the process: the main thread, or another where that one has
   * ended (pthread_exit in main) and left the process to the others.
   */
  get task(): number {
    if (threadState(this.pid, this.pid) !== 'Z') return this.pid;
    return this.threads().find(tid => tid !== this.pid) ?? this.pid;
  }

  /** Which program of this process's life runs: 0, then one more for each exec that we saw. */
  get image(): number {
    return this.#image;
  }

  /** ESRCH: the process ended; the sentence names it. */
  goneError(): BpfError {
    this.#gone = true;
    return new BpfError('ESRCH', `process ${this.pid} ended before multitrace was done with it`);
  }

  /**
   * Takes in what a wait on thread `tid` reported. Returns the thread when it stands still, `undefined` when it is
   * gone.
   */
  #take(tid: number, status: number): StoppedThread | undefined {
    if (!isStopStatus(status)) {
      this.stopped.delete(tid);
      if (tid === this.pid) {
        this.#gone = true;
        if (this.isChild) this.#exit = decodeExit(status);
      }
      return undefined;
    }
    const signal = (status >> 8) & 0xff;
    const event = status >> 16;
    if (event === PTRACE.EVENT_EXEC) {
      // Every other thread is gone, and with it what we knew of them.
      this.stopped.clear();
      this.#execPending = true;
      this.#image++;
      // The stop is inside execve, which still has its result to store: go on to where the new program begins.
      ptrace(PTRACE.INTERRUPT, tid, 0, 0);
      ptrace(PTRACE.CONT, tid, 0, 0);
      return this.waitThread(tid);
    }
    const thread: StoppedThread = {
      tid,
      signal: event === 0 && signal !== SIGTRAP + 0x80 ? signal : 0,
      jobStopped: event === PTRACE.EVENT_STOP && STOP_SIGNALS.includes(signal),
      registers: getRegisters(tid),
    };
    this.stopped.set(tid, thread);
    return thread;
  }

  /** Waits until thread `tid` changes state; `undefined` when it ended. */
  waitThread(tid: number): StoppedThread | undefined {
    let got: ReturnType<typeof waitpid>;
    try {
      got = waitpid(tid, WALL);
    } catch (cause) {
      if (!(cause instanceof SystemError)) throw cause;
      this.stopped.delete(tid);
      if (tid === this.pid) this.#gone = true;
      return undefined;
    }
    return got === undefined ? undefined : this.#take(tid, got.status);
  }

  /**
   * Waits for a thread that runs code of ours: the stop signal in the low byte, a ptrace event above it; `undefined`
   * when the thread ended.
   */
  waitRaw(tid: number): number | undefined {
    const got = waitpid(tid, WALL);
    if (got === undefined || isStopStatus(got.status)) return got === undefined ? undefined : got.status >> 8;
    this.#take(tid, got.status);
    return undefined;
  }

  /** Lets a thread that ran code of ours, and was interrupted since, reach the stop of that interrupt. */
  returnToStop(thread: StoppedThread): void {
    const { tid } = thread;
    ptrace(PTRACE.CONT, tid, 0, 0);
    const reached = this.waitThread(tid);
    if (reached === undefined) throw this.goneError();
    // A signal that became pending meanwhile stops the thread first: it is kept for `resumeAll`.
  }

  /** What the main thread of a child reported since, without waiting. Call on SIGCHLD, while the process runs. */
  poll(): 'running' | 'ended' | 'exec' {
    while (this.#exit === undefined && !this.#execPending) {
      let got: ReturnType<typeof waitpid>;
      try {
        // One that is known to be gone is dying or a zombie: its status is there at once, or very soon.
        got = waitpid(this.pid, this.#gone ? WALL : WALL | WNOHANG);
      } catch (cause) {
        if (!(cause instanceof SystemError)) throw cause;
        this.#gone = true;
        return 'ended';
      }
      if (got === undefined) return 'running';
      const thread = this.#take(this.pid, got.status);
      if (thread !== undefined && !this.#execPending) this.#resume(thread);
    }
    return this.#exit === undefined ? 'exec' : 'ended';
  }

  /** A process that is not our child runs another program now (a child's exec is seen by `poll`). */
  markReplaced(): void {
    if (!this.isChild) this.#image++;
  }

  /** Seizes thread `tid`; false where it ended or is a zombie. Throws EPERM with a sentence. */
  #seize(tid: number, options: number = OPTIONS): boolean {
    try {
      ptrace(PTRACE.SEIZE, tid, 0, options);
      return true;
    } catch (cause) {
      if (!(cause instanceof SystemError)) throw cause;
      if (cause.errno === ESRCH || threadState(this.pid, tid) === undefined) return false;
      if (cause.errno !== EPERM) throw cause;
      if ('ZX'.includes(threadState(this.pid, tid) ?? 'X')) return false;
      throw permissionError(this.pid, cause);
    }
  }

  /** Seizes the main thread of a child that has not begun its program. */
  seizeChild(): void {
    this.#begun = false;
    if (!this.#seize(this.pid, OPENING_OPTIONS)) throw this.goneError();
  }

  /**
   * Stops every thread. Throws ESRCH where the process ended; stops at an exec too, where only the main thread is
   * left (`execPending`).
   */
  stopAll(): void {
    for (let quiet = false; !quiet; ) {
      quiet = true;
      const fresh: number[] = [];
      for (const tid of this.threads()) {
        if (this.stopped.has(tid)) continue;
        if (this.isChild && tid === this.pid) {
          // A main thread that ended before its siblings reports nothing until they end.
          if (threadState(this.pid, tid) === 'Z' && this.threads().length > 1) continue;
        } else if (!this.#seize(tid)) continue;
        try {
          ptrace(PTRACE.INTERRUPT, tid, 0, 0);
        } catch (cause) {
          if (!(cause instanceof SystemError)) throw cause;
          // It ended, or stands at a stop that we have not waited for: the wait below tells.
        }
        fresh.push(tid);
      }
      // The main thread last: when all threads die together, it is reported only after the others are waited for.
      fresh.sort((a, b) => Number(a === this.pid) - Number(b === this.pid));
      for (const tid of fresh) {
        const thread = this.waitThread(tid);
        if (this.#gone) throw this.goneError();
        if (thread !== undefined) quiet = false;
        if (this.#execPending) return;
      }
    }
    if (this.stopped.size === 0) throw this.goneError();
    for (const thread of this.stopped.values()) restartInterrupted(thread);
  }

  #resume(thread: StoppedThread): void {
    this.stopped.delete(thread.tid);
    try {
      if (this.isChild && thread.tid === this.pid) {
        if (!this.#begun) ptrace(PTRACE.SETOPTIONS, thread.tid, 0, OPTIONS);
        this.#begun = true;
        ptrace(
          thread.jobStopped ? PTRACE.LISTEN : PTRACE.CONT,
          thread.tid,
          0,
          thread.jobStopped ? 0 : thread.signal,
        );
      } else ptrace(PTRACE.DETACH, thread.tid, 0, thread.signal);
    } catch (cause) {
      // ESRCH: killed while it stood still.
      if (!(cause instanceof SystemError)) throw cause;
    }
  }

  /** Lets every thread go on. */
  resumeAll(): void {
    this.#execPending = false;
    this.#mappings = undefined;
    for (const thread of [...this.stopped.values()]) this.#resume(thread);
  }

  /** Lets a child go for good: its main thread is no longer traced, and its exit no longer ours. Threads must run. */
  release(): void {
    if (!this.isChild || this.#gone) return;
    try {
      this.stopAll();
      for (const thread of [...this.stopped.values()]) {
        this.stopped.delete(thread.tid);
        ptrace(PTRACE.DETACH, thread.tid, 0, thread.signal);
      }
    } catch (cause) {
      if (!(cause instanceof SystemError) && !(cause instanceof BpfError)) throw cause;
    }
  }

  /** Ids of the threads that exist now; empty when the process is gone. */
  threads(): number[] {
    try {
      return readdirSync(`/proc/${this.pid}/task`).map(Number);
    } catch {
      return [];
    }
  }

  /** `task`, looked up again only where the last one is of no use any more. */
  #reader(): number {
    return this.stopped.keys().next().value ?? this.task;
  }

  /** Reads `length` bytes at `address`; throws EFAULT where not all of them are mapped. */
  read(address: bigint, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    let got = 0;
    try {
      got = readProcessMemory(this.#reader(), address, bytes);
    } catch (cause) {
      if (!(cause instanceof SystemError)) throw cause;
      if (cause.errno === ESRCH) throw this.goneError();
      if (cause.errno === EPERM) throw permissionError(this.pid, cause);
    }
    if (got !== length)
      throw new BpfError(
        'EFAULT',
        `could not read ${length} bytes at 0x${address.toString(16)} of process ${this.pid}: not mapped`,
      );
    return bytes;
  }

  /** One past the last byte of the mapping that holds `address` (a stack pointer), while the process stands still. */
  mappingEnd(address: bigint): bigint {
    this.#mappings ??= readMappings(this.#reader());
    return this.#mappings.find(m => address >= m.start && address < m.end)?.end ?? address;
  }

  /** Reads from `address` as far as memory is mapped, at most `length` bytes. */
  readMapped(address: bigint, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    try {
      return bytes.subarray(0, readProcessMemory(this.#reader(), address, bytes));
    } catch (cause) {
      if (cause instanceof SystemError) return bytes.subarray(0, 0);
      throw cause;
    }
  }

  /** Reads a u64 at `address`. */
  readWord(address: bigint): bigint {
    const bytes = this.read(address, 8);
    return new DataView(bytes.buffer).getBigUint64(0, true);
  }

  /**
   * Writes 8 bytes at `address`, read-only text included, while thread `tid` stands still. PTRACE_POKETEXT rather
   * than /proc/PID/mem: hardened kernels refuse the latter for read-only text.
   */
  pokeText(tid: number, address: bigint, word: bigint): void {
    try {
      ptrace(PTRACE.POKETEXT, tid, address, word);
    } catch (cause) {
      if (cause instanceof SystemError && cause.errno === ESRCH) throw this.goneError();
      throw new BpfError(
        'EFAULT',
        `could not write at 0x${address.toString(16)} of process ${this.pid}: the kernel refused it`,
        { cause },
      );
    }
  }

  /** A stopped thread that can run code for us: one with no signal on its way. */
  borrowableThread(): StoppedThread | undefined {
    for (const thread of this.stopped.values()) if (thread.signal === 0 && !thread.jobStopped) return thread;
    return undefined;
  }

  /** The process still exists and is the same program (not a zombie). */
  alive(): boolean {
    if (this.#gone) return false;
    const state = threadState(this.pid, this.pid);
    // A main thread may end before the others: then it is a zombie with live siblings.
    if (state === undefined || ('ZX'.includes(state) && this.threads().length <= 1)) {
      this.#gone = true;
      return false;
    }
    return true;
  }

  /** Sends a signal to the process; nothing happens where it is gone. */
  kill(signal: number): void {
    try {
      systemCall('kill', SYS.kill, this.pid, signal);
    } catch (cause) {
      if (!(cause instanceof SystemError)) throw cause;
    }
  }
}

function restartInterrupted(thread: StoppedThread): void {
  const { registers } = thread;
  if (thread.signal !== 0 || registers[R.rax] !== BigInt.asUintN(64, -EINTR)) return;
  if (!EINTR_CALLS.has(registers[R.orig_rax])) return;
  registers[R.rax] = registers[R.orig_rax];
  registers[R.rip] -= SYSCALL_LENGTH;
  registers[R.orig_rax] = BigInt.asUintN(64, -1n);
  setRegisters(thread.tid, registers);
}

/** The state letter of a thread (proc_pid_stat(5)), `undefined` where it is gone. */
function threadState(pid: number, tid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/task/${tid}/stat`, 'latin1');
    return text[text.lastIndexOf(')') + 2];
  } catch {
    return undefined;
  }
}

function permissionError(pid: number, cause: unknown): BpfError {
  if (/^Kthread:\s+1/m.test(statusOf(pid)) || !/^VmSize:/m.test(statusOf(pid)))
    return new BpfError('EPERM', `process ${pid} is a thread of the kernel, which has no program to trace`, {
      cause,
    });
  const tracer = /^TracerPid:\s+(\d+)/m.exec(statusOf(pid))?.[1];
  if (tracer !== undefined && tracer !== '0' && tracer !== String(process.pid))
    return new BpfError(
      'EPERM',
      `may not trace process ${pid}: process ${tracer} (a debugger?) traces it already; end that first`,
      { cause },
    );
  return new BpfError(
    'EPERM',
    `may not trace process ${pid}: it belongs to another user, or /proc/sys/kernel/yama/ptrace_scope forbids it; run as its user or as root`,
    { cause },
  );
}

function statusOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, 'latin1');
  } catch {
    return '';
  }
}

/**
 * What tells the program that process `pid` runs from the next one it execs: its auxiliary vector, which holds
 * addresses that the kernel chooses anew. Empty where the process is gone.
 */
export function programIdentity(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/auxv`).toString('latin1');
  } catch {
    return '';
  }
}

/** A running process, checked to exist. Throws ESRCH with a sentence. */
export function openProcess(pid: number): TracedProcess {
  const state = threadState(pid, pid);
  const target = new TracedProcess(pid, false);
  if (state === undefined || !target.alive())
    throw new BpfError('ESRCH', `there is no process ${pid}; see \`ps -e\` for those that run`);
  const owner = /^Tgid:\s+(\d+)/m.exec(statusOf(pid))?.[1];
  if (owner !== undefined && owner !== String(pid))
    throw new BpfError('ESRCH', `${pid} is a thread of process ${owner}: give -p ${owner}`);
  if (pid === process.pid)
    throw new BpfError('EINVAL', 'multitrace can not trace itself; give another process');
  return target;
}

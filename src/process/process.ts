/**
 * A live process from outside: its threads stopped and let go with ptrace(2), its memory read and written.
 *
 * Between stops no thread is traced, but for the main thread of a command that we started: it stays seized so that
 * we see it exec. A stop covers every thread: list, seize, interrupt and wait until a listing shows no new one.
 *
 * A process with programs that may fault is followed: all its threads stay seized (follower.ts).
 */

import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import {
  PTRACE,
  ptrace,
  readProcessMemory,
  SYS,
  SystemError,
  sleepHere,
  systemCall,
  WALL,
  WNOHANG,
  waitpid,
} from '../ffi/libc.js';
import { BpfError } from '../kernel/errno.js';
import { type FaultHandler, FOLLOW_OPTIONS, Follower, STOP_SIGNALS } from './follower.js';
import { type Mapping, readMappings } from './mappings.js';
import { getRegisters, R, type Registers, setRegisters } from './registers.js';

const { EPERM, ESRCH } = constants.errno;
const { SIGTRAP } = constants.signals;
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

/** A followed process is looked at this often even if no signal came, ms. */
const SERVE_MS = 20;
/** Reports are served for so long before the rest of node has a turn, ms. */
const SERVE_AT_ONCE_MS = 4;
/** How long we look again at once when there was nothing more: in a storm of faults the next one is there, ms. */
const LINGER_MS = 0.03;
/** Between two looks at threads that are being stopped, ms. */
const STOP_LOOK_MS = 0.02;
/** So often they are looked at before that. */
const SPINS = 20;
/** Threads that were killed with the main thread are gone after so many looks: if not, it ended alone. */
const ZOMBIE_LOOKS = 500;

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
  #follower: Follower | undefined;
  /** Called when a followed process has ended or execed; `poll` tells which. */
  changed: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #serving = false;
  #faults = 0;
  /** `#serve` comes again as soon as the rest of node had its turn. */
  #serveSoon = false;
  readonly #onReport = (): void => {
    if (!this.#serveSoon) this.#serve();
  };

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
    let registers: Registers;
    try {
      registers = getRegisters(tid);
    } catch (cause) {
      if (!(cause instanceof SystemError) || cause.errno !== ESRCH) throw cause;
      // Killed since: its end is on the way.
      return this.waitThread(tid);
    }
    const thread: StoppedThread = {
      tid,
      signal: event === 0 && signal !== SIGTRAP + 0x80 ? signal : 0,
      jobStopped: event === PTRACE.EVENT_STOP && STOP_SIGNALS.includes(signal),
      registers,
    };
    this.stopped.set(tid, thread);
    return thread;
  }

  /** Waits until thread `tid` changes state; `undefined` when it ended. */
  waitThread(tid: number): StoppedThread | undefined {
    let got: ReturnType<typeof waitpid>;
    try {
      got = this.#waitFor(tid);
    } catch (cause) {
      if (!(cause instanceof SystemError)) throw cause;
      this.stopped.delete(tid);
      if (tid === this.pid) this.#gone = true;
      return undefined;
    }
    return got === undefined ? undefined : this.#take(tid, got.status);
  }

  /**
   * Waits for a report of thread `tid`. That the main thread was killed is reported only after the others were waited for:
   * so those that stand still are looked at meanwhile. `undefined` for a main thread that left the others behind.
   */
  #waitFor(tid: number): ReturnType<typeof waitpid> {
    const others = [...this.stopped.keys()].filter(other => other !== tid);
    if (tid !== this.pid || others.length === 0) return waitpid(tid, WALL);
    for (let looks = 1, zombie = 0; ; looks++) {
      const got = waitpid(tid, WALL | WNOHANG);
      if (got !== undefined) return got;
      if (looks % SPINS !== 0) continue;
      if (threadState(tid, tid) === 'Z') {
        for (const other of others)
          if (this.stopped.has(other) && waitpid(other, WALL | WNOHANG) !== undefined)
            this.stopped.delete(other);
        if (++zombie > ZOMBIE_LOOKS && others.some(other => this.stopped.has(other))) return undefined;
      }
      sleepHere(STOP_LOOK_MS);
    }
  }

  /**
   * Waits for a thread that runs code of ours: the stop signal in the low byte, a ptrace event above it; `undefined`
   * when the thread ended.
   */
  waitRaw(tid: number): number | undefined {
    const got = this.#waitFor(tid);
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

  /** Every thread is seized while the process runs. */
  get following(): boolean {
    return this.#follower !== undefined;
  }

  /** Faults of code of ours so far. */
  get faults(): number {
    return this.#faults + (this.#follower?.faults ?? 0);
  }

  /**
   * Follows the process from now on: every thread stays seized, and `onFault` decides about every SIGSEGV and SIGBUS
   * before the process sees it. An exec ends the following. May be called while it stands still or runs.
   */
  follow(onFault: FaultHandler): void {
    if (this.#follower !== undefined) return;
    const standing = this.stopped.size > 0;
    if (!standing) this.stopAll();
    if (this.#execPending) return;
    this.#follower = new Follower(this.pid, this.isChild, onFault);
    for (const tid of this.stopped.keys()) {
      this.#follower.add(tid);
      this.#setOptions(tid);
    }
    globalThis.process.on('SIGCHLD', this.#onReport);
    this.#timer = setInterval(this.#onReport, SERVE_MS);
    this.#timer.unref();
    if (!standing) this.resumeAll();
  }

  /** Ends `follow`: threads are let go at the end of this stop, but for the main thread of a child. */
  unfollow(): void {
    if (this.#follower === undefined) return;
    const standing = this.stopped.size > 0;
    try {
      if (!standing) this.stopAll();
      this.#follower?.letSharingGo();
    } finally {
      this.#stopFollowing();
    }
    for (const tid of this.stopped.keys()) this.#setOptions(tid);
    if (!standing) this.resumeAll();
  }

  #stopFollowing(): void {
    globalThis.process.off('SIGCHLD', this.#onReport);
    clearInterval(this.#timer);
    this.#faults = this.faults;
    this.#follower?.clear();
    this.#follower = undefined;
  }

  #setOptions(tid: number): void {
    const options = this.#begun ? OPTIONS : OPENING_OPTIONS;
    try {
      ptrace(PTRACE.SETOPTIONS, tid, 0, this.#follower === undefined ? options : options | FOLLOW_OPTIONS);
    } catch (cause) {
      if (!(cause instanceof SystemError)) throw cause;
    }
  }

  /** Takes what threads reported while the process runs, and lets them go on. */
  #serve(): void {
    const follower = this.#follower;
    if (follower === undefined || this.stopped.size > 0 || this.#execPending || this.#serving) return;
    this.#serving = true;
    try {
      const left = this.#serveFor(follower, SERVE_AT_ONCE_MS);
      if (left === 'more') this.#soon();
      if (left !== 'over') return;
    } finally {
      this.#serving = false;
    }
    this.changed?.();
  }

  /** Serves for at most `ms`. What is left: nothing, more, or no process to follow, which ended or execed. */
  #serveFor(follower: Follower, ms: number): 'nothing' | 'more' | 'over' {
    const from = performance.now();
    let last = from;
    for (;;) {
      const next = follower.next();
      const now = performance.now();
      if (next !== undefined) {
        this.#servedTask(follower, next.tid, next.status);
        last = now;
        if (this.#follower === undefined || this.#gone || this.#execPending) return 'over';
      } else if (now - last > LINGER_MS) return 'nothing';
      if (now - from > ms) return 'more';
    }
  }

  /**
   * Lets the process run for `ms` without giving node a turn, between two stops of one piece of work. What followed
   * threads report is dealt with meanwhile: one that faulted in code of ours would not leave it else.
   */
  pause(ms: number): void {
    const end = performance.now() + ms;
    for (let left = ms; left > 0; left = end - performance.now()) {
      const follower = this.#follower;
      if (follower === undefined || this.#serving) {
        sleepHere(left);
        return;
      }
      if (this.#serveFor(follower, left) === 'over') {
        setImmediate(() => this.changed?.());
        return;
      }
      sleepHere(Math.min(STOP_LOOK_MS, left));
    }
  }

  /** Deals with one report of a followed process that runs. */
  #servedTask(follower: Follower, tid: number, status: number | 'gone'): void {
    const report = follower.take(tid, status);
    if (report.kind === 'stands') follower.resume(tid, report);
    else if (report.kind === 'exec' && status !== 'gone') {
      this.#stopFollowing();
      this.#take(tid, status);
      this.#setOptions(tid);
    } else if (report.kind === 'gone' && tid === this.pid) this.#mainGone(status);
  }

  #mainGone(status: number | 'gone'): void {
    this.#gone = true;
    if (this.isChild && status !== 'gone') this.#exit = decodeExit(status);
    this.#stopFollowing();
  }

  /** What the main thread of a child reported since, without waiting. Call on SIGCHLD, while the process runs. */
  poll(): 'running' | 'ended' | 'exec' {
    if (this.#follower !== undefined) {
      this.#serve();
      if (this.#follower !== undefined) return 'running';
    }
    if (!this.isChild && !this.#execPending) return this.alive() ? 'running' : 'ended';
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
    try {
      if (this.#follower === undefined) this.#seizeAll();
      else this.#stopFollowed(this.#follower);
      if (this.#execPending) return;
      if (this.stopped.size === 0) throw this.goneError();
      for (const thread of this.stopped.values()) restartInterrupted(thread);
    } catch (cause) {
      // Killed while it was being stopped.
      if (cause instanceof SystemError && cause.errno === ESRCH) throw this.goneError();
      throw cause;
    }
  }

  /** Stops every thread of a followed process. Those that wait for a vfork child stop when that has execed. */
  #stopFollowed(follower: Follower): void {
    const asked = new Set<number>();
    for (;;) {
      let missing = 0;
      let progress = false;
      for (const tid of this.threads()) {
        if (this.stopped.has(tid)) continue;
        if (!follower.has(tid) && !follower.adoptUnreported(tid)) {
          if (!this.#seize(tid, OPTIONS | FOLLOW_OPTIONS)) continue;
          follower.add(tid);
        }
        if (!asked.has(tid)) {
          asked.add(tid);
          try {
            ptrace(PTRACE.INTERRUPT, tid, 0, 0);
          } catch (cause) {
            if (!(cause instanceof SystemError)) throw cause;
          }
        }
        // One that ended before the others, or just now, has its report when they are gone too.
        if (tid === this.pid && threadState(this.pid, tid) === 'Z' && this.threads().length > 1) continue;
        missing++;
        const got = follower.takeReport(tid);
        if (got === undefined) continue;
        progress = true;
        this.#takeFollowed(follower, tid, got);
        if (this.#gone) throw this.goneError();
        if (this.#execPending) return;
      }
      for (const tid of [...follower.sharing]) {
        const got = follower.takeReport(tid);
        if (got !== undefined) this.#servedTask(follower, tid, got);
      }
      if (missing === 0) return;
      if (!progress) sleepHere(STOP_LOOK_MS);
    }
  }

  #takeFollowed(follower: Follower, tid: number, status: number | 'gone'): void {
    const report = follower.take(tid, status);
    if (report.kind === 'stands') {
      try {
        const registers = getRegisters(tid);
        this.stopped.set(tid, { tid, signal: report.signal, jobStopped: report.jobStopped, registers });
      } catch (cause) {
        if (!(cause instanceof SystemError)) throw cause;
      }
    } else if (report.kind === 'exec' && status !== 'gone') {
      this.#stopFollowing();
      this.#take(tid, status);
      this.#setOptions(tid);
    } else if (report.kind === 'gone' && tid === this.pid) this.#mainGone(status);
  }

  #seizeAll(): void {
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
  }

  #resume(thread: StoppedThread): void {
    this.stopped.delete(thread.tid);
    if (this.#follower?.has(thread.tid)) {
      if (!this.#begun) {
        this.#begun = true;
        this.#setOptions(thread.tid);
      }
      this.#follower.resume(thread.tid, thread);
      return;
    }
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
    // Reports that came while it stood still announce themselves no more.
    if (this.#follower !== undefined) this.#soon();
  }

  #soon(): void {
    if (this.#serveSoon) return;
    this.#serveSoon = true;
    setImmediate(() => {
      this.#serveSoon = false;
      this.#serve();
    });
  }

  /** Lets a child go for good: its main thread is no longer traced, and its exit no longer ours. Threads must run. */
  release(): void {
    if (this.#gone) return;
    try {
      this.unfollow();
      if (!this.isChild) return;
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
    // One that is dying gives its memory back before it is a zombie.
    // A main thread may end before the others: then it is a zombie with live siblings.
    const ended = state === undefined || ('ZX'.includes(state) && this.threads().length <= 1);
    if (ended || programIdentity(this.task) === '') {
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
  if (state === undefined || ('ZX'.includes(state) && target.threads().length <= 1))
    throw new BpfError('ESRCH', `there is no process ${pid}; see \`ps -e\` for those that run`);
  const owner = /^Tgid:\s+(\d+)/m.exec(statusOf(pid))?.[1];
  if (owner !== undefined && owner !== String(pid))
    throw new BpfError('ESRCH', `${pid} is a thread of process ${owner}: give -p ${owner}`);
  if (pid === process.pid)
    throw new BpfError('EINVAL', 'multitrace can not trace itself; give another process');
  return target;
}

/**
 * System calls and short function calls made by a stopped thread of the process on our behalf.
 *
 * The thread is driven from one system-call stop to the next (PTRACE_SYSCALL), never by signals: a breakpoint or a
 * single step would force SIGTRAP on a program that blocks or ignores it, and reset its handler. All signals are
 * blocked meanwhile. At the end the thread is interrupted once more, so that it stands where it stood: inside the
 * kernel's signal code, where a system call that we interrupted is restarted.
 */

import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { PTRACE, ptrace, ptraceBuffer, SYS, SystemError } from '../ffi/libc.js';
import { BpfError } from '../kernel/errno.js';
import { type Gadgets, writeHealingFrame } from './heal.js';
import type { Mapping } from './mappings.js';
import type { StoppedThread, TracedProcess } from './process.js';
import {
  getExtendedState,
  getRegisters,
  R,
  type Registers,
  setExtendedState,
  setRegisters,
} from './registers.js';

const { SIGTRAP } = constants.signals;
/** What a system-call stop reports with PTRACE_O_TRACESYSGOOD. */
const SYSCALL_STOP = SIGTRAP | 0x80;
const NO_SYSCALL = BigInt.asUintN(64, -1n);
/** The x86-64 red zone: a leaf function may keep data this far below its stack pointer. */
const RED_ZONE = 128n;
/** Below the stack of our work: room for a string, clear of what a call pushes. */
const SCRATCH = 1024n;
/** The largest errno that a system call returns negated. */
const MAX_ERRNO = 4095n;

/**
 * How many seccomp filters a task has (proc_pid_status(5)). Those that we have too, as everything in a container, let
 * through what we need; of others nobody can know what they do.
 */
function filtersOf(task: string): number {
  let status: string;
  try {
    status = readFileSync(`/proc/${task}/status`, 'latin1');
  } catch {
    return 0;
  }
  const field = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
  const mode = field('Seccomp');
  // Strict mode: read, write, exit and sigreturn, or death.
  return mode === 1 ? Number.POSITIVE_INFINITY : Math.max(mode === 0 ? 0 : 1, field('Seccomp_filters'));
}

/** One thread lent to us, between `borrow` and `giveBack`. */
export class RemoteThread {
  readonly #process: TracedProcess;
  readonly #thread: StoppedThread;
  readonly #gadgets: Gadgets;
  readonly #saved: Registers;
  readonly #savedMask = new Uint8Array(8);
  /** Where the thread's stack pointer is while it works for us: at a frame that heals it, where there could be one. */
  readonly #stack: bigint;
  /** The thread stands at a system-call exit, not at the stop where we found it. */
  #moved = false;

  /** Borrows a stopped thread. Every thread of the process must be stopped. */
  static borrow(process: TracedProcess, gadgets: Gadgets, mappings: readonly Mapping[]): RemoteThread {
    const thread = process.borrowableThread();
    if (thread === undefined)
      throw new BpfError(
        'EAGAIN',
        `every thread of process ${process.pid} is in job-control stop or takes a signal; try again`,
      );
    const filters = filtersOf(`${process.pid}/task/${thread.tid}`);
    if (filters > filtersOf('self'))
      throw new BpfError(
        'EPERM',
        `process ${process.pid} has a seccomp filter, which might kill it for the system calls that attaching makes in it; it can't be traced`,
      );
    return new RemoteThread(process, thread, gadgets, mappings);
  }

  private constructor(
    process: TracedProcess,
    thread: StoppedThread,
    gadgets: Gadgets,
    mappings: readonly Mapping[],
  ) {
    const { tid } = thread;
    this.#process = process;
    this.#thread = thread;
    this.#gadgets = gadgets;
    this.#saved = thread.registers.slice();
    ptraceBuffer(PTRACE.GETSIGMASK, tid, 8, this.#savedMask);
    const frame = writeHealingFrame(tid, this.#saved, this.#savedMask, gadgets, mappings);
    this.#stack = frame ?? ((this.#saved[R.rsp] - RED_ZONE) & ~63n) - 64n;
    // From here on the thread heals by itself: it would make this call, which does nothing, and return to its frame.
    this.#setUp(this.#gadgets.syscall, SYS.getpid, this.#stack, []);
    ptraceBuffer(PTRACE.SETSIGMASK, tid, 8, new Uint8Array(8).fill(0xff));
  }

  /** Lets the thread go on at `rip` next, with its own registers but for those of a call. */
  #setUp(rip: bigint, rax: number, rsp: bigint, args: readonly [place: number, value: bigint][]): void {
    const registers = this.#saved.slice();
    for (const [place, value] of args) registers[place] = value;
    registers[R.rax] = BigInt(rax);
    registers[R.orig_rax] = NO_SYSCALL;
    registers[R.rip] = rip;
    registers[R.rsp] = rsp;
    setRegisters(this.#thread.tid, registers);
  }

  /** Runs to the next system-call stop; the registers there. Throws where the thread stops for another reason. */
  #toSyscallStop(): Registers {
    const { tid } = this.#thread;
    for (;;) {
      try {
        ptrace(PTRACE.SYSCALL, tid, 0, 0);
      } catch (cause) {
        if (cause instanceof SystemError) throw this.#process.goneError();
        throw cause;
      }
      this.#moved = true;
      const stop = this.#process.waitRaw(tid);
      if (stop === undefined) throw this.#process.goneError();
      if (stop === SYSCALL_STOP) return getRegisters(tid);
      // An interrupt that was still pending, or job control: neither is ours to act on now.
      if (stop >> 8 !== 0) continue;
      throw new BpfError('EFAULT', `code run in process ${this.#process.pid} for us took signal ${stop}`);
    }
  }

  /**
   * Puts a string of at most 23 bytes where only the borrowed thread's stack could be, below its red zone: its address,
   * good until the thread is given back.
   */
  scratchString(text: string): bigint {
    const bytes = Buffer.alloc(24);
    bytes.write(text, 'latin1');
    const at = this.#stack - SCRATCH;
    for (let i = 0; i < 24; i += 8)
      this.#process.pokeText(this.#thread.tid, at + BigInt(i), bytes.readBigUInt64LE(i));
    return at;
  }

  /** A system call in the process: its result. Throws `BpfError` naming the call where it fails. */
  call(name: string, number: number, ...args: (bigint | number)[]): bigint {
    const places = [R.rdi, R.rsi, R.rdx, R.r10, R.r8, R.r9];
    const given = places.map((place, i): [number, bigint] => [
      place,
      BigInt.asUintN(64, BigInt(args[i] ?? 0)),
    ]);
    this.#setUp(this.#gadgets.syscall, number, this.#stack, given);
    this.#toSyscallStop();
    const result = BigInt.asIntN(64, this.#toSyscallStop()[R.rax]);
    if (result < 0n && result >= -MAX_ERRNO)
      throw new BpfError(
        'EPERM',
        `${name} made in process ${this.#process.pid} for us failed with errno ${-result}; a seccomp filter or a limit of that process forbids it`,
      );
    return result;
  }

  /**
   * Calls the function at `address` in the process with integer arguments: its rax. Only for functions that need no
   * more than a stack, such as IFUNC resolvers. They return into the `syscall` instruction, whose stop hands us rax.
   */
  callFunction(address: bigint, ...args: bigint[]): bigint {
    const { tid } = this.#thread;
    const vectors = getExtendedState(tid);
    const places = [R.rdi, R.rsi, R.rdx, R.rcx, R.r8, R.r9];
    const given = places.map((place, i): [number, bigint] => [place, args[i] ?? 0n]);
    // It returns to the `syscall`, with the stack where that needs it.
    const stack = this.#stack - 8n;
    this.#process.pokeText(tid, stack, this.#gadgets.syscall);
    this.#setUp(address, 0, stack, given);
    try {
      const entered = this.#toSyscallStop();
      const result = entered[R.orig_rax];
      // The system call that this stop announces has the result for its number: do not make it.
      entered[R.orig_rax] = NO_SYSCALL;
      setRegisters(tid, entered);
      this.#toSyscallStop();
      return result;
    } finally {
      setExtendedState(tid, vectors);
    }
  }

  /** Puts the thread back where it stood. */
  giveBack(): void {
    const { tid } = this.#thread;
    if (this.#process.gone) return;
    ptraceBuffer(PTRACE.SETSIGMASK, tid, 8, this.#savedMask);
    setRegisters(tid, this.#saved);
    if (!this.#moved) return;
    ptrace(PTRACE.INTERRUPT, tid, 0, 0);
    this.#process.returnToStop(this.#thread);
  }
}

/**
 * System calls and short function calls made by a stopped thread of the process on our behalf.
 *
 * The thread is driven from one system-call stop to the next (PTRACE_SYSCALL), never by signals: a breakpoint or a
 * single step would force SIGTRAP on a program that blocks or ignores it, and reset its handler. All signals are
 * blocked meanwhile. At the end the thread is interrupted once more, so that it stands where it stood: inside the
 * kernel's signal code, where a system call that we interrupted is restarted.
 */

import { constants } from 'node:os';
import { PTRACE, ptrace, ptraceBuffer, SystemError } from '../ffi/libc.js';
import { BpfError } from '../kernel/errno.js';
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
/** The largest errno that a system call returns negated. */
const MAX_ERRNO = 4095n;

/** The address of a `syscall` instruction in the process: in the vdso, else in any executable mapping. */
export function findSyscallInstruction(process: TracedProcess, mappings: readonly Mapping[]): bigint {
  const executable = mappings.filter(m => m.executable && m.path !== '[vsyscall]');
  const vdso = executable.filter(m => m.path === '[vdso]');
  for (const mapping of [...vdso, ...executable.filter(m => m.path !== '[vdso]')]) {
    const length = Number(mapping.end - mapping.start);
    const bytes = process.read(mapping.start, Math.min(length, 4 << 20));
    const at = Buffer.from(bytes.buffer).indexOf(Uint8Array.of(0x0f, 0x05));
    if (at >= 0) return mapping.start + BigInt(at);
  }
  throw new BpfError(
    'ENOEXEC',
    `process ${process.pid} maps no \`syscall\` instruction that could be borrowed; it can't be traced`,
  );
}

/** One thread lent to us, between `borrow` and `giveBack`. */
export class RemoteThread {
  readonly #process: TracedProcess;
  readonly #thread: StoppedThread;
  readonly #syscallAt: bigint;
  readonly #saved: Registers;
  readonly #savedMask = new Uint8Array(8);
  /** The thread stands at a system-call exit, not at the stop where we found it. */
  #moved = false;

  private constructor(process: TracedProcess, thread: StoppedThread, syscallAt: bigint) {
    this.#process = process;
    this.#thread = thread;
    this.#syscallAt = syscallAt;
    this.#saved = thread.registers.slice();
  }

  /** Borrows a stopped thread. Every thread of the process must be stopped. */
  static borrow(process: TracedProcess, syscallAt: bigint): RemoteThread {
    const thread = process.borrowableThread();
    if (thread === undefined)
      throw new BpfError(
        'EAGAIN',
        `every thread of process ${process.pid} is in job-control stop or takes a signal; try again`,
      );
    const remote = new RemoteThread(process, thread, syscallAt);
    ptraceBuffer(PTRACE.GETSIGMASK, thread.tid, 8, remote.#savedMask);
    ptraceBuffer(PTRACE.SETSIGMASK, thread.tid, 8, new Uint8Array(8).fill(0xff));
    return remote;
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
    const at = ((this.#saved[R.rsp] - RED_ZONE) & ~15n) - 64n;
    for (let i = 0; i < 24; i += 8)
      this.#process.pokeText(this.#thread.tid, at + BigInt(i), bytes.readBigUInt64LE(i));
    return at;
  }

  /** A system call in the process: its result. Throws `BpfError` naming the call where it fails. */
  call(name: string, number: number, ...args: (bigint | number)[]): bigint {
    const registers = this.#saved.slice();
    const places = [R.rdi, R.rsi, R.rdx, R.r10, R.r8, R.r9];
    for (const [i, place] of places.entries()) registers[place] = BigInt.asUintN(64, BigInt(args[i] ?? 0));
    registers[R.rax] = BigInt(number);
    registers[R.orig_rax] = NO_SYSCALL;
    registers[R.rip] = this.#syscallAt;
    setRegisters(this.#thread.tid, registers);
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
    const registers = this.#saved.slice();
    const places = [R.rdi, R.rsi, R.rdx, R.rcx, R.r8, R.r9];
    for (const [i, place] of places.entries()) registers[place] = args[i] ?? 0n;
    const stack = ((registers[R.rsp] - RED_ZONE) & ~15n) - 8n;
    this.#process.pokeText(tid, stack, this.#syscallAt);
    registers[R.rsp] = stack;
    registers[R.rax] = 0n;
    registers[R.orig_rax] = NO_SYSCALL;
    registers[R.rip] = address;
    setRegisters(tid, registers);
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
    setRegisters(tid, this.#saved);
    ptraceBuffer(PTRACE.SETSIGMASK, tid, 8, this.#savedMask);
    if (!this.#moved) return;
    ptrace(PTRACE.INTERRUPT, tid, 0, 0);
    this.#process.returnToStop(this.#thread);
  }
}

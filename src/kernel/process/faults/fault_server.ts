/**
 * Catches the faults of our code in one process: follows it, knows the fixups, keeps the words that tell programs
 * whether we are there, and the safety net for when we are killed.
 */

import { readFileSync } from 'node:fs';
import { PTRACE, ptraceBuffer } from '../../../ffi/libc.js';
import type { Fault } from '../../../process/follower.js';
import type { TracedProcess } from '../../../process/process.js';
import { R, type Registers } from '../../../process/registers.js';
import type { RemoteThread } from '../../../process/remote.js';
import { registers as ALL } from '../../../x86/assembler.js';
import { BpfError } from '../../errno.js';
import { isQuiet } from '../quiet.js';
import type { Arena } from '../region/arena.js';
import { PAGE_SIZE, planDataAddress } from '../region/region.js';
import type { Stop, Stopper } from '../stopper.js';
import type { Threads } from '../threads/threads.js';
import { Faults } from './fixup.js';
import { SafetyNet } from './safety_net.js';
import { TracerWord, type TracerWords } from './tracer_word.js';

/** Index in `Registers` of each hardware register. */
const INDEX = ALL.map(reg => R[reg.name as keyof typeof R]);

/** Of the faults of one thread, every so many-th is looked at for a signal that was blocked. */
const CHECK_EVERY = 64;
/** An action that the kernel reset is put back so much later: it needs a stop, and may be reset again at once. */
const PUT_BACK_MS = 30;

/** Whether process `pid` has a handler for a signal (proc_pid_status(5)). */
function isCaught(pid: number, signal: number): boolean {
  try {
    const caught = /^SigCgt:\s+(\w+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 'f';
    return ((BigInt(`0x${caught}`) >> BigInt(signal - 1)) & 1n) === 1n;
  } catch {
    return true;
  }
}

/** Sets the hardware register `clear` (or none, -1) to zero and lets the thread go on at `resume`. */
export function applyFixup(registers: Registers, resume: bigint, clear: number): void {
  if (clear >= 0) registers[INDEX[clear]] = 0n;
  registers[R.rip] = resume;
}

export class FaultServer {
  readonly faults = new Faults();
  readonly #process: TracedProcess;
  readonly #threads: Threads;
  readonly #arena: Arena;
  readonly #word: TracerWord;
  #net: SafetyNet | undefined;
  readonly #stopper: Stopper;
  /** Faults by thread and signal. */
  readonly #seen = new Map<number, number>();
  /** Threads and signals that were found blocked: every fault is looked at. */
  readonly #blocking = new Set<number>();
  /** Signals whose action the kernel reset. */
  readonly #forced = new Set<number>();

  /** Throws ENOSYS where a word can't be marked at our death. */
  constructor(stopper: Stopper, threads: Threads, arena: Arena) {
    this.#stopper = stopper;
    this.#process = stopper.process;
    this.#threads = threads;
    this.#arena = arena;
    this.#word = new TracerWord(arena);
  }

  /** What `emitTracerCheck` needs. */
  get words(): TracerWords {
    return { word: this.#word.address, table: this.#threads.code.table };
  }

  get active(): boolean {
    return this.#process.following;
  }

  /**
   * Begins to catch faults, in a stop: before the first program that may fault runs. Fixups added later count at once.
   */
  start(stop: Stop): void {
    if (this.active) return;
    const address = planDataAddress(this.#process, PAGE_SIZE);
    stop.remote((remote: RemoteThread) => {
      const tid = stop.tid;
      const scratch = remote.scratchString('');
      this.#net ??= new SafetyNet(this.#process, remote, tid, this.#arena, address, scratch);
    });
    this.publish();
    this.#process.follow(fault => this.#handle(fault));
    this.#threads.setAttached(stop.tid, true);
  }

  /** Makes fixups known that were added to `faults`; before code with them can run. */
  publish(): void {
    this.#net?.publish(this.faults);
  }

  #handle(fault: Fault): boolean {
    const { registers, tid, signal } = fault;
    const fixup = this.faults.find(registers[R.rip]);
    if (fixup === undefined) return false;
    applyFixup(registers, fixup.resume, fixup.clear);
    this.#checkForced(tid, signal);
    return true;
  }

  /**
   * A fault while its signal is blocked makes the kernel unblock it in that thread, and set the action to the default,
   * before anybody is told. Looked for at the first fault of each thread, and now and then: the signal is blocked
   * again at once, the action put back at the next chance. Where the process itself chose the default, and nothing was
   * blocked, this can't be told from it.
   */
  #checkForced(tid: number, signal: number): void {
    if (this.#net?.covers(signal) !== true) return;
    const key = tid * 64 + signal;
    const count = this.#seen.get(key) ?? 0;
    this.#seen.set(key, count + 1);
    if (count % CHECK_EVERY !== 0 && !this.#blocking.has(key)) return;
    if (isCaught(this.#process.pid, signal)) return;
    this.#blocking.add(key);
    const mask = new Uint8Array(8);
    ptraceBuffer(PTRACE.GETSIGMASK, tid, mask.length, mask);
    mask[(signal - 1) >> 3] |= 1 << ((signal - 1) & 7);
    ptraceBuffer(PTRACE.SETSIGMASK, tid, mask.length, mask);
    if (this.#forced.size === 0) setTimeout(() => this.#putBack(), PUT_BACK_MS).unref();
    this.#forced.add(signal);
  }

  /** Puts back the actions that the kernel reset. */
  #putBack(): void {
    const signals = [...this.#forced];
    this.#forced.clear();
    if (!this.active || this.#stopper.void) return;
    try {
      this.#stopper.during(stop =>
        stop.remote(remote => {
          const scratch = remote.scratchString('');
          for (const signal of signals)
            this.#net?.reinstall(this.#process, remote, stop.tid, signal, scratch);
        }),
      );
    } catch (cause) {
      // Every thread is in a stop of job control, or the process ended: the next check finds it again.
      if (!(cause instanceof BpfError)) throw cause;
    }
  }

  /** No thread of the stopped process is in the safety net's handler, which it enters for faults of its own too. */
  isQuiet(stop: Stop): boolean {
    return this.#net === undefined || isQuiet(this.#process, stop, [this.#net.region]);
  }

  /**
   * Ends catching faults, in a stop in which no thread is in code of ours, nor will be. True where all memory of ours
   * may be unmapped.
   */
  stop(stop: Stop): boolean {
    this.#word.close();
    let alone = true;
    const net = this.#net;
    stop.remote(remote => {
      const scratch = remote.scratchString('');
      if (net === undefined) return;
      alone = net.remove(this.#process, remote, stop.tid, scratch);
      if (alone) net.region.unmapRemote(remote);
    });
    this.#threads.setAttached(stop.tid, false);
    this.#process.unfollow();
    return alone;
  }

  /** The process is gone: nothing is left to undo there. */
  abandon(): void {
    this.#word.close();
  }
}

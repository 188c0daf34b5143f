/**
 * What catches faults of our code when we are killed: a handler for SIGSEGV and SIGBUS in the process.
 *
 * While we live it never runs for such faults: ptrace sees them first. But a thread may fault, or stand in front of us
 * with its fault, at the moment in which we are killed; the kernel then delivers the signal. The handler does what we
 * would have done. For any other fault it does what the process had chosen: it jumps to its handler, on the same frame,
 * or takes itself away so that the fault happens again, with the default action.
 *
 *     page    magic; for each signal the action that was there; then the code
 *     table   in shared data: u64 count; { u64 at, u64 resume, u64 cleared }[], `cleared` an offset in ucontext_t
 *
 * It is entered once, over the action that the process has when the first program with such loads comes. An action that
 * the process sets later stays: then, and with a signal that is blocked, being killed in the middle of a fault is not
 * survived.
 */

import { constants } from 'node:os';
import { SYS } from '../../../ffi/libc.js';
import { pokeWords } from '../../../process/poke.js';
import type { TracedProcess } from '../../../process/process.js';
import type { RemoteThread } from '../../../process/remote.js';
import { SIGNAL_FRAME } from '../../../process/signal_frame.js';
import {
  Assembler,
  type Label,
  mem,
  r8,
  r9,
  r10,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from '../../../x86/assembler.js';
import type { Arena, Block } from '../region/arena.js';
import { PAGE_SIZE, SharedRegion } from '../region/region.js';
import type { Faults } from './fixup.js';

const { SIGBUS, SIGSEGV } = constants.signals;
export const FAULT_SIGNALS: readonly number[] = [SIGSEGV, SIGBUS];

export const SYS_RT_SIGACTION = 13;
const SYS_RT_SIGRETURN = 15;
const SYS_GETTID = 186;
export const SIGSET_BYTES = 8;
/** The kernel's struct sigaction: handler, flags, restorer, mask; u64 each. */
export const ACTION = { handler: 0, flags: 8, restorer: 16, mask: 24, size: 32 } as const;
const SIG_DFL = 0n;
const SIG_IGN = 1n;
const SA_SIGINFO = 4n;
const SA_RESTORER = 0x0400_0000n;
const SA_ONSTACK = 0x0800_0000n;
const SA_NODEFER = 0x4000_0000n;
const SA_RESETHAND = 0x8000_0000n;

/** "mtfaults": who finds our handler in a process finds the actions behind it. */
const MAGIC = 0x7374_6c75_6166_746dn;
const PAGE = { magic: 0, actions: 64, code: 256 } as const;
const ENTRY_BYTES = 24;
/** Offsets in ucontext_t, which begins behind the frame's first word. */
const UC_REGISTERS = SIGNAL_FRAME.registers - 8;
const UC_RIP = SIGNAL_FRAME.rip - 8;
const SI_CODE = 8;
/** Order of registers in ucontext_t, by hardware number. */
const UC_ORDER = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];

/** The code of one signal's handler. */
function emitHandler(a: Assembler, signal: number, previous: Uint8Array, words: bigint): void {
  const view = new DataView(previous.buffer, previous.byteOffset, ACTION.size);
  const before = view.getBigUint64(ACTION.handler, true);
  const other = a.label();
  // rdi = signal, rsi = siginfo, rdx = ucontext.
  a.mov(r8, mem(rdx, UC_RIP));
  a.movImm64(r9, words);
  a.mov(r9, mem(r9));
  a.test(r9, r9);
  a.jcc('e', other);
  a.mov(rcx, mem(r9));
  a.add(r9, 8);
  const look = a.here();
  a.sub(rcx, 1);
  a.jcc('b', other);
  const next = a.label();
  a.cmp(r8, mem(r9));
  a.jcc('ne', next);
  const keep = a.label();
  a.mov(rax, mem(r9, 8));
  a.mov(mem(rdx, UC_RIP), rax);
  a.mov(rax, mem(r9, 16));
  a.test(rax, rax);
  a.jcc('e', keep);
  a.mov(mem(rdx, 0, rax), 0);
  a.bind(keep);
  a.ret();
  a.bind(next);
  a.add(r9, ENTRY_BYTES);
  a.jmp(look);

  a.bind(other);
  if (before !== SIG_DFL && before !== SIG_IGN) {
    a.movImm64(rax, before);
    a.jmpReg(rax);
    return;
  }
  const fault = a.label();
  const sent = a.label();
  a.cmp(mem(rsi, SI_CODE), 0, 4);
  a.jcc('g', fault);
  // Sent by somebody, not a fault.
  if (before === SIG_IGN) a.ret();
  a.bind(fault);
  emitDefault(a, signal);
  a.cmp(mem(rsi, SI_CODE), 0, 4);
  a.jcc('le', sent);
  a.ret();
  a.bind(sent);
  a.mov(rax, SYS.getpid, 4);
  a.syscall();
  a.push(rax);
  a.mov(rax, SYS_GETTID, 4);
  a.syscall();
  a.mov(rsi, rax);
  a.pop(rdi);
  a.mov(rdx, signal, 4);
  a.mov(rax, SYS.tgkill, 4);
  a.syscall();
  a.ret();
}

/** rt_sigaction(signal, SIG_DFL); keeps rsi. */
function emitDefault(a: Assembler, signal: number): void {
  a.push(rsi);
  for (let i = 0; i < ACTION.size; i += 8) a.push(0);
  a.mov(rdi, signal, 4);
  a.lea(rsi, mem(rsp));
  a.xor(rdx, rdx, 4);
  a.mov(r10, SIGSET_BYTES, 4);
  a.mov(rax, SYS_RT_SIGACTION, 4);
  a.syscall();
  a.add(rsp, ACTION.size);
  a.pop(rsi);
}

/** What a process does about one signal. */
export function readAction(
  process: TracedProcess,
  remote: RemoteThread,
  signal: number,
  at: bigint,
): Uint8Array {
  remote.call('rt_sigaction', SYS_RT_SIGACTION, signal, 0, at, SIGSET_BYTES);
  return process.read(at, ACTION.size);
}

/** Has a process do something else about it; `at` is where 32 bytes of it can be written. */
export function writeAction(
  tid: number,
  remote: RemoteThread,
  signal: number,
  action: Uint8Array,
  at: bigint,
): void {
  const view = new DataView(action.buffer, action.byteOffset, ACTION.size);
  const pairs = new BigUint64Array(ACTION.size / 4);
  for (let i = 0; i < ACTION.size; i += 8) {
    pairs[i / 4] = at + BigInt(i);
    pairs[i / 4 + 1] = view.getBigUint64(i, true);
  }
  pokeWords(tid, pairs);
  remote.call('rt_sigaction', SYS_RT_SIGACTION, signal, at, 0, SIGSET_BYTES);
}

export class SafetyNet {
  readonly region: SharedRegion;
  readonly #arena: Arena;
  /** One word: the table's address. */
  readonly #words: Block;
  #generation = -1;
  /** The signals that it stands for, and its actions. */
  readonly #installed = new Map<number, Uint8Array>();

  /**
   * Enters the handler where that does not change what the process sees of its own. All threads are stopped; `tid` is
   * the borrowed one, `address` a free page of the process, `scratch` 32 bytes of its memory that may be written.
   */
  constructor(
    process: TracedProcess,
    remote: RemoteThread,
    tid: number,
    arena: Arena,
    address: bigint,
    scratch: bigint,
  ) {
    this.#arena = arena;
    this.#words = arena.alloc(8);
    this.region = SharedRegion.map(remote, process.task, 'code', address, PAGE_SIZE);
    const page = new DataView(this.region.bytes.buffer, this.region.bytes.byteOffset, PAGE_SIZE);
    page.setBigUint64(PAGE.magic, MAGIC, true);
    const actions = FAULT_SIGNALS.map(signal => readAction(process, remote, signal, scratch));
    const a = new Assembler();
    const restorer = a.here();
    // The bytes by which unwinders and debuggers know a signal frame.
    a.bytes(Uint8Array.of(0x48, 0xc7, 0xc0, SYS_RT_SIGRETURN, 0, 0, 0, 0x0f, 0x05));
    const handlers: Label[] = FAULT_SIGNALS.map((signal, i) => {
      a.align(16);
      const label = a.here();
      emitHandler(a, signal, actions[i], this.#words.address);
      return label;
    });
    this.region.bytes.set(a.finish(address + BigInt(PAGE.code)), PAGE.code);
    const at = (label: Label): bigint => address + BigInt(PAGE.code + a.offsetOf(label));
    for (const [i, signal] of FAULT_SIGNALS.entries()) {
      this.region.bytes.set(actions[i], PAGE.actions + i * ACTION.size);
      const action = actions[i].slice();
      const view = new DataView(action.buffer);
      const handler = view.getBigUint64(ACTION.handler, true);
      let flags = view.getBigUint64(ACTION.flags, true);
      // One that takes itself away would take ours away instead.
      if ((flags & SA_RESETHAND) !== 0n) continue;
      if (handler === SIG_DFL || handler === SIG_IGN) {
        flags = SA_ONSTACK | SA_NODEFER;
        view.setBigUint64(ACTION.mask, 0n, true);
      }
      if ((flags & SA_RESTORER) === 0n) view.setBigUint64(ACTION.restorer, at(restorer), true);
      view.setBigUint64(ACTION.flags, flags | SA_SIGINFO | SA_RESTORER, true);
      view.setBigUint64(ACTION.handler, at(handlers[i]), true);
      writeAction(tid, remote, signal, action, scratch);
      this.#installed.set(signal, action);
    }
  }

  /** Whether an action of the process's is our handler. */
  holds(handler: bigint): boolean {
    return handler >= this.region.address && handler < this.region.address + BigInt(PAGE_SIZE);
  }

  /** Whether it stands for a signal. */
  covers(signal: number): boolean {
    return this.#installed.has(signal);
  }

  /** Enters the handler again where the kernel took it away: a fault while the signal is blocked makes it do so. */
  reinstall(
    process: TracedProcess,
    remote: RemoteThread,
    tid: number,
    signal: number,
    scratch: bigint,
  ): void {
    const action = this.#installed.get(signal);
    if (action === undefined) return;
    const now = readAction(process, remote, signal, scratch);
    const handler = new DataView(now.buffer, now.byteOffset).getBigUint64(ACTION.handler, true);
    if (handler === SIG_DFL) writeAction(tid, remote, signal, action, scratch);
  }

  /** The action that was there before ours. */
  original(signal: number): Uint8Array {
    const at = PAGE.actions + FAULT_SIGNALS.indexOf(signal) * ACTION.size;
    return this.region.bytes.slice(at, at + ACTION.size);
  }

  /** Makes the fixups known to the handler, which may be reading the table before: that stays. */
  publish(faults: Faults): void {
    if (faults.generation === this.#generation) return;
    this.#generation = faults.generation;
    const entries = faults.sorted();
    const block = this.#arena.alloc(8 + entries.length * ENTRY_BYTES);
    const view = new DataView(block.bytes.buffer, block.bytes.byteOffset, block.size);
    view.setBigUint64(0, BigInt(entries.length), true);
    for (const [i, [at, { resume, clear }]] of entries.entries()) {
      view.setBigUint64(8 + i * ENTRY_BYTES, at, true);
      view.setBigUint64(16 + i * ENTRY_BYTES, resume, true);
      const cleared = clear < 0 ? 0 : UC_REGISTERS + UC_ORDER[clear] * 8;
      view.setBigUint64(24 + i * ENTRY_BYTES, BigInt(cleared), true);
    }
    const { bytes } = this.#words;
    new BigUint64Array(bytes.buffer, bytes.byteOffset, 1)[0] = block.address;
  }

  /**
   * Gives the process its actions back, in a stop. False where one of ours was replaced: the process may still jump to
   * it, so that its page and the shared data must stay.
   */
  remove(process: TracedProcess, remote: RemoteThread, tid: number, scratch: bigint): boolean {
    let alone = true;
    for (const signal of this.#installed.keys()) {
      const action = readAction(process, remote, signal, scratch);
      const handler = new DataView(action.buffer, action.byteOffset).getBigUint64(ACTION.handler, true);
      if (this.holds(handler)) writeAction(tid, remote, signal, this.original(signal), scratch);
      else if (handler !== SIG_DFL) alone = false;
    }
    return alone;
  }
}

/** Nets of killed tracers that are followed, one behind the other. */
const MOST_NETS = 1000;

function handlerOf(action: Uint8Array): bigint {
  return new DataView(action.buffer, action.byteOffset).getBigUint64(ACTION.handler, true);
}

/**
 * Undoes what killed tracers left: actions of the process that lie in one of its leftover `regions` become what they
 * were. True where none is left there.
 */
export function removeLeftNet(
  process: TracedProcess,
  remote: RemoteThread,
  tid: number,
  scratch: bigint,
  inRegions: (address: bigint) => boolean,
): boolean {
  let done = true;
  for (const [i, signal] of FAULT_SIGNALS.entries()) {
    const now = readAction(process, remote, signal, scratch);
    // What stood there before may be the handler of one that was killed earlier.
    let action = now;
    for (let nets = 0; nets < MOST_NETS && inRegions(handlerOf(action)); nets++) {
      const page = handlerOf(action) & -BigInt(PAGE_SIZE);
      if (process.readWord(page) !== MAGIC) break;
      action = process.read(page + BigInt(PAGE.actions + i * ACTION.size), ACTION.size);
    }
    if (inRegions(handlerOf(action))) done = false;
    else if (action !== now) writeAction(tid, remote, signal, action, scratch);
  }
  return done;
}

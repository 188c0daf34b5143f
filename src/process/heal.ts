/**
 * A thread that makes system calls for us heals by itself should we be killed meanwhile: below its stack lies a signal
 * frame that holds all that it was (`struct rt_sigframe`, arch/x86 of the kernel's ABI), and the system calls are made
 * by a `syscall; ret` that returns into rt_sigreturn with that frame. While we live, the thread never gets that far.
 *
 *     frame     u64 restorer        `syscall; ret` returns here: rt_sigreturn
 *         8     ucontext            flags, link, stack, registers, pointer to the vector state, signal mask
 *       312     vector state        at a multiple of 64, as XSAVE has it, with the kernel's two magic numbers
 */

import { type Mapping, REGION_NAME } from './mappings.js';
import { pokeWords } from './poke.js';
import type { TracedProcess } from './process.js';
import { getExtendedState, R, type Registers } from './registers.js';
import { RESTORER, SIGNAL_FRAME } from './signal_frame.js';

const SYSCALL_RET = [0x0f, 0x05, 0xc3];
/** Of one mapping, so much is searched. */
const MOST_SEARCHED = 4 << 20;

/** Code of the process that system calls are made with. */
export interface Gadgets {
  /** A `syscall`, followed by `ret` where `restorer` is there. */
  readonly syscall: bigint;
  readonly restorer?: bigint;
}

/** Finds them; `undefined` where the process maps no `syscall` at all. Without a restorer, nothing heals. */
export function findGadgets(process: TracedProcess, mappings: readonly Mapping[]): Gadgets | undefined {
  let plain: bigint | undefined;
  let syscall: bigint | undefined;
  let restorer: bigint | undefined;
  for (const { start, end, executable, readable, path } of mappings) {
    // What a killed multitrace left goes away under the next one's hands.
    if (!executable || !readable || path === '[vsyscall]' || path.startsWith(`/memfd:${REGION_NAME}-`))
      continue;
    const bytes = process.readMapped(start, Math.min(Number(end - start), MOST_SEARCHED));
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    const find = (code: readonly number[]): bigint | undefined => {
      const at = text.indexOf(Uint8Array.from(code));
      return at < 0 ? undefined : start + BigInt(at);
    };
    plain ??= find(SYSCALL_RET.slice(0, 2));
    syscall ??= find(SYSCALL_RET);
    restorer ??= find(RESTORER);
    if (syscall !== undefined && restorer !== undefined) return { syscall, restorer };
  }
  return plain === undefined ? undefined : { syscall: plain };
}

/** The order of registers in the frame, up to rip. */
const ORDER = [
  ...[R.r8, R.r9, R.r10, R.r11, R.r12, R.r13, R.r14, R.r15],
  ...[R.rdi, R.rsi, R.rbp, R.rbx, R.rdx, R.rax, R.rcx, R.rsp, R.rip],
];

/** UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS. */
const UC_FLAGS = 7n;
/** No mode of an alternate stack: rt_sigreturn leaves the thread's as it is. */
const NO_STACK_MODE = 0xff;
const SW_RESERVED = 464;
const MAGIC1 = 0x46505853;
const MAGIC2 = 0x46505845;
/** The XSAVE area without the tiles of AMX, which a thread has only where it asked for them. */
const XSAVE_WITHOUT_TILES = 2696;
const FEATURES_WITHOUT_TILES = 0x2ffn;

const RED_ZONE = 128n;
/** Stack that must be free below a thread for the frame and a call. */
const ROOM = 16n << 10n;

/**
 * Whether the thread at `rsp` has a stack with so much room: the main thread's, or one with a guard below it. A stack
 * that a program laid out in memory of its own may end anywhere.
 */
function hasRoom(mappings: readonly Mapping[], rsp: bigint): boolean {
  const index = mappings.findIndex(m => rsp > m.start && rsp <= m.end);
  if (index < 0) return false;
  const { path, start, writable } = mappings[index];
  if (!writable) return false;
  if (path === '[stack]') return true;
  const below = mappings[index - 1];
  const guarded = below === undefined || below.end < start || (!below.readable && !below.writable);
  return guarded && rsp - start > ROOM;
}

/** What a system call that a stop interrupted returned, to be made again: -ERESTARTSYS, … (linux/errno.h). */
const RESTARTS: ReadonlySet<bigint> = new Set([-512n, -513n, -514n, -516n].map(n => BigInt.asUintN(64, n)));
const NO_SYSCALL = BigInt.asUintN(64, -1n);

/** The registers with which the thread begins anew the system call that a stop interrupted. */
function asRestarted(registers: Registers): Registers {
  const own = registers.slice();
  if (own[R.orig_rax] !== NO_SYSCALL && RESTARTS.has(own[R.rax])) {
    own[R.rax] = own[R.orig_rax];
    own[R.rip] -= 2n;
  }
  return own;
}

/**
 * Writes the frame for a stopped thread: its address, where the stack pointer must be for `syscall; ret`. `undefined`
 * where there is no safe room for it, or nothing to heal with.
 */
export function writeHealingFrame(
  tid: number,
  saved: Registers,
  mask: Uint8Array,
  gadgets: Gadgets,
  mappings: readonly Mapping[],
): bigint | undefined {
  if (gadgets.restorer === undefined || !hasRoom(mappings, saved[R.rsp])) return undefined;
  const whole = getExtendedState(tid);
  const vectors = Buffer.from(whole.subarray(0, Math.min(whole.length, XSAVE_WITHOUT_TILES)));
  const space = SIGNAL_FRAME.size + 64 + vectors.length + 8;
  const frame = (saved[R.rsp] - RED_ZONE - BigInt(space)) & ~63n;
  const vectorsAt = (frame + BigInt(SIGNAL_FRAME.size) + 63n) & ~63n;

  const bytes = Buffer.alloc((Number(vectorsAt - frame) + vectors.length + 4 + 7) & ~7);
  const own = asRestarted(saved);
  bytes.writeBigUInt64LE(gadgets.restorer, SIGNAL_FRAME.restorer);
  bytes.writeBigUInt64LE(UC_FLAGS, SIGNAL_FRAME.flags);
  bytes.writeUInt32LE(NO_STACK_MODE, SIGNAL_FRAME.stackFlags);
  for (const [i, register] of ORDER.entries())
    bytes.writeBigUInt64LE(own[register], SIGNAL_FRAME.registers + i * 8);
  bytes.writeBigUInt64LE(own[R.eflags], SIGNAL_FRAME.eflags);
  bytes.writeUInt16LE(Number(own[R.cs]), SIGNAL_FRAME.segments);
  bytes.writeUInt16LE(Number(own[R.ss]), SIGNAL_FRAME.segments + 6);
  bytes.writeBigUInt64LE(vectorsAt, SIGNAL_FRAME.vectors);
  bytes.set(mask, SIGNAL_FRAME.mask);
  const features = vectors.readBigUInt64LE(SW_RESERVED) & FEATURES_WITHOUT_TILES;
  vectors.fill(0, SW_RESERVED, SW_RESERVED + 48);
  vectors.writeUInt32LE(MAGIC1, SW_RESERVED);
  vectors.writeUInt32LE(vectors.length + 4, SW_RESERVED + 4);
  vectors.writeBigUInt64LE(features, SW_RESERVED + 8);
  vectors.writeUInt32LE(vectors.length, SW_RESERVED + 16);
  bytes.set(vectors, Number(vectorsAt - frame));
  bytes.writeUInt32LE(MAGIC2, Number(vectorsAt - frame) + vectors.length);

  const pairs = new BigUint64Array(bytes.length / 4);
  for (let i = 0; i < bytes.length; i += 8) {
    pairs[i / 4] = frame + BigInt(i);
    pairs[i / 4 + 1] = bytes.readBigUInt64LE(i);
  }
  return pokeWords(tid, pairs) === pairs.length / 2 ? frame : undefined;
}

/**
 * Two words that tell code in the process whether a fault of its would be caught.
 *
 * The first is a robust futex of the thread that traces: it holds that thread's id, and when the thread ends, however
 * it ends, the kernel takes the id out of it (`exit_robust_list`) before ptrace lets the process go. The second is
 * private to the process, in the table of threads: 1 where we follow it, 0 in a child that it forked.
 */

import { addressOf, callCode, SystemError, systemCall } from '../../../ffi/libc.js';
import { ownCode } from '../../../process/own_code.js';
import {
  type Assembler,
  type Label,
  Mem,
  mem,
  type Reg,
  rax,
  rdi,
  rdx,
  rsi,
} from '../../../x86/assembler.js';
import { BpfError } from '../../errno.js';
import type { Arena, Block } from '../region/arena.js';
import { TABLE } from '../threads/layout.js';

const SYS_GETTID = 186;
const SYS_GET_ROBUST_LIST = 274;
/** FUTEX_TID_MASK of linux/futex.h: zero when the owner is dead. */
const FUTEX_TID_MASK = 0x3fff_ffff;
/** From a list entry to its futex word, as the C library has told the kernel: that of a pthread_mutex_t. */
const FUTEX_OFFSET = -32n;
/** A block: the futex word, the entry before this one, the next entry. The kernel knows the last one only. */
const WORD = { futex: 0, previous: 24, next: 32 } as const;

/** Addresses, in the process. */
export interface TracerWords {
  /** The futex word. */
  readonly word: bigint;
  /** The private mapping of threads/layout.ts. */
  readonly table: bigint;
}

/** Goes to `absent` where nobody would catch a fault. Changes `scratch` and flags. */
export function emitTracerCheck(a: Assembler, words: TracerWords, scratch: Reg, absent: Label): void {
  a.movImm64(scratch, words.word);
  a.test(mem(scratch), FUTEX_TID_MASK, 4);
  a.jcc('e', absent);
  const attached = words.table + BigInt(TABLE.attached);
  let place: Mem;
  if (attached < 0x7fff_0000n) place = new Mem(undefined, undefined, 1, Number(attached), 0, undefined);
  else {
    a.movImm64(scratch, attached);
    place = mem(scratch);
  }
  a.cmp(place, 0, 4);
  a.jcc('e', absent);
}

let enter: bigint | undefined;
let leave: bigint | undefined;

/**
 * rdi = the head's list, rsi = the entry: puts it first. The list is the C library's too, which links it both ways: the
 * pointer to the entry before lies in front of each. The kernel may walk it at any time.
 */
function emitEnter(a: Assembler): void {
  a.mov(rax, mem(rdi));
  a.mov(mem(rsi), rax);
  a.mov(mem(rsi, WORD.previous - WORD.next), rdi);
  a.and(rax, -2);
  a.mov(mem(rax, WORD.previous - WORD.next), rsi);
  a.mov(mem(rdi), rsi);
  a.ret();
}

function emitLeave(a: Assembler): void {
  a.mov(rax, mem(rsi));
  a.mov(rdx, mem(rsi, WORD.previous - WORD.next));
  a.mov(mem(rdx), rax);
  a.and(rax, -2);
  a.mov(mem(rax, WORD.previous - WORD.next), rdx);
  a.ret();
}

/** The word of the thread that calls this: the one that traces. */
export class TracerWord {
  readonly #block: Block;
  #open = true;

  /** Throws ENOSYS where the C library of node keeps no robust list, or one that we don't know. */
  constructor(arena: Arena) {
    const answer = Buffer.allocUnsafeSlow(4096);
    try {
      systemCall('get_robust_list', SYS_GET_ROBUST_LIST, 0, addressOf(answer), addressOf(answer) + 8n);
    } catch (cause) {
      if (cause instanceof SystemError) throw noList(cause);
      throw cause;
    }
    const head = answer.readBigUInt64LE(0);
    if (head === 0n) throw noList();
    if (readHeadOffset(head) !== FUTEX_OFFSET) throw noList();
    this.#block = arena.alloc(64);
    const { bytes } = this.#block;
    const view = new DataView(bytes.buffer, bytes.byteOffset, 64);
    view.setUint32(WORD.futex, Number(systemCall('gettid', SYS_GETTID)), true);
    enter ??= ownCode(emitEnter);
    callCode(enter, head, addressOf(bytes) + BigInt(WORD.next));
  }

  /** Where the process sees it. */
  get address(): bigint {
    return this.#block.address + BigInt(WORD.futex);
  }

  /** Nobody catches faults from now on; and the list is as it was. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    const { bytes } = this.#block;
    new DataView(bytes.buffer, bytes.byteOffset, 64).setUint32(WORD.futex, 0, true);
    leave ??= ownCode(emitLeave);
    callCode(leave, 0, addressOf(bytes) + BigInt(WORD.next));
  }
}

let readOffset: bigint | undefined;

function readHeadOffset(head: bigint): bigint {
  readOffset ??= ownCode(a => {
    a.mov(rax, mem(rdi, 8));
    a.ret();
  });
  return BigInt.asIntN(64, callCode(readOffset, head));
}

function noList(cause?: unknown): BpfError {
  return new BpfError(
    'ENOSYS',
    'programs that read memory which may not be there need a list of robust futexes, which this C library or kernel does not keep for node; run multitrace with a node made for glibc',
    { cause },
  );
}

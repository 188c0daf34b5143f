/**
 * Machine code that works on list words and free lists: what hash, queue, stack and stack trace maps are made of.
 * The rules that make it right are in hash_code.ts.
 */

import {
  type Assembler,
  type Label,
  mem,
  type Reg,
  r8,
  r9,
  r10,
  r11,
  r13,
  r14,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
} from '../../../x86/assembler.js';
import { HASH, NODE, WORD } from './layout.js';

// What the registers hold during a search; the map stays in rdi and the key's address in rsi.
export const prev = r8; //   address of the word that leads to the node
export const link = r9; //   what that word held
export const node = rcx; //  the node, or 0
export const next = r10; //  what the node's word held

// And in routines that take nodes from the free lists.
export const fresh = r13; //  our new node, which nobody else can see yet, or 0
export const source = r14; // where it came from: 0 is FREE, WORD.SPARE is SPARE

/** Words have 32 bits of offset and flags: the node is twice that from the map's start. */
export const LINK_SCALE = 2;

/** `dst` = a word with the version after that of `src` and no node. */
export function emitNextVersion(a: Assembler, dst: Reg, src: Reg | ReturnType<typeof mem>): void {
  a.mov(dst, src);
  a.shr(dst, WORD.VERSION_SHIFT);
  a.inc(dst, 4);
  a.shl(dst, WORD.VERSION_SHIFT);
}

/** `dst` = the low half of a word that leads to the node at `from`. */
export function emitLinkOf(a: Assembler, dst: Reg, from: Reg): void {
  a.mov(dst, from);
  a.sub(dst, rdi);
  a.shr(dst, 1);
}

/**
 * Routine: push `node` on the free list whose head is at r10. Clobbers rax, rdx.
 *
 *     repeat
 *       top = *head; node.nextFree = top.node
 *     until swap *head: top -> node
 */
function emitPushFree(a: Assembler): Label {
  a.align(16);
  const start = a.here();
  a.push(rsi);
  emitLinkOf(a, rsi, node);
  a.mov(rax, mem(r10));
  const again = a.here();
  a.mov(mem(node, NODE.NEXT_FREE), rax, 4);
  emitNextVersion(a, rdx, rax);
  a.or(rdx, rsi);
  a.lockCmpxchg(mem(r10), rdx);
  a.jcc('ne', again);
  a.pop(rsi);
  a.ret();
  return start;
}

/**
 * Routine: swap the word at `prev` from `link` past `node`, whose marked word is in `next`. On success ZF is
 * set, `link` is the new word and the node is free. Clobbers rax, rdx, `next`.
 */
function emitUnlink(a: Assembler, pushFree: Label): Label {
  const changed = a.label();
  a.align(16);
  const start = a.here();
  emitNextVersion(a, rdx, link);
  a.mov(rax, next, 4);
  a.and(rax, ~WORD.FLAGS, 4);
  a.or(rdx, rax);
  a.mov(rax, link);
  a.lockCmpxchg(mem(prev), rdx);
  a.jcc('ne', changed);
  a.mov(link, rdx);
  a.and(next, WORD.SPARE, 4);
  emitFreeListHead(a, r10, next);
  a.call(pushFree);
  a.cmp(rax, rax);
  a.bind(changed);
  a.ret();
  return start;
}

/** `dst` = address of the head of the free list that `which` (0 or WORD.SPARE) names. */
export function emitFreeListHead(a: Assembler, dst: Reg, which: Reg): void {
  a.lea(dst, mem(rdi, HASH.FREE, which, ((HASH.SPARE - HASH.FREE) / WORD.SPARE) as 4));
}

/**
 * Routine: pop a node from the free list `source` into `fresh`; ZF is set if there is none.
 * Clobbers rax, rcx, rdx, r10, r11.
 *
 *     repeat
 *       top = *head; if none: return
 *     until swap *head: top -> top.nextFree     // the version says if top was taken and came back meanwhile
 */
function emitPopFree(a: Assembler): Label {
  const empty = a.label();
  a.align(16);
  const start = a.here();
  emitFreeListHead(a, r10, source);
  a.mov(rax, mem(r10));
  const again = a.here();
  a.mov(rcx, rax, 4);
  a.test(rcx, rcx, 4);
  a.jcc('e', empty);
  a.lea(rcx, mem(rdi, 0, rcx, LINK_SCALE));
  emitNextVersion(a, rdx, rax);
  a.mov(r11, mem(rcx, NODE.NEXT_FREE), 4);
  a.or(rdx, r11);
  a.lockCmpxchg(mem(r10), rdx);
  a.jcc('ne', again);
  a.mov(fresh, rcx);
  a.test(fresh, fresh);
  a.bind(empty);
  a.ret();
  return start;
}

/** The routines on lists, which those of the maps call. */
export interface ListRoutines {
  /** Pushes `node` on the free list at r10. */
  readonly pushFree: Label;
  /** Swaps the word at `prev` past `node`, which is marked, and frees it. */
  readonly unlink: Label;
  /** Pops a node of the free list `source` into `fresh`. */
  readonly popFree: Label;
}

export function emitListRoutines(a: Assembler): ListRoutines {
  const pushFree = emitPushFree(a);
  return { pushFree, unlink: emitUnlink(a, pushFree), popFree: emitPopFree(a) };
}

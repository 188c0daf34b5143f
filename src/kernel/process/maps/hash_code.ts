/**
 * Machine code of the hash map's operations (the kernel's preallocated BPF_MAP_TYPE_HASH): lookup, update and
 * delete that never wait. hash.ts does the same to the same memory from our side. Not for creating or iterating.
 *
 * Why lock-free: a BPF program can be interrupted anywhere by a signal whose handler calls a traced function and
 * so runs the same operation on the same map on the same thread; a thread can be killed or stopped for ever
 * anywhere; and the reader is another process. A lock would hang in each of these cases.
 *
 * ## The data
 *
 * A bucket is a singly linked list of nodes of a fixed pool; a node is never anything but a node of this map, so
 * a stale pointer reads old data at worst. All links are list words (layout.ts): offset, version, MARK. A word is
 * changed by compare-and-swap only, and each change increments its version, so a word that compares equal has
 * not changed in between (a thread that sleeps through exactly 2^32 changes of one word is not considered).
 *
 * Invariants:
 *
 *  1. A node is in a bucket's list exactly if it can be reached from the bucket's word. A node in the list whose
 *     word is not marked is live: its key is in the map. No two live nodes have the same key.
 *  2. A marked word of a node in the list never changes. Only an unmarked word (or a bucket's, which is never
 *     marked) is changed: so nothing is linked behind, or unlinked behind, a deleted node.
 *  3. Key and value are complete before the node's word is unmarked, and the key does not change until the node
 *     was unlinked. While they are written, the word is marked.
 *  4. New keys are linked at the end of the list only, where the word is 0. Two inserts of one key swap the same
 *     word, or the later one sees the earlier one's node.
 *  5. A replacement is one swap, of the old node's word: the mark on the old node, and the new node as its
 *     successor. So at every moment exactly one of the two is live, at the same place of the list.
 *  6. Whoever swaps the predecessor's word past a marked node owns the node and gives it back to a free list.
 *  7. Free nodes: FREE has max_entries of them at first, one for each key; SPARE has those that replacements
 *     need while old and new node exist together. A replaced node goes back to where its successor came from
 *     (SPARE beside MARK says so), a deleted one to FREE. So an insert fails exactly when max_entries keys are in
 *     the map (or are being inserted or deleted at this moment).
 *
 * What a death at the worst instruction costs is one node of the pool, never a wrong answer; a node that was
 * marked and not unlinked is not lost: the next operation on its bucket unlinks it.
 *
 * ## The search, which every operation starts with
 *
 *     search(key):
 *       restart:
 *         prev = &buckets[hash(key) & mask]; link = *prev
 *       loop:
 *         // prev was in the list and unmarked when link was read
 *         node = link.node; if none: return absent
 *         next = node.word
 *         if next is marked:
 *           unlink(prev, link, node, next), else restart    // *prev held link all the time, so next is final
 *           continue
 *         same = node.key == key
 *         if *prev != link: restart       // else node was in the list all the time: next and key were its own
 *         if same: return node
 *         prev = &node.word; link = next
 *
 *     unlink(prev, link, node, next):
 *       swap *prev: link -> next.node      // fails if anything about prev changed
 *       push node to the free list that next names
 *
 *     update(key, value, flags):
 *       repeat
 *         search(key)
 *         if found: [NOEXIST: EEXIST]; new = new node from SPARE, else from FREE, else EBUSY
 *                   new.word = next.node, unmarked
 *                   if swap node.word: next -> new, marked:      // key has the new value
 *                     unlink(node), else search(key), which does it; return
 *         else:     [EXIST: ENOENT]; new = new node from FREE, else E2BIG if *prev still holds link
 *                   new.word = 0, unmarked
 *                   if swap *prev: link -> new: return           // key is in the map
 *
 *     delete(key):
 *       repeat
 *         search(key); absent: ENOENT
 *         if swap node.word: next -> next.node, marked:          // key is gone
 *           unlink(node), else search(key), which does it; return
 *
 * The method is Michael's (High performance dynamic lock-free hash tables and list-based sets, 2002), with
 * unsorted lists, and with replacement by marking as in Java's ConcurrentSkipListMap.
 *
 * As with the kernel's preallocated map, a program that holds a value's address across a delete or two replacements
 * by others may see the node become another key's.
 */

import { UPDATE } from '../../../bpf/map_type.js';
import {
  type Assembler,
  type Label,
  mem,
  type Reg,
  r8,
  r9,
  r10,
  r11,
  r12,
  r13,
  r14,
  r15,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
} from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { HASH, MAP, NODE, WORD } from './layout.js';
import { emitMixLongKey, emitMixWord } from './mix.js';
import { emitLoadPadded } from './words_code.js';

/** Entry points of the hash routines; all preserve rbx, rbp, rsp, r12 to r15, rdi and rsi. */
export interface HashRoutines {
  /** rdi = map, rsi = key → rax = address of the value, or 0. */
  readonly hashLookup: Label;
  /** rdi = map, rsi = key, rdx = value, rcx = flags → rax = 0, or -EEXIST, -ENOENT, -E2BIG, -EBUSY, -EINVAL. */
  readonly hashUpdate: Label;
  /** rdi = map, rsi = key → rax = 0 or -ENOENT. */
  readonly hashDelete: Label;
}

// What the registers hold during a search; the map stays in rdi and the key's address in rsi.
const prev = r8; //   address of the word that leads to the node
const link = r9; //   what that word held
const node = rcx; //  the node, or 0
const next = r10; //  what the node's word held

/** Words have 32 bits of offset and flags: the node is twice that from the map's start. */
const LINK_SCALE = 2;

/** `dst` = a word with the version after that of `src` and no node. */
function emitNextVersion(a: Assembler, dst: Reg, src: Reg | ReturnType<typeof mem>): void {
  a.mov(dst, src);
  a.shr(dst, WORD.VERSION_SHIFT);
  a.inc(dst, 4);
  a.shl(dst, WORD.VERSION_SHIFT);
}

/** `dst` = the low half of a word that leads to the node at `from`. */
function emitLinkOf(a: Assembler, dst: Reg, from: Reg): void {
  a.mov(dst, from);
  a.sub(dst, rdi);
  a.shr(dst, 1);
}

interface SearchExits {
  /** Something changed under the search: start again. */
  restart: Label;
  /** `node` is marked: unlink it and go on at `proceed`. */
  marked: Label;
  /** Bound by the search: goes on with `prev` and `link`. */
  proceed: Label;
  absent: Label;
}

/** The loop of the search, from the state in rax. Falls through when the key is found. */
function emitSearchLoop(a: Assembler, exits: SearchExits, emitCompare: (different: Label) => void): void {
  const different = a.label();
  const visit = a.label();
  a.and(rax, mem(rdi, HASH.BUCKET_MASK));
  a.lea(prev, mem(rdi, HASH.BUCKETS, rax, 8));
  a.mov(link, mem(prev));
  a.jmp(visit);

  a.bind(different);
  a.cmp(mem(prev), link);
  a.jcc('ne', exits.restart);
  a.mov(prev, node);
  a.mov(link, next);
  a.bind(visit);
  a.bind(exits.proceed);
  a.mov(node, link, 4);
  a.test(node, node, 4);
  a.jcc('e', exits.absent);
  a.lea(node, mem(rdi, 0, node, LINK_SCALE));
  a.mov(next, mem(node, NODE.NEXT));
  a.test(next, WORD.MARK, 1);
  a.jcc('ne', exits.marked);
  emitCompare(different);
  a.cmp(mem(prev), link);
  a.jcc('ne', exits.restart);
}

/** r11 = the key of up to 8 bytes at rsi, padded; jumps to `long` for others. Clobbers rax, rcx. */
function emitLoadShortKey(a: Assembler, long: Label): void {
  const eight = a.label();
  const four = a.label();
  const loaded = a.label();
  a.mov(rcx, mem(rdi, MAP.KEY_SIZE), 4);
  a.cmp(rcx, 8, 4);
  a.jcc('e', eight);
  a.jcc('a', long);
  a.cmp(rcx, 4, 4);
  a.jcc('e', four);
  emitLoadPadded(a, r11, rsi, rcx, rax);
  a.jmp(loaded);
  a.bind(four);
  a.mov(r11, mem(rsi), 4);
  a.jmp(loaded);
  a.bind(eight);
  a.mov(r11, mem(rsi));
  a.bind(loaded);
}

function emitCompareShortKey(a: Assembler, different: Label): void {
  a.cmp(r11, mem(node, NODE.KEY));
  a.jcc('ne', different);
}

/** Compares the key at rsi, whose last word is in r11 if it is not whole, with the node's. Clobbers rax, rdx. */
function emitCompareLongKey(a: Assembler, different: Label): void {
  const words = a.label();
  a.mov(rax, mem(rdi, MAP.KEY_SIZE), 4);
  a.and(rax, -8, 4);
  a.test(mem(rdi, MAP.KEY_SIZE), 7, 1);
  a.jcc('e', words);
  a.cmp(r11, mem(node, NODE.KEY, rax));
  a.jcc('ne', different);
  a.bind(words);
  a.mov(rdx, mem(rsi, -8, rax));
  a.cmp(rdx, mem(node, NODE.KEY - 8, rax));
  a.jcc('ne', different);
  a.sub(rax, 8, 4);
  a.jcc('ne', words);
}

/**
 * Routine: the search. rdi = map, rsi = key → `node`, which is 0 if absent, with `prev`, `link` and `next`.
 * Unlinks the marked nodes that it meets. Clobbers rax, rdx, r11.
 */
function emitSearch(a: Assembler, unlink: Label): Label {
  const long = a.label();
  a.align(16);
  const start = a.here();
  const absent = a.label();
  emitLoadShortKey(a, long);
  emitMixWord(a, r11);

  const emitBody = (emitCompare: (different: Label) => void): void => {
    const exits: SearchExits = { restart: start, marked: a.label(), proceed: a.label(), absent };
    emitSearchLoop(a, exits, emitCompare);
    a.ret();
    a.bind(exits.marked);
    a.call(unlink);
    a.jcc('ne', start);
    a.jmp(exits.proceed);
  };
  emitBody(different => emitCompareShortKey(a, different));
  a.bind(long);
  emitMixLongKey(a);
  emitBody(different => emitCompareLongKey(a, different));
  a.bind(absent);
  a.ret();
  return start;
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
function emitFreeListHead(a: Assembler, dst: Reg, which: Reg): void {
  a.lea(dst, mem(rdi, HASH.FREE, which, ((HASH.SPARE - HASH.FREE) / WORD.SPARE) as 4));
}

// What the registers hold during an update, beside those of the search.
const value = rbx; //    address of the value
const flags = r12;
const fresh = r13; //    our new node, which nobody else can see yet, or 0
const source = r14; //   where it came from: 0 is FREE, WORD.SPARE is SPARE
const found = r15; //    the live node with the key
const foundNext = rbp; // what its word held

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

/** Routine: write key and value into `fresh`, marked. Clobbers rax, rcx, rdx, r10, r11. */
function emitFill(a: Assembler, copyPadded: Label): Label {
  a.align(16);
  const start = a.here();
  emitNextVersion(a, rdx, mem(fresh, NODE.NEXT));
  a.or(rdx, WORD.MARK);
  a.mov(mem(fresh, NODE.NEXT), rdx);
  a.mov(r10, rsi);
  a.lea(rcx, mem(fresh, NODE.KEY));
  a.mov(rax, mem(rdi, MAP.KEY_SIZE), 4);
  a.call(copyPadded);
  a.mov(r10, value);
  a.mov(rcx, mem(rdi, HASH.VALUE_OFFSET), 4);
  a.add(rcx, fresh);
  a.mov(rax, mem(rdi, MAP.VALUE_SIZE), 4);
  a.jmp(copyPadded);
  return start;
}

function emitLookup(a: Assembler, search: Label): Label {
  const slow = a.label();
  const absent = a.label();
  a.align(32);
  const start = a.here();
  emitLoadShortKey(a, slow);
  emitMixWord(a, r11);
  const exits: SearchExits = { restart: slow, marked: slow, proceed: a.label(), absent };
  emitSearchLoop(a, exits, different => emitCompareShortKey(a, different));
  const hit = a.here();
  a.mov(rax, mem(rdi, HASH.VALUE_OFFSET), 4);
  a.add(rax, node);
  a.ret();
  a.bind(slow);
  a.call(search);
  a.test(node, node);
  a.jcc('ne', hit);
  a.bind(absent);
  a.xor(rax, rax, 4);
  a.ret();
  return start;
}

function emitUpdate(
  a: Assembler,
  routines: { search: Label; unlink: Label; pushFree: Label; popFree: Label; fill: Label },
): Label {
  const saved = [rbx, rbp, r12, r13, r14, r15];
  const absent = a.label();
  const invalid = a.label();
  const finish = a.label();
  const fail = a.label();

  a.align(32);
  const start = a.here();
  a.cmp(rcx, Number(UPDATE.EXIST));
  a.jcc('a', invalid);
  for (const register of saved) a.push(register);
  a.mov(value, rdx);
  a.mov(flags, rcx);
  a.xor(fresh, fresh, 4);

  const again = a.here();
  a.call(routines.search);
  a.test(node, node);
  a.jcc('e', absent);

  // The key is there: replace its node.
  const exists = a.label();
  const replace = a.label();
  const gotFresh = a.label();
  const busy = a.label();
  a.cmp(flags, Number(UPDATE.NOEXIST));
  a.jcc('e', exists);
  a.mov(found, node);
  a.mov(foundNext, next);
  a.test(fresh, fresh);
  a.jcc('ne', replace);
  a.mov(source, WORD.SPARE, 4);
  a.call(routines.popFree);
  a.jcc('ne', gotFresh);
  a.xor(source, source, 4);
  a.call(routines.popFree);
  a.jcc('e', busy);
  a.bind(gotFresh);
  a.call(routines.fill);
  a.bind(replace);
  emitNextVersion(a, rdx, mem(fresh, NODE.NEXT));
  a.mov(rax, foundNext, 4);
  a.or(rdx, rax);
  a.mov(mem(fresh, NODE.NEXT), rdx);
  emitNextVersion(a, next, foundNext);
  emitLinkOf(a, rax, fresh);
  a.or(next, rax);
  a.or(next, source);
  a.or(next, WORD.MARK);
  a.mov(rax, foundNext);
  a.lockCmpxchg(mem(found, NODE.NEXT), next);
  a.jcc('ne', again);
  a.mov(node, found);
  a.call(routines.unlink);
  const done = a.label();
  a.jcc('e', done);
  a.call(routines.search);
  a.bind(done);
  a.xor(rax, rax, 4);
  a.bind(finish);
  for (const register of [...saved].reverse()) a.pop(register);
  a.ret();

  // The key is not there: append a node.
  a.bind(absent);
  const missing = a.label();
  const append = a.label();
  const take = a.label();
  const full = a.label();
  a.cmp(flags, Number(UPDATE.EXIST));
  a.jcc('e', missing);
  a.test(fresh, fresh);
  a.jcc('e', take);
  a.test(source, source, 4);
  a.jcc('e', append);
  // The node was taken to replace a key that has been deleted since: a spare node must not become a key's own.
  a.mov(node, fresh);
  emitFreeListHead(a, r10, source);
  a.call(routines.pushFree);
  a.xor(fresh, fresh, 4);
  a.bind(take);
  a.xor(source, source, 4);
  a.call(routines.popFree);
  a.jcc('e', full);
  a.call(routines.fill);
  a.bind(append);
  emitNextVersion(a, rdx, mem(fresh, NODE.NEXT));
  a.mov(mem(fresh, NODE.NEXT), rdx);
  emitNextVersion(a, rdx, link);
  emitLinkOf(a, rax, fresh);
  a.or(rdx, rax);
  a.mov(rax, link);
  a.lockCmpxchg(mem(prev), rdx);
  a.jcc('ne', again);
  a.jmp(done);

  // The key may have been inserted, and the last node with it, after the search.
  a.bind(full);
  a.cmp(mem(prev), link);
  a.jcc('ne', again);
  a.mov(value, -errnoNumber('E2BIG'));
  a.jmp(fail);

  for (const [label, error] of [
    [exists, 'EEXIST'],
    [missing, 'ENOENT'],
    [busy, 'EBUSY'],
  ] as const) {
    a.bind(label);
    a.mov(value, -errnoNumber(error));
    a.jmp(fail);
  }
  a.bind(fail);
  const released = a.label();
  a.test(fresh, fresh);
  a.jcc('e', released);
  a.mov(node, fresh);
  emitFreeListHead(a, r10, source);
  a.call(routines.pushFree);
  a.bind(released);
  a.mov(rax, value);
  a.jmp(finish);

  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();
  return start;
}

function emitDelete(a: Assembler, search: Label, unlink: Label): Label {
  const missing = a.label();
  const done = a.label();
  a.align(32);
  const start = a.here();
  a.call(search);
  a.test(node, node);
  a.jcc('e', missing);
  emitNextVersion(a, rdx, next);
  a.mov(rax, next, 4);
  a.or(rdx, rax);
  a.or(rdx, WORD.MARK);
  a.mov(rax, next);
  a.mov(next, rdx);
  a.lockCmpxchg(mem(node, NODE.NEXT), rdx);
  a.jcc('ne', start);
  a.call(unlink);
  a.jcc('e', done);
  a.call(search);
  a.bind(done);
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(missing);
  a.mov(rax, -errnoNumber('ENOENT'));
  a.ret();
  return start;
}

/** Emits the routines and what they call; `copyPadded` is the routine of words_code.ts. */
export function emitHashRoutines(a: Assembler, copyPadded: Label): HashRoutines {
  const pushFree = emitPushFree(a);
  const unlink = emitUnlink(a, pushFree);
  const popFree = emitPopFree(a);
  const fill = emitFill(a, copyPadded);
  const search = emitSearch(a, unlink);
  const hashLookup = emitLookup(a, search);
  const hashUpdate = emitUpdate(a, { search, unlink, pushFree, popFree, fill });
  const hashDelete = emitDelete(a, search, unlink);
  return { hashLookup, hashUpdate, hashDelete };
}

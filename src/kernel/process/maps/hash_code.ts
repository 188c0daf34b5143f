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
 *  8. A node that is in no list and nobody's is marked, so whoever looks at all nodes (eviction, iteration) sees which
 *     are in the map: the unmarked ones, and those that will be linked at the next instruction.
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
import { LRU_PATIENCE } from './hash_table.js';
import { HASH, MAP, NODE, WORD } from './layout.js';
import {
  emitFreeListHead,
  emitLinkOf,
  emitNextVersion,
  fresh,
  LINK_SCALE,
  type ListRoutines,
  link,
  next,
  node,
  prev,
  source,
} from './list_code.js';
import { emitMixLongKey, emitMixWord } from './mix.js';
import { emitLoadPadded } from './words_code.js';

/** Entry points of the hash routines; all preserve rbx, rbp, rsp, r12 to r15, rdi and rsi. */
export interface HashRoutines {
  /** rdi = map, rsi = key → rax = address of the value, or 0. */
  readonly hashLookup: Label;
  /** rdi = map, rsi = key, rdx = value, rcx = flags → rax = 0, or -EEXIST, -ENOENT, -E2BIG, -ENOMEM (LRU), -EBUSY, -EINVAL. */
  readonly hashUpdate: Label;
  /** rdi = map, rsi = key → rax = 0 or -ENOENT. */
  readonly hashDelete: Label;
  /** As hashLookup, for LRU maps: the value counts as used. */
  readonly lruLookup: Label;
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

// What the registers hold during an update, beside those of the search.
const value = rbx; //    address of the value
const flags = r12; //    (fresh and source: list_code.ts)
const found = r15; //    the live node with the key
const foundNext = rbp; // what its word held

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
  a.call(copyPadded);
  const unlocked = a.label();
  a.mov(rax, mem(rdi, HASH.LOCK), 4);
  a.test(rax, rax, 4);
  a.jcc('e', unlocked);
  a.add(rax, fresh);
  a.mov(rcx, mem(rdi, HASH.VALUE_OFFSET), 4);
  a.mov(mem(rax, -1, rcx), 0, 4);
  a.bind(unlocked);
  // LRU: a value that is replaced is in use, a new key has yet to prove it.
  const plain = a.label();
  a.mov(rax, mem(rdi, HASH.REF_DELTA), 4);
  a.test(rax, rax, 4);
  a.jcc('e', plain);
  a.add(rax, fresh);
  a.mov(rcx, mem(rdi, HASH.VALUE_OFFSET), 4);
  a.mov(mem(rax, 0, rcx), source);
  a.bind(plain);
  a.ret();
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
  routines: ListRoutines & { search: Label; fill: Label; evict: Label },
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
  a.or(mem(fresh, NODE.NEXT), WORD.MARK, 4);
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
  const plain = a.label();
  a.cmp(mem(prev), link);
  a.jcc('ne', again);
  a.cmp(mem(rdi, HASH.REF_DELTA), 0, 4);
  a.jcc('e', plain);
  a.call(routines.evict);
  a.jcc('e', again);
  a.mov(value, -errnoNumber('ENOMEM'));
  a.jmp(fail);
  a.bind(plain);
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
  a.or(mem(fresh, NODE.NEXT), WORD.MARK, 4);
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

/**
 * Routine: evict a key that was not used lately from the LRU map rdi. ZF is set if one was, or was by somebody else.
 * Clobbers what the search does.
 *
 *     patience = LRU_PATIENCE
 *     repeat 2 * nodes times
 *       node = pool[hand++ % nodes]
 *       if node is marked: continue                       // not in the map
 *       if node.ref and patience--: node.ref = 0, continue // used since the hand was here
 *       if delete(node.key): return
 *
 * The node may become another key's between the look and the deletion; then that one goes. Its key can even be half
 * written: then the search finds nothing, or some key that equals it, and no harm is done.
 */
function emitEvict(a: Assembler, hashDelete: Label): Label {
  const patience = r14;
  const step = r15;
  const saved = [rsi, patience, step];
  const skip = a.label();
  const victim = a.label();
  const done = a.label();
  a.align(16);
  const start = a.here();
  for (const register of saved) a.push(register);
  a.mov(patience, LRU_PATIENCE, 4);
  a.mov(step, mem(rdi, HASH.NODES));
  a.add(step, step);
  const again = a.here();
  a.mov(rax, 1, 4);
  a.lockXadd(mem(rdi, HASH.HAND), rax);
  a.xor(rdx, rdx, 4);
  a.div(mem(rdi, HASH.NODES));
  a.mov(rax, mem(rdi, HASH.NODE_SIZE), 4);
  a.imul(rdx, rax);
  a.add(rdx, mem(rdi, HASH.POOL));
  a.add(rdx, rdi);
  a.test(mem(rdx, NODE.NEXT), WORD.MARK, 1);
  a.jcc('ne', skip);
  a.mov(rax, mem(rdi, HASH.REF_DELTA), 4);
  a.mov(rcx, mem(rdi, HASH.VALUE_OFFSET), 4);
  a.add(rax, rcx);
  a.cmp(mem(rdx, 0, rax), 0);
  a.jcc('e', victim);
  a.dec(patience, 4);
  a.jcc('s', victim);
  a.mov(mem(rdx, 0, rax), 0);
  a.jmp(skip);
  a.bind(victim);
  a.lea(rsi, mem(rdx, NODE.KEY));
  a.call(hashDelete);
  a.test(rax, rax, 4);
  a.jcc('e', done);
  a.bind(skip);
  a.dec(step);
  a.jcc('ne', again);
  a.test(rdi, rdi);
  a.bind(done);
  for (const register of [...saved].reverse()) a.pop(register);
  a.ret();
  return start;
}

/** LRU: a lookup, which says of the value that it is used. */
function emitLruLookup(a: Assembler, hashLookup: Label): Label {
  const done = a.label();
  a.align(16);
  const start = a.here();
  a.call(hashLookup);
  a.test(rax, rax);
  a.jcc('e', done);
  emitMarkUsed(a);
  a.bind(done);
  a.ret();
  return start;
}

/** Says of the value at rax, in the LRU map rdi, that it is used. Writes only what changes. Clobbers rcx. */
export function emitMarkUsed(a: Assembler): void {
  const known = a.label();
  a.mov(rcx, mem(rdi, HASH.REF_DELTA), 4);
  a.cmp(mem(rax, 0, rcx), 0);
  a.jcc('ne', known);
  a.mov(mem(rax, 0, rcx), 1);
  a.bind(known);
}

/** Emits the routines and what they call; `copyPadded` is the routine of words_code.ts. */
export function emitHashRoutines(a: Assembler, lists: ListRoutines, copyPadded: Label): HashRoutines {
  const fill = emitFill(a, copyPadded);
  const search = emitSearch(a, lists.unlink);
  const hashLookup = emitLookup(a, search);
  const hashDelete = emitDelete(a, search, lists.unlink);
  const evict = emitEvict(a, hashDelete);
  const hashUpdate = emitUpdate(a, { ...lists, search, fill, evict });
  return { hashLookup, hashUpdate, hashDelete, lruLookup: emitLruLookup(a, hashLookup) };
}

/**
 * Machine code of queues: the queue of Michael and Scott (Simple, fast and practical non-blocking and blocking
 * concurrent queue algorithms, 1996), on nodes of a pool and with list words, whose versions it needs.
 *
 * HEAD leads to a node that is out already, whose successor is the next to come out; TAIL to the last node or the one
 * before it. A node is given back to the pool when HEAD has passed it, and TAIL is never behind HEAD; a value is copied
 * before HEAD is swapped, and counts only if that swap (or, to peek, a last look at HEAD) finds it as it was.
 *
 *     push: head = HEAD; node = new node, else [EXIST: drop one if HEAD is still head; again] E2BIG
 *           repeat
 *             tail = TAIL; next = tail.next; if TAIL != tail: again
 *             if next: swap TAIL: tail -> next; again           // help one who stopped there
 *           until swap tail.next: none -> node
 *           swap TAIL: tail -> node                             // or somebody helped
 *     pop:  repeat
 *             head = HEAD; tail = TAIL; next = head.next; if HEAD != head: again
 *             if head is tail: if no next: ENOENT; swap TAIL: tail -> next; again
 *             copy next.value
 *           until swap HEAD: head -> next
 *           give back head
 *
 * Who ends anywhere in it costs one node at most, and hinders nobody.
 */

import { UPDATE } from '../../../bpf/map_type.js';
import {
  type Assembler,
  type Label,
  mem,
  r8,
  r9,
  r10,
  r12,
  r15,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
} from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { HASH, MAP, NODE, QUEUE } from './layout.js';
import {
  emitLinkOf,
  emitNextVersion,
  fresh,
  LINK_SCALE,
  type ListRoutines,
  next,
  node,
  source,
} from './list_code.js';
import { emitZeroBytes } from './words_code.js';

/** Entry points of queues; stacks have the same. Flags of a push: 0, or BPF_EXIST to push the oldest out. */
export interface QueueRoutines {
  /** rdi = map, rsi = value, rdx = flags → rax = 0, -E2BIG, -EINVAL. */
  readonly queuePush: Label;
  /** rdi = map, rsi = where the value goes → rax = 0, or -ENOENT and zeros there. */
  readonly queuePop: Label;
  readonly queuePeek: Label;
}

/** What the routines of queues and stacks call. */
export interface ValueRoutines {
  readonly copyPadded: Label;
  readonly copyExact: Label;
}

const head = r9;
const tail = r8;
const flags = r12;
/** HEAD before a push looked for a free node. */
const before = r15;

/** Writes -ENOENT and a value of zeros. */
export function emitEmpty(a: Assembler): void {
  a.mov(r10, rsi);
  a.mov(rax, mem(rdi, MAP.VALUE_SIZE), 4);
  emitZeroBytes(a);
  a.mov(rax, -errnoNumber('ENOENT'));
  a.ret();
}

/** Copies the value at rsi into `fresh`, whose word becomes the next version, with `mark` in it. */
export function emitFillFromValue(a: Assembler, mark: number, copyPadded: Label): void {
  emitNextVersion(a, rdx, mem(fresh, NODE.NEXT));
  if (mark !== 0) a.or(rdx, mark);
  a.mov(mem(fresh, NODE.NEXT), rdx);
  a.mov(r10, rsi);
  a.mov(rcx, mem(rdi, HASH.VALUE_OFFSET), 4);
  a.add(rcx, fresh);
  a.mov(rax, mem(rdi, MAP.VALUE_SIZE), 4);
  a.call(copyPadded);
}

/** Swaps TAIL from `tail` to the node that `next` leads to: helps one who stopped before that. */
function emitAdvanceTail(a: Assembler): void {
  emitNextVersion(a, rdx, tail);
  a.mov(rax, next, 4);
  a.or(rdx, rax);
  a.mov(rax, tail);
  a.lockCmpxchg(mem(rdi, QUEUE.TAIL), rdx);
}

/**
 * Pop (`removes`) or peek. Without `copyExact` it is the drop of a push that found no free node: it makes one attempt,
 * with the HEAD that the caller saw before it looked for a free node, in r9. If that has changed, a node may be free
 * now, and nothing must be dropped.
 */
function emitTake(a: Assembler, removes: boolean, lists: ListRoutines, copyExact?: Label): Label {
  const last = a.label();
  const empty = a.label();
  const isDrop = copyExact === undefined;
  const changed = a.label();
  a.align(16);
  const start = a.here();
  const again = isDrop ? changed : start;
  if (!isDrop) a.mov(head, mem(rdi, QUEUE.HEAD));
  a.mov(tail, mem(rdi, QUEUE.TAIL));
  a.mov(node, head, 4);
  a.lea(node, mem(rdi, 0, node, LINK_SCALE));
  a.mov(next, mem(node, NODE.NEXT));
  a.cmp(mem(rdi, QUEUE.HEAD), head);
  a.jcc('ne', again);
  a.cmp(head, tail, 4);
  a.jcc('e', last);
  if (copyExact !== undefined) {
    a.push(node);
    a.push(next);
    a.mov(r10, next, 4);
    a.lea(r10, mem(rdi, 0, r10, LINK_SCALE));
    a.mov(rax, mem(rdi, HASH.VALUE_OFFSET), 4);
    a.add(r10, rax);
    a.mov(rcx, rsi);
    a.mov(rax, mem(rdi, MAP.VALUE_SIZE), 4);
    a.call(copyExact);
    a.pop(next);
    a.pop(node);
  }
  if (removes) {
    emitNextVersion(a, rdx, head);
    a.mov(rax, next, 4);
    a.or(rdx, rax);
    a.mov(rax, head);
    a.lockCmpxchg(mem(rdi, QUEUE.HEAD), rdx);
    a.jcc('ne', again);
    a.lea(r10, mem(rdi, HASH.FREE));
    a.call(lists.pushFree);
  } else {
    a.cmp(mem(rdi, QUEUE.HEAD), head);
    a.jcc('ne', again);
  }
  a.bind(changed);
  a.xor(rax, rax, 4);
  a.ret();

  a.bind(last);
  a.test(next, next, 4);
  a.jcc('e', empty);
  emitAdvanceTail(a);
  a.jmp(again);
  a.bind(empty);
  if (!isDrop) {
    emitEmpty(a);
  } else {
    a.mov(rax, -errnoNumber('ENOENT'));
    a.ret();
  }
  return start;
}

function emitPush(a: Assembler, lists: ListRoutines, drop: Label, copyPadded: Label): Label {
  const saved = [flags, fresh, source, before];
  const invalid = a.label();
  const filled = a.label();
  const full = a.label();
  const finish = a.label();
  const help = a.label();
  a.align(16);
  const start = a.here();
  a.test(rdx, ~Number(UPDATE.EXIST));
  a.jcc('ne', invalid);
  for (const register of saved) a.push(register);
  a.mov(flags, rdx);
  a.xor(source, source, 4);
  const again = a.here();
  a.mov(before, mem(rdi, QUEUE.HEAD));
  a.call(lists.popFree);
  a.jcc('ne', filled);
  a.test(flags, flags, 4);
  a.jcc('e', full);
  a.mov(head, before);
  a.call(drop);
  a.test(rax, rax);
  a.jcc('e', again);
  a.bind(full);
  a.mov(rax, -errnoNumber('E2BIG'));
  a.jmp(finish);

  a.bind(filled);
  emitFillFromValue(a, 0, copyPadded);
  const link = a.here();
  a.mov(tail, mem(rdi, QUEUE.TAIL));
  a.mov(node, tail, 4);
  a.lea(node, mem(rdi, 0, node, LINK_SCALE));
  a.mov(next, mem(node, NODE.NEXT));
  a.cmp(mem(rdi, QUEUE.TAIL), tail);
  a.jcc('ne', link);
  a.test(next, next, 4);
  a.jcc('ne', help);
  emitNextVersion(a, rdx, next);
  emitLinkOf(a, rax, fresh);
  a.or(rdx, rax);
  a.mov(rax, next);
  a.lockCmpxchg(mem(node, NODE.NEXT), rdx);
  a.jcc('ne', link);
  a.mov(next, rdx);
  emitAdvanceTail(a);
  a.xor(rax, rax, 4);
  a.bind(finish);
  for (const register of [...saved].reverse()) a.pop(register);
  a.ret();
  a.bind(help);
  emitAdvanceTail(a);
  a.jmp(link);
  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();
  return start;
}

export function emitQueueRoutines(a: Assembler, lists: ListRoutines, values: ValueRoutines): QueueRoutines {
  const drop = emitTake(a, true, lists);
  return {
    queuePush: emitPush(a, lists, drop, values.copyPadded),
    queuePop: emitTake(a, true, lists, values.copyExact),
    queuePeek: emitTake(a, false, lists, values.copyExact),
  };
}

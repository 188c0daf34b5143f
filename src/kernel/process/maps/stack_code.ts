/**
 * Machine code of stacks: the list of hash_code.ts without keys, in which new nodes come first. A pop marks the first
 * node that is live and unlinks it; where a node has come before it meanwhile, it stays linked, marked, for a later
 * operation to unlink. A push that finds no free node looks through the list for such, and where BPF_EXIST allows it
 * deletes the last one, the oldest.
 */

import { UPDATE } from '../../../bpf/map_type.js';
import {
  type Assembler,
  type Label,
  mem,
  r10,
  r12,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
} from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { HASH, MAP, NODE, QUEUE, WORD } from './layout.js';
import {
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
import { emitEmpty, emitFillFromValue, type ValueRoutines } from './queue_code.js';

/** As those of queues (queue_code.ts). */
export interface StackRoutines {
  readonly stackPush: Label;
  readonly stackPop: Label;
  readonly stackPeek: Label;
}

const flags = r12;

/**
 * Finds the first live node or (`last`) the last one; unlinks marked ones on the way. Falls through with it in `node`;
 * goes to `empty` where there is none. Returns where to start again. Clobbers rax, rdx.
 */
function emitFind(a: Assembler, last: boolean, empty: Label, unlink: Label): Label {
  const visit = a.label();
  const live = a.label();
  const found = a.label();
  const restart = a.here();
  a.lea(prev, mem(rdi, QUEUE.HEAD));
  a.mov(link, mem(prev));
  a.bind(visit);
  a.mov(node, link, 4);
  a.test(node, node, 4);
  a.jcc('e', empty);
  a.lea(node, mem(rdi, 0, node, LINK_SCALE));
  a.mov(next, mem(node, NODE.NEXT));
  a.test(next, WORD.MARK, 1);
  a.jcc('e', live);
  a.call(unlink);
  a.jcc('ne', restart);
  a.jmp(visit);
  a.bind(live);
  a.cmp(mem(prev), link);
  a.jcc('ne', restart);
  if (last) {
    a.test(next, next, 4);
    a.jcc('e', found);
    a.mov(prev, node);
    a.mov(link, next);
    a.jmp(visit);
    a.bind(found);
  }
  return restart;
}

/** Marks `node`; goes to `changed` where its word is no longer `next`. Then unlinks it, if it still can. */
function emitDelete(a: Assembler, changed: Label, unlink: Label): void {
  emitNextVersion(a, rdx, next);
  a.mov(rax, next, 4);
  a.or(rdx, rax);
  a.or(rdx, WORD.MARK);
  a.mov(rax, next);
  a.lockCmpxchg(mem(node, NODE.NEXT), rdx);
  a.jcc('ne', changed);
  a.mov(next, rdx);
  a.call(unlink);
}

function emitTake(a: Assembler, removes: boolean, unlink: Label, copyExact: Label): Label {
  const empty = a.label();
  a.align(16);
  const start = a.here();
  const again = emitFind(a, false, empty, unlink);
  a.push(node);
  a.push(next);
  a.mov(r10, mem(rdi, HASH.VALUE_OFFSET), 4);
  a.add(r10, node);
  a.mov(rcx, rsi);
  a.mov(rax, mem(rdi, MAP.VALUE_SIZE), 4);
  a.call(copyExact);
  a.pop(next);
  a.pop(node);
  if (removes) {
    emitDelete(a, again, unlink);
  } else {
    a.cmp(mem(node, NODE.NEXT), next);
    a.jcc('ne', again);
  }
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(empty);
  emitEmpty(a);
  return start;
}

function emitPush(a: Assembler, lists: ListRoutines, copyPadded: Label): Label {
  const saved = [flags, fresh, source];
  const invalid = a.label();
  const filled = a.label();
  const full = a.label();
  const finish = a.label();
  a.align(16);
  const start = a.here();
  a.test(rdx, ~Number(UPDATE.EXIST));
  a.jcc('ne', invalid);
  for (const register of saved) a.push(register);
  a.mov(flags, rdx);
  a.xor(source, source, 4);
  const again = a.here();
  a.call(lists.popFree);
  a.jcc('ne', filled);
  const nothing = a.label();
  emitFind(a, true, nothing, lists.unlink);
  a.cmp(mem(rdi, HASH.FREE), 0, 4);
  a.jcc('ne', again);
  a.test(flags, flags, 4);
  a.jcc('e', full);
  emitDelete(a, again, lists.unlink);
  a.jmp(again);
  a.bind(nothing);
  a.cmp(mem(rdi, HASH.FREE), 0, 4);
  a.jcc('ne', again);
  a.bind(full);
  a.mov(rax, -errnoNumber('E2BIG'));
  a.jmp(finish);

  a.bind(filled);
  emitFillFromValue(a, WORD.MARK, copyPadded);
  const swap = a.here();
  a.mov(link, mem(rdi, QUEUE.HEAD));
  emitNextVersion(a, rdx, mem(fresh, NODE.NEXT));
  a.mov(rax, link, 4);
  a.or(rdx, rax);
  a.mov(mem(fresh, NODE.NEXT), rdx);
  emitNextVersion(a, rdx, link);
  emitLinkOf(a, rax, fresh);
  a.or(rdx, rax);
  a.mov(rax, link);
  a.lockCmpxchg(mem(rdi, QUEUE.HEAD), rdx);
  a.jcc('ne', swap);
  a.xor(rax, rax, 4);
  a.bind(finish);
  for (const register of [...saved].reverse()) a.pop(register);
  a.ret();
  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();
  return start;
}

export function emitStackRoutines(a: Assembler, lists: ListRoutines, values: ValueRoutines): StackRoutines {
  return {
    stackPush: emitPush(a, lists, values.copyPadded),
    stackPop: emitTake(a, true, lists.unlink, values.copyExact),
    stackPeek: emitTake(a, false, lists.unlink, values.copyExact),
  };
}

/**
 * Machine code that stores a stack in a stack trace map (bpf_get_stackid, behind the unwinding): a table of buckets,
 * one node or none in each, found by the hash of the addresses; the bucket's number is the stack's id.
 *
 *     store(ips, count, flags):
 *       hash = mix of the addresses; bucket = &buckets[id = hash & mask]
 *       repeat
 *         word = *bucket; node = word.node
 *         if node and node.hash == hash:
 *           same = FAST_STACK_CMP or (node.count, node.ips) == (count, ips)
 *           if *bucket != word: again                  // else it was this node's all the time
 *           if same: return id
 *         if node and not REUSE_STACKID: EEXIST
 *         fresh = new node, else ENOMEM; fill it
 *       until swap *bucket: word -> fresh
 *       give back node; return id
 */

import {
  type Assembler,
  type Label,
  mem,
  r9,
  r10,
  r12,
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
import { HASH, MAP, TRACE } from './layout.js';
import {
  emitLinkOf,
  emitNextVersion,
  fresh,
  LINK_SCALE,
  type ListRoutines,
  link,
  node,
  prev,
  source,
} from './list_code.js';
import { MULTIPLIER } from './mix.js';

/** Flags of bpf_get_stackid (linux/bpf.h) that say how stacks are stored. */
export const STACKID = {
  SKIP_MASK: 0xff,
  USER_STACK: 1 << 8,
  FAST_STACK_CMP: 1 << 9,
  REUSE_STACKID: 1 << 10,
};

export interface StackTraceRoutines {
  /**
   * rdi = map, rsi = addresses, edx = how many (more than the map holds are left out), ecx = flags → rax = id, or
   * -EEXIST (another stack has the id), -ENOMEM, -EFAULT (no address).
   */
  readonly stackMapStore: Label;
}

const count = rbx;
const flags = r12;
const hash = r15;
const id = rbp;

export function emitStackTraceRoutines(a: Assembler, lists: ListRoutines): StackTraceRoutines {
  const saved = [count, flags, fresh, source, hash, id];
  const none = a.label();
  const absent = a.label();
  const different = a.label();
  const filled = a.label();
  const found = a.label();
  const finish = a.label();
  const release = a.label();
  a.align(16);
  const stackMapStore = a.here();
  a.mov(rax, mem(rdi, MAP.VALUE_SIZE), 4);
  a.shr(rax, 3, 4);
  a.cmp(rdx, rax, 4);
  a.cmov('a', rdx, rax, 4);
  a.test(rdx, rdx, 4);
  a.jcc('e', none);
  for (const register of saved) a.push(register);
  a.mov(count, rdx, 4);
  a.mov(flags, rcx);
  a.xor(fresh, fresh, 4);
  a.xor(source, source, 4);

  a.mov(rax, mem(rdi, HASH.SEED));
  a.movImm64(r9, MULTIPLIER);
  a.xor(rcx, rcx, 4);
  const mix = a.here();
  a.xor(rax, mem(rsi, 0, rcx, 8));
  a.mul(r9);
  a.xor(rax, rdx);
  a.inc(rcx, 4);
  a.cmp(rcx, count, 4);
  a.jcc('b', mix);
  a.mov(hash, rax);
  a.mov(id, rax);
  a.and(id, mem(rdi, HASH.BUCKET_MASK));

  const again = a.here();
  a.lea(prev, mem(rdi, HASH.BUCKETS, id, 8));
  a.mov(link, mem(prev));
  a.mov(node, link, 4);
  a.test(node, node, 4);
  a.jcc('e', absent);
  a.lea(node, mem(rdi, 0, node, LINK_SCALE));
  a.cmp(mem(node, TRACE.HASH), hash);
  a.jcc('ne', different);
  a.test(flags, STACKID.FAST_STACK_CMP, 4);
  a.jcc('ne', found);
  a.cmp(mem(node, TRACE.COUNT), count, 4);
  a.jcc('ne', different);
  a.mov(rdx, count, 4);
  const compare = a.here();
  a.mov(rax, mem(rsi, -8, rdx, 8));
  a.cmp(rax, mem(node, TRACE.IPS - 8, rdx, 8));
  a.jcc('ne', different);
  a.dec(rdx, 4);
  a.jcc('ne', compare);
  a.bind(found);
  a.cmp(mem(prev), link);
  a.jcc('ne', again);
  a.mov(rax, id);
  a.jmp(release);

  a.bind(different);
  a.cmp(mem(prev), link);
  a.jcc('ne', again);
  a.test(flags, STACKID.REUSE_STACKID, 4);
  a.jcc('ne', absent);
  a.mov(rax, -errnoNumber('EEXIST'));
  a.jmp(release);

  // A new node, once: it keeps its contents from one attempt to the next.
  a.bind(absent);
  a.test(fresh, fresh);
  a.jcc('ne', filled);
  a.call(lists.popFree);
  const got = a.label();
  a.jcc('ne', got);
  a.mov(rax, -errnoNumber('ENOMEM'));
  a.jmp(finish);
  a.bind(got);
  a.mov(mem(fresh, TRACE.HASH), hash);
  a.mov(mem(fresh, TRACE.COUNT), count, 4);
  a.mov(rdx, count, 4);
  const copy = a.here();
  a.mov(rax, mem(rsi, -8, rdx, 8));
  a.mov(mem(fresh, TRACE.IPS - 8, rdx, 8), rax);
  a.dec(rdx, 4);
  a.jcc('ne', copy);
  a.jmp(again);

  a.bind(filled);
  emitNextVersion(a, rdx, link);
  emitLinkOf(a, rax, fresh);
  a.or(rdx, rax);
  a.mov(rax, link);
  a.lockCmpxchg(mem(prev), rdx);
  a.jcc('ne', again);
  // What is given back now is the old node, if there is one.
  a.mov(fresh, link, 4);
  a.mov(rax, id);
  a.test(fresh, fresh, 4);
  a.jcc('e', finish);
  a.lea(fresh, mem(rdi, 0, fresh, LINK_SCALE));

  a.bind(release);
  a.test(fresh, fresh);
  a.jcc('e', finish);
  a.push(rax);
  a.mov(node, fresh);
  a.lea(r10, mem(rdi, HASH.FREE));
  a.call(lists.pushFree);
  a.pop(rax);
  a.bind(finish);
  for (const register of [...saved].reverse()) a.pop(register);
  a.ret();

  a.bind(none);
  a.mov(rax, -errnoNumber('EFAULT'));
  a.ret();
  return { stackMapStore };
}

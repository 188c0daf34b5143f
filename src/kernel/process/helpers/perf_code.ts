/**
 * Machine code of perf_event_output (25): one more record in the map's ring (maps/perf.ts), with the thread's slot as
 * its CPU. In the kernel a program may name another CPU's buffer only to be refused; the same here.
 */

import { type Assembler, mem, r8, r9, rax, rcx, rdi, rdx, rsi } from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { MAP } from '../maps/layout.js';
import type { HelperLabels } from './labels.js';
import type { RingRoutines } from './ringbuf_code.js';

/** BPF_F_CURRENT_CPU (linux/bpf.h), which is also BPF_F_INDEX_MASK. */
const CURRENT_CPU = 0xffff_ffff;

/**
 * perf_event_output(ctx, map, flags, data, size), with the thread's slot in r9d, which the caller puts there as for
 * operations on per-CPU maps. 0; -EINVAL for unknown flags, -E2BIG for an index beyond the map, -EOPNOTSUPP for that of
 * another slot, -ENOSPC where there is no room.
 */
export function emitPerfHelpers(a: Assembler, ring: RingRoutines): HelperLabels {
  const current = a.label();
  const noRoom = a.label();
  const refuse = a.label();
  a.align(16);
  const output = a.here();
  a.mov(rax, rdx);
  a.shr(rax, 32);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.jcc('ne', refuse);
  a.cmp(rdx, CURRENT_CPU | 0, 4);
  a.jcc('e', current);
  a.mov(rax, -errnoNumber('E2BIG'));
  a.cmp(rdx, mem(rsi, MAP.MAX_ENTRIES), 4);
  a.jcc('ae', refuse);
  a.mov(rax, -errnoNumber('EOPNOTSUPP'));
  a.cmp(rdx, r9, 4);
  a.jcc('ne', refuse);
  a.bind(current);
  a.mov(rdi, rsi);
  a.mov(rsi, rcx);
  a.mov(rdx, r8);
  a.call(ring.append);
  a.test(rax, rax);
  a.jcc('ne', noRoom);
  a.bind(refuse);
  a.ret();
  a.bind(noRoom);
  a.mov(rax, -errnoNumber('ENOSPC'));
  a.ret();
  return new Map([['helper_25', output]]);
}

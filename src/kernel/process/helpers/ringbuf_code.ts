/**
 * Machine code of the ring buffer helpers. How reservation works, and why nobody waits, is in maps/ringbuf_reader.ts;
 * the layout in maps/ringbuf_layout.ts.
 */

import {
  type Assembler,
  type Label,
  mem,
  r8,
  r9,
  r10,
  r11,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
} from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { RB_FLAG, RB_QUERY, RECORD_HEADER, RINGBUF } from '../maps/ringbuf_layout.js';
import { DYNPTR, DYNPTR_MAX_SIZE, DYNPTR_TYPE, DYNPTR_TYPE_SHIFT } from './dynptr_layout.js';
import type { HelperLabels } from './labels.js';
import { emitCopyBytes } from './ringbuf_copy.js';

/** What the ring's other writers (perf events, the trace log) share with the helpers. */
export interface RingRoutines {
  /**
   * rdi = ring, rsi = bytes, r9d = tag → rax = the payload, at a multiple of 8, or 0 and the drop is counted.
   * Clobbers rcx, rdx, rsi, r8 to r11.
   */
  readonly reserve: Label;
  /** rdi = ring, rsi = bytes to append, rdx = how many, r9d = tag → rax = 0, or -EAGAIN. Clobbers all it may. */
  readonly append: Label;
}

/** Clears BUSY of the record whose payload is at `payload`: everything written before is visible to the reader. */
export function emitSubmit(a: Assembler, payload: typeof rdi): void {
  a.and(mem(payload, -RECORD_HEADER.BYTES), ~RECORD_HEADER.BUSY, 4);
}

/** Clears BUSY and sets DISCARD. */
function emitDiscard(a: Assembler, payload: typeof rdi): void {
  a.xor(mem(payload, -RECORD_HEADER.BYTES), RECORD_HEADER.BUSY | RECORD_HEADER.DISCARD | 0, 4);
}

function emitReserve(a: Assembler): Label {
  const full = a.label();
  const perhapsFull = a.label();
  const help = a.label();

  // A record of size bytes takes rdx bytes; its header is r10.
  a.align(16);
  const reserve = a.here();
  a.cmp(rsi, RECORD_HEADER.LENGTH);
  a.jcc('a', full);
  a.lea(rdx, mem(rsi, RECORD_HEADER.BYTES + 7));
  a.and(rdx, -8);
  a.cmp(rdx, mem(rdi, RINGBUF.SIZE));
  a.jcc('a', full);
  a.mov(r10, r9, 4);
  a.shl(r10, 32);
  a.or(rsi, RECORD_HEADER.BUSY | 0, 4);
  a.or(r10, rsi);

  // CONSUMER (r8) is read before PRODUCER (rcx), so that it is never beyond it.
  const again = a.here();
  a.mov(r8, mem(rdi, RINGBUF.CONSUMER));
  a.mov(rcx, mem(rdi, RINGBUF.PRODUCER));
  a.mov(rax, rcx);
  a.add(rax, rdx);
  a.sub(rax, r8);
  a.cmp(rax, mem(rdi, RINGBUF.SIZE));
  a.jcc('a', perhapsFull);
  // rax = the free word of this lap, r11 = where it is; it becomes the header, or somebody was faster.
  a.mov(r11, mem(rdi, RINGBUF.MASK));
  a.mov(rax, r11);
  a.not(rax);
  a.and(rax, rcx);
  a.add(rax, mem(rdi, RINGBUF.FREE));
  a.and(r11, rcx);
  a.add(r11, mem(rdi, RINGBUF.DATA));
  a.lockCmpxchg(mem(r11), r10);
  a.jcc('ne', help);
  a.mov(rax, rcx);
  a.add(rcx, rdx);
  a.lockCmpxchg(mem(rdi, RINGBUF.PRODUCER), rcx);
  a.lea(rax, mem(r11, RECORD_HEADER.BYTES));
  a.ret();

  // A header is there already (rax): PRODUCER moves behind its record, unless it has moved.
  a.bind(help);
  a.and(rax, RECORD_HEADER.LENGTH, 4);
  a.add(rax, RECORD_HEADER.BYTES + 7);
  a.and(rax, -8);
  a.lea(r8, mem(rcx, 0, rax));
  a.mov(rax, rcx);
  a.lockCmpxchg(mem(rdi, RINGBUF.PRODUCER), r8);
  a.jmp(again);

  // Full at the moment when PRODUCER was read, if CONSUMER did not move meanwhile.
  a.bind(perhapsFull);
  a.cmp(r8, mem(rdi, RINGBUF.CONSUMER));
  a.jcc('ne', again);
  a.bind(full);
  a.lock('inc', mem(rdi, RINGBUF.DROPPED));
  a.xor(rax, rax, 4);
  a.ret();
  return reserve;
}

/** Emits what the helpers and the other writers stand on. */
export function emitRingRoutines(a: Assembler): RingRoutines {
  const copyBytes = emitCopyBytes(a);
  const reserve = emitReserve(a);
  const noRoom = a.label();
  a.align(16);
  const append = a.here();
  a.push(rsi);
  a.push(rdx);
  a.mov(rsi, rdx);
  a.call(reserve);
  a.pop(rcx);
  a.pop(rsi);
  a.test(rax, rax);
  a.jcc('e', noRoom);
  a.mov(rdi, rax);
  a.call(copyBytes);
  emitSubmit(a, rax);
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(noRoom);
  a.mov(rax, -errnoNumber('EAGAIN'));
  a.ret();
  return { reserve, append };
}

/**
 * Emits the ring buffer helpers: ringbuf_output (130), _reserve (131), _submit (132), _discard (133), _query (134),
 * _reserve_dynptr (198), _submit_dynptr (199), _discard_dynptr (200). The reader looks by itself, so the wake-up
 * flags are taken and mean nothing.
 */
export function emitRingbufHelpers(a: Assembler, ring: RingRoutines): HelperLabels {
  const labels: HelperLabels = new Map();
  const invalid = a.label();
  const none = a.label();

  // ringbuf_output(ring, data, size, flags)
  a.align(16);
  labels.set('helper_130', a.here());
  a.test(rcx, ~(RB_FLAG.NO_WAKEUP | RB_FLAG.FORCE_WAKEUP));
  a.jcc('ne', invalid);
  a.xor(r9, r9, 4);
  a.jmp(ring.append);

  // ringbuf_reserve(ring, size, flags)
  a.align(16);
  labels.set('helper_131', a.here());
  a.xor(r9, r9, 4);
  a.test(rdx, rdx);
  a.jcc('e', ring.reserve);
  a.bind(none);
  a.xor(rax, rax, 4);
  a.ret();

  // ringbuf_submit(sample, flags)
  labels.set('helper_132', a.here());
  emitSubmit(a, rdi);
  a.xor(rax, rax, 4);
  a.ret();

  // ringbuf_discard(sample, flags)
  labels.set('helper_133', a.here());
  emitDiscard(a, rdi);
  a.xor(rax, rax, 4);
  a.ret();

  emitQuery(a, labels, none);
  emitDynptrHelpers(a, labels, ring, none);

  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();
  return labels;
}

/** ringbuf_query(ring, what) */
function emitQuery(a: Assembler, labels: HelperLabels, none: Label): void {
  const available = a.label();
  labels.set('helper_134', a.here());
  a.mov(rax, mem(rdi, RINGBUF.SIZE));
  a.cmp(rsi, RB_QUERY.RING_SIZE);
  const done = a.label();
  a.jcc('e', done);
  a.mov(rax, mem(rdi, RINGBUF.CONSUMER));
  a.cmp(rsi, RB_QUERY.CONS_POS);
  a.jcc('e', done);
  // CONSUMER was read before PRODUCER: the difference is never negative.
  a.mov(rcx, mem(rdi, RINGBUF.PRODUCER));
  a.cmp(rsi, RB_QUERY.AVAIL_DATA);
  a.jcc('e', available);
  a.mov(rax, rcx);
  a.cmp(rsi, RB_QUERY.PROD_POS);
  a.jcc('ne', none);
  a.bind(done);
  a.ret();
  a.bind(available);
  a.sub(rcx, rax);
  a.mov(rax, rcx);
  a.ret();
}

function emitDynptrHelpers(a: Assembler, labels: HelperLabels, ring: RingRoutines, none: Label): void {
  const fail = a.label();

  // ringbuf_reserve_dynptr(ring, size, flags, dynptr): whatever comes of it, the dynptr is to be released.
  a.align(16);
  labels.set('helper_198', a.here());
  a.mov(mem(rcx, DYNPTR.DATA), 0);
  a.mov(mem(rcx, DYNPTR.SIZE), 0);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.test(rdx, rdx);
  a.jcc('ne', fail);
  a.mov(rsi, rsi, 4);
  a.mov(rax, -errnoNumber('E2BIG'));
  a.cmp(rsi, DYNPTR_MAX_SIZE);
  a.jcc('a', fail);
  a.push(rcx);
  a.push(rsi);
  a.xor(r9, r9, 4);
  a.call(ring.reserve);
  a.pop(rsi);
  a.pop(rcx);
  const reserved = a.label();
  a.test(rax, rax);
  a.jcc('ne', reserved);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.bind(fail);
  a.ret();
  a.bind(reserved);
  a.mov(mem(rcx, DYNPTR.DATA), rax);
  // Size and type, and an offset of 0 in the upper half.
  a.or(rsi, DYNPTR_TYPE.RINGBUF << DYNPTR_TYPE_SHIFT, 4);
  a.mov(mem(rcx, DYNPTR.SIZE), rsi);
  a.xor(rax, rax, 4);
  a.ret();

  // ringbuf_submit_dynptr(dynptr, flags) and ringbuf_discard_dynptr(dynptr, flags); nothing for a null dynptr
  for (const [name, finish] of [
    ['helper_199', emitSubmit],
    ['helper_200', emitDiscard],
  ] as const) {
    labels.set(name, a.here());
    a.mov(rcx, mem(rdi, DYNPTR.DATA));
    a.test(rcx, rcx);
    a.jcc('e', none);
    // Nothing of the dynptr is used once the record is finished.
    a.mov(mem(rdi, DYNPTR.DATA), 0);
    a.mov(mem(rdi, DYNPTR.SIZE), 0);
    finish(a, rcx);
    a.xor(rax, rax, 4);
    a.ret();
  }
}

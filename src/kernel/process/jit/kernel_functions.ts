/** Kernel functions, all compiled in place: the numbers iterator, and what a session's trampoline laid out. */

import { MAX_LOOPS } from '../../../bpf/instruction.js';
import { KFUNC } from '../../../bpf/kfuncs.js';
import { NUMBERS } from '../../../bpf/numbers_iterator.js';
import { mem, rax, rdi, rdx, rsi } from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { CALL, DEPTH_SHIFT } from '../kfunc_md/call_table.js';
import { ITEM } from '../kfunc_md/lists.js';
import { FRAME } from '../trampoline/frame.js';
import type { Emitter } from './emitter.js';

const current = mem(rdi, NUMBERS.current);
const end = mem(rdi, NUMBERS.end);
/** Both numbers. */
const both = mem(rdi);

/**
 *     if (start > end) { none; return -EINVAL }
 *     if (end - start > MAX_LOOPS) { none; return -E2BIG }
 *     current = start - 1; stop before end; return 0
 */
function emitIteratorNew(e: Emitter): void {
  const { a } = e;
  const [invalid, tooBig, done] = [a.label(), a.label(), a.label()];
  e.changing(rsi);
  e.changing(rdx);
  a.movsx(rsi, rsi, 4);
  a.movsx(rdx, rdx, 4);
  a.mov(both, 0);
  a.mov(rax, rdx);
  a.sub(rax, rsi);
  a.jcc('l', invalid);
  a.cmp(rax, MAX_LOOPS);
  a.jcc('g', tooBig);
  a.dec(rsi, 4);
  a.mov(current, rsi, 4);
  a.mov(end, rdx, 4);
  a.xor(rax, rax, 4);
  a.bind(done);
  e.apart(() => {
    a.bind(invalid);
    a.mov(rax, -errnoNumber('EINVAL'));
    a.jmp(done);
    a.bind(tooBig);
    a.mov(rax, -errnoNumber('E2BIG'));
    a.jmp(done);
  });
}

/** `if (++current < end) return &current; none; return 0` */
function emitIteratorNext(e: Emitter): void {
  const { a } = e;
  const last = a.label();
  const done = a.label();
  a.mov(rax, current, 4);
  a.inc(rax, 4);
  a.cmp(rax, end, 4);
  a.jcc('ge', last);
  a.mov(current, rax, 4);
  a.mov(rax, rdi);
  a.bind(done);
  e.apart(() => {
    a.bind(last);
    a.mov(both, 0);
    a.xor(rax, rax, 4);
    a.jmp(done);
  });
}

/** `key = *(cookie - item->session); return word - depth` of that key (kfunc_md/call_table.ts). */
function emitSessionFrame(e: Emitter): void {
  const { a } = e;
  e.changing(rsi);
  a.mov(rax, mem(rdi, FRAME.entry));
  a.mov(rax, mem(rax, ITEM.session), 4);
  a.mov(rsi, mem(rdi, FRAME.cookie));
  a.sub(rsi, rax);
  a.mov(rsi, mem(rsi, CALL.key));
  a.mov(rax, rsi);
  a.shl(rax, 64 - DEPTH_SHIFT);
  a.shr(rax, 64 - DEPTH_SHIFT);
  a.shr(rsi, DEPTH_SHIFT);
  // A stack word's address is a multiple of 8: what is below is the entry's state.
  a.and(rax, -8);
  a.sub(rax, rsi);
}

export function emitKernelFunction(e: Emitter, id: number): void {
  const { a } = e;
  e.changing(rax);
  switch (id) {
    case KFUNC.bpf_iter_num_new:
      emitIteratorNew(e);
      return;
    case KFUNC.bpf_iter_num_next:
      emitIteratorNext(e);
      return;
    case KFUNC.bpf_iter_num_destroy:
      a.mov(both, 0);
      return;
    case KFUNC.bpf_rdonly_cast:
      a.mov(rax, rdi);
      return;
    case KFUNC.bpf_session_is_return:
      a.mov(rax, mem(rdi, FRAME.isReturn));
      return;
    case KFUNC.bpf_session_cookie:
      a.mov(rax, mem(rdi, FRAME.cookie));
      return;
    case KFUNC.bpf_session_frame:
      emitSessionFrame(e);
      return;
    default:
      throw new RangeError(`kernel function ${id} is not compiled in place`);
  }
}

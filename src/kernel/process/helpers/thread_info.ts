/**
 * Who runs: bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_get_current_comm, bpf_get_smp_processor_id; and
 * bpf_get_prandom_u32, whose state is the thread's.
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
import { COMM_BYTES, SHARED, TABLE, THREAD, type ThreadCode } from '../threads/layout.js';
import { emitSameThread, emitThreadBlock, fsAt } from '../threads/thread_block.js';

/**
 * `u64 get_current_pid_tgid()`: tgid << 32 | tid, as the process sees them; 0 where its C library has not begun. The
 * first to ask in a forked child takes its own id for the child's: it is, unless that is a thread that the child made.
 */
export function emitPidTgid(a: Assembler, thread: ThreadCode): Label {
  const unknown = a.label();
  const known = a.label();
  const start = a.here();
  a.movImm64(rax, thread.shared);
  a.mov(rax, mem(rax, SHARED.tidOffset), 4);
  a.test(rax, rax, 4);
  a.jcc('e', unknown);
  a.mov(rax, fsAt(rax), 4);
  a.movImm64(rdx, thread.table);
  a.mov(rcx, mem(rdx, TABLE.tgid), 4);
  a.test(rcx, rcx, 4);
  a.jcc('ne', known);
  a.mov(rcx, rax, 4);
  a.mov(mem(rdx, TABLE.tgid), rcx, 4);
  a.bind(known);
  a.shl(rcx, 32);
  a.or(rax, rcx);
  a.bind(unknown);
  a.ret();
  return start;
}

/** `u64 get_current_uid_gid()`: gid << 32 | uid, as we last saw them. */
export function emitUidGid(a: Assembler, thread: ThreadCode): Label {
  const start = a.here();
  a.movImm64(rax, thread.shared + BigInt(SHARED.uidGid));
  a.mov(rax, mem(rax));
  a.ret();
  return start;
}

/**
 * `long get_current_comm(void *buf, u32 size)`: rdi, esi. The thread's name as we last saw it, cut to `size` and padded
 * with zeros; the last byte is zero. Returns 0.
 */
export function emitComm(a: Assembler, thread: ThreadCode): Label {
  const [name, at] = [r9, r10];
  const none = a.label();
  const found = a.label();
  const done = a.label();
  const rest = a.label();
  const start = a.here();
  a.mov(rsi, rsi, 4);
  a.test(rsi, rsi, 4);
  a.jcc('e', done);
  const search = emitThreadBlock(a, thread, rax, [rcx, rdx], none);
  emitSameThread(a, thread, rax, [rcx, rdx, r8]);
  a.mov(name, mem(rax, THREAD.slot), 4);
  a.shl(name, Math.log2(COMM_BYTES), 4);
  a.movImm64(rcx, thread.shared + BigInt(SHARED.comms));
  a.add(name, rcx);
  a.bind(found);
  a.xor(at, at, 4);
  const next = a.here();
  a.cmp(at, COMM_BYTES, 4);
  a.jcc('ae', rest);
  a.cmp(at, rsi, 4);
  a.jcc('ae', rest);
  a.movzx(rax, mem(name, 0, at), 1);
  a.mov(mem(rdi, 0, at), rax, 1);
  a.inc(at, 4);
  a.test(rax, rax, 4);
  a.jcc('ne', next);
  a.bind(rest);
  const padded = a.label();
  const pad = a.here();
  a.cmp(at, rsi, 4);
  a.jcc('ae', padded);
  a.mov(mem(rdi, 0, at), 0, 1);
  a.inc(at, 4);
  a.jmp(pad);
  a.bind(padded);
  a.mov(mem(rdi, -1, rsi), 0, 1);
  a.bind(done);
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(none);
  a.movImm64(name, thread.shared + BigInt(SHARED.comm));
  a.jmp(found);
  search.cold();
  return start;
}

/** `u32 get_smp_processor_id()`: the thread's slot; 0 for a thread that has none. */
export function emitSmpProcessorId(a: Assembler, thread: ThreadCode): Label {
  const none = a.label();
  const start = a.here();
  const search = emitThreadBlock(a, thread, rax, [rcx, rdx], none);
  a.mov(rax, mem(rax, THREAD.slot), 4);
  a.ret();
  a.bind(none);
  a.xor(rax, rax, 4);
  a.ret();
  search.cold();
  return start;
}

const STEP = 0x9e37_79b9_7f4a_7c15n;
const MIX1 = 0xbf58_476d_1ce4_e5b9n;
const MIX2 = 0x94d0_49bb_1331_11ebn;

/**
 * `u32 get_prandom_u32()`: SplitMix64, its state in the thread's block (or, for a thread without one, shared). A signal
 * handler in the middle may get the same number again.
 */
export function emitRandom(a: Assembler, thread: ThreadCode): Label {
  const none = a.label();
  const mix = a.label();
  const start = a.here();
  const search = emitThreadBlock(a, thread, r11, [rcx, rdx], none);
  a.movImm64(rax, STEP);
  a.add(rax, mem(r11, THREAD.random));
  a.mov(mem(r11, THREAD.random), rax);
  a.bind(mix);
  for (const [shift, factor] of [
    [30, MIX1],
    [27, MIX2],
  ] as const) {
    a.mov(rcx, rax);
    a.shr(rcx, shift);
    a.xor(rax, rcx);
    a.movImm64(rcx, factor);
    a.imul(rax, rcx);
  }
  a.mov(rcx, rax);
  a.shr(rcx, 31);
  a.xor(rax, rcx);
  a.mov(rax, rax, 4);
  a.ret();
  a.bind(none);
  a.movImm64(rcx, thread.shared + BigInt(SHARED.seed));
  a.movImm64(rax, STEP);
  a.lockXadd(mem(rcx), rax);
  a.jmp(mix);
  search.cold();
  return start;
}

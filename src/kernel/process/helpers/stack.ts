/**
 * bpf_get_stack and bpf_get_stackid: the addresses on the traced thread's stack, the traced function's own first. In a
 * process there is one stack, so BPF_F_USER_STACK may be given or not.
 */

import {
  type Assembler,
  type Label,
  mem,
  r8,
  r12,
  r13,
  rax,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { MAP } from '../maps/layout.js';
import { emitWalk, type LoadFixup, type WalkEnv } from '../unwind/walk_code.js';

const WORD = 8;
/** Flags of both helpers (linux/bpf.h): how many frames to skip; whose stack; how ids are chosen. */
const SKIP_MASK = 0xff;
const BPF_F_USER_STACK = 1 << 8;
const BPF_F_FAST_STACK_CMP = 1 << 9;
const BPF_F_REUSE_STACKID = 1 << 10;
/** Addresses of a stack at most (the kernel's perf_event_max_stack). */
export const MAX_STACK_DEPTH = 127;
/** Space for them, and a word more that keeps the stack pointer's alignment. */
const BUFFER_BYTES = (MAX_STACK_DEPTH + 1) * WORD;

/** What the routines need. */
export interface StackEnv extends WalkEnv {
  /** The stack trace map's: rdi = map, rsi = addresses, rdx = how many, rcx = flags → an id or -errno in rax. */
  readonly stackMapStore: Label;
}

/** Emits both helpers. They use about 1,200 bytes of the thread's stack. */
export function emitStackHelpers(
  a: Assembler,
  env: StackEnv,
): { routines: Map<`helper_${number}`, Label>; fixups: LoadFixup[] } {
  const fixups: LoadFixup[] = [];
  const walk = emitWalk(a, env, fixups);
  const invalid = a.label();

  // get_stack(rdi = ctx, rsi = buffer, rdx = size, rcx = flags) → bytes written
  a.align(16);
  const getStack = a.here();
  a.mov(rax, rcx);
  a.and(rax, ~(SKIP_MASK | BPF_F_USER_STACK));
  a.jcc('ne', invalid);
  a.test(rdx, WORD - 1, 4);
  a.jcc('ne', invalid);
  a.push(rbx);
  a.push(r12);
  a.mov(rbx, rsi);
  a.lea(r12, mem(rsi, 0, rdx));
  const empty = a.label();
  a.xor(rax, rax, 4);
  a.shr(rdx, Math.log2(WORD));
  a.jcc('e', empty);
  a.and(rcx, SKIP_MASK, 4);
  a.mov(rsi, rdx);
  a.mov(rdx, rdi);
  a.mov(rdi, rbx);
  a.call(walk);
  a.shl(rax, Math.log2(WORD));
  // Nobody shall find in the rest what was there before.
  const clear = a.label();
  const cleared = a.label();
  a.lea(rdi, mem(rbx, 0, rax));
  a.bind(clear);
  a.cmp(rdi, r12);
  a.jcc('ae', cleared);
  a.mov(mem(rdi), 0);
  a.add(rdi, WORD);
  a.jmp(clear);
  a.bind(cleared);
  a.bind(empty);
  a.pop(r12);
  a.pop(rbx);
  a.ret();

  // get_stackid(rdi = ctx, rsi = map, rdx = flags) → id
  a.align(16);
  const getStackId = a.here();
  a.mov(rax, rdx);
  a.and(rax, ~(SKIP_MASK | BPF_F_USER_STACK | BPF_F_FAST_STACK_CMP | BPF_F_REUSE_STACKID));
  a.jcc('ne', invalid);
  a.push(r12);
  a.push(r13);
  a.sub(rsp, BUFFER_BYTES);
  a.mov(r12, rsi);
  a.mov(r13, rdx);
  a.mov(rcx, rdx);
  a.and(rcx, SKIP_MASK, 4);
  a.mov(rdx, rdi);
  a.mov(rdi, rsp);
  a.mov(rsi, mem(r12, MAP.VALUE_SIZE), 4);
  a.shr(rsi, Math.log2(WORD), 4);
  a.mov(r8, MAX_STACK_DEPTH, 4);
  a.cmp(rsi, r8);
  a.cmov('a', rsi, r8);
  a.call(walk);
  const none = a.label();
  const out = a.label();
  a.test(rax, rax);
  a.jcc('e', none);
  a.mov(rdi, r12);
  a.mov(rsi, rsp);
  a.mov(rdx, rax);
  a.mov(rcx, r13);
  a.call(env.stackMapStore);
  a.bind(out);
  a.add(rsp, BUFFER_BYTES);
  a.pop(r13);
  a.pop(r12);
  a.ret();
  a.bind(none);
  a.mov(rax, -errnoNumber('EFAULT'));
  a.jmp(out);

  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();
  return {
    routines: new Map([
      ['helper_67', getStack],
      ['helper_27', getStackId],
    ]),
    fixups,
  };
}

/** Strings in memory that the verifier knows: bpf_strncmp. */

import { type Assembler, type Label, mem, r8, rax, rcx, rdi, rdx, rsi } from '../../../x86/assembler.js';

/**
 * `long strncmp(const char *s1, u32 s1_size, const char *s2)`: rdi, esi, rdx. -1, 0 or 1, as the kernel's; bytes are
 * unsigned, and the comparison ends with the first null byte.
 */
export function emitStrncmp(a: Assembler): Label {
  const same = a.label();
  const differ = a.label();
  const start = a.here();
  a.mov(rsi, rsi, 4);
  a.xor(rcx, rcx, 4);
  const next = a.here();
  a.cmp(rcx, rsi);
  a.jcc('ae', same);
  a.movzx(rax, mem(rdi, 0, rcx), 1);
  a.movzx(r8, mem(rdx, 0, rcx), 1);
  a.cmp(rax, r8, 4);
  a.jcc('ne', differ);
  a.inc(rcx);
  a.test(rax, rax, 4);
  a.jcc('ne', next);
  a.bind(same);
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(differ);
  // -1 from the borrow, or 0; then 1 instead of 0.
  a.sbb(rax, rax);
  a.or(rax, 1);
  a.ret();
  return start;
}

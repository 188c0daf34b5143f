/** Machine code that copies bytes into a record: forwards, in words, and no byte beyond either end. */

import { type Assembler, type Label, mem, rcx, rdi, rdx, rsi } from '../../../x86/assembler.js';

/** A routine that copies rcx bytes from rsi to rdi. Clobbers rcx, rdx, rsi, rdi. */
export function emitCopyBytes(a: Assembler): Label {
  const tail = a.label();
  a.align(16);
  const start = a.here();
  a.sub(rcx, 8);
  a.jcc('b', tail);
  const word = a.here();
  a.mov(rdx, mem(rsi));
  a.mov(mem(rdi), rdx);
  a.add(rsi, 8);
  a.add(rdi, 8);
  a.sub(rcx, 8);
  a.jcc('ae', word);
  // The low bits of rcx are what is left, also now that it is negative.
  a.bind(tail);
  for (const size of [4, 2, 1] as const) {
    const next = a.label();
    a.test(rcx, size, 1);
    a.jcc('e', next);
    if (size === 4) a.mov(rdx, mem(rsi), 4);
    else a.movzx(rdx, mem(rsi), size);
    a.mov(mem(rdi), rdx, size);
    a.add(rsi, size);
    a.add(rdi, size);
    a.bind(next);
  }
  a.ret();
  return start;
}

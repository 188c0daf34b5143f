/**
 * bpf_probe_read and its kin: reading memory of the process that may not be there. "Kernel" and "user" memory are the
 * same here: the process's. A read that faults yields zeros and -EFAULT; one page is never read for a string that
 * ends before it.
 */

import {
  type Assembler,
  type Label,
  mem,
  type Reg,
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
import { emitAddressCheck, type FixupList } from '../faults/fixup.js';

const WORD = 8;
const ONES = 0x0101_0101_0101_0101n;
const TOPS = 0x8080_8080_8080_8080n;

/** Zeros esi bytes at rdi and returns -EFAULT. Changes rax, rdi, rsi. */
function emitFailed(a: Assembler): void {
  const bytes = a.label();
  const done = a.label();
  a.sub(rsi, WORD);
  a.jcc('b', bytes);
  const words = a.here();
  a.mov(mem(rdi), 0);
  a.add(rdi, WORD);
  a.sub(rsi, WORD);
  a.jcc('ae', words);
  a.bind(bytes);
  a.add(rsi, WORD);
  a.jcc('e', done);
  const byte = a.here();
  a.mov(mem(rdi), 0, 1);
  a.inc(rdi);
  a.dec(rsi);
  a.jcc('ne', byte);
  a.bind(done);
  a.mov(rax, -errnoNumber('EFAULT'));
  a.ret();
}

/**
 * `long probe_read(void *dst, u32 size, const void *src)`: rdi, esi, rdx. Copies words; the last word, or the last
 * part of a small size, overlaps the one before, so that no byte outside is read.
 */
export function emitProbeRead(a: Assembler, fixups: FixupList): Label {
  const bad = a.label();
  const last = a.label();
  const upTo7 = a.label();
  const upTo3 = a.label();
  const upTo1 = a.label();
  const done = a.label();
  /** dst = `size` bytes at src + at [+ index]. */
  const load = (dst: Reg, size: 1 | 2 | 4 | 8, at = 0, index?: Reg): void => {
    fixups.next(a, bad);
    const source = mem(rdx, at, index);
    if (size >= 4) a.mov(dst, source, size);
    else a.movzx(dst, source, size as 1 | 2);
  };
  const start = a.here();
  a.mov(rsi, rsi, 4);
  a.test(rsi, rsi, 4);
  a.jcc('e', done);
  emitAddressCheck(a, rdx, rax, bad);
  a.lea(rcx, mem(rdx, 0, rsi));
  emitAddressCheck(a, rcx, rax, bad, -1);
  a.cmp(rsi, WORD, 4);
  a.jcc('b', upTo7);
  a.lea(r8, mem(rsi, -WORD));
  a.xor(rcx, rcx, 4);
  const words = a.here();
  a.cmp(rcx, r8);
  a.jcc('ae', last);
  load(rax, 8, 0, rcx);
  a.mov(mem(rdi, 0, rcx), rax);
  a.add(rcx, WORD);
  a.jmp(words);
  a.bind(last);
  load(rax, 8, 0, r8);
  a.mov(mem(rdi, 0, r8), rax);
  a.bind(done);
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(upTo7);
  for (const [size, smaller] of [
    [4, upTo3],
    [2, upTo1],
  ] as const) {
    a.cmp(rsi, size, 4);
    a.jcc('b', smaller);
    load(rax, size);
    load(rcx, size, -size, rsi);
    a.mov(mem(rdi), rax, size);
    a.mov(mem(rdi, -size, rsi), rcx, size);
    a.jmp(done);
    a.bind(smaller);
  }
  load(rax, 1);
  a.mov(mem(rdi), rax, 1);
  a.jmp(done);
  a.bind(bad);
  emitFailed(a);
  return start;
}

/**
 * `long probe_read_str(void *dst, u32 size, const void *src)`: rdi, esi, rdx. The length with the null byte, which is
 * always there; at most `size`. 0 for a size of 0. Words are read at multiples of 8 only: none reaches into a page that
 * the string does not.
 */
export function emitProbeReadStr(a: Assembler, fixups: FixupList): Label {
  const [end, begin, ones, tops] = [r8, r9, r10, r11];
  const bad = a.label();
  const empty = a.label();
  const words = a.label();
  const within = a.label();
  const lastWord = a.label();
  const cut = a.label();
  const ended = a.label();
  const start = a.here();
  /** Copies one byte; goes to `ended` behind a null byte. */
  const copyByte = (): void => {
    fixups.next(a, bad);
    a.movzx(rax, mem(rdx), 1);
    a.mov(mem(rdi), rax, 1);
    a.inc(rdi);
    a.test(rax, rax, 4);
    a.jcc('e', ended);
    a.inc(rdx);
  };
  a.mov(rsi, rsi, 4);
  a.mov(begin, rdi);
  a.lea(end, mem(rdi, 0, rsi));
  a.test(rsi, rsi, 4);
  a.jcc('e', empty);
  emitAddressCheck(a, rdx, rax, bad);
  const unaligned = a.here();
  a.test(rdx, WORD - 1, 1);
  a.jcc('e', words);
  copyByte();
  a.cmp(rdi, end);
  a.jcc('b', unaligned);
  a.jmp(cut);

  a.bind(words);
  a.movImm64(ones, ONES);
  a.movImm64(tops, TOPS);
  const word = a.here();
  a.lea(rcx, mem(rdi, WORD));
  a.cmp(rcx, end);
  a.jcc('a', within);
  fixups.next(a, bad);
  a.mov(rax, mem(rdx));
  // A byte is zero where (v - 1) has borrowed and v had no top bit.
  a.mov(rcx, rax);
  a.sub(rcx, ones);
  a.mov(rsi, rax);
  a.not(rsi);
  a.and(rcx, rsi);
  a.test(rcx, tops);
  a.jcc('ne', lastWord);
  a.mov(mem(rdi), rax);
  a.add(rdi, WORD);
  a.add(rdx, WORD);
  a.jmp(word);

  a.bind(lastWord);
  a.mov(mem(rdi), rax, 1);
  a.inc(rdi);
  a.test(rax, rax, 1);
  a.jcc('e', ended);
  a.shr(rax, 8);
  a.jmp(lastWord);

  a.bind(within);
  const tail = a.here();
  a.cmp(rdi, end);
  a.jcc('ae', cut);
  copyByte();
  a.jmp(tail);

  a.bind(cut);
  a.mov(mem(rdi, -1), 0, 1);
  a.bind(ended);
  a.mov(rax, rdi);
  a.sub(rax, begin);
  a.ret();
  a.bind(empty);
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(bad);
  a.mov(rdi, begin);
  a.mov(rsi, end);
  a.sub(rsi, begin);
  emitFailed(a);
  return start;
}

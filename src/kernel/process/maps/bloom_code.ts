/**
 * Machine code of bloom filters: bits that are set and never cleared. One hash of the value gives two halves, and the
 * bits are `low + i * (high | 1)` for each i below the number of hash functions (Kirsch and Mitzenmacher, 2006).
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
import { BLOOM, MAP } from './layout.js';
import { emitMixLongKey, emitMixWord } from './mix.js';
import { emitLoadPadded } from './words_code.js';

export interface BloomRoutines {
  /** rdi = map, rsi = value, rdx = flags, which must be 0 → rax = 0 or -EINVAL. */
  readonly bloomPush: Label;
  /** rdi = map, rsi = value → rax = 0 where the value may be in the map, -ENOENT where it is not. */
  readonly bloomPeek: Label;
}

/** Goes over the bits of the value at rsi: r10 = address of the byte, eax = the bit in it. Clobbers all but rdi, rsi. */
function emitBits(a: Assembler, emitBit: () => void): void {
  const long = a.label();
  const hashed = a.label();
  const whole = a.label();
  const loaded = a.label();
  a.mov(rcx, mem(rdi, MAP.KEY_SIZE), 4);
  a.cmp(rcx, 8, 4);
  a.jcc('e', whole);
  a.jcc('a', long);
  emitLoadPadded(a, r11, rsi, rcx, rax);
  a.jmp(loaded);
  a.bind(whole);
  a.mov(r11, mem(rsi));
  a.bind(loaded);
  emitMixWord(a, r11);
  a.jmp(hashed);
  a.bind(long);
  emitMixLongKey(a);
  a.bind(hashed);
  a.mov(r8, rax, 4);
  a.shr(rax, 32);
  a.or(rax, 1, 4);
  a.mov(r9, rax);
  a.mov(rdx, mem(rdi, BLOOM.HASHES), 4);
  const again = a.here();
  a.mov(r10, r8);
  a.and(r10, mem(rdi, BLOOM.BIT_MASK));
  a.mov(rcx, r10, 4);
  a.and(rcx, 7, 4);
  a.shr(r10, 3);
  a.lea(r10, mem(rdi, BLOOM.BITS, r10));
  a.mov(rax, 1, 4);
  a.shl(rax, 'cl', 4);
  emitBit();
  a.add(r8, r9);
  a.dec(rdx, 4);
  a.jcc('ne', again);
}

export function emitBloomRoutines(a: Assembler): BloomRoutines {
  const invalid = a.label();
  a.align(16);
  const bloomPush = a.here();
  a.test(rdx, rdx);
  a.jcc('ne', invalid);
  emitBits(a, () => {
    const set = a.label();
    a.test(mem(r10), rax, 1);
    a.jcc('ne', set);
    a.lock('or', mem(r10), rax, 1);
    a.bind(set);
  });
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();

  const absent = a.label();
  a.align(16);
  const bloomPeek = a.here();
  emitBits(a, () => {
    a.test(mem(r10), rax, 1);
    a.jcc('e', absent);
  });
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(absent);
  a.mov(rax, -errnoNumber('ENOENT'));
  a.ret();
  return { bloomPush, bloomPeek };
}

/**
 * The hash function of hash maps, for both sides: the key as 64-bit little-endian words, the last one padded
 * with zeros; each is mixed into the state with one 64 × 64 → 128 bit multiplication, whose halves are folded.
 * Every bit of the key reaches the low bits, which choose the bucket. Not for anything that must resist an attacker.
 */

import {
  type Assembler,
  mem,
  type Reg,
  r9,
  r10,
  r11,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
} from '../../../x86/assembler.js';
import { HASH, MAP } from './layout.js';
import { emitLoadPadded } from './words_code.js';

/** 2^64 divided by the golden ratio, odd: no pattern, and as many ones as zeros. */
export const MULTIPLIER = 0x9e3779b97f4a7c15n;

const LOW_64 = 0xffff_ffff_ffff_ffffn;

/** Mixes the `count` words of a key into `seed`. */
export function mixKey(seed: bigint, key: BigUint64Array, count: number): bigint {
  let state = seed;
  for (let i = 0; i < count; i++) {
    const product = (state ^ key[i]!) * MULTIPLIER;
    state = (product & LOW_64) ^ (product >> 64n);
  }
  return state;
}

/** rax = state of the map rdi after the one word in `key`; clobbers rdx. */
export function emitMixWord(a: Assembler, key: Reg): void {
  a.mov(rax, mem(rdi, HASH.SEED));
  a.xor(rax, key);
  a.movImm64(rdx, MULTIPLIER);
  a.mul(rdx);
  a.xor(rax, rdx);
}

/**
 * rax = state of the map rdi after the key at rsi, which is longer than 8 bytes; r11 = its padded last word
 * where the length is no multiple of 8. Clobbers rcx, rdx, r9, r10.
 */
export function emitMixLongKey(a: Assembler): void {
  const done = a.label();
  a.mov(rax, mem(rdi, HASH.SEED));
  a.mov(rcx, mem(rdi, MAP.KEY_SIZE), 4);
  a.mov(r10, rsi);
  a.movImm64(r9, MULTIPLIER);
  const word = a.here();
  a.xor(rax, mem(r10));
  a.mul(r9);
  a.xor(rax, rdx);
  a.add(r10, 8);
  a.sub(rcx, 8, 4);
  a.cmp(rcx, 8, 4);
  a.jcc('ae', word);
  a.test(rcx, rcx, 4);
  a.jcc('e', done);
  emitLoadPadded(a, r11, r10, rcx, rdx);
  a.xor(rax, r11);
  a.mul(r9);
  a.xor(rax, rdx);
  a.bind(done);
}

/** Machine code of strtol (105) and strtoul (106): numbers out of text, by the kernel's rules (`_parse_integer`). */

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
  rsp,
} from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import type { HelperLabels } from './labels.js';

/** Characters that are looked at behind white space and sign. */
const LONGEST = 63;
/** What is left of the flags is the base. */
const BASES = [0, 8, 10, 16] as const;
const BPF_STRTOX_BASE_MASK = 0x1f;

const code = (character: string): number => character.charCodeAt(0);

/** The text from `at` up to `end`; its number, and whether there was a minus sign. */
const [at, end, begin, value, negative, count] = [rdi, r11, r10, r8, r9, rsi];
/** On the stack, while the text is gone through. */
const AT = { base: 0, digit: 8, overflow: 16 } as const;
const FRAME_BYTES = 24;

/** dst = the character `offset` behind `at`, or 0 behind the end. Changes `scratch`. */
function emitPeek(a: Assembler, dst: Reg, offset: number, scratch: Reg): void {
  const none = a.label();
  a.xor(dst, dst, 4);
  a.lea(scratch, mem(at, offset));
  a.cmp(scratch, end);
  a.jcc('ae', none);
  a.movzx(dst, mem(at, offset), 1);
  a.bind(none);
}

/** eax, a character, becomes the value of the digit that it is, up to 15; goes to `other` where it is none. */
function emitDigitValue(a: Assembler, other: Label): void {
  const done = a.label();
  a.sub(rax, code('0'), 4);
  a.cmp(rax, 10, 4);
  a.jcc('b', done);
  a.add(rax, code('0'), 4);
  a.or(rax, 0x20, 4);
  a.sub(rax, code('a'), 4);
  a.cmp(rax, 6, 4);
  a.jcc('ae', other);
  a.add(rax, 10, 4);
  a.bind(done);
}

/** Skips white space (also 0xa0, as the kernel) and a minus sign. */
function emitSkipToNumber(a: Assembler, invalid: Label): void {
  const space = a.label();
  const noSpace = a.label();
  const noSign = a.label();
  const look = a.here();
  a.cmp(at, end);
  a.jcc('ae', invalid);
  a.movzx(rax, mem(at), 1);
  for (const character of [0x20, 0xa0]) {
    a.cmp(rax, character, 4);
    a.jcc('e', space);
  }
  a.sub(rax, code('\t'), 4);
  a.cmp(rax, code('\r') - code('\t'), 4);
  a.jcc('a', noSpace);
  a.bind(space);
  a.inc(at);
  a.jmp(look);
  a.bind(noSpace);
  a.xor(negative, negative, 4);
  a.cmp(mem(at), code('-'), 1);
  a.jcc('ne', noSign);
  a.inc(at);
  a.inc(negative, 4);
  a.bind(noSign);
  a.cmp(at, end);
  a.jcc('ae', invalid);
}

/** Finds the base where it is 0, and skips 0x where it is 16. */
function emitFixBase(a: Assembler): void {
  const known = a.label();
  const isHex = a.label();
  const done = a.label();
  const base = mem(rsp, AT.base);
  a.cmp(base, 0);
  a.jcc('ne', known);
  a.mov(base, 10);
  a.cmp(mem(at), code('0'), 1);
  a.jcc('ne', done);
  a.mov(base, 8);
  emitPeek(a, rax, 1, rdx);
  a.or(rax, 0x20, 4);
  a.cmp(rax, code('x'), 4);
  a.jcc('ne', done);
  emitPeek(a, rax, 2, rdx);
  emitDigitValue(a, done);
  a.mov(base, 16);
  a.jmp(isHex);
  a.bind(known);
  a.cmp(base, 16);
  a.jcc('ne', done);
  a.cmp(mem(at), code('0'), 1);
  a.jcc('ne', done);
  emitPeek(a, rax, 1, rdx);
  a.or(rax, 0x20, 4);
  a.cmp(rax, code('x'), 4);
  a.jcc('ne', done);
  a.bind(isHex);
  a.add(at, 2);
  a.bind(done);
}

/**
 * rdi = text, rsi = its length, rdx = flags → rax = characters used, or -errno; the number in `value`, whether it is
 * below zero in `negative`. Keeps rcx.
 */
function emitParse(a: Assembler): Label {
  const invalid = a.label();
  const good = a.label();
  const short = a.label();
  const ended = a.label();
  const noOverflow = a.label();
  const leave = a.label();
  a.align(16);
  const parse = a.here();
  a.lea(rsp, mem(rsp, -FRAME_BYTES));
  a.mov(mem(rsp, AT.base), rdx);
  a.mov(mem(rsp, AT.overflow), 0);
  a.mov(begin, at);
  a.lea(end, mem(at, 0, rsi));
  a.test(rdx, ~BPF_STRTOX_BASE_MASK);
  a.jcc('ne', invalid);
  for (const base of BASES) {
    a.cmp(rdx, base, 4);
    a.jcc('e', good);
  }
  a.jmp(invalid);
  a.bind(good);
  emitSkipToNumber(a, invalid);
  a.lea(rax, mem(at, LONGEST));
  a.cmp(end, rax);
  a.jcc('be', short);
  a.mov(end, rax);
  a.bind(short);
  emitFixBase(a);

  a.xor(value, value, 4);
  a.xor(count, count, 4);
  const digit = a.here();
  a.cmp(at, end);
  a.jcc('ae', ended);
  a.movzx(rax, mem(at), 1);
  emitDigitValue(a, ended);
  a.cmp(rax, mem(rsp, AT.base));
  a.jcc('ae', ended);
  a.mov(mem(rsp, AT.digit), rax);
  a.mov(rax, value);
  a.mul(mem(rsp, AT.base));
  a.add(rax, mem(rsp, AT.digit));
  a.adc(rdx, 0);
  a.jcc('e', noOverflow);
  a.mov(mem(rsp, AT.overflow), 1);
  a.bind(noOverflow);
  a.mov(value, rax);
  a.inc(at);
  a.inc(count, 4);
  a.jmp(digit);

  a.bind(ended);
  a.test(count, count, 4);
  a.jcc('e', invalid);
  a.mov(rax, at);
  a.sub(rax, begin);
  a.cmp(mem(rsp, AT.overflow), 0);
  a.jcc('e', leave);
  a.mov(rax, -errnoNumber('ERANGE'));
  a.bind(leave);
  a.lea(rsp, mem(rsp, FRAME_BYTES));
  a.ret();
  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.jmp(leave);
  return parse;
}

/**
 * Emits strtol(buf, buf_len, flags, res) and strtoul: how many characters the number takes, -EINVAL where there is none,
 * -ERANGE for one that does not fit. A failure leaves 0 in `*res`.
 */
export function emitStrtol(a: Assembler): HelperLabels {
  const parse = emitParse(a);
  const done = a.label();
  const range = a.label();
  const positive = a.label();
  const store = a.label();

  a.align(16);
  const strtol = a.here();
  a.mov(mem(rcx), 0);
  a.call(parse);
  a.test(rax, rax);
  a.jcc('s', done);
  a.test(negative, negative, 4);
  a.jcc('e', positive);
  a.neg(value);
  a.test(value, value);
  a.jcc('g', range);
  a.jmp(store);
  a.bind(positive);
  a.test(value, value);
  a.jcc('s', range);
  a.bind(store);
  a.mov(mem(rcx), value);
  a.bind(done);
  a.ret();
  a.bind(range);
  a.mov(rax, -errnoNumber('ERANGE'));
  a.ret();

  a.align(16);
  const strtoul = a.here();
  a.mov(mem(rcx), 0);
  a.call(parse);
  a.test(rax, rax);
  a.jcc('s', done);
  a.test(negative, negative, 4);
  a.jcc('e', store);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();
  return new Map([
    ['helper_105', strtol],
    ['helper_106', strtoul],
  ]);
}

/**
 * A printf in machine code: what trace_printk, trace_vprintk and snprintf print with, by the rules of format_check.ts.
 * One pass over the format; what does not fit is counted and not written. Strings and addresses come from memory of the
 * process that may not be there: a string that faults is empty, an address that faults is zero, as in the kernel.
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
  rsp,
} from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { emitAddressCheck, type FixupList } from '../faults/fixup.js';

/** The most characters of one string (the kernel copies all strings of a call into 512 bytes). */
const LONGEST_STRING = 511;
/** Wider fields are cut to this (FIELD_WIDTH_MAX). */
const WIDEST = 0x7f_ffff;
/** Digits of an address printed with %p or %px. */
const ADDRESS_DIGITS = 16;

/** In front of a symbol's address in the trace log: the reader puts the symbol's name there. Behind it, s, S or B. */
export const SYMBOL_MARK = 1;

/** Where things are from rsp on, while the routine runs. */
const AT = { args: 0, nargs: 8, sign: 16, mark: 24, start: 32, address: 40, text: 56, end: 112 } as const;
const FRAME_BYTES = 120;

const FLAG = { left: 1, zero: 2, plus: 4, space: 8, upper: 16 } as const;

const code = (character: string): number => character.charCodeAt(0);

/** The formatter's registers: written up to `out`, which goes on beyond `limit`; `fmt` is the next of the format. */
const [out, limit, fmt, flags, value, width] = [rdi, r11, rsi, r8, r9, r10];

/** What the pieces below share. */
interface Formatter {
  readonly a: Assembler;
  readonly fixups: FixupList;
  /** The next character of the format. */
  readonly next: Label;
  readonly invalid: Label;
  /** Prints rcx characters at r9, behind the sign, in a field as wide as it says; goes to `next`. */
  readonly field: Label;
  /** Subroutine: r9 = the digits of rax to base rcx; changes rax, rdx. */
  readonly digits: Label;
}

/** Goes to `target` where the character in eax is a letter or a digit. Changes rcx. */
function emitIfAlphanumeric(a: Assembler, target: Label): void {
  a.mov(rcx, rax, 4);
  a.or(rcx, 0x20, 4);
  a.sub(rcx, code('a'), 4);
  a.cmp(rcx, 26, 4);
  a.jcc('b', target);
  a.lea(rcx, mem(rax, -code('0')), 4);
  a.cmp(rcx, 10, 4);
  a.jcc('b', target);
}

function emitGoIf(a: Assembler, cases: Readonly<Record<string, Label>>): void {
  for (const [character, target] of Object.entries(cases)) {
    a.cmp(rax, code(character), 1);
    a.jcc('e', target);
  }
}

/** Writes al at `out`, if that is before `limit`. */
function emitPut(a: Assembler): void {
  const beyond = a.label();
  a.cmp(out, limit);
  a.jcc('ae', beyond);
  a.mov(mem(out), rax, 1);
  a.bind(beyond);
  a.inc(out);
}

/** Subroutine: writes al rdx times, not at all where rdx is below 1. Changes rdx, which is then below 1. */
function emitPad(a: Assembler): Label {
  const done = a.label();
  const beyond = a.label();
  const pad = a.here();
  a.test(rdx, rdx);
  a.jcc('le', done);
  const again = a.here();
  a.cmp(out, limit);
  a.jcc('ae', beyond);
  a.mov(mem(out), rax, 1);
  a.inc(out);
  a.dec(rdx);
  a.jcc('ne', again);
  a.bind(done);
  a.ret();
  a.bind(beyond);
  a.add(out, rdx);
  a.xor(rdx, rdx, 4);
  a.ret();
  return pad;
}

function emitDigits(a: Assembler): Label {
  const decimal = a.label();
  const store = a.label();
  const digits = a.here();
  // Its own return address is on the stack.
  a.lea(value, mem(rsp, AT.end + 8));
  const again = a.here();
  a.xor(rdx, rdx, 4);
  a.div(rcx);
  a.cmp(rdx, 10, 4);
  a.jcc('b', decimal);
  a.add(rdx, code('a') - 10, 4);
  a.test(flags, FLAG.upper, 4);
  a.jcc('e', store);
  a.sub(rdx, 0x20, 4);
  a.jmp(store);
  a.bind(decimal);
  a.add(rdx, code('0'), 4);
  a.bind(store);
  a.dec(value);
  a.mov(mem(value), rdx, 1);
  a.test(rax, rax);
  a.jcc('ne', again);
  a.ret();
  return digits;
}

/**
 * [spaces] sign [zeros] characters [spaces]: rdx is the room left for padding, and below 1 once something padded. The
 * characters may be a string's, so that reading them may fault.
 */
function emitField({ a, fixups, field, next }: Formatter, pad: Label): void {
  const noSign = a.label();
  const signed = a.label();
  const copied = a.label();
  const got = a.label();
  const zeros = a.label();
  const copy = a.label();
  a.bind(field);
  a.mov(rdx, width);
  a.sub(rdx, rcx);
  a.cmp(mem(rsp, AT.sign), 0, 1);
  a.jcc('e', noSign);
  a.dec(rdx);
  a.bind(noSign);
  a.test(flags, FLAG.left | FLAG.zero, 4);
  a.jcc('ne', signed);
  a.mov(rax, code(' '), 4);
  a.call(pad);
  a.bind(signed);
  a.movzx(rax, mem(rsp, AT.sign), 1);
  a.test(rax, rax, 4);
  a.jcc('e', zeros);
  emitPut(a);
  a.bind(zeros);
  a.test(flags, FLAG.left, 4);
  a.jcc('ne', copy);
  a.mov(rax, code('0'), 4);
  a.call(pad);
  a.bind(copy);
  a.test(rcx, rcx);
  a.jcc('e', copied);
  const again = a.here();
  fixups.next(a, got, rax);
  a.movzx(rax, mem(value), 1);
  a.bind(got);
  emitPut(a);
  a.inc(value);
  a.dec(rcx);
  a.jcc('ne', again);
  a.bind(copied);
  a.mov(rax, code(' '), 4);
  a.call(pad);
  a.jmp(next);
}

/** Takes flags and width, then goes where the conversion's letter says. */
function emitConversion(f: Formatter): void {
  const { a, invalid } = f;
  const args = mem(rsp, AT.args);
  const flagTaken = a.label();
  const widthDone = a.label();
  a.cmp(mem(rsp, AT.nargs), 0, 4);
  a.jcc('e', invalid);
  a.dec(mem(rsp, AT.nargs), 4);
  a.mov(rcx, args);
  a.mov(value, mem(rcx));
  a.add(args, 8);
  a.mov(mem(rsp, AT.sign), 0);
  a.xor(flags, flags, 4);
  a.xor(width, width, 4);

  const flag = a.here();
  a.movzx(rax, mem(fmt), 1);
  for (const [character, bit] of [
    ['-', FLAG.left],
    ['0', FLAG.zero],
    ['+', FLAG.plus],
    [' ', FLAG.space],
  ] as const) {
    a.mov(rdx, bit, 4);
    emitGoIf(a, { [character]: flagTaken });
  }
  a.jmp(widthDone);
  a.bind(flagTaken);
  a.or(flags, rdx, 4);
  a.inc(fmt);
  a.jmp(flag);

  const digit = a.here();
  a.imul3(width, width, 10);
  a.add(width, rcx);
  a.inc(fmt);
  a.cmp(width, WIDEST);
  a.jcc('be', widthDone);
  a.mov(width, WIDEST, 4);
  a.bind(widthDone);
  a.movzx(rax, mem(fmt), 1);
  a.lea(rcx, mem(rax, -code('0')), 4);
  a.cmp(rcx, 10, 4);
  a.jcc('b', digit);

  const string = a.label();
  emitLetters(f, string);
  emitString(f, string);
}

function emitLetters(f: Formatter, string: Label): void {
  const { a, invalid, field } = f;
  const character = a.label();
  const pointer = a.label();
  const stringLetter = a.label();
  const long = a.label();
  const integer = a.label();
  a.inc(fmt);
  emitGoIf(a, { s: stringLetter, p: pointer, c: character });
  a.xor(rdx, rdx, 4);
  emitGoIf(a, { l: long });
  a.jmp(integer);
  a.bind(long);
  a.mov(rdx, 1, 4);
  a.movzx(rax, mem(fmt), 1);
  a.inc(fmt);
  a.cmp(rax, code('l'), 1);
  a.jcc('ne', integer);
  a.movzx(rax, mem(fmt), 1);
  a.inc(fmt);
  a.bind(integer);
  emitInteger(f);

  // Any byte, also a zero.
  a.bind(character);
  a.mov(mem(rsp, AT.text), value, 1);
  a.lea(value, mem(rsp, AT.text));
  a.mov(rcx, 1, 4);
  a.and(flags, FLAG.left, 4);
  a.jmp(field);

  a.bind(stringLetter);
  a.movzx(rax, mem(fmt), 1);
  emitIfAlphanumeric(a, invalid);
  a.jmp(string);

  a.bind(pointer);
  emitPointer(f, string);
}

/** An integer: eax its letter, rdx whether it is long, r9 the value. */
function emitInteger({ a, invalid, field, digits }: Formatter): void {
  const signed = a.label();
  const signedLong = a.label();
  const upper = a.label();
  const hexadecimal = a.label();
  const unsigned = a.label();
  const plus = a.label();
  const signDone = a.label();
  const unsignedLong = a.label();
  const print = a.label();
  a.mov(rcx, 10, 4);
  emitGoIf(a, { d: signed, i: signed, u: unsigned });
  a.mov(rcx, 16, 4);
  emitGoIf(a, { x: hexadecimal, X: upper });
  a.jmp(invalid);

  a.bind(signed);
  a.test(rdx, rdx, 4);
  a.jcc('ne', signedLong);
  a.movsx(value, value, 4);
  a.bind(signedLong);
  a.test(value, value);
  a.jcc('ns', plus);
  a.neg(value);
  a.mov(mem(rsp, AT.sign), code('-'), 1);
  a.jmp(print);
  a.bind(plus);
  a.mov(rax, code('+'), 4);
  a.test(flags, FLAG.plus, 4);
  a.jcc('ne', signDone);
  a.test(flags, FLAG.space, 4);
  a.jcc('e', print);
  a.mov(rax, code(' '), 4);
  a.bind(signDone);
  a.mov(mem(rsp, AT.sign), rax, 1);
  a.jmp(print);

  a.bind(upper);
  a.or(flags, FLAG.upper, 4);
  a.bind(hexadecimal);
  a.bind(unsigned);
  a.test(rdx, rdx, 4);
  a.jcc('ne', unsignedLong);
  a.mov(value, value, 4);
  a.bind(unsignedLong);
  a.bind(print);
  a.mov(rax, value);
  a.call(digits);
  a.lea(rcx, mem(rsp, AT.end));
  a.sub(rcx, value);
  a.jmp(field);
}

/** What follows %p. */
function emitPointer(f: Formatter, string: Label): void {
  const { a, invalid, field, digits } = f;
  const plain = a.label();
  const copied = a.label();
  const symbol = a.label();
  const address = a.label();
  const widthGiven = a.label();
  const noMark = a.label();
  const alphanumeric = a.label();
  a.movzx(rax, mem(fmt), 1);
  emitIfAlphanumeric(a, alphanumeric);
  a.jmp(plain);
  a.bind(alphanumeric);
  a.inc(fmt);
  emitGoIf(a, { x: plain, K: plain, s: symbol, S: symbol, B: symbol, i: address, I: address });
  emitGoIf(a, { k: copied, u: copied });
  a.jmp(invalid);

  // A string, of kernel or user memory: the same here.
  a.bind(copied);
  a.cmp(mem(fmt), code('s'), 1);
  a.jcc('ne', invalid);
  a.inc(fmt);
  a.movzx(rax, mem(fmt), 1);
  emitIfAlphanumeric(a, invalid);
  a.jmp(string);

  a.bind(plain);
  a.test(width, width, 4);
  a.jcc('ne', widthGiven);
  a.mov(width, ADDRESS_DIGITS, 4);
  a.or(flags, FLAG.zero, 4);
  a.bind(widthGiven);
  a.mov(rax, value);
  a.mov(rcx, 16, 4);
  a.call(digits);
  emitSkipAlphanumeric(a);
  a.lea(rcx, mem(rsp, AT.end));
  a.sub(rcx, value);
  a.jmp(field);

  // There are no symbols here: the address, with a mark for a reader who has them.
  a.bind(symbol);
  a.mov(mem(rsp, AT.sign + 1), rax, 1);
  a.mov(rax, value);
  a.mov(rcx, 16, 4);
  a.call(digits);
  a.sub(value, 2);
  a.mov(mem(value), code('0') | (code('x') << 8), 2);
  a.cmp(mem(rsp, AT.mark), 0, 4);
  a.jcc('e', noMark);
  a.movzx(rax, mem(rsp, AT.sign + 1), 1);
  a.sub(value, 2);
  a.mov(mem(value), SYMBOL_MARK, 1);
  a.mov(mem(value, 1), rax, 1);
  a.bind(noMark);
  emitSkipAlphanumeric(a);
  a.lea(rcx, mem(rsp, AT.end));
  a.sub(rcx, value);
  a.and(flags, FLAG.left, 4);
  a.jmp(field);

  a.bind(address);
  emitNetworkAddress(f);
}

/** Letters and digits behind a pointer's conversion belong to it. Changes rax, rcx. */
function emitSkipAlphanumeric(a: Assembler): void {
  const skip = a.label();
  const look = a.label();
  a.jmp(look);
  a.bind(skip);
  a.inc(fmt);
  a.bind(look);
  a.movzx(rax, mem(fmt), 1);
  emitIfAlphanumeric(a, skip);
}

/** %pi4, %pI4, %pi6, %pI6: al is i or I, r9 where the address is. */
function emitNetworkAddress({ a, fixups, invalid, field }: Formatter): void {
  const six = a.label();
  const zero = a.label();
  const got = a.label();
  const print = a.label();
  const [low, high] = [mem(rsp, AT.address), mem(rsp, AT.address + 8)];
  a.mov(mem(rsp, AT.sign + 1), rax, 1);
  a.mov(low, 0);
  a.mov(high, 0);
  a.movzx(rax, mem(fmt), 1);
  a.inc(fmt);
  a.cmp(rax, code('6'), 1);
  a.jcc('e', six);
  a.cmp(rax, code('4'), 1);
  a.jcc('ne', invalid);
  emitAddressCheck(a, value, rcx, got);
  fixups.next(a, got);
  a.mov(rcx, mem(value), 4);
  a.mov(low, rcx);
  a.jmp(got);
  a.bind(six);
  emitAddressCheck(a, value, rcx, got);
  fixups.next(a, zero);
  a.mov(rcx, mem(value));
  fixups.next(a, zero);
  a.mov(rdx, mem(value, 8));
  a.mov(low, rcx);
  a.mov(high, rdx);
  a.bind(zero);
  a.bind(got);

  // r9 goes over the address, r10 over the text, whose width waits on the stack.
  a.push(width);
  const [from, to] = [value, width];
  const onStack = 8;
  a.lea(from, mem(rsp, AT.address + onStack));
  a.lea(to, mem(rsp, AT.text + onStack));
  const isSix = a.label();
  a.cmp(rax, code('6'), 1);
  a.jcc('e', isSix);
  emitFour(a, from, to, mem(rsp, AT.sign + 1 + onStack));
  a.jmp(print);
  a.bind(isSix);
  emitSix(a, from, to, mem(rsp, AT.sign + 1 + onStack));
  a.bind(print);
  a.mov(rcx, to);
  a.lea(value, mem(rsp, AT.text + onStack));
  a.sub(rcx, value);
  a.pop(width);
  a.push(rcx);
  emitSkipAlphanumeric(a);
  a.pop(rcx);
  // A sign of its own it has not; the letter was kept beside.
  a.and(flags, FLAG.left, 4);
  a.jmp(field);
}

/** 192.168.0.1, or with `i` 192.168.000.001. Changes rax, rcx, rdx. */
function emitFour(a: Assembler, from: Reg, to: Reg, letter: ReturnType<typeof mem>): void {
  const tens = a.label();
  const hundreds = a.label();
  const ones = a.label();
  const done = a.label();
  const octet = a.here();
  a.movzx(rax, mem(from), 1);
  a.xor(rdx, rdx, 4);
  a.mov(rcx, 100, 4);
  a.div(rcx, 4);
  a.test(rax, rax, 4);
  a.jcc('ne', hundreds);
  a.cmp(letter, code('I'), 1);
  a.jcc('ne', hundreds);
  a.mov(rax, rdx, 4);
  a.cmp(rax, 10, 4);
  a.jcc('b', ones);
  a.jmp(tens);
  a.bind(hundreds);
  a.add(rax, code('0'), 4);
  a.mov(mem(to), rax, 1);
  a.inc(to);
  a.mov(rax, rdx, 4);
  a.bind(tens);
  a.xor(rdx, rdx, 4);
  a.mov(rcx, 10, 4);
  a.div(rcx, 4);
  a.add(rax, code('0'), 4);
  a.mov(mem(to), rax, 1);
  a.inc(to);
  a.mov(rax, rdx, 4);
  a.bind(ones);
  a.add(rax, code('0'), 4);
  a.mov(mem(to), rax, 1);
  a.inc(to);
  a.inc(from);
  // The address has 4 bytes at 8 * n: its end is known by its place on the stack.
  a.lea(rax, mem(rsp, AT.address + 8 + 4));
  a.cmp(from, rax);
  a.jcc('e', done);
  a.mov(mem(to), code('.'), 1);
  a.inc(to);
  a.jmp(octet);
  a.bind(done);
}

/** 0001:0002:…, or with `i` without the colons. Changes rax, rcx, rdx. */
function emitSix(a: Assembler, from: Reg, to: Reg, letter: ReturnType<typeof mem>): void {
  const done = a.label();
  const byte = a.here();
  a.movzx(rdx, mem(from), 1);
  for (const shift of [4, 0]) {
    const decimal = a.label();
    a.mov(rax, rdx, 4);
    if (shift > 0) a.shr(rax, shift, 4);
    a.and(rax, 15, 4);
    a.add(rax, code('0'), 4);
    a.cmp(rax, code('9'), 4);
    a.jcc('be', decimal);
    a.add(rax, code('a') - 10 - code('0'), 4);
    a.bind(decimal);
    a.mov(mem(to), rax, 1);
    a.inc(to);
  }
  a.inc(from);
  a.lea(rax, mem(rsp, AT.address + 8 + 16));
  a.cmp(from, rax);
  a.jcc('e', done);
  // A colon behind each second byte.
  a.mov(rax, from, 4);
  a.lea(rcx, mem(rsp, AT.address + 8));
  a.sub(rax, rcx, 4);
  a.test(rax, 1, 1);
  a.jcc('ne', byte);
  a.cmp(letter, code('I'), 1);
  a.jcc('ne', byte);
  a.mov(mem(to), code(':'), 1);
  a.inc(to);
  a.jmp(byte);
  a.bind(done);
}

/** A string at r9, measured first; empty where it can't be read. */
function emitString({ a, fixups, field }: Formatter, string: Label): void {
  const unreadable = a.label();
  const measured = a.label();
  a.bind(string);
  a.and(flags, FLAG.left, 4);
  emitAddressCheck(a, value, rcx, unreadable);
  a.xor(rcx, rcx, 4);
  const look = a.here();
  fixups.next(a, unreadable);
  a.cmp(mem(value, 0, rcx), 0, 1);
  a.jcc('e', measured);
  a.inc(rcx);
  a.cmp(rcx, LONGEST_STRING);
  a.jcc('b', look);
  a.bind(measured);
  a.jmp(field);
  a.bind(unreadable);
  a.xor(rcx, rcx, 4);
  a.jmp(field);
}

/**
 * Emits the routine: rdi = where to, rsi = bytes there, rdx = format, rcx = arguments (u64 each), r8d = how many,
 * r9d = 1 to mark symbols → rax = characters that it makes, without the zero byte behind them (which is written where
 * there are any bytes), or -EINVAL. Clobbers what a helper may.
 */
export function emitFormat(a: Assembler, fixups: FixupList): Label {
  const pad = emitPad(a);
  const digits = emitDigits(a);
  const f: Formatter = { a, fixups, digits, next: a.label(), invalid: a.label(), field: a.label() };
  const finish = a.label();
  const percent = a.label();
  const leave = a.label();
  const full = a.label();
  const plain = a.label();
  const conversion = a.label();

  a.align(16);
  const start = a.here();
  a.lea(rsp, mem(rsp, -FRAME_BYTES));
  a.mov(mem(rsp, AT.args), rcx);
  a.mov(mem(rsp, AT.nargs), r8);
  a.mov(mem(rsp, AT.mark), r9);
  a.mov(mem(rsp, AT.start), out);
  a.lea(limit, mem(rdi, 0, rsi));
  a.mov(fmt, rdx);

  a.bind(f.next);
  a.movzx(rax, mem(fmt), 1);
  a.inc(fmt);
  a.test(rax, rax, 4);
  a.jcc('e', finish);
  a.cmp(rax, code('%'), 4);
  a.jcc('e', percent);
  a.lea(rcx, mem(rax, -0x20), 4);
  a.cmp(rcx, 0x7e - 0x20, 4);
  a.jcc('be', plain);
  a.lea(rcx, mem(rax, -code('\t')), 4);
  a.cmp(rcx, code('\r') - code('\t'), 4);
  a.jcc('a', f.invalid);
  a.bind(plain);
  emitPut(a);
  a.jmp(f.next);

  a.bind(percent);
  a.cmp(mem(fmt), rax, 1);
  a.jcc('ne', conversion);
  a.inc(fmt);
  a.jmp(plain);
  a.bind(conversion);
  emitConversion(f);
  emitField(f, pad);

  a.bind(finish);
  a.mov(rax, out);
  a.mov(rcx, mem(rsp, AT.start));
  a.sub(rax, rcx);
  a.cmp(limit, rcx);
  a.jcc('e', leave);
  a.cmp(out, limit);
  a.jcc('ae', full);
  a.mov(mem(out), 0, 1);
  a.jmp(leave);
  a.bind(full);
  a.mov(mem(limit, -1), 0, 1);
  a.bind(leave);
  a.lea(rsp, mem(rsp, FRAME_BYTES));
  a.ret();
  a.bind(f.invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.jmp(leave);
  return start;
}

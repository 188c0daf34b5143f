/** Encoding, decoding and disassembly against clang and llvm-objdump, and against each other. */

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { BpfError } from '../kernel/errno.js';
import { ProgramBuilder, R0, R1, R2, R10 } from './builder.js';
import { disassemble, disassembleInstruction } from './disassemble.js';
import { decodeProgram, encodeProgram } from './encoding.js';
import { CALL, CLASS, JMP, loadImmediate64, PSEUDO } from './instruction.js';
import { operationOf } from './operation.js';

const directory = mkdtempSync(join(tmpdir(), 'multitrace-bpf-'));
afterAll(() => rmSync(directory, { recursive: true }));

function installed(command: string): boolean {
  return spawnSync(command, ['--version']).status === 0;
}
const tools = ['clang-19', 'llvm-objdump-19', 'llvm-objcopy-19'];
const missing = tools.filter(command => !installed(command));
const because = missing.length > 0 ? ` (skipped: ${missing.join(', ')} not installed)` : '';

/** Every kind of instruction, as clang's assembler reads it, and what the kernel prints for it. */
const SYNTAX: readonly (readonly [string, string])[] = [
  ['r1 += r2', 'r1 += r2'],
  ['w1 += 5', 'w1 += 5'],
  ['r1 -= -7', 'r1 -= -7'],
  ['r1 *= r2', 'r1 *= r2'],
  ['r1 /= 3', 'r1 /= 3'],
  ['w1 %= w2', 'w1 %= w2'],
  ['r1 s/= r2', 'r1 s/= r2'],
  ['w1 s/= 3', 'w1 s/= 3'],
  ['r1 s%= 3', 'r1 s%= 3'],
  ['w1 s%= w2', 'w1 s%= w2'],
  ['r1 |= 255', 'r1 |= 255'],
  ['w1 &= w2', 'w1 &= w2'],
  ['r1 ^= r2', 'r1 ^= r2'],
  ['r1 <<= 3', 'r1 <<= 3'],
  ['w1 >>= w2', 'w1 >>= w2'],
  ['r1 s>>= r2', 'r1 s>>= r2'],
  ['r1 = -r1', 'r1 = -r1'],
  ['w1 = -w1', 'w1 = -w1'],
  ['r1 = r2', 'r1 = r2'],
  ['w1 = -1', 'w1 = -1'],
  ['r1 = (s8)r2', 'r1 = (s8)r2'],
  ['r1 = (s16)r2', 'r1 = (s16)r2'],
  ['r1 = (s32)r2', 'r1 = (s32)r2'],
  ['w1 = (s8)w2', 'w1 = (s8)w2'],
  ['w1 = (s16)w2', 'w1 = (s16)w2'],
  ['r1 = bswap16 r1', 'r1 = bswap16 r1'],
  ['r1 = bswap32 r1', 'r1 = bswap32 r1'],
  ['r1 = bswap64 r1', 'r1 = bswap64 r1'],
  ['r1 = be16 r1', 'r1 = be16 r1'],
  ['r1 = be64 r1', 'r1 = be64 r1'],
  ['r1 = le32 r1', 'r1 = le32 r1'],
  ['r1 = 0x123456789abcdef0 ll', 'r1 = 0x123456789abcdef0'],
  ['r1 = *(u8 *)(r2 + 1)', 'r1 = *(u8 *)(r2 +1)'],
  ['r1 = *(u16 *)(r2 + 0)', 'r1 = *(u16 *)(r2 +0)'],
  ['r1 = *(u32 *)(r2 - 4)', 'r1 = *(u32 *)(r2 -4)'],
  ['r1 = *(u64 *)(r2 - 8)', 'r1 = *(u64 *)(r2 -8)'],
  ['r1 = *(s8 *)(r2 + 8)', 'r1 = *(s8 *)(r2 +8)'],
  ['r1 = *(s16 *)(r2 + 8)', 'r1 = *(s16 *)(r2 +8)'],
  ['r1 = *(s32 *)(r2 + 8)', 'r1 = *(s32 *)(r2 +8)'],
  ['*(u8 *)(r10 - 1) = 7', '*(u8 *)(r10 -1) = 7'],
  ['*(u64 *)(r10 - 16) = -7', '*(u64 *)(r10 -16) = -7'],
  ['*(u16 *)(r10 - 2) = r3', '*(u16 *)(r10 -2) = r3'],
  ['*(u32 *)(r10 - 4) = r3', '*(u32 *)(r10 -4) = r3'],
  ['lock *(u64 *)(r1 + 0) += r2', 'lock *(u64 *)(r1 +0) += r2'],
  ['lock *(u32 *)(r1 + 4) += w2', 'lock *(u32 *)(r1 +4) += r2'],
  ['lock *(u64 *)(r1 + 0) |= r2', 'lock *(u64 *)(r1 +0) |= r2'],
  ['lock *(u64 *)(r1 + 0) &= r2', 'lock *(u64 *)(r1 +0) &= r2'],
  ['lock *(u32 *)(r1 + 0) ^= w2', 'lock *(u32 *)(r1 +0) ^= r2'],
  ['r2 = atomic_fetch_add((u64 *)(r1 + 0), r2)', 'r2 = atomic64_fetch_add((u64 *)(r1 +0), r2)'],
  ['w2 = atomic_fetch_or((u32 *)(r1 + 0), w2)', 'w2 = atomic_fetch_or((u32 *)(r1 +0), w2)'],
  ['r2 = atomic_fetch_and((u64 *)(r1 + 0), r2)', 'r2 = atomic64_fetch_and((u64 *)(r1 +0), r2)'],
  ['r2 = atomic_fetch_xor((u64 *)(r1 + 0), r2)', 'r2 = atomic64_fetch_xor((u64 *)(r1 +0), r2)'],
  ['r2 = xchg_64(r1 + 0, r2)', 'r2 = atomic64_xchg((u64 *)(r1 +0), r2)'],
  ['w2 = xchg32_32(r1 + 0, w2)', 'w2 = atomic_xchg((u32 *)(r1 +0), w2)'],
  ['r0 = cmpxchg_64(r1 + 8, r0, r2)', 'r0 = atomic64_cmpxchg((u64 *)(r1 +8), r0, r2)'],
  ['w0 = cmpxchg32_32(r1 + 8, w0, w2)', 'w0 = atomic_cmpxchg((u32 *)(r1 +8), w0, w2)'],
  ['if r0 == 0 goto +1', 'if r0 == 0x0 goto pc+1'],
  ['if r1 != r2 goto -3', 'if r1 != r2 goto pc-3'],
  ['if r1 > 5 goto +0', 'if r1 > 0x5 goto pc+0'],
  ['if r1 >= r2 goto +0', 'if r1 >= r2 goto pc+0'],
  ['if w1 < 5 goto +0', 'if w1 < 0x5 goto pc+0'],
  ['if w1 <= w2 goto +0', 'if w1 <= w2 goto pc+0'],
  ['if w0 s> -5 goto +0', 'if w0 s> 0xfffffffb goto pc+0'],
  ['if r1 s>= r2 goto +0', 'if r1 s>= r2 goto pc+0'],
  ['if r1 s< 1 goto +0', 'if r1 s< 0x1 goto pc+0'],
  ['if r1 s<= r2 goto +0', 'if r1 s<= r2 goto pc+0'],
  ['if r1 & r2 goto +0', 'if r1 & r2 goto pc+0'],
  ['if r1 & 8 goto +0', 'if r1 & 0x8 goto pc+0'],
  ['goto +2', 'goto pc+2'],
  ['gotol -2', 'gotol pc-2'],
  ['call 1', 'call bpf_map_lookup_elem#1'],
  ['call 9999', 'call unknown#9999'],
  ['r0 = *(u32 *)skb[14]', 'r0 = *(u32 *)skb[14]'],
  ['r0 = *(u16 *)skb[r1]', 'r0 = *(u16 *)skb[r1 + 0]'],
  ['exit', 'exit'],
];

function compile(name: string, source: string, language: 'assembler' | 'c'): string {
  const from = join(directory, `${name}.${language === 'c' ? 'c' : 's'}`);
  const object = join(directory, `${name}.o`);
  writeFileSync(from, source);
  const flags = ['-target', 'bpf', '-mcpu=v4', '-O2', '-c', from, '-o', object];
  execFileSync('clang-19', flags);
  return object;
}

function textOf(object: string): Uint8Array {
  const raw = `${object}.bin`;
  execFileSync('llvm-objcopy-19', ['-O', 'binary', '--only-section=.text', object, raw]);
  return readFileSync(raw);
}

/** What llvm-objdump prints, brought to the kernel's way of writing the same. */
function normalised(line: string): string {
  return line
    .replace(/ <.*>$/, '')
    .replace(/ ll$/, '')
    .replace(/ \+ (-?0x[0-9a-f]+)\)/g, (_, n: string) => ` +${Number(n)})`)
    .replace(/ - (0x[0-9a-f]+)\)/g, (_, n: string) => ` -${Number(n)})`)
    .replace(
      /goto (gotol)? ?([+-])(0x[0-9a-f]+)/,
      (_, _l, sign: string, n: string) => `goto pc${sign}${Number(n)}`,
    )
    .replace(/gotol ([+-])(0x[0-9a-f]+)/, (_, sign: string, n: string) => `gotol pc${sign}${Number(n)}`)
    .replace(/^(if .* )(-?0x[0-9a-f]+)( goto)/, (_, a: string, n: string, b: string) => {
      const value = n.startsWith('-') ? -Number(n.slice(1)) : Number(n);
      return `${a}0x${(value >>> 0).toString(16)}${b}`;
    })
    .replace(
      /^((?:[rw]\d+|\*\(.*\)) \S*=) (-?)(0x[0-9a-f]{1,8})$/,
      (_, a: string, sign: string, n: string) => {
        return `${a} ${sign}${Number(n)}`;
      },
    );
}

describe.skipIf(missing.length > 0)(`against clang${because}`, () => {
  test('every instruction that clang assembles is decoded, printed as the kernel does, and encoded again', () => {
    const bytes = textOf(compile('syntax', `${SYNTAX.map(([source]) => source).join('\n')}\n`, 'assembler'));
    const insns = decodeProgram(bytes);
    expect(insns.map(insn => disassembleInstruction(insn))).toEqual(SYNTAX.map(([, printed]) => printed));
    expect(Buffer.from(encodeProgram(insns)).equals(bytes)).toBe(true);
  });

  test('a compiled program prints as llvm-objdump prints it', () => {
    const source = `
      typedef unsigned long u64; typedef unsigned int u32; typedef int s32; typedef short s16; typedef signed char s8;
      struct state { u64 total; s32 least; s16 small[8]; s8 tiny; u64 big[64]; };
      u64 mix(u64 *ctx, struct state *s) {
        u64 a = ctx[0]; s32 b = (s32)ctx[1]; s8 c = (s8)ctx[2];
        for (int i = 0; i < 8; i++) { a = a * 31 + s->small[i]; if (b > (s32)a) b -= c; else b /= (c | 1); }
        s->total += a; s->least = b % 1000; s->tiny = (s8)(a >> 7);
        __sync_fetch_and_add(&s->big[b & 63], a);
        if (__sync_val_compare_and_swap(&s->total, 5, a) == 5) a = __builtin_bswap64(a);
        if ((s64_t)a < -5) a = ~a;
        return a ^ (u32)b ^ 0x123456789abcdefUL;
      }`.replace('s64_t', 'long');
    const object = compile('program', source, 'c');
    const listing = execFileSync('llvm-objdump-19', ['-d', '--no-show-raw-insn', object], {
      encoding: 'utf8',
    });
    const theirs = [...listing.matchAll(/^\s+\d+:\s+(.*)$/gm)].map(match => normalised(match[1] as string));
    const ours = decodeProgram(textOf(object)).map(insn => disassembleInstruction(insn));
    const atomics = (line: string): boolean => !/atomic|cmpxchg/.test(line);
    expect(ours.length).toBeGreaterThan(60);
    expect(ours.filter(atomics)).toEqual(theirs.filter(atomics));
  });

  test('what the builder writes is what clang assembles', () => {
    const p = new ProgramBuilder();
    const out = p.label();
    p.mov(R2, R1).add(R2, -8).load(8, R0, R2, 16).jump('eq', R0, 0, out).jump32('sgt', R0, R2, out);
    p.store(4, R10, -4, 7).store(8, R10, -16, R0).atomicFetchXor(8, R10, -16, R0).loadSigned(2, R0, R10, -16);
    p.ldImm64(R1, 0xfedcba9876543210n).smod32(R1, 7).movsx(16, R1, R1).be(32, R1).bind(out).call(5).exit();
    const source = [
      'r2 = r1',
      'r2 += -8',
      'r0 = *(u64 *)(r2 + 16)',
      'if r0 == 0 goto out',
      'if w0 s> w2 goto out',
      '*(u32 *)(r10 - 4) = 7',
      '*(u64 *)(r10 - 16) = r0',
      'r0 = atomic_fetch_xor((u64 *)(r10 - 16), r0)',
      'r0 = *(s16 *)(r10 - 16)',
      'r1 = 0xfedcba9876543210 ll',
      'w1 s%= 7',
      'r1 = (s16)r1',
      'r1 = be32 r1',
      'out: call 5',
      'exit',
    ];
    const bytes = textOf(compile('builder', `${source.join('\n')}\n`, 'assembler'));
    expect(Buffer.from(encodeProgram(p.build())).toString('hex')).toBe(Buffer.from(bytes).toString('hex'));
  });
});

describe('encoding', () => {
  test('every opcode either means something or is refused, and comes back as it was', () => {
    let known = 0;
    for (let opcode = 0; opcode < 256; opcode++) {
      const bytes = new Uint8Array(opcode === 0x18 ? 16 : 8);
      bytes[0] = opcode;
      // A byte swap needs its width.
      if ((opcode & 0xf0) === 0xd0 && [4, 7].includes(opcode & 7)) bytes[4] = 16;
      try {
        const insns = decodeProgram(bytes);
        expect(Buffer.from(encodeProgram(insns)).equals(bytes)).toBe(true);
        expect(disassemble(insns)).toHaveLength(1);
        known++;
      } catch (error) {
        expect(error).toBeInstanceOf(BpfError);
        expect((error as BpfError).message).toMatch(/^insn 0: unknown opcode [0-9a-f]{2}$/);
      }
    }
    // 27 each of ALU and ALU64 (NEG has one form; END two of ALU, one of ALU64: 26), 22 conditions of JMP and JMP32,
    // goto each, call, exit, may_goto; 4 LDX, 3 signed, 4 ST, 4 STX, 2 atomic, the 16-byte load, 6 of classic packets.
    expect(known).toBe(27 + 26 + 22 + 22 + 2 + 3 + 4 + 3 + 4 + 4 + 2 + 1 + 6);
  });

  test('slots count, not instructions', () => {
    const insns = [loadImmediate64(1, PSEUDO.MAP_FD, 5n), ...new ProgramBuilder().mov(R0, 0).exit().build()];
    expect(encodeProgram(insns)).toHaveLength(32);
    expect(disassemble(insns)).toEqual(['   0: r1 = map[id:5]', '   2: r0 = 0', '   3: exit']);
  });

  test('pseudo sources are named', () => {
    const texts = [
      [PSEUDO.MAP_VALUE, (8n << 32n) | 3n, 'r1 = map[id:3][0]+8'],
      [PSEUDO.FUNC, 12n, 'r1 = subprog[+12]'],
      [PSEUDO.MAP_IDX, 2n, 'r1 = map[idx:2]'],
      [PSEUDO.MAP_IDX_VALUE, (4n << 32n) | 2n, 'r1 = map[idx:2]+4'],
      [PSEUDO.IMM, 0xffff_ffff_ffff_ffffn, 'r1 = 0xffffffffffffffff'],
    ] as const;
    for (const [src, imm64, text] of texts) {
      expect(disassembleInstruction(loadImmediate64(1, src, imm64))).toBe(text);
    }
    const call = { opcode: CLASS.JMP | JMP.CALL, dst: 0, offset: 0 };
    expect(disassembleInstruction({ ...call, src: CALL.SUBPROGRAM, imm: -4 })).toBe('call pc-4');
    expect(disassembleInstruction({ ...call, src: CALL.KFUNC, imm: 77 })).toBe('call kernel-function#77');
  });

  test.each([
    ['cut in an instruction', [0x95, 0, 0], 'a BPF program is a multiple of 8 bytes, not 3'],
    ['a 16-byte load cut in two', [0x18, 1, 0, 0, 1, 0, 0, 0], 'insn 0: invalid bpf_ld_imm64 insn'],
    [
      'a second half that is another instruction',
      [0x18, 1, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0],
      'insn 0: invalid bpf_ld_imm64 insn',
    ],
    [
      'an offset in a 16-byte load',
      [0x18, 1, 1, 0, ...new Array<number>(12).fill(0)],
      'insn 0: BPF_LD_IMM64 uses reserved',
    ],
    ['register 11', [0x95, 0, 0, 0, 0, 0, 0, 0, 0xbf, 0x0b, 0, 0, 0, 0, 0, 0], 'insn 1: R11 is invalid'],
    ['a field that exit does not have', [0x95, 0, 0, 0, 1, 0, 0, 0], 'insn 0: BPF_EXIT uses reserved fields'],
    ['a swap of 17 bits', [0xd4, 0, 0, 0, 17, 0, 0, 0], 'insn 0: byte swap of 17 bits'],
  ])('%s is refused', (_name, bytes, message) => {
    expect(() => decodeProgram(Uint8Array.from(bytes))).toThrow(BpfError);
    expect(() => decodeProgram(Uint8Array.from(bytes))).toThrow(message);
  });

  test('the builder refuses what does not fit', () => {
    expect(() =>
      new ProgramBuilder()
        .mov(R0, 2 ** 31)
        .exit()
        .build(),
    ).toThrow('does not fit 32 bits');
    expect(() => new ProgramBuilder().load(8, R0, R1, 40000).exit().build()).toThrow('does not fit 16 bits');
    const p = new ProgramBuilder();
    expect(() => p.goto(p.label()).build()).toThrow('never bound');
    expect(() => new ProgramBuilder().build()).toThrow('at least one instruction');
  });

  test('an immediate of the whole 64 bits keeps its halves', () => {
    const [insn] = decodeProgram(encodeProgram([loadImmediate64(3, PSEUDO.IMM, -2n)]));
    expect(insn).toEqual({ opcode: 0x18, dst: 3, src: 0, offset: 0, imm: -2, imm64: 0xffff_ffff_ffff_fffen });
    expect(operationOf(insn as typeof insn & object, 0).kind).toBe('loadImmediate');
  });
});

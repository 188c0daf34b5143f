/** The two syntaxes: clang's against llvm-objdump and clang's assembler on compiled programs, and names in the kernel's. */

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R10 } from './builder.js';
import { disassemble, disassembleInstruction } from './disassemble.js';
import { decodeProgram, encodeProgram } from './encoding.js';
import { Random, randomProgram } from './fixture.js';
import { type BpfInsn, CALL, PSEUDO } from './instruction.js';
import { operationOf } from './operation.js';

const SEED = Number(process.env.MULTITRACE_SEED ?? Date.now() % 2 ** 31);
const directory = mkdtempSync(join(tmpdir(), 'multitrace-disassemble-'));
afterAll(() => rmSync(directory, { recursive: true }));

const tools = ['clang-19', 'llvm-objdump-19', 'llvm-objcopy-19'];
const missing = tools.filter(command => spawnSync(command, ['--version']).status !== 0);
const because = missing.length > 0 ? ` (skipped: ${missing.join(', ')} not installed)` : '';

/** Functions of many kinds: loops, calls between them, atomics, signed arithmetic, a large frame, a switch. */
const SOURCE = `
typedef unsigned long u64; typedef unsigned int u32; typedef unsigned short u16; typedef unsigned char u8;
typedef long s64; typedef int s32; typedef short s16; typedef signed char s8;
struct state { u64 total; s32 least; s16 small[8]; s8 tiny; u8 flag; u32 mid; u64 big[64]; };
static __attribute__((noinline)) u64 helper(struct state *s, u64 a, u32 b) {
  volatile char stack[200];
  for (int i = 0; i < 200; i++) stack[i] = a >> (i & 63);
  return stack[b % 200] + s->mid / (b | 1) + s->tiny;
}
static s64 (*call_number)(void *, s64) = (void *)9;
u64 mix(u64 *ctx, struct state *s) {
  u64 a = ctx[0]; s32 b = (s32)ctx[1]; s8 c = (s8)ctx[2]; u16 d = ctx[3];
  for (int i = 0; i < 8; i++) { a = a * 31 + s->small[i]; if (b > (s32)a) b -= c; else b ^= d; }
  s->total += a; s->least = b; s->tiny = (s8)(a >> 7); s->flag = 3; s->mid = 0x80000000u;
  __sync_fetch_and_add(&s->big[b & 63], a);
  if ((s64)a < -5 || d == 77 || (u32)b <= 100000u) a = ~a;
  switch (d & 7) { case 0: a += 3; break; case 1: a = __builtin_bswap64(a); break; case 5: a = -a; break; default: a ^= d; }
  return helper(s, a, d) ^ (u32)b ^ 0x123456789abcdefUL ^ call_number(s, -1) ^ helper(s, 1, 2);
}`;

/** What only newer processors have. */
const NEWER = `
u64 newer(struct state *s, s64 a, s32 b) {
  u64 old = __sync_val_compare_and_swap(&s->total, 5, a) ^ __sync_lock_test_and_set(&s->big[1], 3);
  old ^= __sync_fetch_and_or(&s->big[2], a) ^ __sync_fetch_and_xor(&s->mid, (u32)b);
  return old + __sync_val_compare_and_swap(&s->mid, 1u, (u32)b) + __sync_lock_test_and_set(&s->mid, 3u);
}`;
const NEWEST = `s64 signs(s64 a, s32 b, s8 *p) { return a / (b | 1) + a % 7 + (s16)b + p[3] + b / 3; }`;

function run(command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: 'utf8' });
}

function compile(cpu: string): string {
  const from = join(directory, `${cpu}.c`);
  const object = join(directory, `${cpu}.o`);
  const source = SOURCE + (cpu >= 'v3' ? NEWER : '') + (cpu >= 'v4' ? NEWEST : '');
  writeFileSync(from, source);
  run('clang-19', '-target', 'bpf', `-mcpu=${cpu}`, '-O2', '-c', from, '-o', object);
  return object;
}

function textOf(object: string): Uint8Array {
  const raw = `${object}.bin`;
  run('llvm-objcopy-19', '-O', 'binary', '--only-section=.text', object, raw);
  return readFileSync(raw);
}

/** llvm-objdump's text, but for where jumps and calls lead by name; and loads and stores name whole registers. */
function objdump(object: string, ...flags: string[]): string[] {
  const listing = run('llvm-objdump-19', '-d', '--no-show-raw-insn', ...flags, object);
  return [...listing.matchAll(/^\s+\d+:\s+(.*)$/gm)].map(match =>
    whole((match[1] as string).replace(/ <[^ >]*>$/, '').replace(/^w(\d+)( = \*\()/, 'r$1$2')),
  );
}

/** Stores and atomics that name whole registers; a space where there are more. */
function whole(line: string): string {
  return line
    .replace(/^((?:lock )?\*\(u\d+ \*\)\(.*\) \S+ )w(\d+)$/, '$1r$2')
    .replace(/\s+/g, ' ')
    .trim();
}

function assemble(lines: readonly string[]): Uint8Array {
  const from = join(directory, 'again.s');
  const object = join(directory, 'again.o');
  writeFileSync(from, `${lines.join('\n')}\n`);
  run('clang-19', '-target', 'bpf', '-mcpu=v4', '-c', from, '-o', object);
  return textOf(object);
}

/** Calls of subprograms and other values than numbers have no syntax of their own in the assembler. */
function plain(insn: BpfInsn): BpfInsn {
  const { kind } = operationOf(insn, 0);
  return kind === 'call' || kind === 'loadImmediate' ? { ...insn, src: 0 } : insn;
}

const clang = (insn: BpfInsn, at: number): string => disassembleInstruction(insn, at, { syntax: 'clang' });

describe.skipIf(missing.length > 0)(`clang's syntax${because}`, () => {
  test.each(['v1', 'v2', 'v3', 'v4'])('of a program for cpu %s is what llvm-objdump prints', cpu => {
    const object = compile(cpu);
    const ours = decodeProgram(textOf(object)).map(clang);
    const flags = cpu >= 'v3' ? ['--mcpu=v4'] : [];
    expect(ours.length).toBeGreaterThan(100);
    expect(ours.map(whole)).toEqual(objdump(object, ...flags));
  });

  test.each(['v1', 'v2', 'v3', 'v4'])('of a program for cpu %s assembles to the same bytes', cpu => {
    const insns = decodeProgram(textOf(compile(cpu))).map(plain);
    expect(Buffer.from(assemble(insns.map(clang)))).toEqual(Buffer.from(encodeProgram(insns)));
  });

  test(`of random programs assembles to the same bytes, seed ${SEED}`, () => {
    const insns: BpfInsn[] = [];
    for (let n = 0; n < 100; n++) {
      const options = { nargs: 6, value: (p: ProgramBuilder) => void p.mov(R1, 1), functions: true };
      // The assembler at hand knows no acquire and release.
      const known = (insn: BpfInsn) => !/acquire|release/.test(disassembleInstruction(insn));
      insns.push(
        ...randomProgram(new Random(SEED + n), options)
          .filter(known)
          .map(plain),
      );
    }
    expect(insns.length).toBeGreaterThan(3000);
    expect(Buffer.from(assemble(insns.map(clang))).equals(Buffer.from(encodeProgram(insns)))).toBe(true);
  });
});

describe("the kernel's syntax", () => {
  const p = new ProgramBuilder();
  const [f, out] = [p.label(), p.label()];
  p.ldMap(R1, { id: 5 }).ldMapValue(R2, { id: 6 }, 16).ldFunction(R2, f).callSubprogram(f).callKfunc(2);
  const insns = p
    .mayGoto(out)
    .loadAcquire(4, R0, R10, -8)
    .storeRelease(8, R10, -8, R0)
    .bind(out)
    .exit()
    .bind(f)
    .exit()
    .build();

  test('names nothing that it was told no names for', () => {
    expect(disassemble(insns)).toEqual([
      '   0: r1 = map[id:5]',
      '   2: r2 = map[id:6][0]+16',
      '   4: r2 = subprog[+7]',
      '   6: call pc+5',
      '   7: call kernel-function#2',
      '   8: may_goto pc+2',
      '   9: r0 = load_acquire((u32 *)(r10 -8))',
      '  10: store_release((u64 *)(r10 -8), r0)',
      '  11: exit',
      '  12: exit',
    ]);
  });

  test('names maps, subprograms and kernel functions', () => {
    const named = disassemble(insns, {
      mapName: id => (id === 5 ? 'counts' : undefined),
      subprogramName: slot => (slot === 12 ? 'each' : undefined),
      kfuncName: id => (id === 2 ? 'bpf_iter_num_next' : undefined),
    });
    expect(named.slice(0, 5)).toEqual([
      '   0: r1 = map[counts]',
      '   2: r2 = map[id:6][0]+16',
      '   4: r2 = subprog[+7]#each',
      '   6: call pc+5#each',
      '   7: call bpf_iter_num_next#2',
    ]);
    expect([PSEUDO.FUNC, CALL.SUBPROGRAM]).toEqual([insns[2]?.src, insns[3]?.src]);
  });

  test('comes back from its bytes', () => {
    expect(disassemble(decodeProgram(encodeProgram(insns)))).toEqual(disassemble(insns));
  });
});

/**
 * Arguments and results as the compilers pass them: programs with random prototypes, compiled by gcc and clang, whose
 * functions tell what they were given. Every word that a program sees is compared with that, entries and returns, by
 * multi-links (global trampolines) and plain links (trampolines of their own), on moved instructions and on nop sleds.
 */

import { type ExecFileSyncOptions, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R3, R6, R7, R10 } from '../src/bpf/builder.js';
import { Random } from '../src/bpf/fixture.js';
import { HELPER } from '../src/bpf/helpers.js';
import { MAP_TYPE } from '../src/bpf/map_type.js';
import { SelectorSet } from '../src/index.js';
import type { AttachType, BpfMap, TargetFunction } from '../src/kernel/kernel.js';
import { ProcessKernel } from '../src/kernel/process/machine.js';
import { openProcess } from '../src/process/process.js';
import { callLayout } from '../src/process/symbols/call_layout.js';
import { Running } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { BUILT_TARGETS } from './support/paths.js';
import { changedCode } from './support/process.js';
import { type PrototypesProgram, prototypesProgram, RESULT } from './support/prototypes.js';
import { missingCommand, SOAK } from './support/skip.js';

const WORDS = 12;
const RESULT_WORDS = 2;
/** count, number of arguments, words of arguments and result. */
const VALUE_WORDS = 2 + WORDS + RESULT_WORDS;
const FUNCTIONS = SOAK ? 400 : 80;
const ROUNDS = SOAK ? 12 : 1;

mkdirSync(BUILT_TARGETS, { recursive: true });
const folder = mkdtempSync(join(BUILT_TARGETS, 'prototypes-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Notes all words of a call, at the cookie's place of `map`. */
function notingProgram(map: BpfMap, attachType: AttachType): ReturnType<ProgramBuilder['build']> {
  const b = new ProgramBuilder();
  const out = b.label();
  b.mov(R6, R1);
  b.call(HELPER.get_attach_cookie);
  b.store(4, R10, -4, R0);
  b.mov(R2, R10);
  b.add(R2, -4);
  b.ldMap(R1, map);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, out);
  b.mov(R7, R0);
  b.mov(R1, R6);
  b.call(HELPER.get_func_arg_cnt);
  b.store(8, R7, 8, R0);
  const words = attachType === 'fentry' ? WORDS : WORDS + RESULT_WORDS;
  for (let i = 0; i < words; i++) {
    b.load(8, R3, R6, 8 * i);
    b.store(8, R7, 16 + 8 * i, R3);
  }
  b.mov(R1, 1);
  b.atomicAdd(8, R7, 0, R1);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

/** A word, and the bits of it that count. */
interface Word {
  readonly value: bigint;
  readonly mask: bigint;
}

/** What the program says of its values, as words by function and position. */
function said(output: string): Map<string, Word[]> {
  const values = new Map<string, Word[]>();
  for (const [, f, position, value, mask] of output.matchAll(/^(\d+) (\d+) ([0-9a-f]*) ([0-9a-f]*)$/gm)) {
    const words = (hex: string): bigint[] => {
      const bytes = Buffer.from(hex.padEnd(Math.ceil(hex.length / 16) * 16, '0'), 'hex');
      return Array.from({ length: bytes.length / 8 }, (_, i) => bytes.readBigUInt64LE(i * 8));
    };
    const bits = words(mask);
    values.set(
      `${f} ${position}`,
      words(value).map((word, i) => ({ value: word & bits[i], mask: bits[i] })),
    );
  }
  return values;
}

/** The words of a function's arguments: whole arguments, as long as there is room. */
function expectedWords(values: Map<string, Word[]>, f: number, params: readonly string[]): Word[] {
  const words: Word[] = [];
  for (const i of params.keys()) {
    const more = values.get(`${f} ${i}`)!;
    if (words.length + more.length > WORDS) break;
    words.push(...more);
  }
  return words;
}

interface Noting {
  read(f: number): { count: bigint; args: number; words: bigint[]; result: bigint[] };
}

function attach(
  kernel: ProcessKernel,
  functions: readonly TargetFunction[],
  attachType: AttachType,
  plain: boolean,
): Noting {
  const map = kernel.mapCreate({
    type: MAP_TYPE.ARRAY,
    name: 'notes',
    keySize: 4,
    valueSize: 8 * VALUE_WORDS,
    maxEntries: functions.length,
  });
  const prog = kernel.progLoad({
    name: 'note',
    attachType,
    insns: notingProgram(map, attachType),
    maps: [map],
    argumentWords: WORDS,
  });
  const targets = functions.map(target => ({ target, cookie: BigInt(target.name.slice(1)) }));
  if (plain) for (const { target, cookie } of targets) kernel.linkCreate({ prog, target, cookie });
  else kernel.linkCreate({ prog, targets });
  return {
    read(f) {
      const key = Buffer.alloc(4);
      key.writeUInt32LE(f);
      const bytes = Buffer.from(map.lookup(key)!);
      const word = (i: number): bigint => bytes.readBigUInt64LE(8 * i);
      return {
        count: word(0),
        args: Number(word(1)),
        words: Array.from({ length: WORDS }, (_, i) => word(2 + i)),
        result: [word(2 + WORDS), word(3 + WORDS)],
      };
    },
  };
}

function build(program: PrototypesProgram, name: string, compiler: string, flags: readonly string[]): string {
  const at = (file: string): string => join(folder, file);
  writeFileSync(at('prototypes.h'), program.header);
  writeFileSync(at('traced.c'), program.traced);
  writeFileSync(at('main.c'), program.main);
  const quiet: ExecFileSyncOptions = { stdio: ['ignore', 'ignore', 'pipe'] };
  execFileSync(compiler, ['-g', '-c', '-w', ...flags, '-o', at(`${name}.o`), at('traced.c')], quiet);
  execFileSync('gcc', ['-g', '-c', '-w', '-O1', '-o', at('main.o'), at('main.c')], quiet);
  execFileSync('gcc', ['-g', '-o', at(name), at('main.o'), at(`${name}.o`)], quiet);
  return at(name);
}

const COMPILERS = [
  ['gcc -O0', 'gcc', ['-O0']],
  ['gcc -O2', 'gcc', ['-O2']],
  ['clang -O2', 'clang-19', ['-O2']],
  ['gcc -O2, nop sleds', 'gcc', ['-O2', '-fpatchable-function-entry=5']],
] as const;

describe.each(COMPILERS)('%s', (what, compiler, flags) => {
  const lacking = missingCommand('gcc', 'pahole', compiler);
  test.skipIf(lacking !== undefined)(
    'every word of arguments and results is what the compiler passed',
    async () => {
      for (let round = 0; round < ROUNDS; round++) {
        const seed = Number(process.env.MULTITRACE_SEED ?? Math.floor(Math.random() * 2 ** 31));
        console.log(`${what}: MULTITRACE_SEED=${seed}`);
        const program = prototypesProgram(new Random(seed), FUNCTIONS);
        const path = build(program, what.replace(/\W+/g, ''), compiler, flags);
        const running = new Running(path, [], { keepInput: true });
        onTestFinished(() => running.stop());
        const values = said((await running.expectOutput(/^ready\n/m)).input);
        // Where gcc and clang differ, so does what is given and what arrives.
        const untraced = await call(running);
        for (const [plain, types] of [
          [false, ['fentry']],
          [true, ['fentry']],
          [false, ['fexit']],
          [true, ['fexit', 'fsession']],
          [false, ['fentry', 'fexit', 'fsession']],
        ] as const)
          await compare(running, program, values, untraced, plain, types);
        expect(changedCode(running.pid).changed).toEqual([]);
      }
    },
    SOAK ? 600_000 : 120_000,
  );
});

const withoutTypes = missingCommand('gcc', 'pahole');
test.skipIf(withoutTypes !== undefined)(
  'numbers of which types do not tell how they are passed are not laid out, nor is what comes behind them',
  async () => {
    const path = compileTarget({ source: 'odd_numbers.c', flags: ['-g'] });
    const running = new Running(path, [], { keepInput: true });
    onTestFinished(() => running.stop());
    await running.expectOutput(/ready\n/);
    const kernel = new ProcessKernel(openProcess(running.pid));
    try {
      const functions = kernel.functions(SelectorSet.parse(['by_*']));
      expect(functions.length).toBe(5);
      for (const target of functions) {
        const prototype = kernel.prototypeOf(target);
        expect(prototype?.args?.length, target.name).toBe(2);
        expect(callLayout(prototype).args, target.name).toEqual([undefined, undefined]);
      }
    } finally {
      kernel.close();
    }
  },
);

async function call(running: Running): Promise<string> {
  const before = running.stdoutSoFar.length;
  running.say('go');
  const pattern = new RegExp(`^[\\s\\S]{${before}}(\\d+ calls, \\d+ wrong)\\n`);
  return (await running.expectOutput(pattern))[1];
}

async function compare(
  running: Running,
  { functions }: PrototypesProgram,
  values: Map<string, Word[]>,
  untraced: string,
  plain: boolean,
  types: readonly AttachType[],
): Promise<void> {
  const how = `${plain ? 'plain' : 'multi'} ${types.join(' ')}`;
  const kernel = new ProcessKernel(openProcess(running.pid));
  try {
    const targets = kernel
      .functions(SelectorSet.parse(['f*']))
      .filter(({ name }) => /^f\d+$/.test(name))
      .map(target => ({ ...target, prototype: kernel.prototypeOf(target)! }));
    expect(targets.length).toBe(functions.length);
    const notes = types.map(type => ({ type, noting: attach(kernel, targets, type, plain) }));
    // What the functions are given, and give, is what it is without us.
    expect(await call(running), how).toBe(untraced);
    for (const { type, noting } of notes)
      for (const [f, { params, returns }] of functions.entries()) {
        const seen = noting.read(f);
        const where = `${how}, ${type}: ${returns} f${f}(${params.join(', ')})`;
        const wanted = expectedWords(values, f, params);
        expect(seen.count, where).toBe(type === 'fsession' ? 2n : 1n);
        // Types of what is written in assembler say the same: nothing is known of such a function.
        if (params.length === 0 && returns === 'void') continue;
        expect(seen.args, where).toBe(wanted.length);
        const masked = wanted.map(({ mask }, i) => seen.words[i] & mask);
        expect(masked, where).toEqual(wanted.map(w => w.value));
        expect(seen.words.slice(wanted.length), where).toEqual(new Array(WORDS - wanted.length).fill(0n));
        if (type === 'fentry') continue;
        const result = values.get(`${f} ${RESULT}`) ?? [];
        // Where it is returned in memory, it is the address; a long double is returned where we do not look.
        const layout = callLayout(targets.find(t => t.name === `f${f}`)!.prototype);
        if (layout.result === undefined || layout.resultInMemory) continue;
        expect(
          result.map(({ mask }, i) => seen.result[i] & mask),
          where,
        ).toEqual(result.map(w => w.value));
      }
  } finally {
    kernel.close();
  }
  expect(await call(running), how).toBe(untraced);
}

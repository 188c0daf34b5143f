/** Files are not trusted: whatever a file says, reading it ends soon, with an answer or with ENOEXEC. */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { cpuMs, timed } from '../../../tests/support/cpu_time.js';
import { findDebugFile } from '../../elf/debug_file.js';
import { ElfFile } from '../../elf/file.js';
import { frameRanges } from '../../elf/frames.js';
import { BpfError } from '../../kernel/errno.js';
import { functionsOf } from './functions.js';
import { ifuncSlots, symbolSlots } from './ifunc.js';

const MUTATIONS = 3_000;
/** Longer than any takes, short enough to catch one that does not end; the machine may be busy. */
const MAX_MS = 1_000;
const TYPICAL_MS = 100;
const SEED = Number(process.env.FUZZ_SEED ?? Date.now() % 2 ** 31);

const folder = mkdtempSync(join(tmpdir(), 'damaged-'));
afterAll(() => rmSync(folder, { recursive: true }));

const PROGRAM = `
int one(int a) { return a + 1; }
static int impl(void) { return 7; }
static int (*resolve(void))(void) { return impl; }
static int chosen(void) __attribute__((ifunc("resolve")));
void *table[] = { one, impl };
int main(int n, char **v) { return one(n) + chosen(); }
`;

/** Small real files, and programs of every kind where there is a compiler. */
function originals(): Buffer[] {
  const found = [
    '/bin/true',
    '/usr/lib/x86_64-linux-gnu/libdl.so.2',
    '/usr/lib/x86_64-linux-gnu/libutil.so.1',
  ]
    .filter(path => existsSync(path) && statSync(path).size < 100_000)
    .map(path => readFileSync(path));
  const source = join(folder, 'program.c');
  writeFileSync(source, PROGRAM);
  const kinds = [
    ['-pie'],
    ['-no-pie'],
    ['-shared', '-fPIC', '-Wl,-z,pack-relative-relocs'],
    ['-shared', '-fPIC', '-s'],
  ];
  for (const [index, flags] of kinds.entries()) {
    const path = join(folder, `program${index}`);
    if (spawnSync('gcc', [...flags, '-o', path, source]).status === 0) found.push(readFileSync(path));
  }
  const bare = Buffer.from(found[found.length - 1]);
  bare.fill(0, 40, 48);
  bare.fill(0, 58, 64);
  return [...found, bare];
}

/** A small generator of numbers below `n`, the same for the same seed (mulberry32's construction). */
function generator(seed: number): (n: number) => number {
  let state = seed | 0;
  return n => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % n;
  };
}

const INTERESTING = [
  0n,
  1n,
  0x7fn,
  0xffn,
  0xffffn,
  2n ** 31n - 1n,
  2n ** 32n - 1n,
  2n ** 47n,
  2n ** 53n,
  2n ** 63n - 1n,
  2n ** 64n - 1n,
];

function mutate(original: Buffer, random: (n: number) => number): Buffer {
  let bytes = Buffer.from(original);
  for (let left = 1 + random(4); left > 0; left--) {
    // Most of the structure is in the headers at the start and in the section headers at the end.
    const zone = random(4);
    const tail = Math.min(bytes.length, 4096);
    const at =
      [random(64), random(64 + 14 * 56), bytes.length - 1 - random(tail), random(bytes.length)][zone] %
      bytes.length;
    const value = INTERESTING[random(INTERESTING.length)];
    const how = random(40);
    if (how < 10) bytes[at] = random(256);
    else if (how < 20) bytes[at] ^= 1 << random(8);
    else if (how < 30 && (at & ~7) + 8 <= bytes.length) bytes.writeBigUInt64LE(value, at & ~7);
    else if (how < 39 && (at & ~3) + 4 <= bytes.length)
      bytes.writeUInt32LE(Number(value & 0xffffffffn), at & ~3);
    else if (how === 39) bytes = bytes.subarray(0, Math.max(at, 64));
  }
  return bytes;
}

const READERS: ((elf: ElfFile) => unknown)[] = [
  elf => elf.symbols(),
  elf => frameRanges(elf),
  elf => functionsOf(elf),
  elf => ifuncSlots(elf),
  elf => symbolSlots(elf),
  elf => [...elf.relocations()],
  elf => [elf.needed, elf.soname, elf.hasTextRelocations],
  elf => elf.interpreter,
  elf => [elf.buildId, elf.debugLink],
  elf => findDebugFile(elf),
  elf => elf.executableSections(),
  elf => elf.bytesAt(elf.entry, 16),
];

/** Runs every reader; anything but an answer or ENOEXEC is thrown on. Says how many were refused. */
function readAll(bytes: Buffer): number {
  let refused = 0;
  const attempt = <T>(action: () => T): T | undefined => {
    try {
      return action();
    } catch (error) {
      if (!(error instanceof BpfError) || error.code !== 'ENOEXEC') throw error;
      refused++;
      return undefined;
    }
  };
  const elf = attempt(() => ElfFile.parse(bytes, '/nowhere/damaged'));
  if (elf) for (const reader of READERS) attempt(() => reader(elf));
  return refused;
}

it(`${MUTATIONS} mutations of real files, seed ${SEED}: an answer or ENOEXEC, soon`, () => {
  const files = originals();
  const random = generator(SEED);
  let refused = 0;
  let slow = 0;
  for (const file of files) expect(readAll(file)).toBe(0);
  for (let index = 0; index < MUTATIONS; index++) {
    const bytes = mutate(files[random(files.length)], random);
    const start = process.cpuUsage();
    try {
      if (readAll(bytes) > 0) refused++;
    } catch (error) {
      throw new Error(`mutation ${index} of seed ${SEED}`, { cause: error });
    }
    const took = cpuMs(start);
    if (took > TYPICAL_MS) slow++;
    if (took > MAX_MS) throw new Error(`mutation ${index} of seed ${SEED} took ${took.toFixed()} ms`);
  }
  expect(refused).toBeGreaterThan(MUTATIONS / 20);
  expect(slow).toBeLessThan(MUTATIONS / 100);
});

describe('files made to take time or memory', () => {
  /** A library with `sections` after the empty one, each [type, flags, offset, size, link], behind `content`. */
  const make = (content: Buffer, sections: number[][]): Buffer => {
    const table = Buffer.alloc(64 * (sections.length + 1));
    for (const [index, [type, flags, offset, size, link]] of sections.entries()) {
      const at = 64 * (index + 1);
      table.writeUInt32LE(type, at + 4);
      table.writeUInt32LE(flags, at + 8);
      table.writeUInt32LE(0x1000, at + 16);
      table.writeUInt32LE(offset, at + 24);
      table.writeUInt32LE(size, at + 32);
      table.writeUInt32LE(link, at + 40);
    }
    const header = Buffer.alloc(64);
    header.write('\x7fELF\x02\x01\x01', 'latin1');
    header.writeUInt16LE(3, 16);
    header.writeUInt16LE(62, 18);
    header.writeUInt32LE(64 + content.length, 40);
    header.writeUInt16LE(64, 58);
    header.writeUInt16LE(sections.length + 1, 60);
    return Buffer.concat([header, content, table]);
  };
  /** `count` FUNC symbols at 0x1000, with names at these offsets. */
  const symbols = (count: number, nameOf: (index: number) => number): Buffer => {
    const table = Buffer.alloc(24 * count);
    for (let index = 1; index < count; index++) {
      table.writeUInt32LE(nameOf(index), index * 24);
      table[index * 24 + 4] = 0x12;
      table.writeUInt16LE(1, index * 24 + 6);
      table.writeUInt32LE(0x1000, index * 24 + 8);
    }
    return table;
  };

  it('names that overlap', () => {
    const names = Buffer.alloc(200_000, 'x');
    names[0] = 0;
    names[names.length - 1] = 0;
    const table = symbols(100_000, index => index);
    const bytes = make(Buffer.concat([names, table]), [
      [3, 0, 64, names.length, 0],
      [2, 0, 64 + names.length, table.length, 1],
    ]);
    const elf = ElfFile.parse(bytes, 'x');
    expect(timed(() => expect(() => elf.symbols()).toThrow(/overlap/))).toBeLessThan(1_000);
  });

  it('a hundred thousand names at one address', () => {
    const names = Buffer.concat([
      Buffer.alloc(1),
      ...Array.from({ length: 100_000 }, (_, i) => Buffer.from(`f${i}\0`)),
    ]);
    const offsets: number[] = [];
    for (let at = 1; at < names.length; at = names.indexOf(0, at) + 1) offsets.push(at);
    const table = symbols(100_001, index => offsets[index - 1]);
    const code = Buffer.alloc(16);
    const bytes = make(Buffer.concat([names, table, code]), [
      [1, 6, 64 + names.length + table.length, code.length, 0],
      [3, 0, 64, names.length, 0],
      [2, 0, 64 + names.length, table.length, 2],
    ]);
    const took = timed(() => {
      const functions = functionsOf(ElfFile.parse(bytes, 'x'));
      expect(functions).toHaveLength(1);
      expect(functions[0].aliases).toHaveLength(100_000);
    });
    expect(took).toBeLessThan(5_000);
  });

  it('sixty thousand sections over the same code', () => {
    const content = Buffer.alloc(1024 * 1024);
    const bytes = make(
      content,
      Array.from({ length: 60_000 }, () => [1, 6, 64, content.length, 0]),
    );
    const took = timed(() => expect(() => functionsOf(ElfFile.parse(bytes, 'x'))).toThrow(/overlap/));
    expect(took).toBeLessThan(2_000);
  });

  it('sixty thousand notes over the same bytes', () => {
    const content = Buffer.alloc(1024 * 1024);
    const bytes = make(
      content,
      Array.from({ length: 60_000 }, () => [7, 0, 64, content.length, 0]),
    );
    expect(timed(() => expect(ElfFile.parse(bytes, 'x').buildId).toBeUndefined())).toBeLessThan(2_000);
  });
});

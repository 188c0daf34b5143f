/** The analysis on real files: how much can be patched, how fast, and that no branch was overlooked. */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ElfFile } from '../../../elf/file.js';
import { R_X86_64_64, R_X86_64_IRELATIVE, R_X86_64_RELATIVE } from '../../../elf/format.js';
import { frameRanges } from '../../../elf/frames.js';
import { denied } from './deny_list.js';
import { findPatchSites } from './find_patch_sites.js';
import {
  ISLAND_SIZE,
  isPatchSite,
  type ModuleCode,
  placeDisplaced,
  SHORT_PATCH_SIZE,
  type TracedFunction,
} from './patch_site.js';

const iced = createRequire(import.meta.url)('iced-x86') as typeof import('iced-x86');

interface Loaded {
  readonly code: ModuleCode;
  /** Named functions, each address once. */
  readonly functions: TracedFunction[];
  /** Everything that has an entry in the unwind table, as functions. */
  readonly framed: TracedFunction[];
}

function load(path: string, table: 'symtab' | 'dynsym'): Loaded {
  const elf = ElfFile.open(path);
  const sections = elf.executableSections();
  const inCode = (address: number) =>
    sections.some(s => address >= s.address && address < s.address + s.bytes.length);
  const symbols = elf
    .symbols(new Set(['FUNC', 'IFUNC']))
    .filter(s => s.sectionIndex !== 0 && inCode(s.value));
  const names = new Set(elf.symbols().map(s => s.name));
  const frames = frameRanges(elf);
  const starts = [...new Set([...symbols.map(s => s.value), ...frames.map(f => f.start)])].sort(
    (a, b) => a - b,
  );
  const functions = new Map<number, TracedFunction>();
  for (const { name, value, size, from } of symbols) {
    if (from !== table || denied(name, symbol => names.has(symbol)) !== undefined) continue;
    if (!functions.has(value)) functions.set(value, { name, address: value, size });
  }
  const pointers = [...elf.relocations(new Set([R_X86_64_64, R_X86_64_RELATIVE, R_X86_64_IRELATIVE]))];
  const data = elf.sections.filter(s => s.type === 1 && (s.flags & 2) !== 0 && (s.flags & 4) === 0);
  const code: ModuleCode = {
    name: path,
    sections,
    functionStarts: starts,
    frames,
    pointers: pointers.map(r => r.addend),
    readBytes: (address, length) => elf.bytesAt(address, length),
    ...(elf.type === 'EXEC'
      ? { fixedData: data.map(s => ({ name: s.name, address: s.address, bytes: elf.sectionBytes(s) })) }
      : {}),
  };
  const framed = frames.map(({ start, size }) => ({ name: `0x${start.toString(16)}`, address: start, size }));
  return { code, functions: [...functions.values()], framed };
}

/** File, symbols to take, share that must be patchable in percent. */
const FILES: [string, 'symtab' | 'dynsym', number][] = [
  ['/lib/x86_64-linux-gnu/libcrypto.so.3', 'dynsym', 99],
  ['/lib/x86_64-linux-gnu/libc.so.6', 'dynsym', 99],
  ['/lib/x86_64-linux-gnu/libsqlite3.so.0', 'dynsym', 99],
  ['/lib/x86_64-linux-gnu/libstdc++.so.6', 'dynsym', 99],
  ['/lib64/ld-linux-x86-64.so.2', 'dynsym', 90],
  ['/lib/ld-musl-x86_64.so.1', 'dynsym', 99],
  ['/usr/bin/python3.11', 'dynsym', 98],
  ['/usr/bin/node', 'symtab', 99],
];

test.each(FILES.filter(([path]) => existsSync(path)))(
  '%s: nearly every named function can be patched',
  (path, table, share) => {
    const { code, functions } = load(path, table);
    const start = performance.now();
    const results = findPatchSites(code, functions);
    const ms = performance.now() - start;
    const reasons: Record<string, number> = {};
    let patched = 0;
    for (const result of results) {
      if (isPatchSite(result)) patched++;
      else reasons[result.reason] = (reasons[result.reason] ?? 0) + 1;
    }
    console.log(`${path}: ${patched} of ${functions.length} in ${ms.toFixed(0)} ms`, reasons);
    expect((100 * patched) / functions.length).toBeGreaterThanOrEqual(share);
  },
);

test('libcrypto, whose exported functions are counted in the design: at least 5,342 of 5,363', () => {
  const path = '/lib/x86_64-linux-gnu/libcrypto.so.3';
  if (!existsSync(path)) return;
  const { code, functions } = load(path, 'dynsym');
  const patched = findPatchSites(code, functions).filter(isPatchSite).length;
  expect(patched / functions.length).toBeGreaterThanOrEqual(5342 / 5363);
});

/** Every place that a branch or a rip-relative address of the code goes to, by decoding every function from its start. */
function allTargets(code: ModuleCode): Set<number> {
  const targets = new Set<number>();
  const instruction = new iced.Instruction();
  for (const section of code.sections) {
    const decoder = new iced.Decoder(64, section.bytes, iced.DecoderOptions.None);
    const starts = code.frames.filter(
      ({ start }) => start >= section.address && start < section.address + section.bytes.length,
    );
    for (const { start, size } of starts) {
      decoder.position = start - section.address;
      decoder.ip = BigInt(start);
      const end = decoder.position + size;
      while (decoder.position < end) {
        decoder.decodeOut(instruction);
        if (instruction.isIpRelMemoryOperand) targets.add(Number(instruction.ipRelMemoryAddress));
        else if (instruction.nearBranchTarget !== 0n) targets.add(Number(instruction.nearBranchTarget));
      }
    }
    decoder.free();
  }
  instruction.free();
  return targets;
}

test.each(['/lib/x86_64-linux-gnu/libcrypto.so.3', '/lib/x86_64-linux-gnu/libc.so.6'])(
  '%s: decoding all of it finds no branch into a site, and finds each branch that was named',
  path => {
    if (!existsSync(path)) return;
    const { code, framed } = load(path, 'dynsym');
    const targets = allTargets(code);
    const results = findPatchSites(code, framed);
    let sites = 0;
    let refused = 0;
    let islands = 0;
    let entered = 0;
    const isNear = (address: number, from: number, to: number): boolean =>
      Array.from({ length: to - from }, (_, i) => address + from + i).some(near => targets.has(near));
    for (const result of results) {
      const { function: address } = result;
      if (isPatchSite(result)) {
        const { island } = result;
        sites++;
        const replaced = island === undefined ? result.length : SHORT_PATCH_SIZE;
        if (isNear(result.address, 1, replaced))
          expect.fail(`a branch goes into the site of 0x${address.toString(16)}`);
        if (island === undefined) continue;
        islands++;
        if (isNear(island.address, 0, ISLAND_SIZE))
          expect.fail(`a branch goes to the island of 0x${address.toString(16)}`);
        const distance = island.address - (result.address + SHORT_PATCH_SIZE);
        expect(distance).toBeGreaterThanOrEqual(-128);
        expect(distance).toBeLessThanOrEqual(127);
        for (const { start, size } of code.frames)
          if (island.address + ISLAND_SIZE > start && island.address < start + size)
            expect.fail(`the island of 0x${address.toString(16)} is inside a function`);
        if (isNear(address, 1, 25)) entered++;
      } else if (result.reason === 'branch-into-entry') {
        refused++;
        expect(isNear(address, 1, 25)).toBe(true);
      }
    }
    const bytes = results.filter(isPatchSite).flatMap(({ island }) => (island ? [island.address] : []));
    bytes.sort((a, b) => a - b);
    for (const [i, at] of bytes.entries())
      if (i > 0) expect(at - bytes[i - 1]).toBeGreaterThanOrEqual(ISLAND_SIZE);
    console.log(
      `${path}: ${sites} sites without a branch into them, ${islands} islands, ${entered} of them for a branch, ${refused} refused`,
    );
    expect(sites).toBeGreaterThan(2000);
    // The others are for branches that nobody can be sure of.
    expect(entered).toBeGreaterThan(0);
  },
);

test.each(['/lib/x86_64-linux-gnu/libcrypto.so.3', '/lib/x86_64-linux-gnu/libc.so.6', '/usr/bin/python3.11'])(
  '%s: every displaced instruction does at its new address what it did at its old one',
  path => {
    if (!existsSync(path)) return;
    const { code, framed } = load(path, 'dynsym');
    const bias = 0x7f0000000000n;
    const decode = (bytes: Uint8Array, ip: bigint) => {
      const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
      decoder.ip = ip;
      const instruction = decoder.decode();
      decoder.free();
      return instruction;
    };
    const kinds: Record<string, number> = {};
    for (const site of findPatchSites(code, framed).filter(isPatchSite)) {
      const at = bias + BigInt(site.address) + 0x1234567n;
      const placed = placeDisplaced(site, at, bias);
      for (const { from, to } of site.displaced.boundaries) {
        const bytes = code.sections.find(
          s => site.address >= s.address && site.address < s.address + s.bytes.length,
        )!;
        const offset = site.address + from - bytes.address;
        const old = decode(bytes.bytes.subarray(offset, offset + 15), bias + BigInt(site.address + from));
        if (site.kind === 'nop-sled') {
          expect(old.mnemonic).toBe(iced.Mnemonic.Nop);
          continue;
        }
        const moved = decode(placed.subarray(to), at + BigInt(to));
        let kind = 'copied';
        if (old.isCallNear || old.isCallNearIndirect) {
          kind = 'call';
          // push [constant]: the address behind the original call; then a jump to the callee.
          const constant = Number(moved.ipRelMemoryAddress - at);
          expect(new DataView(placed.buffer).getBigUint64(constant, true)).toBe(old.nextIP);
          const jump = decode(placed.subarray(to + moved.length), at + BigInt(to + moved.length));
          if (old.isCallNear) expect(jump.nearBranchTarget).toBe(old.nearBranchTarget);
          else if (old.isIpRelMemoryOperand) expect(jump.ipRelMemoryAddress).toBe(old.ipRelMemoryAddress);
          else expect(jump.toString()).toBe(old.toString().replace('call', 'jmp'));
          jump.free();
        } else if (old.isIpRelMemoryOperand) {
          kind = 'rip-relative';
          expect(moved.code).toBe(old.code);
          expect(moved.ipRelMemoryAddress).toBe(old.ipRelMemoryAddress);
          expect(moved.toString()).toBe(old.toString());
        } else if (old.nearBranchTarget !== 0n) {
          kind = 'branch';
          expect(moved.mnemonic).toBe(old.mnemonic);
          expect(moved.nearBranchTarget).toBe(old.nearBranchTarget);
        } else {
          expect(placed.subarray(to, to + old.length)).toEqual(
            Uint8Array.from(bytes.bytes.subarray(offset, offset + old.length)),
          );
        }
        kinds[kind] = (kinds[kind] ?? 0) + 1;
        old.free();
        moved.free();
      }
    }
    console.log(path, kinds);
    expect(kinds['rip-relative']).toBeGreaterThan(100);
  },
);

const SOURCE = 'int twice(int x) { return x * 2; } int thrice(int x) { return twice(x) + x; }';
const gcc = spawnSync('gcc', ['--version']).status === 0;

test.runIf(gcc).each([
  ['-fpatchable-function-entry=5 -fcf-protection=none', 0, 5],
  ['-fpatchable-function-entry=16 -fcf-protection=full', 4, 5],
  ['-pg -mfentry -mnop-mcount -fno-pic -fcf-protection=none', 0, 5],
])('gcc %s: each function has a nop sled', (options, behind, length) => {
  const directory = mkdtempSync(join(tmpdir(), 'multitrace-sled-'));
  try {
    const library = join(directory, 'sled.so');
    const built = spawnSync(
      'gcc',
      ['-O2', ...options.split(' '), '-shared', '-nostdlib', '-x', 'c', '-', '-o', library],
      { input: SOURCE, encoding: 'utf8' },
    );
    expect(built.stderr).toBe('');
    const { code, functions } = load(library, 'dynsym');
    expect(functions.map(fn => fn.name).sort()).toEqual(['thrice', 'twice']);
    for (const site of findPatchSites(code, functions)) {
      expect(site).toMatchObject({ kind: 'nop-sled', address: site.function + behind, length });
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
});

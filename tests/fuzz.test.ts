/**
 * Damaged and hostile BPF objects: mutations of whole files that clang made (ELF, BTF, .BTF.ext, instructions,
 * relocations) are loaded, or refused by a BpfError. Nothing else is thrown, nothing takes long, nothing grows without
 * bound. The machine here records what it is given; what the verifier does with instructions is its own tests' matter.
 */

import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Btf } from '../src/btf/btf.js';
import { ElfFile } from '../src/elf/file.js';
import { EM_BPF } from '../src/elf/format.js';
import { BpfError } from '../src/kernel/errno.js';
import { fakeFunction, RecordingKernel } from '../src/libbpf/fixture.js';
import { BpfObject } from '../src/libbpf/object.js';
import { BPF_PROGRAMS, bpfPrograms, compileBpfFile, missingBpfCompiler } from './support/bpf.js';
import { cpuMs } from './support/cpu_time.js';
import { randomNumbers } from './support/random.js';
import { SOAK } from './support/skip.js';

const MUTATIONS = SOAK ? 100_000 : 3000;
/** Time is taken of so many at once: asking for it takes longer than most of them. */
const BATCH = 20;
/** Longer than any batch takes, ms. */
const MAX_MS = 1000;
const MAX_GROWTH_MB = 512;

interface Sample {
  readonly name: string;
  readonly bytes: Buffer;
  /** Where something is that is worth hitting: headers, tables, small sections. */
  readonly hot: readonly { readonly at: number; readonly length: number }[];
  readonly types: Btf;
}

/** Sections that say something; debug information is nothing to a loader. */
const HOT =
  /^(\.BTF|\.BTF\.ext|\.symtab|\.strtab|\.maps|\.rel.*|\.data.*|\.rodata.*|license|f(entry|exit|mod_ret|session).*|\.text)$/;

function sample(name: string): Sample {
  const bytes = readFileSync(compileBpfFile(join(BPF_PROGRAMS, `${name}.bpf.c`)));
  const elf = ElfFile.parse(bytes, name, EM_BPF);
  const sections = elf.sections.filter(section => HOT.test(section.name) && section.size > 0);
  const btf = elf.section('.BTF')!;
  const headers = Number(bytes.readBigUInt64LE(0x28));
  return {
    name,
    bytes,
    hot: [
      { at: 0, length: 64 },
      { at: headers, length: bytes.length - headers },
      ...sections.map(({ offset, size }) => ({ at: offset, length: size })),
    ],
    types: Btf.parse(Uint8Array.from(elf.sectionBytes(btf))),
  };
}

const EDGES = [
  0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xffff_fff8, 0x1_0000, 0x0400_ffff, 0x00ff_ffff,
];

function mutate({ bytes, hot }: Sample, random: () => number): Buffer {
  const below = (limit: number) => Math.floor(random() * limit);
  let copy = Buffer.from(bytes);
  for (let count = 1 + below(3); count > 0; count--) {
    const range = hot[below(hot.length)];
    const at = Math.min(range.at + below(range.length), copy.length - 1);
    const word = Math.min(at & ~3, copy.length - 4);
    switch (below(7)) {
      case 0:
        copy[at] ^= 1 << below(8);
        break;
      case 1:
        copy[at] = below(256);
        break;
      case 2:
        copy.writeUInt32LE(EDGES[below(EDGES.length)], word);
        break;
      case 3:
        copy.writeUInt32LE(below(copy.length), word);
        break;
      case 4:
        copy.writeUInt32LE((copy.readUInt32LE(word) + below(17) - 8) >>> 0, word);
        break;
      case 5: {
        const from = hot[below(hot.length)];
        bytes.copy(copy, at, from.at, from.at + 1 + below(Math.min(64, from.length)));
        break;
      }
      default:
        // A cut file is refused early; few of them are enough.
        if (below(10) === 0) copy = copy.subarray(0, Math.max(64, at));
    }
  }
  return copy;
}

/** Opens and loads; true where that was done. */
function load(bytes: Uint8Array, types: Btf): boolean {
  const kernel = new RecordingKernel();
  kernel.types.set('program', types);
  kernel.there = [fakeFunction('program', 'function')];
  try {
    const object = BpfObject.open(bytes, { name: 'mutated.bpf.o' });
    for (const map of object.maps) void map.name;
    object.load(kernel);
    object.destroy();
    return true;
  } catch (error) {
    if (error instanceof BpfError) return false;
    throw error;
  }
}

describe.skipIf(missingBpfCompiler() !== undefined)('mutated BPF objects', () => {
  it(`are loaded or refused, ${MUTATIONS} of them`, { timeout: 3_600_000 }, () => {
    const samples = bpfPrograms().map(sample);
    for (const { name, bytes } of samples) expect(`${name} ${bytes.length > 0}`).toBe(`${name} true`);
    const random = randomNumbers('mutated BPF objects');
    const before = process.memoryUsage().rss;
    let loaded = 0;
    const times: number[] = [];
    let start = process.cpuUsage();
    for (let count = 0; count < MUTATIONS; count++) {
      const original = samples[count % samples.length];
      const bytes = mutate(original, random);
      if (count % BATCH === 0) start = process.cpuUsage();
      try {
        if (load(bytes, original.types)) loaded++;
      } catch (error) {
        throw new Error(`mutation ${count}, of ${basename(original.name)}: ${(error as Error).stack}`);
      }
      if (count % BATCH === BATCH - 1) times.push(cpuMs(start));
    }
    times.sort((a, b) => a - b);
    const growth = (process.memoryUsage().rss - before) / 2 ** 20;
    const at = (part: number) => times[Math.floor((times.length - 1) * part)].toFixed(1);
    console.log(
      `${MUTATIONS} mutations of ${samples.length} objects: ${loaded} loaded, ${MUTATIONS - loaded} refused; of ${BATCH} the median ${at(0.5)}, the slowest ${at(1)} ms of CPU; memory grew ${growth.toFixed(0)} MiB`,
    );
    expect(loaded).toBeGreaterThan(MUTATIONS / 100);
    expect(loaded).toBeLessThan(MUTATIONS);
    expect(Number(at(1))).toBeLessThan(MAX_MS);
    expect(growth).toBeLessThan(MAX_GROWTH_MB);
  });
});

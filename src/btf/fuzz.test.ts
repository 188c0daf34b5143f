/**
 * Damaged and hostile types: mutations of what compilers wrote are either read, and then everything that can be done
 * with types ends, or are refused by a BpfError. Nothing else is thrown, nothing takes long, nothing grows without bound.
 */

import { existsSync, readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { cpuMs } from '../../tests/support/cpu_time.js';
import { decodeProgram } from '../bpf/encoding.js';
import { type BpfInsn, slotsOf } from '../bpf/instruction.js';
import { BpfError } from '../kernel/errno.js';
import { Btf } from './btf.js';
import { BtfBuilder } from './builder.js';
import { applyCoreRelo, computeCoreRelo } from './core.js';
import { BtfExt } from './ext.js';
import { CORE_HEADER, EVERY_KIND, hasClang, hasGcc, hasPahole, sectionOf, Workshop } from './fixture.js';
import { formatAllTypes, formatType } from './format_type.js';
import { decodeValue, encodeValue, formatValue } from './value.js';

const SOAK = process.env.MULTITRACE_SOAK === '1';
const MUTATIONS = SOAK ? 100_000 : 3000;
/** Time is taken of so many at once: asking for it takes longer than most of them. */
const BATCH = 20;
/** Longer than any batch takes, ms: it does some ten thousand things with types. */
const MAX_BATCH_MS = 5000;
const SEED = Number(process.env.MULTITRACE_SEED ?? Date.now() % 2 ** 31);

const workshop = new Workshop();
afterAll(() => workshop.remove());

/** xorshift32: the same seed gives the same mutations anywhere. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0 || 1;
  }

  below(limit: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) % limit;
  }
}

interface Sample {
  readonly name: string;
  readonly btf: Uint8Array;
  readonly ext?: Uint8Array;
  readonly code?: BpfInsn[];
}

const CORE_SOURCE = `${CORE_HEADER}
struct deep { int a; struct { struct deep *next; u64 wide : 33; }; char name[8]; struct { int x; } list[4]; } __pai;
enum e { ONE = 1, TWO }; enum big { BIG = 0x100000000ULL };
u64 out[8];
SEC("fentry/f") u64 f(struct deep *d) {
  out[0] = d->next->next->a; out[1] = d->list[2].x; out[2] = FIELD_INFO(d->wide, 4); out[3] = FIELD_INFO(d->name, 2);
  out[4] = __builtin_preserve_type_info(*(struct deep *)0, 2); out[5] = __builtin_preserve_enum_value(*(enum e *)TWO, 1);
  out[6] = __builtin_preserve_enum_value(*(enum big *)BIG, 1); out[7] = __builtin_btf_type_id(*(struct deep *)0, 1);
  return 0; }
`;

function samples(): Sample[] {
  const found: Sample[] = [];
  if (hasClang) {
    for (const [name, source] of [
      ['every kind', EVERY_KIND],
      ['CO-RE', CORE_SOURCE],
    ]) {
      const path = workshop.bpf(source);
      const code = name === 'CO-RE' ? { code: [...decodeProgram(sectionOf(path, 'fentry/f'))] } : {};
      found.push({ name, btf: sectionOf(path, '.BTF'), ext: sectionOf(path, '.BTF.ext'), ...code });
    }
  }
  if (hasGcc && hasPahole)
    found.push({
      name: 'pahole',
      btf: sectionOf(
        workshop.pahole('struct s { int a : 3; struct s *n; } x; int f(struct s *s, ...) { return s->a; }'),
        '.BTF',
      ),
    });
  const builder = new BtfBuilder();
  const int = builder.addInt('int', 4);
  const first = builder.nextId;
  for (let index = 0; index < 40; index++)
    builder.addStruct(`s${index}`, 8, [{ name: 'p', type: first + 40 + index, bitOffset: 0, bitSize: 0 }]);
  for (let index = 0; index < 40; index++) builder.addPtr(index % 3 === 0 ? int : first + ((index * 7) % 40));
  return [...found, { name: 'built', btf: builder.build() }];
}

/** One to four changes: a bit, a byte, a word, a copy of other bytes, a cut, or bytes put in. */
function mutate(source: Uint8Array, random: Random): Uint8Array {
  let bytes = Uint8Array.from(source);
  for (let count = 1 + random.below(4); count > 0 && bytes.length > 4; count--) {
    const at = random.below(bytes.length);
    // Most fields are words: hit them whole, with numbers that are near the edges of something.
    const word = (at & ~3) + 4 <= bytes.length ? at & ~3 : 0;
    const view = new DataView(bytes.buffer);
    switch (random.below(8)) {
      case 0:
        bytes[at] ^= 1 << random.below(8);
        break;
      case 1:
        bytes[at] = random.below(256);
        break;
      case 2:
      case 3:
        view.setUint32(word, random.below(bytes.length), true);
        break;
      case 4:
        view.setUint32(word, EDGES[random.below(EDGES.length)], true);
        break;
      case 5:
        view.setUint32(word, view.getUint32(word, true) + random.below(5) - 2, true);
        break;
      case 6: {
        const length = 1 + random.below(Math.min(64, bytes.length - at));
        bytes.copyWithin(random.below(bytes.length), at, at + length);
        break;
      }
      default:
        bytes =
          random.below(2) === 0
            ? bytes.slice(0, at)
            : Uint8Array.from(
                Buffer.concat([bytes.subarray(0, at), bytes.subarray(random.below(bytes.length))]),
              );
    }
  }
  return bytes;
}

const EDGES = [
  0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xffff_fffc, 0x0001_0000, 0x0400_ffff, 0x00ff_ffff,
  0x8400_0001,
];

/** Runs an action that may be refused; anything but a BpfError goes through. */
function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch (error) {
    if (error instanceof BpfError) return undefined;
    throw error;
  }
}

/** Everything that is done with types. */
function use(btf: Btf, original: Btf, sample: Sample, ext: Uint8Array | undefined): void {
  for (let id = 1; id <= btf.typeCount; id++) {
    const type = attempt(() => btf.type(id));
    if (!type) continue;
    attempt(() => btf.typeName(id));
    if (type.name !== undefined) {
      const name = type.name;
      if (attempt(() => btf.findAll(name))?.includes(id) === false && !name.includes('\ufffd'))
        throw new Error(`${name} is not found again`);
    }
    attempt(() => formatType(btf, id));
    const size = attempt(() => btf.sizeOf(id));
    if (size === undefined || size > 4096) continue;
    const bytes = new Uint8Array(size).fill(0xa5);
    const value = attempt(() => decodeValue(btf, id, bytes));
    attempt(() => formatValue(btf, id, bytes));
    if (value !== undefined) attempt(() => encodeValue(btf, id, value));
  }
  attempt(() => formatAllTypes(btf));
  if (ext) relocate(btf, original, sample, ext);
}

function relocate(btf: Btf, original: Btf, { code }: Sample, bytes: Uint8Array): void {
  const ext = attempt(() => BtfExt.parse(bytes, btf));
  for (const [, relos] of ext?.coreRelos ?? [])
    for (const relo of relos)
      for (const targets of [[btf], [original]]) {
        const result = attempt(() => computeCoreRelo(relo, btf, targets));
        const insn = code?.[relo.insnOffset / 8];
        if (result && insn) {
          const applied = attempt(() => applyCoreRelo(insn, result, 0));
          if (applied && slotsOf(applied) !== slotsOf(insn))
            throw new Error('an instruction changed its slots');
        }
      }
}

describe('mutated types', () => {
  it(`are read or refused, ${MUTATIONS} of them (seed ${SEED})`, { timeout: 3_600_000 }, () => {
    const random = new Random(SEED);
    const corpus = samples().map(sample => ({ sample, original: Btf.parse(sample.btf) }));
    let accepted = 0;
    let slowest = 0;
    let start = process.cpuUsage();
    for (let count = 0; count < MUTATIONS; count++) {
      const { sample, original } = corpus[count % corpus.length];
      const inExt = sample.ext !== undefined && random.below(4) === 0;
      const bytes = inExt ? sample.btf : mutate(sample.btf, random);
      const ext = inExt ? mutate(sample.ext!, random) : sample.ext;
      const relaxed = random.below(2) === 0;
      if (count % BATCH === 0) start = process.cpuUsage();
      try {
        const btf = attempt(() => Btf.parse(bytes, { relaxed }));
        if (btf) {
          accepted++;
          use(btf, original, sample, ext);
        }
      } catch (error) {
        throw new Error(`mutation ${count} of ${sample.name}, seed ${SEED}: ${(error as Error).stack}`);
      }
      if (count % BATCH === BATCH - 1) slowest = Math.max(slowest, cpuMs(start));
    }
    console.log(
      `seed ${SEED}: ${MUTATIONS} mutations, ${accepted} read, ${MUTATIONS - accepted} refused, slowest ${BATCH} ${slowest.toFixed(1)} ms of CPU, ${(process.memoryUsage().rss / 2 ** 20).toFixed(0)} MiB`,
    );
    expect(accepted).toBeGreaterThan(MUTATIONS / 50);
    expect(accepted).toBeLessThan(MUTATIONS);
    expect(slowest).toBeLessThan(MAX_BATCH_MS);
  });

  const vmlinux = '/sys/kernel/btf/vmlinux';
  it.skipIf(!SOAK || !existsSync(vmlinux))('of a kernel are read or refused', { timeout: 600_000 }, () => {
    const random = new Random(SEED);
    const source = Uint8Array.from(readFileSync(vmlinux));
    for (let count = 0; count < 100; count++) {
      const bytes = mutate(source.subarray(0), random);
      const start = performance.now();
      attempt(() => Btf.parse(bytes));
      expect(performance.now() - start).toBeLessThan(3000);
    }
  });
});

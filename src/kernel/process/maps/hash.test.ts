import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import { callCode } from '../../../ffi/libc.js';
import { BpfError } from '../../errno.js';
import { inspectHash, RoutinesInMemory, randomNumbers, SharedMemory } from './fixture.js';
import { HashMap } from './hash.js';
import { HASH } from './layout.js';

const ENOENT = -2n;
const E2BIG = -7n;
const EBUSY = -16n;
const EEXIST = -17n;
const EINVAL = -22n;

let code: RoutinesInMemory;

beforeAll(() => {
  code = new RoutinesInMemory();
});

afterAll(() => {
  code[Symbol.dispose]();
});

/** The operations of one side: results as the machine code gives them, for both. */
interface Side {
  lookup(key: Uint8Array): Uint8Array | undefined;
  update(key: Uint8Array, value: Uint8Array, flags: bigint): bigint;
  delete(key: Uint8Array): bigint;
}

function asErrno(operation: () => void): bigint {
  try {
    operation();
    return 0n;
  } catch (error) {
    if (error instanceof BpfError) return BigInt(-error.errno);
    throw error;
  }
}

function readerSide(map: HashMap): Side {
  return {
    lookup: key => map.lookup(key),
    update: (key, value, flags) => asErrno(() => map.update(key, value, flags)),
    delete: key => asErrno(() => map.delete(key)),
  };
}

/** Machine code takes keys and values by address: they are copied into memory that stays where it is. */
function programSide(map: HashMap, memory: SharedMemory): Side {
  const { hashLookup, hashUpdate, hashDelete } = code.routines;
  const [lookup, update, remove] = [hashLookup, hashUpdate, hashDelete].map(label => code.address(label));
  const signed = (result: bigint): bigint => BigInt.asIntN(64, result);
  const block = memory.alloc(8192);
  const place = (bytes: Uint8Array, end: number): bigint => {
    block.bytes.set(bytes, end - bytes.length);
    return block.address + BigInt(end - bytes.length);
  };
  return {
    lookup(key) {
      const at = callCode(lookup!, map.address, place(key, 4096));
      if (at === 0n) return undefined;
      const offset = Number(at - map.address);
      return view(map, memory).slice(offset, offset + map.valueSize);
    },
    update: (key, value, flags) =>
      signed(callCode(update!, map.address, place(key, 4096), place(value, 8192), flags)),
    delete: key => signed(callCode(remove!, map.address, place(key, 4096))),
  };
}

/** All the memory of a map. */
function view(map: HashMap, memory: SharedMemory): Uint8Array {
  return memory.bytesFrom(map.address);
}

function createHash(memory: SharedMemory, keySize: number, valueSize: number, maxEntries: number): HashMap {
  return new HashMap({ type: MAP_TYPE.HASH, keySize, valueSize, maxEntries, name: 'h' }, 1, memory);
}

function key(size: number, n: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => (n >> (8 * (i % 4))) ^ (i >> 2));
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('a hash map', () => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

  for (const [keySize, valueSize] of [
    [1, 1],
    [2, 8],
    [3, 12],
    [4, 8],
    [5, 7],
    [7, 16],
    [8, 8],
    [9, 4],
    [12, 3],
    [16, 32],
    [23, 5],
    [64, 100],
  ] as const) {
    it(`does what a Map does, from both sides at once: keys of ${keySize}, values of ${valueSize}, seed ${seed}`, () => {
      using memory = new SharedMemory(1 << 20);
      const maxEntries = 40;
      const map = createHash(memory, keySize, valueSize, maxEntries);
      const sides = [readerSide(map), programSide(map, memory)];
      const random = randomNumbers(seed + keySize);
      const model = new Map<string, string>();
      for (let i = 0; i < 4_000; i++) {
        const side = sides[random(2)]!;
        const k = key(keySize, random(60));
        const name = hex(k);
        const present = model.has(name);
        switch (random(4)) {
          case 0:
            expect(side.delete(k)).toBe(present ? 0n : ENOENT);
            model.delete(name);
            break;
          case 1: {
            const got = side.lookup(k);
            expect(got === undefined ? undefined : hex(got)).toBe(model.get(name));
            break;
          }
          default: {
            const flags = [UPDATE.ANY, UPDATE.NOEXIST, UPDATE.EXIST][random(3)]!;
            const value = Uint8Array.from({ length: valueSize }, () => random(256));
            const wanted =
              flags === UPDATE.NOEXIST && present
                ? EEXIST
                : flags === UPDATE.EXIST && !present
                  ? ENOENT
                  : !present && model.size === maxEntries
                    ? E2BIG
                    : 0n;
            expect(side.update(k, value, flags)).toBe(wanted);
            if (wanted === 0n) model.set(name, hex(value));
          }
        }
      }
      const contents = inspectHash(view(map, memory));
      expect([...contents.keys].sort()).toEqual([...model.keys()].sort());
      expect(contents).toMatchObject({ marked: 0, lost: 0, free: maxEntries - model.size, spare: 128 });
      const iterated: string[] = [];
      for (let k = map.nextKey(); k !== undefined; k = map.nextKey(k)) iterated.push(hex(k));
      expect(iterated).toEqual(contents.keys);
      for (const [name, value] of model) {
        for (const side of sides) expect(hex(side.lookup(Buffer.from(name, 'hex'))!)).toBe(value);
      }
    });
  }

  it('takes exactly as many keys as it was made for, and again after they were deleted', () => {
    using memory = new SharedMemory(1 << 20);
    for (const maxEntries of [1, 2, 3, 100]) {
      const map = createHash(memory, 4, 8, maxEntries);
      const sides = [readerSide(map), programSide(map, memory)];
      for (let round = 0; round < 6; round++) {
        for (let i = 0; i < maxEntries; i++)
          expect(sides[i % 2]!.update(key(4, i), key(8, i), UPDATE.ANY)).toBe(0n);
        for (const side of sides) {
          expect(side.update(key(4, maxEntries), key(8, 0), UPDATE.ANY)).toBe(E2BIG);
          expect(side.update(key(4, maxEntries), key(8, 0), UPDATE.EXIST)).toBe(ENOENT);
          expect(side.update(key(4, 0), key(8, 9), UPDATE.ANY)).toBe(0n);
        }
        for (let i = 0; i < maxEntries; i++) expect(sides[(i + round) % 2]!.delete(key(4, i))).toBe(0n);
        expect(inspectHash(view(map, memory))).toEqual({
          keys: [],
          marked: 0,
          free: maxEntries,
          spare: 128,
          lost: 0,
        });
      }
    }
  });

  it('refuses unknown flags from a program', () => {
    using memory = new SharedMemory(1 << 16);
    const program = programSide(createHash(memory, 4, 8, 4), memory);
    for (const flags of [3n, 4n, 1n << 40n, -1n]) {
      expect(program.update(key(4, 1), key(8, 1), flags)).toBe(EINVAL);
    }
  });

  it('replaces with free nodes when others hold all the spare ones, and is busy when there is none', () => {
    using memory = new SharedMemory(1 << 20);
    for (const which of [0, 1]) {
      const map = createHash(memory, 4, 8, 3);
      const side = [readerSide(map), programSide(map, memory)][which]!;
      const bytes = view(map, memory);
      bytes.fill(0, HASH.SPARE, HASH.SPARE + 4);
      for (let i = 0; i < 2; i++) expect(side.update(key(4, i), key(8, i), UPDATE.ANY)).toBe(0n);
      for (let i = 0; i < 10; i++) expect(side.update(key(4, i % 2), key(8, i), UPDATE.ANY)).toBe(0n);
      expect(inspectHash(bytes)).toMatchObject({ marked: 0, free: 1, spare: 0, lost: 128 });
      expect(side.update(key(4, 2), key(8, 2), UPDATE.NOEXIST)).toBe(0n);
      expect(side.update(key(4, 2), key(8, 3), UPDATE.ANY)).toBe(EBUSY);
      expect(side.lookup(key(4, 2))).toEqual(key(8, 2));
      expect(side.delete(key(4, 0))).toBe(0n);
      expect(side.update(key(4, 2), key(8, 3), UPDATE.ANY)).toBe(0n);
      expect(side.lookup(key(4, 2))).toEqual(key(8, 3));
    }
  });

  it('keeps the address of a value while other keys come and go', () => {
    using memory = new SharedMemory(1 << 20);
    const map = createHash(memory, 8, 8, 64);
    const program = programSide(map, memory);
    expect(program.update(key(8, 1), key(8, 0), UPDATE.ANY)).toBe(0n);
    const stored = memory.alloc(8);
    stored.bytes.set(key(8, 1));
    const lookup = (): bigint =>
      callCode(code.address(code.routines.hashLookup), map.address, stored.address);
    const at = lookup();
    expect(at).not.toBe(0n);
    for (let i = 2; i < 64; i++) program.update(key(8, i), key(8, i), UPDATE.ANY);
    for (let i = 2; i < 64; i++) program.delete(key(8, i));
    expect(lookup()).toBe(at);
    // What a program adds through the address is what the reader sees.
    memory.bytesFrom(at)[0] = 42;
    expect(map.lookup(key(8, 1))![0]).toBe(42);
  });

  it('iterates while keys are deleted, until none is left', () => {
    using memory = new SharedMemory(1 << 20);
    const map = createHash(memory, 4, 4, 500);
    for (let i = 0; i < 500; i++) map.update(key(4, i), key(4, i));
    let deleted = 0;
    for (let k = map.nextKey(); k !== undefined; k = map.nextKey(k)) {
      map.delete(k);
      deleted++;
    }
    expect(deleted).toBe(500);
    expect(map.nextKey(key(4, 1))).toBeUndefined();
  });

  it('spreads keys over its buckets wherever they differ', () => {
    using memory = new SharedMemory(1 << 20);
    for (const make of [
      (i: number): bigint => BigInt(i),
      (i: number): bigint => BigInt(i) << 53n,
      (i: number): bigint => 0x7fff_0000_0000n + BigInt(i) * 4096n,
      (i: number): bigint => (BigInt(i) << 32n) | 0x1234n,
    ]) {
      const map = createHash(memory, 8, 8, 1024);
      for (let i = 0; i < 1024; i++) {
        map.update(new Uint8Array(BigUint64Array.of(make(i)).buffer), key(8, i));
      }
      // 1024 balls in 1024 bins leave 37 % of the bins empty; a hash that lost a part of the key leaves far more.
      const bytes = view(map, memory);
      const buckets = new Uint32Array(bytes.buffer, bytes.byteOffset + HASH.BUCKETS, 2048);
      const empty = buckets.filter((low, i) => i % 2 === 0 && low === 0).length;
      expect(empty).toBeLessThan(1024 * 0.45);
    }
  });
});

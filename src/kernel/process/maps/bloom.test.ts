import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import type { BloomFilter } from './bloom.js';
import { asErrno, ProgramSide, RoutinesInMemory, randomNumbers, SharedMemory } from './fixture.js';
import { createMap } from './map.js';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const ENOENT = -2n;
const EINVAL = -22n;

let code: RoutinesInMemory;
let memory: SharedMemory;
let program: ProgramSide;

beforeAll(() => {
  code = new RoutinesInMemory();
  memory = new SharedMemory(4 << 20);
  program = new ProgramSide(code, memory);
});

afterAll(() => {
  memory[Symbol.dispose]();
  code[Symbol.dispose]();
});

function create(valueSize: number, maxEntries: number, mapExtra = 0n): BloomFilter {
  const type = MAP_TYPE.BLOOM_FILTER;
  return createMap(
    { type, keySize: 0, valueSize, maxEntries, mapExtra, name: 'b' },
    1,
    memory,
  ) as BloomFilter;
}

const NO_KEY = new Uint8Array(0);

describe('a bloom filter', () => {
  for (const [valueSize, mapExtra] of [
    [1, 1n],
    [4, 0n],
    [8, 5n],
    [13, 15n],
    [40, 3n],
  ] as const) {
    it(`forgets nothing, and both sides see the same: values of ${valueSize}, ${mapExtra} hashes, seed ${seed}`, () => {
      const random = randomNumbers(seed + valueSize);
      const map = create(valueSize, 200, mapExtra);
      const some = (): Uint8Array => Uint8Array.from({ length: valueSize }, () => random(256));
      const peek = (value: Uint8Array): bigint => program.push('bloomPeek', map, value);
      expect(map.peek(some())).toBe(false);
      const pushed: Uint8Array[] = [];
      for (let i = 0; i < 200; i++) {
        const value = some();
        if (i % 2 === 0) map.update(NO_KEY, value);
        else expect(program.push('bloomPush', map, value)).toBe(0n);
        pushed.push(value);
      }
      for (const value of pushed) {
        expect(map.lookup(value)).toEqual(value);
        expect(peek(value)).toBe(0n);
      }
      let wrong = 0;
      for (let i = 0; i < 500; i++) {
        const value = some();
        const there = map.peek(value);
        expect(peek(value)).toBe(there ? 0n : ENOENT);
        if (there) wrong++;
      }
      // With 1.4 bits for each value and hash, one hash is wrong for half of the others, and five for 1 in 30.
      if (valueSize > 1) expect(wrong).toBeLessThan(150);
    });
  }

  it('refuses flags, keys and being listed', () => {
    const map = create(8, 10);
    expect(program.push('bloomPush', map, new Uint8Array(8), UPDATE.NOEXIST)).toBe(EINVAL);
    expect(asErrno(() => map.update(NO_KEY, new Uint8Array(8), UPDATE.EXIST))).toBe(EINVAL);
    expect(asErrno(() => map.update(new Uint8Array(4), new Uint8Array(8)))).toBe(EINVAL);
    expect(() => map.delete()).toThrow(expect.objectContaining({ code: 'EOPNOTSUPP' }));
    expect(() => map.nextKey()).toThrow(expect.objectContaining({ code: 'EOPNOTSUPP' }));
    expect(() => create(8, 10, 16n)).toThrow(/map_extra/);
  });
});

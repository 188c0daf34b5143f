import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import { keyOfIndex } from './array.js';
import {
  asErrno,
  inspectHash,
  ProgramSide,
  RoutinesInMemory,
  randomNumbers,
  SharedMemory,
} from './fixture.js';
import { type BpfMap, createMap } from './map.js';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

let code: RoutinesInMemory;
let memory: SharedMemory;
let program: ProgramSide;

beforeAll(() => {
  code = new RoutinesInMemory();
  memory = new SharedMemory(16 << 20);
  program = new ProgramSide(code, memory);
});

afterAll(() => {
  memory[Symbol.dispose]();
  code[Symbol.dispose]();
});

function create(maxEntries: number, valueSize = 8, keySize = 4): BpfMap {
  return createMap({ type: MAP_TYPE.LRU_HASH, keySize, valueSize, maxEntries, name: 'l' }, 1, memory);
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('an LRU hash map', () => {
  for (const [maxEntries, keySize, valueSize] of [
    [1, 4, 8],
    [7, 8, 3],
    [64, 4, 16],
    [300, 12, 8],
  ] as const) {
    it(`of ${maxEntries} keys of ${keySize} is never full, never has more, and has what it says: seed ${seed}`, () => {
      const random = randomNumbers(seed + maxEntries);
      const map = create(maxEntries, valueSize, keySize);
      const model = new Map<string, string>();
      for (let i = 0; i < 3_000; i++) {
        const key = new Uint8Array(keySize);
        key.set(keyOfIndex(random(maxEntries * 2)));
        const value = Uint8Array.from({ length: valueSize }, () => random(256));
        if (random(3) === 0) {
          const got =
            random(2) === 0 ? map.lookup(key) : program.lookup('lruLookup', map, { key }, valueSize);
          // What is there is what was written last; it may be gone.
          if (got !== undefined) expect(hex(got)).toBe(model.get(hex(key)));
        } else {
          const result =
            random(2) === 0
              ? asErrno(() => map.update(key, value))
              : program.change('hashUpdate', map, { key, value, flags: UPDATE.ANY });
          expect(result).toBe(0n);
          model.set(hex(key), hex(value));
          expect(hex(map.lookup(key)!)).toBe(hex(value));
        }
      }
      const contents = inspectHash(memory.bytesFrom(map.address));
      expect(contents).toMatchObject({ marked: 0, lost: 0, spare: 128 });
      expect(contents.keys.length + contents.free).toBe(maxEntries);
      expect(contents.keys.length).toBe(maxEntries);
      expect([...map.entries()].length).toBe(maxEntries);
    });
  }

  for (const side of ['program', 'reader'] as const) {
    it(`keeps what is used and evicts what is not, when the ${side} inserts`, () => {
      const map = create(200);
      const insert = (n: number): void => {
        const key = keyOfIndex(n);
        const value = new Uint8Array(8);
        if (side === 'reader') map.update(key, value);
        else expect(program.change('hashUpdate', map, { key, value })).toBe(0n);
      };
      for (let n = 0; n < 200; n++) insert(n);
      for (let hot = 0; hot < 50; hot++) program.lookup('lruLookup', map, { key: keyOfIndex(hot) }, 8);
      for (let n = 1000; n < 3000; n++) {
        // 50 keys are looked at again and again.
        for (let hot = 0; hot < 50; hot += 10)
          program.lookup('lruLookup', map, { key: keyOfIndex(hot + (n % 10)) }, 8);
        insert(n);
      }
      let kept = 0;
      for (let hot = 0; hot < 50; hot++) if (map.lookup(keyOfIndex(hot)) !== undefined) kept++;
      expect(kept).toBe(50);
      // Of those that were never looked at, none is left.
      for (let n = 50; n < 200; n++) expect(map.lookup(keyOfIndex(n))).toBeUndefined();
    });
  }

  it('still inserts where all its keys are in use', () => {
    const map = create(500);
    for (let n = 0; n < 500; n++) map.update(keyOfIndex(n), new Uint8Array(8));
    for (let n = 500; n < 600; n++) {
      for (const { key } of map.entries()) program.lookup('lruLookup', map, { key }, 8);
      expect(program.change('hashUpdate', map, { key: keyOfIndex(n), value: new Uint8Array(8) })).toBe(0n);
    }
    expect([...map.entries()].length).toBe(500);
  });
});

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import { keyOfIndex } from './array.js';
import { ProgramSide, RoutinesInMemory, randomNumbers, SharedMemory } from './fixture.js';
import { createMap } from './map.js';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

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

const text = (entries: Iterable<[Uint8Array, Uint8Array]>): string[] =>
  [...entries]
    .map(([key, value]) => `${Buffer.from(key).toString('hex')} ${Buffer.from(value).toString('hex')}`)
    .sort();

describe('mapIterate', () => {
  it('goes over an array in order', () => {
    const map = createMap(
      { type: MAP_TYPE.ARRAY, keySize: 4, valueSize: 12, maxEntries: 5, name: 'a' },
      1,
      memory,
    );
    for (let i = 0; i < 5; i++) map.update(keyOfIndex(i), new Uint8Array(12).fill(i + 1));
    const found = program.iterate(map, 4, 12);
    expect(found).toEqual([0, 1, 2, 3, 4].map(i => [keyOfIndex(i), new Uint8Array(12).fill(i + 1)]));
  });

  for (const type of [MAP_TYPE.HASH, MAP_TYPE.LRU_HASH]) {
    it(`finds each key of a hash map of type ${type} once, and none that is gone: seed ${seed}`, () => {
      const random = randomNumbers(seed);
      const map = createMap({ type, keySize: 7, valueSize: 8, maxEntries: 50, name: 'h' }, 1, memory);
      expect(program.iterate(map, 7, 8)).toEqual([]);
      for (let i = 0; i < 2_000; i++) {
        const key = new Uint8Array(7);
        key.set(keyOfIndex(random(49)));
        const value = new Uint8Array(BigUint64Array.of(BigInt(i)).buffer);
        const flags = BigInt(random(3));
        switch (random(3)) {
          case 0:
            program.change('hashDelete', map, { key });
            break;
          case 1:
            program.change('hashUpdate', map, { key, value, flags });
            break;
          default:
            try {
              map.update(key, value, flags);
            } catch {
              // EEXIST, ENOENT: such a node must not show up either.
            }
        }
        if (i % 20 !== 0) continue;
        const wanted = [...map.entries()].map(({ key, value }): [Uint8Array, Uint8Array] => [key, value]);
        expect(text(program.iterate(map, 7, 8))).toEqual(text(wanted));
      }
    });
  }
});

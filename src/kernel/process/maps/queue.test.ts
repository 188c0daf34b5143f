import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import { asErrno, ProgramSide, RoutinesInMemory, randomNumbers, SharedMemory } from './fixture.js';
import { createMap } from './map.js';
import type { QueueOrStack } from './queue.js';
import { mapRoutineFor } from './routines.js';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const ENOENT = -2n;
const E2BIG = -7n;
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

function create(type: number, valueSize: number, maxEntries: number): QueueOrStack {
  return createMap({ type, keySize: 0, valueSize, maxEntries, name: 'q' }, 1, memory) as QueueOrStack;
}

const NO_KEY = new Uint8Array(0);
const hex = (bytes: Uint8Array | undefined): string | undefined =>
  bytes === undefined ? undefined : Buffer.from(bytes).toString('hex');

for (const [type, what] of [
  [MAP_TYPE.QUEUE, 'a queue'],
  [MAP_TYPE.STACK, 'a stack'],
] as const) {
  const [push, pop, peek] = (['push', 'pop', 'peek'] as const).map(
    operation => mapRoutineFor(type, operation)!,
  );
  describe(what, () => {
    for (const [valueSize, maxEntries] of [
      [1, 1],
      [3, 2],
      [8, 5],
      [13, 40],
      [32, 7],
    ] as const) {
      it(`does what an array does, from both sides: ${maxEntries} values of ${valueSize}, seed ${seed}`, () => {
        const random = randomNumbers(seed + valueSize);
        const map = create(type, valueSize, maxEntries);
        const model: Uint8Array[] = [];
        const next = (): Uint8Array | undefined => (type === MAP_TYPE.QUEUE ? model[0] : model.at(-1));
        for (let i = 0; i < 2_000; i++) {
          const ours = random(2) === 0;
          switch (random(5)) {
            case 0: {
              const wanted = next();
              if (ours) {
                expect(hex(map.lookup(NO_KEY))).toBe(hex(wanted));
                break;
              }
              expect(program.take(peek!, map, valueSize)).toEqual(
                wanted === undefined ? [ENOENT, new Uint8Array(valueSize)] : [0n, wanted],
              );
              break;
            }
            case 1:
            case 2: {
              const wanted = type === MAP_TYPE.QUEUE ? model.shift() : model.pop();
              if (ours) {
                expect(hex(map.lookupAndDelete(NO_KEY))).toBe(hex(wanted));
                break;
              }
              expect(program.take(pop!, map, valueSize)).toEqual(
                wanted === undefined ? [ENOENT, new Uint8Array(valueSize)] : [0n, wanted],
              );
              break;
            }
            default: {
              const value = Uint8Array.from({ length: valueSize }, () => random(256));
              const flags = [UPDATE.ANY, UPDATE.ANY, UPDATE.ANY, UPDATE.EXIST][random(4)]!;
              const full = model.length === maxEntries;
              const result = ours
                ? asErrno(() => map.update(NO_KEY, value, flags))
                : program.push(push!, map, value, flags);
              expect(result).toBe(full && flags !== UPDATE.EXIST ? E2BIG : 0n);
              if (result !== 0n) break;
              if (full) model.shift();
              model.push(value);
            }
          }
        }
        while (model.length > 0) {
          expect(hex(map.pop())).toBe(hex(type === MAP_TYPE.QUEUE ? model.shift() : model.pop()));
        }
        expect(map.pop()).toBeUndefined();
      });
    }

    it('refuses flags that make no sense, and to be listed', () => {
      const map = create(type, 8, 2);
      for (const flags of [UPDATE.NOEXIST, 3n, 4n, -1n]) {
        expect(program.push(push!, map, new Uint8Array(8), flags)).toBe(EINVAL);
        expect(asErrno(() => map.push(new Uint8Array(8), flags))).toBe(EINVAL);
      }
      expect(() => map.nextKey()).toThrow(expect.objectContaining({ code: 'EOPNOTSUPP' }));
      expect(() => map.delete(NO_KEY)).toThrow(expect.objectContaining({ code: 'EOPNOTSUPP' }));
      expect(() => [...map.entries()]).toThrow(expect.objectContaining({ code: 'EOPNOTSUPP' }));
    });
  });
}

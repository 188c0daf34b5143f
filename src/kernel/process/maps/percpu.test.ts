import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import { POSSIBLE_CPUS } from '../threads/layout.js';
import { keyOfIndex } from './array.js';
import { asErrno, ProgramSide, RoutinesInMemory, randomNumbers, SharedMemory } from './fixture.js';
import { type BpfMap, createMap } from './map.js';
import { mapRoutineFor } from './routines.js';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const ENOENT = -2n;
const E2BIG = -7n;
const EEXIST = -17n;
const EINVAL = -22n;

let code: RoutinesInMemory;
let memory: SharedMemory;
let program: ProgramSide;

beforeAll(() => {
  code = new RoutinesInMemory();
  memory = new SharedMemory(64 << 20);
  program = new ProgramSide(code, memory);
});

afterAll(() => {
  memory[Symbol.dispose]();
  code[Symbol.dispose]();
});

function create(type: number, keySize: number, valueSize: number, maxEntries: number): BpfMap {
  return createMap({ type, keySize, valueSize, maxEntries, name: 'p' }, 1, memory);
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

function routine(map: BpfMap, operation: 'lookup' | 'update' | 'delete' | 'lookupPercpu') {
  return mapRoutineFor(map.type, operation)!;
}

/** Values of all CPUs as bpf(2) has them, from those that are not zeros. */
function whole(values: ReadonlyMap<number, Uint8Array>, valueSize: number): Uint8Array {
  const stride = Math.ceil(valueSize / 8) * 8;
  const bytes = new Uint8Array(stride * POSSIBLE_CPUS);
  for (const [cpu, value] of values) bytes.set(value, cpu * stride);
  return bytes;
}

describe('per-CPU maps', () => {
  for (const [type, what] of [
    [MAP_TYPE.PERCPU_ARRAY, 'a per-CPU array'],
    [MAP_TYPE.PERCPU_HASH, 'a per-CPU hash'],
    [MAP_TYPE.LRU_PERCPU_HASH, 'an LRU per-CPU hash that is never full'],
  ] as const) {
    for (const valueSize of [1, 4, 8, 12, 40]) {
      it(`${what} does what a model does, from both sides: values of ${valueSize}, seed ${seed}`, () => {
        const random = randomNumbers(seed + valueSize + type);
        const isArray = type === MAP_TYPE.PERCPU_ARRAY;
        const entries = 9;
        const map = create(type, 4, valueSize, entries);
        const model = new Map<number, Map<number, Uint8Array>>();
        if (isArray) for (let i = 0; i < entries; i++) model.set(i, new Map());
        const slots = [0, 1, 2, 63, 64, 127];
        for (let i = 0; i < 2_000; i++) {
          const index = random(isArray ? entries + 2 : entries);
          const key = keyOfIndex(index);
          const slot = slots[random(slots.length)]!;
          const value = Uint8Array.from({ length: valueSize }, () => random(256));
          const known = model.get(index);
          const flags = [UPDATE.ANY, UPDATE.NOEXIST, UPDATE.EXIST][random(3)]!;
          const outside = isArray && index >= entries;
          const wanted = outside
            ? E2BIG
            : flags === UPDATE.NOEXIST && known !== undefined
              ? EEXIST
              : flags === UPDATE.EXIST && known === undefined
                ? ENOENT
                : 0n;
          switch (random(6)) {
            case 0: {
              const got = program.lookup(routine(map, 'lookup'), map, { key, slot }, valueSize);
              const expected =
                known === undefined ? undefined : hex(known.get(slot) ?? new Uint8Array(valueSize));
              expect(got === undefined ? undefined : hex(got)).toBe(expected);
              break;
            }
            case 1: {
              const got = map.lookup(key);
              const expected = known === undefined ? undefined : hex(whole(known, valueSize));
              expect(got === undefined ? undefined : hex(got)).toBe(expected);
              break;
            }
            case 2: {
              const all = new Map(slots.filter(() => random(2) === 0).map(s => [s, value]));
              expect(asErrno(() => map.update(key, whole(all, valueSize), flags))).toBe(wanted);
              if (wanted === 0n) model.set(index, all);
              break;
            }
            case 3:
              if (isArray) {
                expect(program.change(routine(map, 'delete'), map, { key })).toBe(EINVAL);
                break;
              }
              expect(
                random(2) === 0
                  ? asErrno(() => map.delete(key))
                  : program.change(routine(map, 'delete'), map, { key }),
              ).toBe(known === undefined ? ENOENT : 0n);
              model.delete(index);
              break;
            case 4: {
              const cpu = slots[random(slots.length)]!;
              const got = program.lookup(
                routine(map, 'lookupPercpu'),
                map,
                { key, flags: BigInt(cpu), slot },
                valueSize,
              );
              const expected =
                known === undefined ? undefined : hex(known.get(cpu) ?? new Uint8Array(valueSize));
              expect(got === undefined ? undefined : hex(got)).toBe(expected);
              break;
            }
            default:
              expect(program.change(routine(map, 'update'), map, { key, value, flags, slot })).toBe(wanted);
              if (wanted !== 0n) break;
              if (known === undefined) model.set(index, new Map([[slot, value]]));
              else known.set(slot, value);
          }
        }
        const iterated = program
          .iterate(map, 4, valueSize, 2)
          .map(([key, value]) => `${hex(key)} ${hex(value)}`);
        const wanted = [...model].map(
          ([index, values]) => `${hex(keyOfIndex(index))} ${hex(values.get(2) ?? new Uint8Array(valueSize))}`,
        );
        expect(iterated.sort()).toEqual(wanted.sort());
        expect([...map.entries()].length).toBe(model.size);
      });
    }
  }

  it('have no value for a CPU that there is not', () => {
    for (const type of [MAP_TYPE.PERCPU_ARRAY, MAP_TYPE.PERCPU_HASH]) {
      const map = create(type, 4, 8, 2);
      map.update(keyOfIndex(0), new Uint8Array(8 * POSSIBLE_CPUS));
      for (const cpu of [128n, 0xffffffffn]) {
        const args = { key: keyOfIndex(0), flags: cpu };
        expect(program.lookup(routine(map, 'lookupPercpu'), map, args, 8)).toBeUndefined();
      }
      expect(
        program.lookup(routine(map, 'lookupPercpu'), map, { key: keyOfIndex(0), flags: 127n }, 8),
      ).toBeDefined();
    }
  });

  it('refuse unknown flags, and take and read back all values at once', () => {
    const map = create(MAP_TYPE.PERCPU_HASH, 4, 8, 2);
    const args = { key: keyOfIndex(0), value: new Uint8Array(8), flags: 3n };
    expect(program.change('percpuHashUpdate', map, args)).toBe(EINVAL);
    const value = whole(new Map([[5, new Uint8Array(8).fill(7)]]), 8);
    map.update(keyOfIndex(1), value);
    expect(map.lookupAndDelete(keyOfIndex(1))).toEqual(value);
    expect(map.lookupAndDelete(keyOfIndex(1))).toBeUndefined();
    expect(() => map.update(keyOfIndex(1), new Uint8Array(8))).toThrow(/1024/);
  });
});

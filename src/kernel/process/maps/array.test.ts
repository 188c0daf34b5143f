import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import { addressOf, callCode } from '../../../ffi/libc.js';
import { ArrayMap } from './array.js';
import { RoutinesInMemory, randomNumbers, SharedMemory } from './fixture.js';

const EINVAL = -22n;
const E2BIG = -7n;
const EEXIST = -17n;

function key(index: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(index).buffer);
}

let memory: SharedMemory;
let code: RoutinesInMemory;

beforeAll(() => {
  memory = new SharedMemory(1 << 20);
  code = new RoutinesInMemory();
});

afterAll(() => {
  memory[Symbol.dispose]();
  code[Symbol.dispose]();
});

function createArray(valueSize: number, maxEntries: number): ArrayMap {
  return new ArrayMap({ type: MAP_TYPE.ARRAY, keySize: 4, valueSize, maxEntries, name: 'a' }, 1, memory);
}

function call(
  routine: 'arrayLookup' | 'arrayUpdate' | 'arrayDelete',
  map: ArrayMap,
  ...rest: unknown[]
): bigint {
  const [k, value, flags] = rest as [Uint8Array, Uint8Array | undefined, bigint | undefined];
  const address = code.address(code.routines[routine]);
  const result = callCode(
    address,
    map.address,
    addressOf(k),
    value === undefined ? 0n : addressOf(value),
    flags ?? 0n,
  );
  return BigInt.asIntN(64, result);
}

describe('an array map', () => {
  it('gives zeros at first, and what was written later, to both sides', () => {
    for (const valueSize of [1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 31, 32, 100]) {
      const map = createArray(valueSize, 5);
      expect(map.stride).toBe(Math.ceil(valueSize / 8) * 8);
      expect(map.lookup(key(4))).toEqual(new Uint8Array(valueSize));
      const random = randomNumbers(valueSize);
      const values = Array.from({ length: 5 }, () =>
        Uint8Array.from({ length: valueSize }, () => random(256)),
      );
      for (const [i, value] of values.entries()) {
        if (i % 2 === 0) map.update(key(i), value);
        else expect(call('arrayUpdate', map, key(i), value, UPDATE.EXIST)).toBe(0n);
      }
      for (const [i, value] of values.entries()) {
        expect(map.lookup(key(i))).toEqual(value);
        const at = call('arrayLookup', map, key(i));
        expect(at).toBe(map.values + BigInt(i * map.stride));
        expect(map.contents.slice(i * map.stride, i * map.stride + valueSize)).toEqual(value);
      }
    }
  });

  it('has no elements beyond its last, whoever asks', () => {
    const map = createArray(8, 3);
    for (const index of [3, 4, 0x7fffffff, 0xffffffff]) {
      expect(map.lookup(key(index))).toBeUndefined();
      expect(call('arrayLookup', map, key(index))).toBe(0n);
      expect(() => map.update(key(index), new Uint8Array(8))).toThrow(
        expect.objectContaining({ code: 'E2BIG' }),
      );
      expect(call('arrayUpdate', map, key(index), new Uint8Array(8), 0n)).toBe(E2BIG);
    }
  });

  it('refuses to insert, to delete, and unknown flags', () => {
    const map = createArray(8, 3);
    const value = new Uint8Array(8).fill(1);
    expect(() => map.update(key(0), value, UPDATE.NOEXIST)).toThrow(
      expect.objectContaining({ code: 'EEXIST' }),
    );
    expect(() => map.delete(key(0))).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(call('arrayUpdate', map, key(0), value, UPDATE.NOEXIST)).toBe(EEXIST);
    expect(call('arrayUpdate', map, key(0), value, 3n)).toBe(EINVAL);
    expect(call('arrayUpdate', map, key(0), value, 1n << 32n)).toBe(EINVAL);
    expect(call('arrayDelete', map, key(0))).toBe(EINVAL);
    expect(map.lookup(key(0))).toEqual(new Uint8Array(8));
  });

  it('iterates over its indexes, from the start where the key is not one', () => {
    const map = createArray(8, 3);
    expect(map.nextKey()).toEqual(key(0));
    expect(map.nextKey(key(0))).toEqual(key(1));
    expect(map.nextKey(key(1))).toEqual(key(2));
    expect(map.nextKey(key(2))).toBeUndefined();
    expect(map.nextKey(key(77))).toEqual(key(0));
    expect(createArray(8, 1).nextKey(key(0))).toBeUndefined();
  });
});

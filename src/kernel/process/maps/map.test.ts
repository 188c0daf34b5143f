import { describe, expect, it } from 'vitest';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import { BpfError, type ErrnoName } from '../../errno.js';
import { SharedMemory } from './fixture.js';
import { BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, createMap, type MapAttributes } from './map.js';

const hash: MapAttributes = { type: MAP_TYPE.HASH, keySize: 8, valueSize: 8, maxEntries: 16, name: 'm' };
const array: MapAttributes = { ...hash, type: MAP_TYPE.ARRAY, keySize: 4 };

function refusal(attr: MapAttributes): BpfError {
  using memory = new SharedMemory(1 << 16);
  try {
    createMap(attr, 1, memory);
  } catch (error) {
    if (error instanceof BpfError) return error;
    throw error;
  }
  throw new Error('the map was created');
}

describe('createMap', () => {
  const refused: [string, MapAttributes, ErrnoName, RegExp][] = [
    ['an unknown type', { ...hash, type: 99 }, 'EINVAL', /type 99/],
    ['a key of no bytes', { ...hash, keySize: 0 }, 'EINVAL', /key size/],
    ['a value of no bytes', { ...hash, valueSize: 0 }, 'EINVAL', /value size/],
    ['no entries', { ...array, maxEntries: 0 }, 'EINVAL', /number of entries/],
    ['a negative size', { ...hash, valueSize: -8 }, 'EINVAL', /value size/],
    ['half a byte', { ...hash, keySize: 1.5 }, 'EINVAL', /key size/],
    ['more entries than a u32 holds', { ...hash, maxEntries: 2 ** 32 }, 'EINVAL', /number of entries/],
    ['an array whose key is no u32', { ...array, keySize: 8 }, 'EINVAL', /must be 4/],
    ['a value of 4 MiB', { ...hash, valueSize: 4 << 20 }, 'E2BIG', /below 4194304/],
    ['an array beyond the address space', { ...array, maxEntries: 2 ** 31, valueSize: 64 }, 'E2BIG', /limit/],
    ['a hash beyond the list words', { ...hash, maxEntries: 2 ** 28, valueSize: 8 }, 'E2BIG', /limit/],
    ['a name with a space', { ...hash, name: 'a b' }, 'EINVAL', /name/],
    ['a name of 16 characters', { ...hash, name: 'a'.repeat(16) }, 'EINVAL', /name/],
    ['flags of another type', { ...array, flags: BPF_F_NO_PREALLOC }, 'EINVAL', /flags 0x1/],
    ['flags that are not there', { ...hash, flags: 1 << 5 }, 'EINVAL', /flags 0x20/],
  ];
  for (const [what, attr, code, message] of refused) {
    it(`refuses ${what} with ${code}, in one sentence`, () => {
      const error = refusal(attr);
      expect(error.code).toBe(code);
      expect(error.message).toMatch(message);
      expect(error.message).toMatch(/^[A-Z].*\.$/);
    });
  }

  it('creates maps with the flags that make no difference here', () => {
    using memory = new SharedMemory(1 << 16);
    expect(createMap({ ...hash, flags: BPF_F_NO_PREALLOC }, 7, memory)).toMatchObject({ id: 7, type: 1 });
    expect(createMap({ ...array, flags: BPF_F_MMAPABLE }, 8, memory)).toMatchObject({ id: 8, type: 2 });
  });

  it('refuses keys and values of other sizes in every operation', () => {
    using memory = new SharedMemory(1 << 16);
    for (const map of [createMap(hash, 1, memory), createMap(array, 2, memory)]) {
      const key = new Uint8Array(map.keySize);
      const long = new Uint8Array(map.keySize + 1);
      const value = new Uint8Array(map.valueSize);
      expect(() => map.lookup(long)).toThrow(/key of \d+ bytes/);
      expect(() => map.update(long, value)).toThrow(/key of \d+ bytes/);
      expect(() => map.update(key, value.subarray(1))).toThrow(/value of 7 bytes/);
      expect(() => map.nextKey(long)).toThrow(/key of \d+ bytes/);
      expect(() => map.update(key, value, 3n)).toThrow(/flags 3/);
      expect(() => map.update(key, value, -1n)).toThrow(/flags -1/);
    }
  });
});

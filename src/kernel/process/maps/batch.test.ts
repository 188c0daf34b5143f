import { describe, expect, it } from 'vitest';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import { indexOfKey, keyOfIndex } from './array.js';
import { deleteBatch, lookupAndDeleteBatch, lookupBatch, updateBatch } from './batch.js';
import { SharedMemory } from './fixture.js';
import { createMap } from './map.js';

describe('batches', () => {
  it('read, write, take out and delete all elements, in pieces of any size', () => {
    using memory = new SharedMemory(1 << 20);
    const map = createMap(
      { type: MAP_TYPE.HASH, keySize: 4, valueSize: 4, maxEntries: 50, name: 'h' },
      1,
      memory,
    );
    const entries = Array.from({ length: 50 }, (_, i) => ({ key: keyOfIndex(i), value: keyOfIndex(i * 3) }));
    for (const size of [1, 7, 50, 64]) {
      updateBatch(map, entries);
      const seen: number[] = [];
      let after: Uint8Array | undefined;
      do {
        const batch = lookupBatch(map, size, after);
        expect(batch.entries.length).toBeLessThanOrEqual(size);
        for (const { key, value } of batch.entries) {
          expect(indexOfKey(value)).toBe(indexOfKey(key) * 3);
          seen.push(indexOfKey(key));
        }
        after = batch.next;
      } while (after !== undefined);
      expect(seen.sort((a, b) => a - b)).toEqual(entries.map((_, i) => i));
      let taken = 0;
      for (;;) {
        const batch = lookupAndDeleteBatch(map, size);
        if (batch.length === 0) break;
        taken += batch.length;
      }
      expect(taken).toBe(50);
    }
    updateBatch(map, entries);
    deleteBatch(
      map,
      entries.slice(10).map(({ key }) => key),
    );
    expect([...map.entries()].length).toBe(10);
  });

  it('say which element failed', () => {
    using memory = new SharedMemory(1 << 20);
    const map = createMap(
      { type: MAP_TYPE.HASH, keySize: 4, valueSize: 4, maxEntries: 2, name: 'h' },
      1,
      memory,
    );
    const entries = [0, 1, 2, 3].map(i => ({ key: keyOfIndex(i), value: keyOfIndex(i) }));
    expect(() => updateBatch(map, entries)).toThrow(/Element 2 of a batch of 4 failed.*full/);
    expect(() => deleteBatch(map, [keyOfIndex(1), keyOfIndex(1)])).toThrow(
      expect.objectContaining({ code: 'ENOENT' }),
    );
    expect(() => lookupBatch(map, 0)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});

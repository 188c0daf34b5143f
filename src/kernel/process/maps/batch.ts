/**
 * Batch operations on a map (BPF_MAP_LOOKUP_BATCH, BPF_MAP_LOOKUP_AND_DELETE_BATCH, BPF_MAP_UPDATE_BATCH,
 * BPF_MAP_DELETE_BATCH): many elements in one call, on our side of any map that can be listed.
 */

import { BpfError } from '../../errno.js';
import type { BpfMap, MapEntry } from '../../kernel.js';

/** A batch that was read: what was there, and the key to go on from, if there is more. */
export interface LookupBatch {
  readonly entries: MapEntry[];
  readonly next: Uint8Array | undefined;
}

/**
 * Reads up to `count` elements behind the key `after` (from the start without one). An element that is deleted while
 * the batches are read may be left out; where `after` itself is gone, it begins again. Throws EINVAL for a bad count.
 */
export function lookupBatch(map: BpfMap, count: number, after?: Uint8Array): LookupBatch {
  checkCount(map, count);
  const entries: MapEntry[] = [];
  let key = map.nextKey(after);
  let last: Uint8Array | undefined;
  for (; key !== undefined && entries.length < count; key = map.nextKey(key)) {
    const value = map.lookup(key);
    last = key;
    if (value !== undefined) entries.push({ key, value });
  }
  return { entries, next: key === undefined ? undefined : last };
}

/** Takes up to `count` elements out of the map; call it until it returns none. */
export function lookupAndDeleteBatch(map: BpfMap, count: number): MapEntry[] {
  checkCount(map, count);
  const entries: MapEntry[] = [];
  while (entries.length < count) {
    const key = map.nextKey();
    if (key === undefined) break;
    const value = map.lookupAndDelete(key);
    if (value !== undefined) entries.push({ key, value });
  }
  return entries;
}

/** Updates one after the other; where one fails, the error's cause says why, and its message which. */
export function updateBatch(map: BpfMap, entries: readonly MapEntry[], flags = 0n): void {
  each(entries, ({ key, value }) => map.update(key, value, flags));
}

/** Deletes one after the other, likewise. */
export function deleteBatch(map: BpfMap, keys: readonly Uint8Array[]): void {
  each(keys, key => map.delete(key));
}

function checkCount(map: BpfMap, count: number): void {
  if (Number.isSafeInteger(count) && count > 0) return;
  throw new BpfError(
    'EINVAL',
    `A batch of ${count} elements of map '${map.name}' makes no sense; ask for 1 or more.`,
  );
}

function each<T>(items: readonly T[], operation: (item: T) => void): void {
  for (const [i, item] of items.entries()) {
    try {
      operation(item);
    } catch (cause) {
      if (!(cause instanceof BpfError)) throw cause;
      throw new BpfError(
        cause.code,
        `Element ${i} of a batch of ${items.length} failed, the ${i} before it are done: ${cause.message}`,
        { cause },
      );
    }
  }
}

/**
 * What is in a map, kept apart from the machine that had it: a program that execs another takes its maps along, and a
 * pinned map outlives its process.
 */

import { isMapOfMaps, MAP_TYPE, mapTypeName } from '../bpf/map_type.js';
import { BpfError } from '../kernel/errno.js';
import type { BpfMap } from '../kernel/kernel.js';

/** The shape of a map and what is in it. */
export interface MapSnapshot {
  readonly type: number;
  readonly keySize: number;
  readonly valueSize: number;
  readonly entries: readonly (readonly [key: Uint8Array, value: Uint8Array])[];
}

const KEYED: ReadonlySet<number> = new Set([
  MAP_TYPE.HASH,
  MAP_TYPE.ARRAY,
  MAP_TYPE.PERCPU_HASH,
  MAP_TYPE.PERCPU_ARRAY,
  MAP_TYPE.LRU_HASH,
  MAP_TYPE.LRU_PERCPU_HASH,
  MAP_TYPE.LPM_TRIE,
]);

/** Whether what is in maps of this type means something elsewhere: keys with values do; stacks of addresses, records and objects do not. */
export function canBeKept(type: number): boolean {
  return KEYED.has(type) && !isMapOfMaps(type);
}

/** A copy of everything in the map; values that are all zero are left out of arrays. */
export function takeSnapshot(map: BpfMap): MapSnapshot {
  const { type, keySize, valueSize } = map;
  const isArray = type === MAP_TYPE.ARRAY || type === MAP_TYPE.PERCPU_ARRAY;
  const entries: (readonly [Uint8Array, Uint8Array])[] = [];
  for (const { key, value } of map.entries())
    if (!isArray || value.some(byte => byte !== 0))
      entries.push([Uint8Array.from(key), Uint8Array.from(value)]);
  return { type, keySize, valueSize, entries };
}

/** Puts it into a map of the same shape. Throws EINVAL for another shape, E2BIG where it has no room. */
export function restoreSnapshot(map: BpfMap, snapshot: MapSnapshot): void {
  if (map.type !== snapshot.type || map.keySize !== snapshot.keySize || map.valueSize !== snapshot.valueSize)
    throw new BpfError(
      'EINVAL',
      `map ${map.name} is ${shape(map)}, and what was kept of it is ${shape(snapshot)}; rename it, or remove its pin`,
    );
  for (const [key, value] of snapshot.entries) map.update(key, value);
}

function shape({ type, keySize, valueSize }: { type: number; keySize: number; valueSize: number }): string {
  return `a ${mapTypeName(type) ?? `map of type ${type}`} with keys of ${keySize} and values of ${valueSize} bytes`;
}

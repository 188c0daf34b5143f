/**
 * What compiled code needs to know of the process that it will run in: where maps are, and the routines that
 * work on them. Addresses are those in that process.
 */

import type { MapRoutines } from '../maps/routines.js';

/** A map as code sees it. */
export interface JitMap {
  /** a number of `MAP_TYPE` */
  readonly type: number;
  /** what routines take as the map */
  readonly address: bigint;
  readonly maxEntries: number;
  /** of an array: the address of the first value */
  readonly values?: bigint;
  /** of an array: bytes from one value to the next */
  readonly stride?: number;
}

/** An array map, whose lookups are compiled in place. */
export interface JitArray extends JitMap {
  readonly values: bigint;
  readonly stride: number;
}

/** Whether lookups of `map` can be compiled in place. */
export function isArray(map: JitMap): map is JitArray {
  return map.values !== undefined && map.stride !== undefined;
}

export interface JitEnv {
  /** every map that the program uses, by id */
  readonly maps: ReadonlyMap<number, JitMap>;
  /** the address of a map routine; it is called with the map in rdi, then key, value, flags; result in rax */
  routine(name: keyof MapRoutines): bigint;
}

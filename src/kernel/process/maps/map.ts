/**
 * BPF maps of a live process: tables in memory shared between the programs there (machine code, on any thread,
 * also in signal handlers) and us. This is the reader's side and the creation; the programs' side is routines.ts.
 */

import type { Arena } from '../region/arena.js';
import { ArrayMap } from './array.js';
import { checkAttributes, type MapAttributes } from './attributes.js';
import { HashMap } from './hash.js';
import { BPF_MAP_TYPE_ARRAY } from './layout.js';

export { BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, type MapAttributes } from './attributes.js';
export { BPF_ANY, BPF_EXIST, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_NOEXIST } from './layout.js';

/**
 * One map, as bpf(2) lets user space see it. Every operation is atomic towards programs that run meanwhile. Keys
 * and values are little-endian bytes of exactly `keySize` and `valueSize`; other lengths are EINVAL.
 */
export interface BpfMap {
  readonly id: number;
  /** BPF_MAP_TYPE_…, the kernel's number. */
  readonly type: number;
  readonly name: string;
  /** Bytes of a key. */
  readonly keySize: number;
  /** Bytes of a value. */
  readonly valueSize: number;
  readonly maxEntries: number;
  /** Where the map starts in the traced process: what BPF_PSEUDO_MAP_FD loads, and what the routines take. */
  readonly address: bigint;

  /** A copy of the value, or `undefined` where the key is not in the map. */
  lookup(key: Uint8Array): Uint8Array | undefined;

  /**
   * Sets the value of a key; `flags` is BPF_ANY, BPF_NOEXIST or BPF_EXIST. Throws `BpfError`: EEXIST or ENOENT
   * as the flags say, E2BIG where the map is full (or the index is beyond an array), EINVAL for other flags.
   */
  update(key: Uint8Array, value: Uint8Array, flags?: bigint): void;

  /** Removes a key. Throws `BpfError`: ENOENT where it is not in the map, EINVAL for an array. */
  delete(key: Uint8Array): void;

  /** The key after `key`; the first one without `key` or where `key` is not in the map; `undefined` at the end. */
  nextKey(key?: Uint8Array): Uint8Array | undefined;

  /** Gives the memory back, once no program that uses the map can run. */
  free(): void;
}

/**
 * Creates a map in memory of `arena`. Throws `BpfError` EINVAL or E2BIG for attributes that the kernel would
 * refuse, with the reason.
 */
export function createMap(attr: MapAttributes, id: number, arena: Arena): BpfMap {
  checkAttributes(attr);
  return attr.type === BPF_MAP_TYPE_ARRAY ? new ArrayMap(attr, id, arena) : new HashMap(attr, id, arena);
}

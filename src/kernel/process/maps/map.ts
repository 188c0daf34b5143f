/**
 * BPF maps of a live process: tables in memory shared between the programs there (machine code, on any thread,
 * also in signal handlers) and us. This is the reader's side and the creation; the programs' side is routines.ts.
 */

import { MAP_TYPE } from '../../../bpf/map_type.js';
import type { BpfMap as KernelMap } from '../../kernel.js';
import type { Arena } from '../region/arena.js';
import { ArrayMap } from './array.js';
import { checkAttributes, type MapAttributes } from './attributes.js';
import { HashMap } from './hash.js';

export { BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, type MapAttributes } from './attributes.js';

/** A map of a live process. Every operation is atomic towards programs that run meanwhile. */
export interface BpfMap extends KernelMap {
  /** Where the map starts in the traced process: what BPF_PSEUDO_MAP_FD loads, and what the routines take. */
  readonly address: bigint;
}

/**
 * Creates a map in memory of `arena`. Throws `BpfError` EINVAL or E2BIG for attributes that the kernel would
 * refuse, with the reason.
 */
export function createMap(attr: MapAttributes, id: number, arena: Arena): BpfMap {
  checkAttributes(attr);
  return attr.type === MAP_TYPE.ARRAY ? new ArrayMap(attr, id, arena) : new HashMap(attr, id, arena);
}

/**
 * Perf event arrays (BPF_MAP_TYPE_PERF_EVENT_ARRAY), as far as programs use them to send samples. The kernel has a
 * buffer for each CPU, opened by the reader; here one ring takes the samples of all threads, in one order, and each
 * has the number of the slot ("CPU") that it was sent from.
 */

import { BpfError } from '../../errno.js';
import type { MapCreateAttr } from '../../kernel.js';
import type { Arena } from '../region/arena.js';
import type { MapRing } from '../region/ring_region.js';
import { checkRingFlags, RecordMap } from './ringbuf_map.js';
import type { RingOptions } from './ringbuf_reader.js';

/** Bytes of the ring: what 128 pages for each of two CPUs would be. */
const PERF_RING_BYTES = 1 << 20;
/** BPF_F_NUMA_NODE and BPF_F_PRESERVE_ELEMS: there are no elements that could go. */
const PERF_FLAGS = (1 << 2) | (1 << 11);

/** Throws EINVAL for attributes that make no perf event array. */
export function checkPerfAttributes(attr: MapCreateAttr): void {
  checkRingFlags(attr, PERF_FLAGS);
  if (attr.keySize !== 4 || attr.valueSize !== 4)
    throw new BpfError(
      'EINVAL',
      `perf event array '${attr.name}' has keys of ${attr.keySize} and values of ${attr.valueSize} bytes; both must have 4`,
    );
  if (attr.maxEntries < 1)
    throw new BpfError(
      'EINVAL',
      `max_entries of perf event array '${attr.name}' is 0; give the number of CPUs`,
    );
}

export class PerfEventArray extends RecordMap {
  /** Throws EINVAL, as said above. */
  constructor(
    attr: MapCreateAttr,
    id: number,
    arena: Arena,
    mapRing: MapRing,
    whenQuiet?: RingOptions['whenQuiet'],
  ) {
    checkPerfAttributes(attr);
    super(attr, id, arena, mapRing(PERF_RING_BYTES), whenQuiet);
  }
}

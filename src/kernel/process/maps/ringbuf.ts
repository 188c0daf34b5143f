/** The BPF ring buffer (BPF_MAP_TYPE_RINGBUF): attributes and the reader's side. The ring itself: ringbuf_reader.ts. */

import { BpfError } from '../../errno.js';
import type { MapCreateAttr } from '../../kernel.js';
import type { Arena } from '../region/arena.js';
import { PAGE_SIZE } from '../region/region.js';
import type { MapRing } from '../region/ring_region.js';
import { checkRingFlags, LARGEST_RING, RecordMap } from './ringbuf_map.js';
import type { RingOptions } from './ringbuf_reader.js';

/**
 * Throws EINVAL or E2BIG for attributes that make no ring buffer. A value size is taken, unlike in the kernel, where
 * it is that of the records' type: it names the type of the records for who prints them.
 */
export function checkRingbufAttributes(attr: MapCreateAttr): void {
  const { name, keySize, maxEntries } = attr;
  checkRingFlags(attr);
  if (keySize !== 0)
    throw new BpfError(
      'EINVAL',
      `ring buffer '${name}' has a key size of ${keySize}; it has no keys: leave it out`,
    );
  if (!(maxEntries >= PAGE_SIZE) || !Number.isInteger(Math.log2(maxEntries)))
    throw new BpfError(
      'EINVAL',
      `max_entries of ring buffer '${name}' is ${maxEntries}; it is its size in bytes, a power of two from ${PAGE_SIZE}`,
    );
  if (maxEntries > LARGEST_RING)
    throw new BpfError(
      'E2BIG',
      `ring buffer '${name}' has ${maxEntries} bytes; the limit is ${LARGEST_RING}, so ask for fewer`,
    );
}

export class RingBufferMap extends RecordMap {
  /** Throws EINVAL or E2BIG, as said above. */
  constructor(
    attr: MapCreateAttr,
    id: number,
    arena: Arena,
    mapRing: MapRing,
    whenQuiet?: RingOptions['whenQuiet'],
  ) {
    checkRingbufAttributes(attr);
    super(attr, id, arena, mapRing(attr.maxEntries), whenQuiet);
  }
}

/** What ring buffers and perf event arrays are to a reader: maps without keys, whose records are consumed. */

import type { Btf } from '../../../btf/btf.js';
import { BpfError } from '../../errno.js';
import type { MapCreateAttr, MapEntry } from '../../kernel.js';
import type { Arena } from '../region/arena.js';
import type { RingMemory } from '../region/ring_region.js';
import type { BpfMap } from './map.js';
import { Ring, type RingOptions } from './ringbuf_reader.js';

/** BPF_F_NUMA_NODE: memory has no node that matters here. */
const BPF_F_NUMA_NODE = 1 << 2;
/** BPF_F_RDONLY | BPF_F_WRONLY: what user space may do; nothing can be looked up or updated in any case. */
const USER_ACCESS = (1 << 3) | (1 << 4);

/** The largest ring: offsets in it are 32-bit numbers here and in the header of a record. */
export const LARGEST_RING = 2 ** 30;

/** Throws EINVAL for create flags that no map of records has. */
export function checkRingFlags(attr: MapCreateAttr, allowed = BPF_F_NUMA_NODE): void {
  const unknown = (attr.flags ?? 0) & ~(allowed | USER_ACCESS);
  if (unknown !== 0)
    throw new BpfError(
      'EINVAL',
      `the flags 0x${unknown.toString(16)} of map '${attr.name}' are not for its type; leave them out`,
    );
}

export abstract class RecordMap implements BpfMap {
  readonly id: number;
  readonly type: number;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
  declare readonly btf?: Btf;
  declare readonly btfKeyTypeId?: number;
  declare readonly btfValueTypeId?: number;
  readonly frozen = false;
  readonly address: bigint;
  protected readonly ring: Ring;

  constructor(
    attr: MapCreateAttr,
    id: number,
    arena: Arena,
    memory: RingMemory,
    whenQuiet: RingOptions['whenQuiet'],
  ) {
    this.id = id;
    this.type = attr.type;
    this.name = attr.name;
    this.keySize = attr.keySize;
    this.valueSize = attr.valueSize;
    this.maxEntries = attr.maxEntries;
    this.flags = attr.flags ?? 0;
    if (attr.btf !== undefined) this.btf = attr.btf;
    if (attr.btfKeyTypeId !== undefined) this.btfKeyTypeId = attr.btfKeyTypeId;
    if (attr.btfValueTypeId !== undefined) this.btfValueTypeId = attr.btfValueTypeId;
    this.ring = new Ring(arena, memory, { ...attr, whenQuiet });
    this.address = this.ring.address;
  }

  /** Records that found no room. */
  get dropped(): bigint {
    return this.ring.dropped;
  }

  /**
   * Hands finished records to `record` and returns how many there were. The bytes are the ring's own, good until
   * `record` returns: copy what is to be kept. Throws EIO where the process wrote over the ring.
   */
  consume(record: (bytes: Uint8Array, cpu: number) => void, limit?: number): number {
    return this.ring.consume(record, limit);
  }

  /** Resolves to true when there is something to consume, to false after `timeoutMs`. */
  wait(timeoutMs: number): Promise<boolean> {
    return this.ring.wait(timeoutMs);
  }

  lookup(_key: Uint8Array): Uint8Array | undefined {
    throw this.hasNoKeys('looked up');
  }

  update(_key: Uint8Array, _value: Uint8Array, _flags?: bigint): void {
    throw this.hasNoKeys('updated');
  }

  delete(_key: Uint8Array): void {
    throw this.hasNoKeys('deleted');
  }

  lookupAndDelete(_key: Uint8Array): Uint8Array | undefined {
    throw this.hasNoKeys('taken');
  }

  nextKey(_key?: Uint8Array): Uint8Array | undefined {
    throw this.hasNoKeys('listed');
  }

  entries(): Iterable<MapEntry> {
    return [];
  }

  freeze(): void {
    throw new BpfError('EOPNOTSUPP', `map '${this.name}' holds records, not values; it can't be frozen`);
  }

  free(): void {
    this.ring.close();
  }

  private hasNoKeys(done: string): BpfError {
    return new BpfError(
      'EOPNOTSUPP',
      `map '${this.name}' holds records, not keys, so nothing can be ${done} in it; consume it`,
    );
  }
}

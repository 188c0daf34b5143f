/**
 * BPF maps of a live process: tables in memory shared between the programs there (machine code, on any thread,
 * also in signal handlers) and us. This is the reader's side and the creation; the programs' side is routines.ts.
 */

import { MAP_TYPE, mapTypeName } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import type { BpfMap as KernelMap } from '../../kernel.js';
import type { Arena } from '../region/arena.js';
import type { MapRing } from '../region/ring_region.js';
import { ArrayMap } from './array.js';
import { checkAttributes, type MapAttributes } from './attributes.js';
import { BloomFilter } from './bloom.js';
import { HashMap } from './hash.js';
import { LpmTrie } from './lpm_trie.js';
import { ArrayOfMaps, HashOfMaps, type Retire } from './map_in_map.js';
import { PerCpuArrayMap } from './percpu_array.js';
import { PerCpuHashMap } from './percpu_hash.js';
import { PerfEventArray } from './perf.js';
import { ProgArray } from './prog_array.js';
import { QueueMap } from './queue.js';
import { RingBufferMap } from './ringbuf.js';
import type { RingOptions } from './ringbuf_reader.js';
import { StackMap } from './stack.js';
import { StackTraceMap } from './stack_trace.js';
import { TaskStorageMap, type ThreadAlive } from './task_storage.js';

export { BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, type MapAttributes } from './attributes.js';

/** A map of a live process. Every operation is atomic towards programs that run meanwhile. */
export interface BpfMap extends KernelMap {
  /** Where the map starts in the traced process: what BPF_PSEUDO_MAP_FD loads, and what the routines take. */
  readonly address: bigint;
  /** Array, per-CPU array (CPU 0's), prog array: address of the first value in the process. */
  readonly values?: bigint;
  /** Of those: bytes from one value to the next. */
  readonly stride?: number;
  /** Per-CPU array: bytes from one CPU's values to the next CPU's. */
  readonly slotStride?: number;
  /** One user more of its memory, until `release`. */
  hold?(): void;
  release?(): void;
  /** Bytes of the values that nobody can change any more (array.ts). */
  readConstant?(offset: number, size: number): Uint8Array | undefined;
}

/** What some types of maps need of the process, beyond memory. */
export interface MapSupport {
  /** Ring buffers and perf event arrays: maps the memory of a ring. */
  readonly mapRing?: MapRing;
  /** Those: calls back when no thread is in a program. */
  readonly whenQuiet?: RingOptions['whenQuiet'];
  /** Maps of maps: frees what no program can hold any more; without it, when the outer map is freed. */
  readonly retire?: Retire;
  /** Program arrays: whether a program is one of the process's. */
  readonly isLoaded?: (program: object) => boolean;
  /** Task storage: whose values are shown. */
  readonly threadAlive?: ThreadAlive;
}

/**
 * Creates a map in memory of `arena`. Throws `BpfError` EINVAL or E2BIG for attributes that the kernel would
 * refuse, EOPNOTSUPP for types that no process can have, with the reason.
 */
export function createMap(attr: MapAttributes, id: number, arena: Arena, support: MapSupport = {}): BpfMap {
  checkAttributes(attr);
  switch (attr.type) {
    case MAP_TYPE.ARRAY:
      return new ArrayMap(attr, id, arena);
    case MAP_TYPE.HASH:
    case MAP_TYPE.LRU_HASH:
      return new HashMap(attr, id, arena);
    case MAP_TYPE.PERCPU_ARRAY:
      return new PerCpuArrayMap(attr, id, arena);
    case MAP_TYPE.PERCPU_HASH:
    case MAP_TYPE.LRU_PERCPU_HASH:
      return new PerCpuHashMap(attr, id, arena);
    case MAP_TYPE.ARRAY_OF_MAPS:
      return new ArrayOfMaps(attr, id, arena, support.retire);
    case MAP_TYPE.HASH_OF_MAPS:
      return new HashOfMaps(attr, id, arena, support.retire);
    case MAP_TYPE.PROG_ARRAY:
      return new ProgArray(attr, id, arena, support.isLoaded);
    case MAP_TYPE.QUEUE:
      return new QueueMap(attr, id, arena);
    case MAP_TYPE.STACK:
      return new StackMap(attr, id, arena);
    case MAP_TYPE.BLOOM_FILTER:
      return new BloomFilter(attr, id, arena);
    case MAP_TYPE.LPM_TRIE:
      return new LpmTrie(attr, id, arena);
    case MAP_TYPE.STACK_TRACE:
      return new StackTraceMap(attr, id, arena);
    case MAP_TYPE.TASK_STORAGE:
      return new TaskStorageMap(attr, id, arena, support.threadAlive);
    case MAP_TYPE.RINGBUF:
      return new RingBufferMap(attr, id, arena, ringOf(attr, support), support.whenQuiet);
    case MAP_TYPE.PERF_EVENT_ARRAY:
      return new PerfEventArray(attr, id, arena, ringOf(attr, support), support.whenQuiet);
    default:
      throw new RangeError(`attributes of type ${attr.type} passed the checks`);
  }
}

function ringOf(attr: MapAttributes, support: MapSupport): MapRing {
  if (support.mapRing !== undefined) return support.mapRing;
  throw new BpfError(
    'EOPNOTSUPP',
    `A ${mapTypeName(attr.type)} ('${attr.name}') needs memory that is mapped twice, which is not to be had here.`,
  );
}

/**
 * What operations of programs cost: maps, ring buffers and a few helpers, each done several times by a program at the
 * entry of a function, so that the way into the program is little of it.
 */

import { ProgramBuilder, R0, R1, R2, R3, R4, R6, R10 } from '../bpf/builder.js';
import { HELPER } from '../bpf/helpers.js';
import type { BpfInsn } from '../bpf/instruction.js';
import { MAP_FLAG, MAP_TYPE } from '../bpf/map_type.js';
import type { BpfMap, MapCreateAttr } from '../kernel/kernel.js';
import { POSSIBLE_CPUS } from '../kernel/process/threads/layout.js';
import { type OurMachine, slotOf } from './our_machine.js';
import type { Attached, Row } from './row.js';

/** Operations of one call. */
export const TIMES = 16;
const ENTRIES = 1024;
const RECORD_BYTES = 64;
/** So many calls fill less than the ring. */
const RING_BYTES = 4 << 20;
const RING_CALLS = 3000;
/** Stack of the program: key, value. */
const KEY = -16;
const VALUE = KEY - RECORD_BYTES;

export interface Operation {
  readonly name: string;
  readonly what: string;
  readonly map?: Omit<MapCreateAttr, 'name'>;
  /** Fills the map before. */
  prepare?(map: BpfMap): void;
  /** Emits one operation, the `i`th of its call; r0 says whether it worked. */
  emit(b: ProgramBuilder, map: BpfMap | undefined, i: number, address: bigint): void;
  /** What r0 is when it worked. */
  readonly worked: 'not zero' | 'zero';
}

const keyed = (type: number, keySize = 8): Omit<MapCreateAttr, 'name'> => ({
  type,
  keySize,
  valueSize: 8,
  maxEntries: ENTRIES,
});

function keyOf(map: BpfMap, i: number): Uint8Array {
  const key = new Uint8Array(map.keySize);
  const view = new DataView(key.buffer);
  // A prefix of all 32 bits comes first in a key of a trie.
  if (map.type === MAP_TYPE.LPM_TRIE) {
    view.setUint32(0, 32, true);
    view.setUint32(4, i, false);
  } else view.setUint32(0, i, true);
  return key;
}

function fill(map: BpfMap): void {
  const one = new Uint8Array(map.valueSize).fill(1);
  for (let i = 0; i < ENTRIES / 2; i++) map.update(keyOf(map, i), one);
}

/** For a per-CPU map: a value for each possible CPU. */
function fillPerCpu(map: BpfMap): void {
  const values = new Uint8Array(map.valueSize * POSSIBLE_CPUS);
  for (let i = 0; i < ENTRIES / 2; i++) map.update(keyOf(map, i), values);
}

/** r1 = the map, r2 = the `i`th key. */
function withKey(b: ProgramBuilder, map: BpfMap, i: number): void {
  const bytes = keyOf(map, i);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += 4) b.store(4, R10, KEY + at, view.getInt32(at, true));
  b.mov(R2, R10);
  b.add(R2, KEY);
  b.ldMap(R1, map);
}

/** `register` = the value on the stack. */
function valueInto(b: ProgramBuilder, register: typeof R2 | typeof R3): void {
  b.mov(register, R10);
  b.add(register, VALUE);
}

const lookup: Operation['emit'] = (b, map, i) => {
  withKey(b, map!, i);
  b.call(HELPER.map_lookup_elem);
};

const update: Operation['emit'] = (b, map, i) => {
  withKey(b, map!, i);
  valueInto(b, R3);
  b.mov(R4, 0);
  b.call(HELPER.map_update_elem);
};

/** Odd ones delete what even ones inserted. */
const insertDelete: Operation['emit'] = (b, map, i, address) => {
  if (i % 2 === 0) return update(b, map, ENTRIES + i, address);
  withKey(b, map!, ENTRIES + i - 1);
  b.call(HELPER.map_delete_elem);
};

function pushPop(b: ProgramBuilder, map: BpfMap | undefined, i: number): void {
  b.ldMap(R1, map!);
  valueInto(b, R2);
  b.mov(R3, 0);
  b.call(i % 2 === 0 ? HELPER.map_push_elem : HELPER.map_pop_elem);
}

const helper =
  (id: number): Operation['emit'] =>
  b => {
    b.call(id);
  };

const found = { emit: lookup, prepare: fill, worked: 'not zero' } as const;
const updated = { emit: update, prepare: fill, worked: 'zero' } as const;

const foundPerCpu = { ...found, prepare: fillPerCpu } as const;

export const OPERATIONS: readonly Operation[] = [
  { name: 'array-lookup', what: 'array, look up', map: keyed(MAP_TYPE.ARRAY, 4), ...found },
  { name: 'hash-lookup', what: 'hash of 512, look up', map: keyed(MAP_TYPE.HASH), ...found },
  { name: 'hash-update', what: 'hash of 512, replace', map: keyed(MAP_TYPE.HASH), ...updated },
  {
    name: 'hash-insert-delete',
    what: 'hash of 512, insert and delete in turn',
    map: keyed(MAP_TYPE.HASH),
    prepare: fill,
    emit: insertDelete,
    worked: 'zero',
  },
  { name: 'lru-hash-lookup', what: 'LRU hash of 512, look up', map: keyed(MAP_TYPE.LRU_HASH), ...found },
  { name: 'lru-hash-update', what: 'LRU hash of 512, replace', map: keyed(MAP_TYPE.LRU_HASH), ...updated },
  {
    name: 'percpu-array-lookup',
    what: 'per-CPU array, look up',
    map: keyed(MAP_TYPE.PERCPU_ARRAY, 4),
    ...foundPerCpu,
  },
  {
    name: 'percpu-hash-lookup',
    what: 'per-CPU hash of 512, look up',
    map: keyed(MAP_TYPE.PERCPU_HASH),
    ...foundPerCpu,
  },
  {
    name: 'lpm-lookup',
    what: 'longest-prefix trie of 512, look up',
    map: { ...keyed(MAP_TYPE.LPM_TRIE), flags: MAP_FLAG.NO_PREALLOC },
    ...found,
  },
  {
    name: 'queue-push-pop',
    what: 'queue, push and pop in turn',
    map: { ...keyed(MAP_TYPE.QUEUE), keySize: 0 },
    emit: pushPop,
    worked: 'zero',
  },
  {
    name: 'ringbuf-output',
    what: `ring buffer, output of ${RECORD_BYTES} bytes`,
    map: { type: MAP_TYPE.RINGBUF, keySize: 0, valueSize: 0, maxEntries: RING_BYTES },
    emit: (b, map) => {
      b.ldMap(R1, map!);
      valueInto(b, R2);
      b.mov(R3, RECORD_BYTES);
      b.mov(R4, 0);
      b.call(HELPER.ringbuf_output);
    },
    worked: 'zero',
  },
  {
    name: 'ringbuf-reserve',
    what: `ring buffer, reserve and submit ${RECORD_BYTES} bytes, of which 8 are written`,
    map: { type: MAP_TYPE.RINGBUF, keySize: 0, valueSize: 0, maxEntries: RING_BYTES },
    emit: (b, map, i) => {
      const none = b.label();
      b.ldMap(R1, map!);
      b.mov(R2, RECORD_BYTES);
      b.mov(R3, 0);
      b.call(HELPER.ringbuf_reserve);
      b.jump('eq', R0, 0, none);
      b.store(8, R0, 0, i);
      b.mov(R1, R0);
      b.mov(R2, 0);
      b.call(HELPER.ringbuf_submit);
      b.mov(R0, 1);
      b.bind(none);
    },
    worked: 'not zero',
  },
  { name: 'ktime-get-ns', what: 'bpf_ktime_get_ns', emit: helper(HELPER.ktime_get_ns), worked: 'not zero' },
  {
    name: 'current-pid-tgid',
    what: 'bpf_get_current_pid_tgid',
    emit: helper(HELPER.get_current_pid_tgid),
    worked: 'not zero',
  },
  {
    name: 'probe-read-user',
    what: 'bpf_probe_read_user of 8 bytes',
    emit: (b, _map, _i, address) => {
      b.mov(R1, R10);
      b.add(R1, KEY);
      b.mov(R2, 8);
      b.ldImm64(R3, address);
      b.call(HELPER.probe_read_user);
    },
    worked: 'zero',
  },
];

/**
 * The program:
 *
 *     done = 0;
 *     operation 0; if it worked: done++
 *     …
 *     counts[0] += done, atomically
 */
export function operationProgram(
  operation: Operation,
  counts: BpfMap,
  map: BpfMap | undefined,
  address: bigint,
): BpfInsn[] {
  const b = new ProgramBuilder();
  const out = b.label();
  b.mov(R6, 0);
  for (let at = VALUE; at < 0; at += 8) b.store(8, R10, at, 0);
  for (let i = 0; i < TIMES; i++) {
    const failed = b.label();
    operation.emit(b, map, i, address);
    b.jump(operation.worked === 'zero' ? 'ne' : 'eq', R0, 0, failed);
    b.add(R6, 1);
    b.bind(failed);
  }
  b.store(4, R10, KEY, 0);
  b.mov(R2, R10);
  b.add(R2, KEY);
  b.ldMap(R1, counts);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, out);
  b.atomicAdd(8, R0, 0, R6);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

function attach(machine: OurMachine, operation: Operation, name: string): Attached {
  const counts = machine.counts(1);
  const map = operation.map && machine.kernel.mapCreate({ ...operation.map, name: 'operand' });
  if (map !== undefined) operation.prepare?.(map);
  const prog = machine.kernel.progLoad({
    name: 'operation',
    attachType: 'fentry',
    insns: operationProgram(operation, counts, map, machine.function(name).address),
    maps: map === undefined ? [counts] : [counts, map],
  });
  let records = 0;
  const drain = (): void => {
    map?.consume?.(() => {
      records++;
    });
  };
  const attached = machine.link(prog, name, 'multi', () => {
    const done = slotOf(counts, 0);
    const isRing = map?.consume !== undefined;
    map?.free();
    // A record that the reader did not get was not written.
    return isRing ? Math.min(done, records) : done;
  });
  return { ...attached, between: drain };
}

export const OPERATION_ROWS: readonly Row[] = OPERATIONS.map(operation => ({
  name: operation.name,
  what: operation.what,
  group: 'operation',
  calls: 'ordinary',
  threads: 1,
  eventsPerCall: TIMES,
  operations: TIMES,
  ...(operation.map?.type === MAP_TYPE.RINGBUF ? { mostCalls: RING_CALLS } : {}),
  attach: ({ ours }) => attach(ours, operation, 'ordinary'),
}));

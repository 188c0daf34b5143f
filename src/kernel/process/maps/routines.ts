/** The machine code of all map operations, emitted once for each traced process and shared by all its maps. */

import { MAP_TYPE } from '../../../bpf/map_type.js';
import type { Assembler } from '../../../x86/assembler.js';
import { type ArrayRoutines, emitArrayRoutines } from './array_code.js';
import { type BloomRoutines, emitBloomRoutines } from './bloom_code.js';
import { emitHashRoutines, type HashRoutines } from './hash_code.js';
import { emitIterateRoutines, type IterateRoutines } from './iterate_code.js';
import { emitListRoutines } from './list_code.js';
import { emitLpmRoutines, type LpmRoutines } from './lpm_code.js';
import { emitMapInMapRoutines, type MapInMapRoutines } from './map_in_map_code.js';
import { emitPerCpuRoutines, type PerCpuRoutines } from './percpu_code.js';
import { emitQueueRoutines, type QueueRoutines } from './queue_code.js';
import { emitStackRoutines, type StackRoutines } from './stack_code.js';
import { emitStackTraceRoutines, type StackTraceRoutines } from './stack_trace_code.js';
import { emitCopyExact, emitCopyPadded } from './words_code.js';

/** Entry points; `rdi` is the map's address (`BpfMap.address`) in all of them. */
export interface MapRoutines
  extends ArrayRoutines,
    BloomRoutines,
    HashRoutines,
    IterateRoutines,
    LpmRoutines,
    MapInMapRoutines,
    PerCpuRoutines,
    QueueRoutines,
    StackRoutines,
    StackTraceRoutines {}

/**
 * Emits the routines. Called like BPF helpers: arguments in rdi, rsi, rdx, rcx (and the thread's slot in r9d, see
 * `routineNeedsSlot`); result in rax; they may change rax, rdi, rsi, rdx, rcx, r8 to r11 and the flags. They use at
 * most 200 bytes of the caller's stack (LPM tries: 480), make no system call, wait for nobody, and can be interrupted,
 * entered again or ended anywhere.
 */
export function emitMapRoutines(a: Assembler): MapRoutines {
  const copyPadded = emitCopyPadded(a);
  const copyExact = emitCopyExact(a);
  const lists = emitListRoutines(a);
  const array = emitArrayRoutines(a, copyPadded, copyExact);
  const hash = emitHashRoutines(a, lists, copyPadded);
  return {
    ...array,
    ...hash,
    ...emitPerCpuRoutines(a, hash, copyPadded),
    ...emitMapInMapRoutines(a, { array: array.arrayLookup, hash: hash.hashLookup }),
    ...emitQueueRoutines(a, lists, { copyPadded, copyExact }),
    ...emitStackRoutines(a, lists, { copyPadded, copyExact }),
    ...emitBloomRoutines(a),
    ...emitLpmRoutines(a, hash, copyPadded),
    ...emitStackTraceRoutines(a, lists),
    ...emitIterateRoutines(a),
  };
}

/** What a program does to a map by calling a helper. */
export type MapOperation = 'lookup' | 'update' | 'delete' | 'push' | 'pop' | 'peek' | 'lookupPercpu';

type Operations = Partial<Record<MapOperation, keyof MapRoutines>>;

const HASH_CHANGES = { update: 'hashUpdate', delete: 'hashDelete' } as const;
const PERCPU_HASH: Operations = {
  lookup: 'percpuHashLookup',
  update: 'percpuHashUpdate',
  delete: 'hashDelete',
  lookupPercpu: 'percpuHashLookupCpu',
};

const OPERATIONS: ReadonlyMap<number, Operations> = new Map<number, Operations>([
  [MAP_TYPE.ARRAY, { lookup: 'arrayLookup', update: 'arrayUpdate', delete: 'arrayDelete' }],
  [MAP_TYPE.HASH, { lookup: 'hashLookup', ...HASH_CHANGES }],
  [MAP_TYPE.LRU_HASH, { lookup: 'lruLookup', ...HASH_CHANGES }],
  [
    MAP_TYPE.PERCPU_ARRAY,
    {
      lookup: 'percpuArrayLookup',
      update: 'percpuArrayUpdate',
      delete: 'arrayDelete',
      lookupPercpu: 'percpuArrayLookupCpu',
    },
  ],
  [MAP_TYPE.PERCPU_HASH, PERCPU_HASH],
  [MAP_TYPE.LRU_PERCPU_HASH, PERCPU_HASH],
  [MAP_TYPE.LPM_TRIE, { lookup: 'lpmLookup', update: 'lpmUpdate', delete: 'lpmDelete' }],
  [MAP_TYPE.ARRAY_OF_MAPS, { lookup: 'arrayOfMapsLookup' }],
  [MAP_TYPE.HASH_OF_MAPS, { lookup: 'hashOfMapsLookup' }],
  [MAP_TYPE.QUEUE, { push: 'queuePush', pop: 'queuePop', peek: 'queuePeek' }],
  [MAP_TYPE.STACK, { push: 'stackPush', pop: 'stackPop', peek: 'stackPeek' }],
  [MAP_TYPE.BLOOM_FILTER, { push: 'bloomPush', peek: 'bloomPeek' }],
]);

/** The routine of an operation on maps of a type; `undefined` where programs can't do that to them. */
export function mapRoutineFor(type: number, operation: MapOperation): keyof MapRoutines | undefined {
  return OPERATIONS.get(type)?.[operation];
}

const NEEDS_SLOT: ReadonlySet<keyof MapRoutines> = new Set<keyof MapRoutines>([
  'percpuArrayLookup',
  'percpuArrayUpdate',
  'percpuHashLookup',
  'percpuHashUpdate',
  'mapIterate',
]);

/** Whether a routine takes the thread's slot in r9d (`mapIterate`: for per-CPU maps only). */
export function routineNeedsSlot(name: keyof MapRoutines): boolean {
  return NEEDS_SLOT.has(name);
}

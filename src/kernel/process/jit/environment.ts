/**
 * What compiled code needs to know of the process that it will run in: where maps are, and the routines that
 * work on them. Addresses are those in that process.
 */

import { MAP_TYPE } from '../../../bpf/map_type.js';
import type { TracerWords } from '../faults/tracer_word.js';
import type { MapRoutines } from '../maps/routines.js';
import type { ThreadCode } from '../threads/layout.js';

/** A map as code sees it. */
export interface JitMap {
  /** a number of `MAP_TYPE` */
  readonly type: number;
  /** what routines take as the map */
  readonly address: bigint;
  readonly maxEntries: number;
  /** of an array: the address of the first value; of a program array: of the first program's address */
  readonly values?: bigint;
  /** of an array: bytes from one value to the next */
  readonly stride?: number;
  /** of a per-CPU array: bytes from the values of one thread's slot to those of the next */
  readonly slotStride?: number;
}

/** An array map, whose lookups are compiled in place. */
export interface JitArray extends JitMap {
  readonly values: bigint;
  readonly stride: number;
}

/** A per-CPU array map, likewise. */
export interface JitPerCpuArray extends JitArray {
  readonly slotStride: number;
}

/** Whether lookups of `map` can be compiled in place, and its values have fixed addresses. */
export function isArray(map: JitMap): map is JitArray {
  return map.type === MAP_TYPE.ARRAY && map.values !== undefined && map.stride !== undefined;
}

/** Whether lookups of `map` can be compiled in place, given the thread's slot. */
export function isPerCpuArray(map: JitMap): map is JitPerCpuArray {
  return (
    map.type === MAP_TYPE.PERCPU_ARRAY &&
    map.values !== undefined &&
    map.stride !== undefined &&
    map.slotStride !== undefined
  );
}

/** A routine of maps, or of a helper by its number. */
export type RoutineName = keyof MapRoutines | `helper_${number}`;

export interface JitEnv {
  /** every map that the program uses, by id */
  readonly maps: ReadonlyMap<number, JitMap>;
  /**
   * The address of a routine: arguments as a function's, result in rax. Throws `BpfError` EOPNOTSUPP where there is none.
   */
  routine(name: RoutineName): bigint;
  /** how code finds what belongs to its thread */
  readonly thread?: ThreadCode;
  /** how code finds out whether somebody sees to its faults */
  readonly tracer?: TracerWords;
  /** where runs that could not be are counted, a u64 */
  readonly missed?: bigint;
  /** some program looks up values that a per-CPU map has for other threads */
  readonly sharesPerCpu?: boolean;
  /** where its runs are counted (statistics.ts) */
  readonly statistics?: bigint;
}

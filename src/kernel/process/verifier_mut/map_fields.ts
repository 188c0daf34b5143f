/**
 * What the verifier must know of a map besides its sizes: flags, the lock in its values, what its values hold for ever.
 */

import { MAP_TYPE } from '../../../bpf/map_type.js';
import type { Btf } from '../../../btf/btf.js';
import type { MapSpec } from './environment.js';

/** Flags of linux/bpf.h: what programs may do with values. */
const RDONLY_PROG = 1 << 7;
const WRONLY_PROG = 1 << 8;

/** Bytes of `struct bpf_spin_lock`. */
export const LOCK_SIZE = 4;

/** Whether programs may write the map's values. */
export function isWritable(map: MapSpec): boolean {
  return ((map.flags ?? 0) & RDONLY_PROG) === 0;
}

/** Whether programs may read them. */
export function isReadable(map: MapSpec): boolean {
  return ((map.flags ?? 0) & WRONLY_PROG) === 0;
}

/** Whether nobody changes the map's values any more. */
export function isConstantMap(map: MapSpec): boolean {
  return (
    map.type === MAP_TYPE.ARRAY && map.frozen === true && !isWritable(map) && map.readConstant !== undefined
  );
}

const locks = new WeakMap<Btf, Map<number, number | undefined>>();

/** Where the spin lock is in a value of the map, in bytes; `undefined` where there is none. */
export function lockOffset(map: MapSpec): number | undefined {
  const { btf, btfValueTypeId } = map;
  if (btf === undefined || btfValueTypeId === undefined || btfValueTypeId === 0) return undefined;
  const known = locks.get(btf) ?? new Map<number, number | undefined>();
  locks.set(btf, known);
  if (!known.has(btfValueTypeId))
    known.set(btfValueTypeId, findStruct(btf, btfValueTypeId, 'bpf_spin_lock', 0));
  return known.get(btfValueTypeId);
}

/** How deep structs are looked into. */
const DEEPEST = 8;

function findStruct(btf: Btf, typeId: number, name: string, depth: number): number | undefined {
  const type = btf.type(btf.resolve(typeId));
  if (type.kind !== 'struct') return undefined;
  if (type.name === name) return 0;
  if (depth === DEEPEST) return undefined;
  for (const member of type.members) {
    const inner = findStruct(btf, member.type, name, depth + 1);
    if (inner !== undefined) return member.bitOffset / 8 + inner;
  }
  return undefined;
}

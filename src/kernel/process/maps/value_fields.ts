/**
 * Fields of a map's values that are the maps' own business, found by the values' type: the spin lock, which an update
 * must leave as it is (another may hold it), and a reader sees as zeros.
 */

import type { Btf } from '../../../btf/btf.js';

const SPIN_LOCK = 'bpf_spin_lock';

/** Bytes of a spin lock. */
export const SPIN_LOCK_BYTES = 4;

/** The offset of the spin lock in values of a type, bytes; `undefined` where there is none. */
export function spinLockOffset(btf: Btf | undefined, valueType: number | undefined): number | undefined {
  if (btf === undefined || valueType === undefined || valueType === 0) return undefined;
  const type = btf.type(btf.resolve(valueType));
  if (type.kind !== 'struct') return undefined;
  for (const member of type.members) {
    const inner = btf.type(btf.resolve(member.type));
    if (inner.kind !== 'struct') continue;
    const at = member.bitOffset / 8;
    if (inner.name === SPIN_LOCK) return at;
    const nested = spinLockOffset(btf, member.type);
    if (nested !== undefined) return at + nested;
  }
  return undefined;
}

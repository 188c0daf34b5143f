/** JSON of values that programs left: integers of 64 bits keep every digit, which JSON.stringify can't write. */

import type { BtfValue } from '../libbpf/codec.js';

/** What `toJson` writes; keys whose value is undefined are left out. */
export type Json = BtfValue | undefined | readonly Json[] | { readonly [key: string]: Json };

/** On one line. */
export function toJson(value: Json): string {
  if (value === undefined || value === null) return 'null';
  if (typeof value === 'bigint') return value.toString();
  // JSON has no name for these.
  if (typeof value === 'number') return Number.isFinite(value) ? String(value) : 'null';
  if (value instanceof Uint8Array) return `[${value.join(',')}]`;
  if (Array.isArray(value)) return `[${value.map(one => toJson(one as Json)).join(',')}]`;
  if (typeof value === 'object') {
    const members = Object.entries(value).filter(([, member]) => member !== undefined);
    return `{${members.map(([key, member]) => `${JSON.stringify(key)}:${toJson(member as Json)}`).join(',')}}`;
  }
  return JSON.stringify(value);
}

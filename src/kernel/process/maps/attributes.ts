/** What a map is created from (the map part of `union bpf_attr`), and the kernel's checks of it. */

import { MAP_TYPE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import { padded } from './layout.js';

/** The attributes of BPF_MAP_CREATE. Sizes are in bytes. */
export interface MapAttributes {
  /** BPF_MAP_TYPE_HASH or BPF_MAP_TYPE_ARRAY. */
  readonly type: number;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  /** At most 15 characters: letters, digits, `_` and `.`. */
  readonly name: string;
  /** BPF_F_NO_PREALLOC (hash maps; memory is allocated at once all the same) and BPF_F_MMAPABLE (arrays). */
  readonly flags?: number;
}

/** Create flags (linux/bpf.h). */
export const BPF_F_NO_PREALLOC = 1 << 0;
export const BPF_F_MMAPABLE = 1 << 10;

/** Longest name, without the terminating zero (BPF_OBJ_NAME_LEN is 16). */
const LONGEST_NAME = 15;

/** The kernel's largest single allocation, which bounds a key and its value together (KMALLOC_MAX_SIZE). */
const LARGEST_ELEMENT = 4 << 20;

/** The largest map: list words hold 30 bits of offset in 8-byte units, and a typed array has the same bound. */
export const LARGEST_MAP = 2 ** 32;

const U32_LIMIT = 2 ** 32;

function isU32(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < U32_LIMIT;
}

/**
 * Throws `BpfError` EINVAL for attributes that make no map, and E2BIG for a map that is too large, as the
 * kernel does.
 */
export function checkAttributes(attr: MapAttributes): void {
  const { type, keySize, valueSize, maxEntries, name, flags = 0 } = attr;
  const map = `map '${name}'`;
  if (type !== MAP_TYPE.HASH && type !== MAP_TYPE.ARRAY) {
    throw new BpfError(
      'EINVAL',
      `The type ${type} of ${map} is not supported; use a hash (${MAP_TYPE.HASH}) or an array (${MAP_TYPE.ARRAY}).`,
    );
  }
  if (name.length > LONGEST_NAME || !/^[A-Za-z0-9_.]*$/.test(name)) {
    throw new BpfError(
      'EINVAL',
      `The name of ${map} must be at most ${LONGEST_NAME} letters, digits, '_' or '.'; choose another.`,
    );
  }
  for (const [word, value] of [
    ['key size', keySize],
    ['value size', valueSize],
    ['number of entries', maxEntries],
  ] as const) {
    if (!isU32(value) || value === 0) {
      throw new BpfError('EINVAL', `The ${word} of ${map} is ${value}; it must be from 1 to 2^32 - 1.`);
    }
  }
  const allowed = type === MAP_TYPE.ARRAY ? BPF_F_MMAPABLE : BPF_F_NO_PREALLOC;
  if ((flags & ~allowed) !== 0) {
    const meant = type === MAP_TYPE.ARRAY ? 'BPF_F_MMAPABLE' : 'BPF_F_NO_PREALLOC';
    throw new BpfError(
      'EINVAL',
      `The flags 0x${flags.toString(16)} of ${map} are not supported; only ${meant} is for this type.`,
    );
  }
  if (type === MAP_TYPE.ARRAY && keySize !== 4) {
    throw new BpfError(
      'EINVAL',
      `The key size of array ${map} is ${keySize}; it must be 4, for a u32 index.`,
    );
  }
  if (keySize + valueSize >= LARGEST_ELEMENT) {
    throw new BpfError(
      'E2BIG',
      `A key and value of ${map} take ${keySize + valueSize} bytes; they must stay below ${LARGEST_ELEMENT}.`,
    );
  }
  const least = maxEntries * padded(valueSize);
  if (least > LARGEST_MAP) {
    throw new BpfError(
      'E2BIG',
      `The ${maxEntries} values of ${map} take ${least} bytes; the limit is ${LARGEST_MAP}, so ask for fewer.`,
    );
  }
}

/** Throws `BpfError` EINVAL where a key or value given to an operation on a map has the wrong size. */
export function checkSize(what: 'key' | 'value', map: string, bytes: Uint8Array, size: number): void {
  if (bytes.length === size) return;
  throw new BpfError(
    'EINVAL',
    `A ${what} of ${bytes.length} bytes was given to map '${map}', whose ${what}s have ${size}; pass ${size} bytes.`,
  );
}

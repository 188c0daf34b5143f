/** What a map is created from (the map part of `union bpf_attr`), and the kernel's checks of it, type by type. */

import { isMapOfMaps, isPerCpu, MAP_FLAG, MAP_TYPE, mapTypeName } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import type { MapCreateAttr } from '../../kernel.js';
import { POSSIBLE_CPUS } from '../threads/layout.js';
import { padded } from './layout.js';

/** The attributes of BPF_MAP_CREATE. Sizes are in bytes; the name has at most 15 characters. */
export type MapAttributes = MapCreateAttr;

export const BPF_F_NO_PREALLOC = MAP_FLAG.NO_PREALLOC;
export const BPF_F_MMAPABLE = MAP_FLAG.MMAPABLE;

/** Longest name, without the terminating zero (BPF_OBJ_NAME_LEN is 16). */
const LONGEST_NAME = 15;

/** The kernel's largest single allocation, which bounds a key and its value together (KMALLOC_MAX_SIZE). */
const LARGEST_ELEMENT = 4 << 20;

/** The largest map: list words hold 30 bits of offset in 8-byte units, and a typed array has the same bound. */
export const LARGEST_MAP = 2 ** 32;

/** The deepest stack that a stack trace map holds (the kernel's default of perf_event_max_stack). */
export const DEEPEST_STACK = 127;

/** Data of a longest-prefix key, bytes (LPM_DATA_SIZE_MAX), and the prefix length in front of it. */
const LPM_DATA_MAX = 256;
const LPM_KEY_HEADER = 4;

const U32_LIMIT = 2 ** 32;

const {
  NO_PREALLOC,
  NO_COMMON_LRU,
  NUMA_NODE,
  RDONLY,
  WRONLY,
  ZERO_SEED,
  RDONLY_PROG,
  WRONLY_PROG,
  CLONE,
  MMAPABLE,
  INNER_MAP,
} = MAP_FLAG;
const USER_ACCESS = RDONLY | WRONLY;
const ACCESS = USER_ACCESS | RDONLY_PROG | WRONLY_PROG;

/** How the sizes of a type's attributes may be: any number above zero, zero, one number, or its own check. */
type SizeRule = 'some' | 'none' | number | ((size: number) => string | undefined);

interface TypeRules {
  readonly key: SizeRule;
  readonly value: SizeRule;
  readonly entries: SizeRule;
  /** Flags that may be given. */
  readonly flags: number;
  /** Flags that must be. */
  readonly required?: number;
}

function multipleOf8(size: number): string | undefined {
  if (size > 0 && size % 8 === 0 && size / 8 <= DEEPEST_STACK) return undefined;
  return `a multiple of 8, at most ${DEEPEST_STACK} addresses of 8 bytes`;
}

function prefixKey(size: number): string | undefined {
  if (size > LPM_KEY_HEADER && size <= LPM_KEY_HEADER + LPM_DATA_MAX) return undefined;
  return `from ${LPM_KEY_HEADER + 1} to ${LPM_KEY_HEADER + LPM_DATA_MAX}: a u32 prefix length and the data`;
}

function optional(): string | undefined {
  return undefined;
}

const ANY: TypeRules = { key: optional, value: optional, entries: optional, flags: -1 };

const HASH_FLAGS = NO_PREALLOC | NUMA_NODE | ACCESS | ZERO_SEED;
const LRU_FLAGS = NO_COMMON_LRU | NUMA_NODE | ACCESS | ZERO_SEED;

/** The types that are created, and what each of them takes. */
const RULES: ReadonlyMap<number, TypeRules> = new Map<number, TypeRules>([
  [MAP_TYPE.HASH, { key: 'some', value: 'some', entries: 'some', flags: HASH_FLAGS }],
  [
    MAP_TYPE.ARRAY,
    { key: 4, value: 'some', entries: 'some', flags: NUMA_NODE | MMAPABLE | ACCESS | INNER_MAP },
  ],
  [MAP_TYPE.PROG_ARRAY, { key: 4, value: 4, entries: 'some', flags: NUMA_NODE | USER_ACCESS }],
  // Their own files check sizes and flags (ringbuf.ts, perf.ts).
  [MAP_TYPE.RINGBUF, ANY],
  [MAP_TYPE.PERF_EVENT_ARRAY, ANY],
  [MAP_TYPE.PERCPU_HASH, { key: 'some', value: 'some', entries: 'some', flags: HASH_FLAGS & ~NUMA_NODE }],
  [MAP_TYPE.PERCPU_ARRAY, { key: 4, value: 'some', entries: 'some', flags: ACCESS }],
  [MAP_TYPE.STACK_TRACE, { key: 4, value: multipleOf8, entries: 'some', flags: NUMA_NODE | USER_ACCESS }],
  [MAP_TYPE.LRU_HASH, { key: 'some', value: 'some', entries: 'some', flags: LRU_FLAGS }],
  [MAP_TYPE.LRU_PERCPU_HASH, { key: 'some', value: 'some', entries: 'some', flags: LRU_FLAGS & ~NUMA_NODE }],
  [
    MAP_TYPE.LPM_TRIE,
    {
      key: prefixKey,
      value: 'some',
      entries: 'some',
      flags: NO_PREALLOC | NUMA_NODE | ACCESS,
      required: NO_PREALLOC,
    },
  ],
  [MAP_TYPE.ARRAY_OF_MAPS, { key: 4, value: 4, entries: 'some', flags: NUMA_NODE | USER_ACCESS }],
  [
    MAP_TYPE.HASH_OF_MAPS,
    { key: 'some', value: 4, entries: 'some', flags: NO_PREALLOC | NUMA_NODE | USER_ACCESS | ZERO_SEED },
  ],
  [MAP_TYPE.QUEUE, { key: 'none', value: 'some', entries: 'some', flags: NUMA_NODE | ACCESS }],
  [MAP_TYPE.STACK, { key: 'none', value: 'some', entries: 'some', flags: NUMA_NODE | ACCESS }],
  [
    MAP_TYPE.TASK_STORAGE,
    { key: 4, value: 'some', entries: 'none', flags: NO_PREALLOC | CLONE, required: NO_PREALLOC },
  ],
  [
    MAP_TYPE.BLOOM_FILTER,
    { key: 'none', value: 'some', entries: 'some', flags: NUMA_NODE | ZERO_SEED | ACCESS },
  ],
]);

/** How many hash functions a bloom filter has where `mapExtra` does not say. */
export const BLOOM_HASHES = 5;
const MOST_BLOOM_HASHES = 15n;

function isU32(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < U32_LIMIT;
}

function checkRule(what: string, map: string, rule: SizeRule, value: number): void {
  const wanted =
    !isU32(value) || (rule === 'some' && value === 0)
      ? 'from 1 to 2^32 - 1'
      : rule === 'none' && value !== 0
        ? '0 for this type'
        : typeof rule === 'number' && value !== rule
          ? `${rule} for this type`
          : typeof rule === 'function'
            ? rule(value)
            : undefined;
  if (wanted !== undefined) {
    throw new BpfError('EINVAL', `The ${what} of ${map} is ${value}; it must be ${wanted}.`);
  }
}

function flagNames(flags: number): string {
  const found = Object.entries(MAP_FLAG)
    .filter(([, bit]) => (flags & bit) !== 0)
    .map(([name]) => `BPF_F_${name}`);
  return found.length === 0 ? 'none' : found.join(', ');
}

function checkFlags(rules: TypeRules, type: number, flags: number, map: string): void {
  const hex = `0x${flags.toString(16)}`;
  if ((flags & ~rules.flags) !== 0) {
    throw new BpfError(
      'EINVAL',
      `The flags ${hex} of ${map} are not supported; those for type ${mapTypeName(type)} are ${flagNames(rules.flags)}.`,
    );
  }
  const missing = (rules.required ?? 0) & ~flags;
  if (missing !== 0) {
    throw new BpfError(
      'EINVAL',
      `The flags ${hex} of ${map} lack ${flagNames(missing)}, which its type needs.`,
    );
  }
  if ((flags & RDONLY_PROG) !== 0 && (flags & WRONLY_PROG) !== 0) {
    throw new BpfError(
      'EINVAL',
      `The flags ${hex} of ${map} make it both read-only and write-only for programs; choose one.`,
    );
  }
  if ((flags & RDONLY) !== 0 && (flags & WRONLY) !== 0) {
    throw new BpfError(
      'EINVAL',
      `The flags ${hex} of ${map} make it both read-only and write-only; choose one.`,
    );
  }
}

/**
 * Throws `BpfError` EINVAL for attributes that make no map, E2BIG for a map that is too large and EOPNOTSUPP for a
 * type that no process can have, as the kernel does.
 */
export function checkAttributes(attr: MapAttributes): void {
  const { type, keySize, valueSize, maxEntries, name, flags = 0 } = attr;
  const map = `map '${name}'`;
  const rules = RULES.get(type);
  if (rules === undefined) {
    const known = mapTypeName(type);
    if (known === undefined || type === MAP_TYPE.UNSPEC) {
      throw new BpfError(
        'EINVAL',
        `The type ${type} of ${map} is unknown; use a number of enum bpf_map_type.`,
      );
    }
    throw new BpfError(
      'EOPNOTSUPP',
      `The type ${type} (${known}) of ${map} is not supported for a process; use a hash or an array.`,
    );
  }
  if (name.length > LONGEST_NAME || !/^[A-Za-z0-9_.]*$/.test(name)) {
    throw new BpfError(
      'EINVAL',
      `The name of ${map} must be at most ${LONGEST_NAME} letters, digits, '_' or '.'; choose another.`,
    );
  }
  checkRule('key size', map, rules.key, keySize);
  checkRule('value size', map, rules.value, valueSize);
  checkRule('number of entries', map, rules.entries, maxEntries);
  checkFlags(rules, type, flags, map);
  checkExtra(attr, map);
  checkLimits(attr, map);
}

function checkExtra(attr: MapAttributes, map: string): void {
  const { type, mapExtra = 0n, innerMap } = attr;
  if (type === MAP_TYPE.BLOOM_FILTER ? mapExtra < 0n || mapExtra > MOST_BLOOM_HASHES : mapExtra !== 0n) {
    const wanted = type === MAP_TYPE.BLOOM_FILTER ? `at most ${MOST_BLOOM_HASHES} hash functions` : '0';
    throw new BpfError('EINVAL', `The map_extra of ${map} is ${mapExtra}; it must be ${wanted}.`);
  }
  if (!isMapOfMaps(type)) {
    if (innerMap === undefined) return;
    throw new BpfError('EINVAL', `An inner map was given to ${map}, which is no map of maps; leave it out.`);
  }
  if (innerMap === undefined) {
    throw new BpfError(
      'EBADF',
      `The map of maps ${map} has no inner map; give one as the shape of its maps.`,
    );
  }
  if (isMapOfMaps(innerMap.type)) {
    throw new BpfError(
      'EINVAL',
      `The inner map '${innerMap.name}' of ${map} is a map of maps; they nest once only.`,
    );
  }
  if (innerMap.type === MAP_TYPE.PROG_ARRAY || innerMap.type === MAP_TYPE.TASK_STORAGE) {
    throw new BpfError(
      'EOPNOTSUPP',
      `The inner map '${innerMap.name}' of ${map} is a ${mapTypeName(innerMap.type)}, which can't be in another; use another type.`,
    );
  }
}

function checkLimits(attr: MapAttributes, map: string): void {
  const { type, keySize, valueSize, maxEntries } = attr;
  if (keySize + valueSize >= LARGEST_ELEMENT) {
    throw new BpfError(
      'E2BIG',
      `A key and value of ${map} take ${keySize + valueSize} bytes; they must stay below ${LARGEST_ELEMENT}.`,
    );
  }
  const least = maxEntries * padded(valueSize) * (isPerCpu(type) ? POSSIBLE_CPUS : 1);
  if (type !== MAP_TYPE.BLOOM_FILTER && least > LARGEST_MAP) {
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

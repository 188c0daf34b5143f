/** Maps and variables of objects as JSON and as tables, by their types. */

import { isMapOfMaps, isPerCpu, MAP_TYPE, mapTypeName } from '../bpf/map_type.js';
import { formatValue } from '../btf/value.js';
import { BpfError } from '../kernel/errno.js';
import type { MapEntry } from '../kernel/kernel.js';
import type { BtfValue, Codec } from '../libbpf/codec.js';
import type { BpfObject } from '../libbpf/object.js';
import type { ObjectMap } from '../libbpf/object_map.js';
import type { TypedMap } from '../libbpf/typed_map.js';
import { grouped, table } from './output.js';
import type { AddressNames } from './symbolize.js';

/** More rows than this are for `--json`. */
const MAX_ROWS = 50;

/** One map's contents, copied: the machine may be gone. */
export interface MapReport {
  readonly name: string;
  readonly type: number;
  readonly entries: readonly { readonly key: BtfValue; readonly value: BtfValue }[];
  readonly rows: readonly (readonly [key: string, value: string])[];
  /** Rows that there are beyond these. */
  readonly more: number;
}

/** Copies what is in a map. `records`: those of a ring buffer that were kept. */
export function readMap(map: ObjectMap, records: readonly BtfValue[] | undefined): MapReport {
  const { live } = map;
  const { type } = live.map;
  const base = { name: map.name, type };
  if (records !== undefined)
    return { ...base, entries: records.map((value, key) => ({ key, value })), rows: [], more: 0 };
  const raw = rawEntries(live);
  return {
    ...base,
    entries: raw.map(({ key, value }) => ({ key: live.key.decode(key), value: valueIn(live, value) })),
    rows: sorted(live, raw)
      .slice(0, MAX_ROWS)
      .map(({ key, value }) => [text(live.key, key), valueText(live, value)]),
    more: Math.max(0, raw.length - MAX_ROWS),
  };
}

/** Zeros of an array are as if they were not there. */
function rawEntries({ map }: TypedMap): MapEntry[] {
  // Nobody can tell what is in a filter; records are read as they come.
  if (
    map.type === MAP_TYPE.BLOOM_FILTER ||
    map.type === MAP_TYPE.RINGBUF ||
    map.type === MAP_TYPE.PERF_EVENT_ARRAY
  )
    return [];
  const isArray = map.type === MAP_TYPE.ARRAY || map.type === MAP_TYPE.PERCPU_ARRAY;
  try {
    return [...map.entries()].filter(
      ({ value }) => !isArray || map.maxEntries <= 16 || value.some(byte => byte !== 0),
    );
  } catch (cause) {
    // A type that can't be gone through.
    if (cause instanceof BpfError && (cause.code === 'EOPNOTSUPP' || cause.code === 'EINVAL')) return [];
    throw cause;
  }
}

/** Largest first where values are numbers or begin with one, as one reads counts; else as they are. */
function sorted(live: TypedMap, entries: readonly MapEntry[]): readonly MapEntry[] {
  if (live.map.type === MAP_TYPE.ARRAY || live.map.type === MAP_TYPE.PERCPU_ARRAY) return entries;
  const weights = entries.map(({ value }) => weightOf(valueIn(live, value)));
  if (weights.some(weight => weight === undefined)) return entries;
  return entries
    .map((entry, i) => ({ entry, weight: weights[i]! }))
    .sort((a, b) => (a.weight === b.weight ? 0 : a.weight > b.weight ? -1 : 1))
    .map(({ entry }) => entry);
}

function weightOf(value: BtfValue): bigint | undefined {
  if (typeof value === 'bigint') return value;
  if (typeof value === 'number') return Number.isInteger(value) ? BigInt(value) : undefined;
  if (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    !(value instanceof Uint8Array)
  ) {
    // Of a struct its first member: that is where counts stand.
    const [first] = Object.values(value);
    return first === undefined || typeof first === 'object' ? undefined : weightOf(first);
  }
  if (!Array.isArray(value)) return undefined;
  let sum = 0n;
  for (const one of value) {
    const weight = weightOf(one);
    if (weight === undefined) return undefined;
    sum += weight;
  }
  return sum;
}

/** As the type has it; of a per-CPU map without the CPUs behind the last that has something. */
function valueIn(live: TypedMap, bytes: Uint8Array): BtfValue {
  if (!isPerCpu(live.map.type)) return live.decodeValue(bytes);
  return live.decodeValue(bytes.subarray(0, usedBytes(live, bytes)));
}

function usedBytes({ map }: TypedMap, bytes: Uint8Array): number {
  const stride = Math.ceil(map.valueSize / 8) * 8;
  let end = bytes.length;
  while (end > stride && bytes.subarray(end - stride, end).every(byte => byte === 0)) end -= stride;
  return end;
}

function text({ btf, typeId, decode }: Codec, bytes: Uint8Array): string {
  if (bytes.length === 0) return '';
  if (btf !== undefined && typeId !== undefined) return formatValue(btf, typeId, bytes);
  const value = decode(bytes);
  return typeof value === 'string' ? value : String(value);
}

function valueText(live: TypedMap, bytes: Uint8Array): string {
  const { map } = live;
  if (isPerCpu(map.type)) {
    const stride = Math.ceil(map.valueSize / 8) * 8;
    const used = bytes.subarray(0, usedBytes(live, bytes));
    const values = live.decodeValue(used);
    const plain =
      Array.isArray(values) && values.every(one => typeof one === 'bigint' || typeof one === 'number');
    const weight = plain ? weightOf(values) : undefined;
    if (weight !== undefined) return grouped(weight);
    const parts: string[] = [];
    for (let at = 0; at < used.length; at += stride)
      if (used.subarray(at, at + stride).some(byte => byte !== 0))
        parts.push(`[${at / stride}] ${text(live.value, used.subarray(at, at + map.valueSize))}`);
    return parts.join(' ');
  }
  if (map.type === MAP_TYPE.STACK_TRACE) {
    const frames = live.decodeValue(bytes);
    if (Array.isArray(frames)) return frames.map(frame => `0x${(frame as bigint).toString(16)}`).join(' < ');
  }
  if (isMapOfMaps(map.type)) return `map ${String(live.decodeValue(bytes))}`;
  if (map.type === MAP_TYPE.PROG_ARRAY) return `program ${String(live.decodeValue(bytes))}`;
  return text(live.value, bytes);
}

/** A map as a table with its heading; nothing for one that is empty. */
export function formatEntries({ name, type, rows, more }: MapReport, symbolizer: AddressNames): string {
  if (rows.length === 0) return '';
  const shown = rows.map(([key, value]) => [symbolizer.annotate(key), symbolizer.annotate(value)]);
  const heading = `\n${name} (${mapTypeName(type) ?? type})\n`;
  const keyless = shown.every(([key]) => key === '');
  const body = keyless
    ? shown.map(([, value]) => `  ${value}\n`).join('')
    : table(shown, []).replace(/^/gm, '  ').replace(/ +$/, '');
  return `${heading}${body}${more === 0 ? '' : `  … and ${grouped(more)} more (--json has all)\n`}`;
}

/** `{SECTION: {VARIABLE: VALUE}}` of all objects. */
export function globalsOf(objects: readonly BpfObject[]): Record<string, Record<string, BtfValue>> {
  const all: Record<string, Record<string, BtfValue>> = {};
  for (const object of objects)
    for (const section of object.sections) {
      if (section.variables.size === 0) continue;
      // Formats of bpf_printk are nobody's variables.
      const own = Object.entries(section.values).filter(([name]) => !name.endsWith('____fmt'));
      if (own.length > 0) all[section.name] = { ...all[section.name], ...Object.fromEntries(own) };
    }
  return all;
}

/** Variables that programs can change, as a table. */
export function formatGlobals(objects: readonly BpfObject[], symbolizer: AddressNames): string {
  const rows: string[][] = [];
  for (const object of objects)
    for (const section of object.sections) {
      if (section.readOnly || section.btf === undefined) continue;
      for (const { name, typeId, offset, size } of section.variables.values()) {
        const bytes = section.bytes().slice(offset, offset + size);
        rows.push([name, symbolizer.annotate(formatValue(section.btf, typeId, bytes))]);
      }
    }
  return rows.length === 0 ? '' : `\nvariables\n${table(rows, []).replace(/^/gm, '  ').replace(/ +$/, '')}`;
}

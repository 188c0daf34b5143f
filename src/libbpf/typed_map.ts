/** A map of the machine with keys and values by type: what `obj.map('hits').get(key)` is. */

import { isMapOfMaps, isPerCpu, MAP_TYPE, UPDATE } from '../bpf/map_type.js';
import type { Btf } from '../btf/btf.js';
import { BpfError } from '../kernel/errno.js';
import type { BpfMap, BpfProg } from '../kernel/kernel.js';
import { type BtfValue, type Codec, codecFor } from './codec.js';

/** A key with its value; of a per-CPU map the value is an array, one for each CPU. */
export interface TypedEntry {
  readonly key: BtfValue;
  readonly value: BtfValue;
}

/** Types of keys and values, which the machine's own map may be without. */
export interface ValueTypes {
  readonly btf: Btf | undefined;
  readonly keyTypeId: number | undefined;
  readonly valueTypeId: number | undefined;
}

export class TypedMap {
  readonly map: BpfMap;
  readonly key: Codec;
  readonly value: Codec;

  readonly #cpus: number;

  /** `cpus`: how many values a per-CPU map has for each key. */
  constructor(map: BpfMap, types: ValueTypes, cpus: number) {
    this.map = map;
    const { btf, keyTypeId, valueTypeId } = types;
    this.key = codecFor(map.keySize, btf, keyTypeId, `key of map ${map.name}`);
    this.value = codecFor(map.valueSize, btf, valueTypeId, `value of map ${map.name}`);
    this.#cpus = cpus;
  }

  /** `undefined` where the key is not there. Queues and stacks take no key: the next value, which stays. */
  get(key?: BtfValue): BtfValue | undefined {
    const bytes = this.map.lookup(this.#keyBytes(key));
    return bytes === undefined ? undefined : this.decodeValue(bytes);
  }

  has(key: BtfValue): boolean {
    return this.map.lookup(this.#keyBytes(key)) !== undefined;
  }

  /**
   * Per-CPU maps take an array (missing CPUs are zero). Throws EEXIST, ENOENT, E2BIG as bpf(2) does; `flags` are
   * those of `UPDATE`.
   */
  set(key: BtfValue | undefined, value: BtfValue, flags: bigint = UPDATE.ANY): void {
    this.map.update(this.#keyBytes(key), this.#valueBytes(value), flags);
  }

  /** Adds to a queue or a stack. */
  push(value: BtfValue, flags: bigint = UPDATE.ANY): void {
    this.set(undefined, value, flags);
  }

  /** Takes from a queue or a stack; elsewhere takes the value of a key out. */
  take(key?: BtfValue): BtfValue | undefined {
    const bytes = this.map.lookupAndDelete(this.#keyBytes(key));
    return bytes === undefined ? undefined : this.decodeValue(bytes);
  }

  /** Puts a map into a map of maps, or a program into a program array. */
  setObject(key: BtfValue, object: BpfMap | BpfProg, flags: bigint = UPDATE.ANY): void {
    if (this.map.updateObject === undefined)
      throw new BpfError('EINVAL', `the values of map ${this.map.name} are no maps and no programs`);
    this.map.updateObject(this.#keyBytes(key), object, flags);
  }

  /** Whether it was there. */
  delete(key: BtfValue): boolean {
    try {
      this.map.delete(this.#keyBytes(key));
      return true;
    } catch (cause) {
      if (cause instanceof BpfError && cause.code === 'ENOENT') return false;
      throw cause;
    }
  }

  /** Everything that is there. */
  *entries(): Generator<TypedEntry> {
    for (const { key, value } of this.map.entries())
      yield { key: this.key.decode(key), value: this.decodeValue(value) };
  }

  *keys(): Generator<BtfValue> {
    for (const { key } of this.map.entries()) yield this.key.decode(key);
  }

  *values(): Generator<BtfValue> {
    for (const { value } of this.map.entries()) yield this.decodeValue(value);
  }

  [Symbol.iterator](): Generator<TypedEntry> {
    return this.entries();
  }

  /** A value's bytes as a value: an array of one for each CPU, or the addresses of a stack. */
  decodeValue(bytes: Uint8Array): BtfValue {
    const { type, valueSize } = this.map;
    if (isPerCpu(type)) {
      const stride = Math.ceil(valueSize / 8) * 8;
      const values: BtfValue[] = [];
      for (let at = 0; at + stride <= bytes.length; at += stride)
        values.push(this.value.decode(bytes.subarray(at, at + valueSize)));
      return values;
    }
    if (type === MAP_TYPE.STACK_TRACE && this.value.typeId === undefined) return stackOf(bytes);
    // Ids of maps and programs, in the place of what they stand for.
    if (isMapOfMaps(type) || type === MAP_TYPE.PROG_ARRAY)
      return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true);
    return this.value.decode(bytes);
  }

  #keyBytes(key: BtfValue | undefined): Uint8Array {
    if (this.map.keySize === 0) return new Uint8Array(0);
    if (key === undefined) throw new BpfError('EINVAL', `map ${this.map.name} has keys: give one`);
    return this.key.encode(key);
  }

  #valueBytes(value: BtfValue): Uint8Array {
    if (!isPerCpu(this.map.type)) return this.value.encode(value);
    if (!Array.isArray(value))
      throw new BpfError('EINVAL', `map ${this.map.name} has a value for each CPU: give an array`);
    const stride = Math.ceil(this.map.valueSize / 8) * 8;
    if (value.length > this.#cpus)
      throw new BpfError(
        'EINVAL',
        `map ${this.map.name} has ${this.#cpus} values for a key, not ${value.length}`,
      );
    const bytes = new Uint8Array(this.#cpus * stride);
    for (const [cpu, one] of value.entries()) bytes.set(this.value.encode(one as BtfValue), cpu * stride);
    return bytes;
  }
}

/** The addresses of a stack, up to the first zero. */
function stackOf(bytes: Uint8Array): BtfValue {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const addresses: bigint[] = [];
  for (let at = 0; at + 8 <= bytes.length; at += 8) {
    const address = view.getBigUint64(at, true);
    if (address === 0n) break;
    addresses.push(address);
  }
  return addresses;
}

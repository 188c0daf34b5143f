/**
 * Arrays and hashes of maps (BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS), the reader's side. A value is the
 * inner map's address, for programs; we read the inner map's id. A map that is in one stays until it is out of it and no
 * program can hold it any more, whoever frees it.
 */

import { MAP_FLAG, MAP_TYPE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import type { BpfMap as KernelMap } from '../../kernel.js';
import type { Arena } from '../region/arena.js';
import { IndexedMap, keyOfIndex } from './array.js';
import type { MapAttributes } from './attributes.js';
import { HashTable } from './hash_table.js';
import { ARRAY, MAP } from './layout.js';
import type { BpfMap } from './map.js';
import type { SharedMap } from './shared_map.js';

/** Calls `free` when no program that runs now runs any more. */
export type Retire = (free: () => void) => void;

/** Bytes of a value in the process. */
const POINTER = 8;

/** A map that can be held. Ring buffers can not: who frees one while it is in another map ends its use there. */
interface InnerMap extends BpfMap {
  hold?(): void;
  release?(): void;
}

function isInnerMap(object: unknown): object is InnerMap {
  const map = object as Partial<InnerMap> | null | undefined;
  return typeof map?.address === 'bigint' && typeof map.keySize === 'number';
}

/** Throws `BpfError` EINVAL where `object` is not of the shape that the maps in `outer` have. */
export function checkInnerShape(outer: KernelMap, object: KernelMap): void {
  const shape = outer.innerMap as KernelMap;
  const flags = MAP_FLAG.INNER_MAP;
  for (const [what, wanted, got] of [
    ['type', shape.type, object.type],
    ['key size', shape.keySize, object.keySize],
    ['value size', shape.valueSize, object.valueSize],
    ['flags', shape.flags, object.flags],
    ...(shape.type === MAP_TYPE.ARRAY && (shape.flags & flags) === 0
      ? ([['number of entries', shape.maxEntries, object.maxEntries]] as const)
      : []),
  ] as const) {
    if (wanted === got) continue;
    throw new BpfError(
      'EINVAL',
      `Map '${object.name}' does not fit into '${outer.name}': its ${what} is ${got}, not ${wanted}; create it like '${shape.name}'.`,
    );
  }
}

/** What the two kinds share: which map each address is, and that maps fit. */
class InnerMaps {
  readonly #outer: SharedMap;
  readonly #retire: Retire;
  readonly #byAddress = new Map<bigint, { map: InnerMap; places: number }>();

  /** Without `retire`, maps that were replaced stay until the outer one is freed. */
  constructor(outer: SharedMap, retire: Retire | undefined) {
    this.#outer = outer;
    this.#retire = retire ?? (free => this.#kept.push(free));
  }

  readonly #kept: (() => void)[] = [];

  /** The map that `object` is, if it may be a value. Throws `BpfError` EINVAL where its shape is another. */
  check(object: unknown): InnerMap {
    const name = this.#outer.name;
    if (!isInnerMap(object)) {
      throw new BpfError(
        'EINVAL',
        `A value of map '${name}' must be a map of the same process; create it there.`,
      );
    }
    checkInnerShape(this.#outer, object);
    return object;
  }

  /** `map` is a value at one place more. */
  enter(map: InnerMap): void {
    const known = this.#byAddress.get(map.address);
    if (known !== undefined) {
      known.places++;
      return;
    }
    map.hold?.();
    this.#byAddress.set(map.address, { map, places: 1 });
  }

  /** The map at `address` is a value at one place less. */
  leave(address: bigint): void {
    const known = this.#byAddress.get(address);
    if (known === undefined || --known.places > 0) return;
    this.#byAddress.delete(address);
    this.#retire(() => known.map.release?.());
  }

  idOf(address: bigint): Uint8Array | undefined {
    const known = this.#byAddress.get(address);
    return known === undefined ? undefined : keyOfIndex(known.map.id);
  }

  /** The outer map goes: nothing can look inner maps up any more. */
  close(): void {
    for (const { map } of this.#byAddress.values()) map.release?.();
    this.#byAddress.clear();
    for (const free of this.#kept) free();
    this.#kept.length = 0;
  }
}

const INSTEAD = 'its values are maps, so give one to updateObject';

export class ArrayOfMaps extends IndexedMap {
  private readonly inner: InnerMaps;

  constructor(attr: MapAttributes, id: number, arena: Arena, retire?: Retire) {
    super(attr, id, arena, ARRAY.VALUES + POINTER * attr.maxEntries);
    this.header.setUint32(ARRAY.STRIDE, POINTER, true);
    this.header.setUint32(MAP.VALUE_SIZE, POINTER, true);
    this.inner = new InnerMaps(this, retire);
  }

  /** The id of the inner map, u32; `undefined` where there is none. */
  lookup(key: Uint8Array): Uint8Array | undefined {
    const index = this.indexOf(key);
    this.checkReadable();
    if (index >= this.maxEntries) return undefined;
    return this.inner.idOf(Atomics.load(this.words, ARRAY.VALUES / 8 + index));
  }

  update(key: Uint8Array, _value: Uint8Array, flags = 0n): void {
    this.checkKey(key);
    this.checkWritable(flags);
    throw this.unsupported('write a value', INSTEAD);
  }

  updateObject(key: Uint8Array, object: unknown, flags = 0n): void {
    this.checkKey(key);
    this.checkWritable(flags);
    const map = this.inner.check(object);
    const index = this.indexToWrite(key, flags);
    this.inner.enter(map);
    this.inner.leave(Atomics.exchange(this.words, ARRAY.VALUES / 8 + index, map.address));
  }

  override delete(key: Uint8Array): void {
    const index = this.indexOf(key);
    this.checkWritable();
    const old = index < this.maxEntries ? Atomics.exchange(this.words, ARRAY.VALUES / 8 + index, 0n) : 0n;
    if (old === 0n)
      throw this.error('ENOENT', `Index ${index} of map '${this.name}' holds no map; nothing to delete.`);
    this.inner.leave(old);
  }

  protected override freed(): void {
    this.inner.close();
  }
}

export class HashOfMaps extends HashTable {
  private readonly inner: InnerMaps;

  constructor(attr: MapAttributes, id: number, arena: Arena, retire?: Retire) {
    super(attr, id, arena, { nodeValue: POINTER });
    this.header.setUint32(MAP.VALUE_SIZE, POINTER, true);
    this.inner = new InnerMaps(this, retire);
  }

  /** The id of the inner map, u32. */
  lookup(key: Uint8Array): Uint8Array | undefined {
    this.checkReadable();
    const address = this.addressFor(key);
    return address === undefined ? undefined : this.inner.idOf(address);
  }

  update(key: Uint8Array, _value: Uint8Array, flags = 0n): void {
    this.checkKey(key);
    this.checkWritable(flags);
    throw this.unsupported('write a value', INSTEAD);
  }

  updateObject(key: Uint8Array, object: unknown, flags = 0n): void {
    this.checkKey(key);
    this.checkWritable(flags);
    const map = this.inner.check(object);
    // Only we change it, so what is there now is what the update replaces.
    const old = this.addressFor(key);
    this.updateNode(key, new Uint8Array(BigUint64Array.of(map.address).buffer), flags);
    this.inner.enter(map);
    if (old !== undefined) this.inner.leave(old);
  }

  override delete(key: Uint8Array): void {
    this.checkKey(key);
    const old = this.addressFor(key);
    super.delete(key);
    if (old !== undefined) this.inner.leave(old);
  }

  private addressFor(key: Uint8Array): bigint | undefined {
    return this.readNode(key, first => Atomics.load(this.words, first));
  }

  protected override freed(): void {
    this.inner.close();
  }
}

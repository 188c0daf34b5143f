/** A map of an object: what the file says, what is set before loading, and the live map afterwards. */

import { isMapOfMaps, MAP_TYPE } from '../bpf/map_type.js';
import type { Btf } from '../btf/btf.js';
import { BpfError } from '../kernel/errno.js';
import type { BpfMap, BpfProg, Kernel, MapCreateAttr } from '../kernel/kernel.js';
import { type BtfValue, type Codec, codecFor } from './codec.js';
import type { MapSpec } from './map_spec.js';
import type { Pins } from './pins.js';
import { canBeKept, type MapSnapshot, restoreSnapshot, takeSnapshot } from './snapshot.js';
import { type TypedEntry, TypedMap } from './typed_map.js';

/** BPF_OBJ_NAME_LEN without its zero byte. */
const MAX_NAME = 15;
/** Types whose records, stacks and objects have no type that the machine wants to know. */
const WITHOUT_TYPES: ReadonlySet<number> = new Set([
  MAP_TYPE.RINGBUF,
  MAP_TYPE.USER_RINGBUF,
  MAP_TYPE.PERF_EVENT_ARRAY,
  MAP_TYPE.PROG_ARRAY,
  MAP_TYPE.STACK_TRACE,
  MAP_TYPE.ARRAY_OF_MAPS,
  MAP_TYPE.HASH_OF_MAPS,
]);

export class ObjectMap {
  readonly spec: MapSpec;
  readonly #btf: Btf | undefined;
  /** Set before loading: not made, if no program uses it. */
  autocreate = true;
  #maxEntries: number;
  #pin: string | undefined;
  #recordType: number | undefined;
  #live: TypedMap | undefined;
  #owned = false;
  /** Says what the maps of a map of maps are like; holds nothing. */
  #template: BpfMap | undefined;

  constructor(spec: MapSpec, btf: Btf | undefined) {
    this.spec = spec;
    this.#btf = btf;
    this.#maxEntries = spec.maxEntries;
    this.#pin = spec.pinned ? spec.name : undefined;
  }

  get name(): string {
    return this.spec.name;
  }

  get maxEntries(): number {
    return this.#maxEntries;
  }
  set maxEntries(entries: number) {
    this.#beforeLoad('its size');
    if (!Number.isInteger(entries) || entries < 0 || entries > 0xffff_ffff)
      throw new BpfError('EINVAL', `map ${this.name} can't have ${entries} entries`);
    this.#maxEntries = entries;
  }

  /** The name that it is pinned by; `undefined`: not at all. */
  get pin(): string | undefined {
    return this.#pin;
  }
  set pin(name: string | undefined) {
    this.#beforeLoad('its pin');
    this.#pin = name;
  }

  /** Says of what type a ring buffer's records are: a struct of the object's, such as `event`. Throws ENOENT. */
  set recordType(name: string) {
    const bare = name.replace(/^(struct|union|enum)\s+/, '');
    const id = this.#btf?.find(bare, 'struct') ?? this.#btf?.find(bare, 'union') ?? this.#btf?.find(bare);
    if (id === undefined)
      throw new BpfError('ENOENT', `the object has no type ${name} for the records of map ${this.name}`);
    this.#recordType = id;
  }

  /** The live map with its types. Throws EBADF before loading. */
  get live(): TypedMap {
    if (this.#live !== undefined) return this.#live;
    throw new BpfError('EBADF', `map ${this.name} is not loaded; load the object first`);
  }

  get loaded(): boolean {
    return this.#live !== undefined;
  }

  /** Makes it. A pinned one may be there already. */
  load(kernel: Kernel, pins: Pins | undefined, carried: MapSnapshot | undefined): void {
    const shared = this.#pin === undefined ? undefined : pins?.find(kernel, this.#pin);
    if (shared !== undefined) {
      this.#checkShared(shared);
      this.#live = this.#typed(shared, kernel);
      return;
    }
    const inner = this.spec.inner === undefined ? undefined : this.#createTemplate(kernel, this.spec.inner);
    this.#template = inner;
    const map = this.#create(kernel, this.spec, this.#maxEntries, inner);
    this.#owned = true;
    this.#live = this.#typed(map, kernel);
    if (this.#pin !== undefined && pins !== undefined) pins.add(kernel, this.#pin, map);
    else if (carried !== undefined) restoreSnapshot(map, carried);
  }

  #create(kernel: Kernel, spec: MapSpec, maxEntries: number, innerMap?: BpfMap): BpfMap {
    const untyped = WITHOUT_TYPES.has(spec.type);
    const attr: MapCreateAttr = {
      type: spec.type,
      name: spec.name.replace(/[^A-Za-z0-9_.]/g, '_').slice(0, MAX_NAME),
      keySize: isRing(spec.type) ? 0 : spec.keySize,
      // A ring buffer's value type says what its records are; bpf(2) wants no size.
      valueSize: isRing(spec.type) ? 0 : spec.valueSize,
      maxEntries: entriesOf(spec, maxEntries, kernel),
      flags: spec.flags,
      ...(spec.mapExtra === 0n ? {} : { mapExtra: spec.mapExtra }),
      ...(innerMap === undefined ? {} : { innerMap }),
      ...(untyped || this.#btf === undefined ? {} : { btf: this.#btf }),
      ...(untyped || spec.keyTypeId === undefined ? {} : { btfKeyTypeId: spec.keyTypeId }),
      ...(untyped || spec.valueTypeId === undefined ? {} : { btfValueTypeId: spec.valueTypeId }),
    };
    return kernel.mapCreate(attr);
  }

  #createTemplate(kernel: Kernel, inner: MapSpec): BpfMap {
    return this.#create(kernel, inner, inner.maxEntries);
  }

  /** A new map of the shape that this map of maps has, to be put into it. */
  createInner(kernel: Kernel, maxEntries?: number): TypedMap {
    const { inner } = this.spec;
    if (inner === undefined) throw new BpfError('EINVAL', `map ${this.name} is no map of maps`);
    const map = this.#create(kernel, inner, maxEntries ?? inner.maxEntries);
    return new TypedMap(
      map,
      { btf: this.#btf, keyTypeId: inner.keyTypeId, valueTypeId: inner.valueTypeId },
      kernel.possibleCpus,
    );
  }

  #typed(map: BpfMap, kernel: Kernel): TypedMap {
    const { keyTypeId, valueTypeId } = this.spec;
    return new TypedMap(map, { btf: this.#btf, keyTypeId, valueTypeId }, kernel.possibleCpus);
  }

  #checkShared(map: BpfMap): void {
    const { type, keySize, valueSize } = this.spec;
    if (map.type !== type || (!isRing(type) && (map.keySize !== keySize || map.valueSize !== valueSize)))
      throw new BpfError(
        'EINVAL',
        `map ${this.name} is pinned by another object with another type or other sizes; rename one of them`,
      );
  }

  /** What is in it; `undefined` where that means nothing elsewhere. */
  snapshot(): MapSnapshot | undefined {
    const map = this.#live?.map;
    return map === undefined || !this.#owned || !canBeKept(map.type) ? undefined : takeSnapshot(map);
  }

  /** Gives the memory back; a map that another object made stays. */
  free(): void {
    if (this.#owned) this.#live?.map.free();
    this.#template?.free();
    this.forget();
  }

  forget(): void {
    this.#live = undefined;
    this.#template = undefined;
    this.#owned = false;
  }

  /** How records of a ring buffer are read; `undefined` where their type is not known. */
  recordCodec(typeName?: string): Codec | undefined {
    if (typeName !== undefined) this.recordType = typeName;
    const id = this.#recordType ?? (isRing(this.spec.type) ? this.spec.valueTypeId : undefined);
    if (id === undefined || this.#btf === undefined) return undefined;
    return codecFor(this.#btf.sizeOf(id), this.#btf, id, `record of map ${this.name}`);
  }

  get(key?: BtfValue): BtfValue | undefined {
    return this.live.get(key);
  }
  has(key: BtfValue): boolean {
    return this.live.has(key);
  }
  set(key: BtfValue | undefined, value: BtfValue, flags?: bigint): void {
    this.live.set(key, value, flags);
  }
  setObject(key: BtfValue, object: BpfMap | BpfProg, flags?: bigint): void {
    this.live.setObject(key, object, flags);
  }
  delete(key: BtfValue): boolean {
    return this.live.delete(key);
  }
  push(value: BtfValue, flags?: bigint): void {
    this.live.push(value, flags);
  }
  take(key?: BtfValue): BtfValue | undefined {
    return this.live.take(key);
  }
  entries(): Generator<TypedEntry> {
    return this.live.entries();
  }
  keys(): Generator<BtfValue> {
    return this.live.keys();
  }
  values(): Generator<BtfValue> {
    return this.live.values();
  }
  [Symbol.iterator](): Generator<TypedEntry> {
    return this.live.entries();
  }

  #beforeLoad(what: string): void {
    if (this.#live !== undefined)
      throw new BpfError('EBUSY', `map ${this.name} is loaded; set ${what} before loading`);
  }
}

/** Whether a map's values are records that come and go. */
export function isRing(type: number): boolean {
  return type === MAP_TYPE.RINGBUF || type === MAP_TYPE.USER_RINGBUF;
}

/** Whether the values are other maps or programs, which the file may give. */
export function holdsObjects(type: number): boolean {
  return isMapOfMaps(type) || type === MAP_TYPE.PROG_ARRAY;
}

function entriesOf(spec: MapSpec, maxEntries: number, kernel: Kernel): number {
  // As libbpf: one for each CPU.
  return spec.type === MAP_TYPE.PERF_EVENT_ARRAY && maxEntries === 0 ? kernel.possibleCpus : maxEntries;
}

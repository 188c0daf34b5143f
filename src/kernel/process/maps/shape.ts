/**
 * Maps that have a shape and hold nothing, for programs that are verified and never run: no memory is taken for what
 * they could hold. Global data is the exception, since the verifier reads constants in it.
 */

import { isMapOfMaps, MAP_FLAG, MAP_TYPE } from '../../../bpf/map_type.js';
import type { Btf } from '../../../btf/btf.js';
import { BpfError } from '../../errno.js';
import type { BpfProg, BpfMap as KernelMap, MapCreateAttr, MapEntry } from '../../kernel.js';
import { checkAttributes, checkSize } from './attributes.js';
import { checkInnerShape } from './map_in_map.js';
import { checkPerfAttributes } from './perf.js';
import { CalleeKind, type ProgramKind } from './prog_array.js';
import { checkRingbufAttributes } from './ringbuf.js';

export class MapShape implements KernelMap {
  readonly id: number;
  readonly type: number;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
  readonly btf?: Btf;
  readonly btfKeyTypeId?: number;
  readonly btfValueTypeId?: number;
  readonly innerMap?: KernelMap;
  /** Global data: an array of one value. */
  readonly memory?: Uint8Array;
  readonly #callees: CalleeKind;
  #frozen = false;

  /** Throws `BpfError` for attributes that a map of a process could not have, as `createMap` does. */
  constructor(attr: MapCreateAttr, id: number) {
    checkAttributes(attr);
    if (attr.type === MAP_TYPE.RINGBUF) checkRingbufAttributes(attr);
    if (attr.type === MAP_TYPE.PERF_EVENT_ARRAY) checkPerfAttributes(attr);
    this.id = id;
    this.type = attr.type;
    this.name = attr.name;
    this.keySize = attr.keySize;
    this.valueSize = attr.valueSize;
    this.maxEntries = attr.maxEntries;
    this.flags = attr.flags ?? 0;
    if (attr.btf !== undefined) this.btf = attr.btf;
    if (attr.btfKeyTypeId !== undefined) this.btfKeyTypeId = attr.btfKeyTypeId;
    if (attr.btfValueTypeId !== undefined) this.btfValueTypeId = attr.btfValueTypeId;
    if (attr.innerMap !== undefined) this.innerMap = attr.innerMap;
    const isData = this.type === MAP_TYPE.ARRAY && this.maxEntries === 1;
    if (isData && (this.flags & MAP_FLAG.MMAPABLE) !== 0) this.memory = new Uint8Array(this.valueSize);
    this.#callees = new CalleeKind(this.name);
  }

  get frozen(): boolean {
    return this.#frozen;
  }

  freeze(): void {
    this.#frozen = true;
  }

  /** Bytes of the value that nothing can change any more; `undefined` where something can. */
  readConstant(offset: number, size: number): Uint8Array | undefined {
    if (this.memory === undefined || !this.#frozen || (this.flags & MAP_FLAG.RDONLY_PROG) === 0)
      return undefined;
    if (!Number.isInteger(offset) || offset < 0 || size < 0 || offset + size > this.valueSize)
      return undefined;
    return this.memory.slice(offset, offset + size);
  }

  lookup(key: Uint8Array): Uint8Array | undefined {
    checkSize('key', this.name, key, this.keySize);
    return key.every(byte => byte === 0) ? this.memory?.slice() : undefined;
  }

  update(key: Uint8Array, value: Uint8Array): void {
    checkSize('key', this.name, key, this.keySize);
    checkSize('value', this.name, value, this.valueSize);
    if (this.memory === undefined) throw this.#holdsNothing();
    if (this.#frozen)
      throw new BpfError('EPERM', `map '${this.name}' is frozen; write it before it is loaded`);
    this.memory.set(value);
  }

  /** Checks that the object may be a value. */
  updateObject(key: Uint8Array, object: KernelMap | BpfProg): void {
    checkSize('key', this.name, key, this.keySize);
    if (isMapOfMaps(this.type) && object instanceof MapShape) checkInnerShape(this, object);
    else if (this.type === MAP_TYPE.PROG_ARRAY && !('keySize' in object)) this.accept(object);
    else throw new BpfError('EINVAL', `'${object.name}' can not be a value of map '${this.name}'`);
    const index = this.keySize === 4 ? new DataView(key.buffer, key.byteOffset, 4).getUint32(0, true) : 0;
    if (this.type !== MAP_TYPE.HASH_OF_MAPS && index >= this.maxEntries)
      throw new BpfError(
        'E2BIG',
        `index ${index} is beyond map '${this.name}'; its last index is ${this.maxEntries - 1}`,
      );
  }

  /** A program array: of a program that is in it, or calls through it. Throws EINVAL where the others are of another kind. */
  accept(program: ProgramKind): void {
    this.#callees.accept(program);
  }

  delete(): void {
    throw this.#holdsNothing();
  }
  lookupAndDelete(): Uint8Array | undefined {
    throw this.#holdsNothing();
  }
  nextKey(): Uint8Array | undefined {
    return undefined;
  }
  entries(): Iterable<MapEntry> {
    return [];
  }
  free(): void {}

  #holdsNothing(): BpfError {
    return new BpfError(
      'EOPNOTSUPP',
      `map '${this.name}' is for programs that are only verified; it holds nothing`,
    );
  }
}

/**
 * What the maps of a live process have in common: their memory, names and types, who may write them (freezing,
 * read-only flags), and how long they live (a map that another one holds outlives its own `free`).
 */

import { MAP_FLAG, mapTypeName, UPDATE } from '../../../bpf/map_type.js';
import type { Btf } from '../../../btf/btf.js';
import { BpfError } from '../../errno.js';
import type { BpfMap as KernelMap, MapEntry } from '../../kernel.js';
import type { Arena, Block } from '../region/arena.js';
import { checkSize, LARGEST_MAP, type MapAttributes } from './attributes.js';
import { MAP } from './layout.js';
import type { BpfMap } from './map.js';
import { SPIN_LOCK_BYTES, spinLockOffset } from './value_fields.js';

const CACHE_LINE = 64;

export abstract class SharedMap implements BpfMap {
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
  readonly address: bigint;

  /** All of the map, as we see it. */
  protected readonly bytes: Uint8Array;
  /** The same, as 64-bit words. */
  protected readonly words: BigUint64Array;
  protected readonly header: DataView;
  /** Where the spin lock is in a value, bytes. */
  protected readonly lockOffset: number | undefined;

  readonly #arena: Arena;
  readonly #block: Block;
  #frozen = false;
  #holders = 1;
  #owned = true;

  /** Takes `size` bytes of the arena and writes the fields that all maps begin with. */
  constructor(attr: MapAttributes, id: number, arena: Arena, size: number) {
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
    this.lockOffset = spinLockOffset(attr.btf, attr.btfValueTypeId);
    const whole = Math.ceil(size / CACHE_LINE) * CACHE_LINE;
    if (whole > LARGEST_MAP) {
      throw new BpfError(
        'E2BIG',
        `Map '${attr.name}' with ${attr.maxEntries} entries takes ${whole} bytes; the limit is ${LARGEST_MAP}, so ask for fewer.`,
      );
    }
    this.#arena = arena;
    this.#block = arena.alloc(whole, CACHE_LINE);
    this.address = this.#block.address;
    const { buffer, byteOffset } = this.#block.bytes;
    this.bytes = new Uint8Array(buffer, byteOffset, whole);
    this.words = new BigUint64Array(buffer, byteOffset, whole / 8);
    this.header = new DataView(buffer, byteOffset, whole);
    this.header.setUint32(MAP.TYPE, this.type, true);
    this.header.setUint32(MAP.KEY_SIZE, this.keySize, true);
    this.header.setUint32(MAP.VALUE_SIZE, this.valueSize, true);
    this.header.setUint32(MAP.MAX_ENTRIES, this.maxEntries, true);
  }

  get frozen(): boolean {
    return this.#frozen;
  }

  freeze(): void {
    if (this.#frozen) throw new BpfError('EBUSY', `Map '${this.name}' is frozen already; freeze it once.`);
    this.#frozen = true;
  }

  abstract lookup(key: Uint8Array): Uint8Array | undefined;
  abstract update(key: Uint8Array, value: Uint8Array, flags?: bigint): void;
  abstract delete(key: Uint8Array): void;
  abstract nextKey(key?: Uint8Array): Uint8Array | undefined;

  lookupAndDelete(_key: Uint8Array): Uint8Array | undefined {
    throw this.unsupported('look up and delete an element at once');
  }

  *entries(): Iterable<MapEntry> {
    for (let key = this.nextKey(); key !== undefined; key = this.nextKey(key)) {
      const value = this.lookup(key);
      if (value !== undefined) yield { key, value };
    }
  }

  /** One more map (or whoever) needs this one's memory, until `release`. */
  hold(): void {
    this.#holders++;
  }

  release(): void {
    this.#holders--;
    if (this.#holders === 0) {
      this.freed();
      this.#arena.free(this.#block);
    }
  }

  free(): void {
    if (!this.#owned) return;
    this.#owned = false;
    this.release();
  }

  /** Called before the memory goes: what the map holds is let go of. */
  protected freed(): void {}

  // Checks

  protected checkKey(key: Uint8Array): void {
    checkSize('key', this.name, key, this.keySize);
  }

  protected checkValue(value: Uint8Array, size = this.valueSize): void {
    checkSize('value', this.name, value, size);
  }

  /** Throws EPERM where we may not read the map. */
  protected checkReadable(): void {
    if ((this.flags & MAP_FLAG.WRONLY) === 0) return;
    throw new BpfError(
      'EPERM',
      `Map '${this.name}' was created with BPF_F_WRONLY; create it without to read it.`,
    );
  }

  /** Throws EPERM where we may not write the map, EINVAL for flags of an update that are unknown. */
  protected checkWritable(flags = 0n): void {
    if (this.#frozen) {
      throw new BpfError('EPERM', `Map '${this.name}' is frozen; write it before you freeze it.`);
    }
    if ((this.flags & MAP_FLAG.RDONLY) !== 0) {
      throw new BpfError(
        'EPERM',
        `Map '${this.name}' was created with BPF_F_RDONLY; create it without to write it.`,
      );
    }
    if (flags >= 0n && flags <= UPDATE.EXIST) return;
    const why = flags === UPDATE.LOCK ? 'BPF_F_LOCK is not supported' : 'unknown';
    throw new BpfError('EINVAL', `Update flags ${flags} of map '${this.name}' are ${why}; use 0, 1 or 2.`);
  }

  /** A value as it is shown and as it is written anew: with its spin lock as zeros. */
  protected withoutLock(value: Uint8Array): Uint8Array {
    if (this.lockOffset === undefined) return value;
    const copy = value.slice();
    copy.fill(0, this.lockOffset, this.lockOffset + SPIN_LOCK_BYTES);
    return copy;
  }

  protected error(
    code: 'EEXIST' | 'ENOENT' | 'E2BIG' | 'EBUSY' | 'ENOMEM' | 'ENOSPC',
    sentence: string,
  ): BpfError {
    return new BpfError(code, sentence);
  }

  protected unsupported(what: string, instead = 'it is not for maps of this type'): BpfError {
    return new BpfError(
      'EOPNOTSUPP',
      `Can not ${what} of ${mapTypeName(this.type)} map '${this.name}': ${instead}.`,
    );
  }
}

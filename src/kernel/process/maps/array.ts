/**
 * Array maps (BPF_MAP_TYPE_ARRAY), the reader's side: all values side by side, the index is the key. A value of
 * up to 8 bytes is read and written whole; a longer one word by word, as in the kernel. Global data (`.data`, `.bss`,
 * `.rodata`) is an array of one value.
 */

import { MAP_FLAG, UPDATE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import type { MapEntry } from '../../kernel.js';
import type { Arena } from '../region/arena.js';
import type { MapAttributes } from './attributes.js';
import { ARRAY, padded } from './layout.js';
import { SharedMap } from './shared_map.js';

/** What the JIT needs to compile a lookup without a call: `values + index * stride` where index < maxEntries. */
export interface InlineArray {
  /** Address of the first value in the traced process. */
  readonly values: bigint;
  /** Bytes from one value to the next. */
  readonly stride: number;
  readonly maxEntries: number;
}

/** The u32 index that a key of four bytes is. */
export function indexOfKey(key: Uint8Array): number {
  return new DataView(key.buffer, key.byteOffset, 4).getUint32(0, true);
}

/** The key of an index. */
export function keyOfIndex(index: number): Uint8Array {
  const key = new Uint8Array(4);
  new DataView(key.buffer).setUint32(0, index, true);
  return key;
}

/** What all maps whose keys are indexes share: keys, bounds and iteration. */
export abstract class IndexedMap extends SharedMap {
  protected indexOf(key: Uint8Array): number {
    this.checkKey(key);
    return indexOfKey(key);
  }

  /** The index that an update writes to. */
  protected indexToWrite(key: Uint8Array, flags: bigint): number {
    const index = this.indexOf(key);
    if (index >= this.maxEntries) {
      throw new BpfError(
        'E2BIG',
        `Index ${index} is beyond array map '${this.name}'; its last index is ${this.maxEntries - 1}.`,
      );
    }
    if (flags === UPDATE.NOEXIST) {
      throw new BpfError(
        'EEXIST',
        `Index ${index} of array map '${this.name}' exists, as all its elements do; update it without UPDATE.NOEXIST.`,
      );
    }
    return index;
  }

  delete(key: Uint8Array): void {
    this.checkKey(key);
    throw new BpfError(
      'EINVAL',
      `Elements of array map '${this.name}' can not be deleted; write zeros, or use a hash map.`,
    );
  }

  nextKey(key?: Uint8Array): Uint8Array | undefined {
    const index = key === undefined ? this.maxEntries : this.indexOf(key);
    if (index === this.maxEntries - 1) return undefined;
    return keyOfIndex(index >= this.maxEntries ? 0 : index + 1);
  }
}

export class ArrayMap extends IndexedMap implements InlineArray {
  readonly values: bigint;
  readonly stride: number;
  /** All values, shared with the process: value i starts at `i * stride`. */
  readonly contents: Uint8Array;
  /** The same, where it may be had (`BPF_F_MMAPABLE`); to be read only once the map is frozen. */
  readonly memory?: Uint8Array;

  constructor(attr: MapAttributes, id: number, arena: Arena) {
    const stride = padded(attr.valueSize);
    super(attr, id, arena, ARRAY.VALUES + stride * attr.maxEntries);
    this.stride = stride;
    this.values = this.address + BigInt(ARRAY.VALUES);
    this.header.setUint32(ARRAY.STRIDE, stride, true);
    this.contents = this.bytes.subarray(ARRAY.VALUES, ARRAY.VALUES + stride * this.maxEntries);
    if (this.lockOffset !== undefined) this.header.setUint32(ARRAY.LOCK, this.lockOffset + 1, true);
    if ((this.flags & MAP_FLAG.MMAPABLE) !== 0) this.memory = this.contents;
  }

  /**
   * A copy of the `size` bytes `offset` bytes into the values, if nobody can change them any more: the map is
   * frozen, and read-only for programs. `undefined` where that is not so, or they are not all in one value.
   */
  readConstant(offset: number, size: number): Uint8Array | undefined {
    if (!this.frozen || (this.flags & MAP_FLAG.RDONLY_PROG) === 0) return undefined;
    if (!Number.isInteger(offset) || offset < 0 || size < 0) return undefined;
    const inValue = offset % this.stride;
    if (inValue + size > this.valueSize || offset + size > this.contents.length) return undefined;
    return this.contents.slice(offset, offset + size);
  }

  lookup(key: Uint8Array): Uint8Array | undefined {
    const index = this.indexOf(key);
    this.checkReadable();
    return index >= this.maxEntries ? undefined : this.valueAt(index);
  }

  update(key: Uint8Array, value: Uint8Array, flags = 0n): void {
    this.checkKey(key);
    this.checkValue(value);
    this.checkWritable(flags);
    const index = this.indexToWrite(key, flags);
    const whole = new BigUint64Array(this.stride / 8);
    new Uint8Array(whole.buffer).set(value);
    const first = this.wordOf(index);
    if (this.lockOffset !== undefined) {
      this.writeAroundLock(first, new Uint32Array(whole.buffer), this.lockOffset / 4);
      return;
    }
    for (let i = 0; i < whole.length; i++) Atomics.store(this.words, first + i, whole[i]!);
  }

  /** Writes a value in halves of words, but for the one that is its spin lock. */
  private writeAroundLock(first: number, halves: Uint32Array, lock: number): void {
    const target = new Uint32Array(this.bytes.buffer, this.bytes.byteOffset + first * 8, halves.length);
    for (let i = 0; i < halves.length; i++) if (i !== lock) Atomics.store(target, i, halves[i]!);
  }

  override *entries(): Iterable<MapEntry> {
    this.checkReadable();
    for (let i = 0; i < this.maxEntries; i++) yield { key: keyOfIndex(i), value: this.valueAt(i) };
  }

  private wordOf(index: number): number {
    return (ARRAY.VALUES + index * this.stride) / 8;
  }

  private valueAt(index: number): Uint8Array {
    const first = this.wordOf(index);
    const copy = new BigUint64Array(this.stride / 8);
    for (let i = 0; i < copy.length; i++) copy[i] = Atomics.load(this.words, first + i);
    return this.withoutLock(new Uint8Array(copy.buffer, 0, this.valueSize));
  }
}

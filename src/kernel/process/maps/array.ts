/**
 * Array maps (BPF_MAP_TYPE_ARRAY), the reader's side: all values side by side, the index is the key. A value of
 * up to 8 bytes is read and written whole; a longer one word by word, as in the kernel.
 */

import { MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import type { Arena, Block } from '../region/arena.js';
import { checkSize, type MapAttributes } from './attributes.js';
import { ARRAY, MAP, padded } from './layout.js';
import type { BpfMap } from './map.js';

/** What the JIT needs to compile a lookup without a call: `values + index * stride` where index < maxEntries. */
export interface InlineArray {
  /** Address of the first value in the traced process. */
  readonly values: bigint;
  /** Bytes from one value to the next. */
  readonly stride: number;
  readonly maxEntries: number;
}

const CACHE_LINE = 64;

export class ArrayMap implements BpfMap, InlineArray {
  readonly type = MAP_TYPE.ARRAY;
  readonly id: number;
  readonly name: string;
  readonly keySize = 4;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly address: bigint;
  readonly values: bigint;
  readonly stride: number;
  /** All values, shared with the process: value i starts at `i * stride`. */
  readonly contents: Uint8Array;

  private readonly arena: Arena;
  private readonly block: Block;
  private readonly words: BigUint64Array;

  constructor(attr: MapAttributes, id: number, arena: Arena) {
    this.id = id;
    this.name = attr.name;
    this.valueSize = attr.valueSize;
    this.maxEntries = attr.maxEntries;
    this.stride = padded(attr.valueSize);
    this.arena = arena;
    this.block = arena.alloc(ARRAY.VALUES + this.stride * this.maxEntries, CACHE_LINE);
    this.address = this.block.address;
    this.values = this.address + BigInt(ARRAY.VALUES);
    const { buffer, byteOffset } = this.block.bytes;
    const header = new DataView(buffer, byteOffset, ARRAY.VALUES);
    header.setUint32(MAP.TYPE, this.type, true);
    header.setUint32(MAP.KEY_SIZE, this.keySize, true);
    header.setUint32(MAP.VALUE_SIZE, this.valueSize, true);
    header.setUint32(MAP.MAX_ENTRIES, this.maxEntries, true);
    header.setUint32(ARRAY.STRIDE, this.stride, true);
    this.contents = new Uint8Array(buffer, byteOffset + ARRAY.VALUES, this.stride * this.maxEntries);
    this.words = new BigUint64Array(buffer, byteOffset + ARRAY.VALUES, this.contents.length / 8);
  }

  lookup(key: Uint8Array): Uint8Array | undefined {
    const index = this.indexOf(key);
    if (index >= this.maxEntries) return undefined;
    const first = (index * this.stride) / 8;
    const copy = new BigUint64Array(this.stride / 8);
    for (let i = 0; i < copy.length; i++) copy[i] = Atomics.load(this.words, first + i);
    return new Uint8Array(copy.buffer, 0, this.valueSize);
  }

  update(key: Uint8Array, value: Uint8Array, flags = 0n): void {
    const index = this.indexOf(key);
    checkSize('value', this.name, value, this.valueSize);
    if (flags < 0n || flags > UPDATE.EXIST) {
      throw new BpfError('EINVAL', `Update flags ${flags} of map '${this.name}' are unknown; use 0, 1 or 2.`);
    }
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
    const whole = new BigUint64Array(this.stride / 8);
    new Uint8Array(whole.buffer).set(value);
    const first = (index * this.stride) / 8;
    for (let i = 0; i < whole.length; i++) Atomics.store(this.words, first + i, whole[i]!);
  }

  delete(_key: Uint8Array): void {
    throw new BpfError(
      'EINVAL',
      `Elements of array map '${this.name}' can not be deleted; write zeros, or use a hash map.`,
    );
  }

  nextKey(key?: Uint8Array): Uint8Array | undefined {
    const index = key === undefined ? this.maxEntries : this.indexOf(key);
    if (index === this.maxEntries - 1) return undefined;
    const next = new Uint8Array(4);
    new DataView(next.buffer).setUint32(0, index >= this.maxEntries ? 0 : index + 1, true);
    return next;
  }

  free(): void {
    this.arena.free(this.block);
  }

  private indexOf(key: Uint8Array): number {
    checkSize('key', this.name, key, this.keySize);
    return new DataView(key.buffer, key.byteOffset, 4).getUint32(0, true);
  }
}

/**
 * Hash maps and LRU hash maps (BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH), the reader's side: values are bytes in the
 * nodes of hash_table.ts. All memory is taken at creation, whether or not BPF_F_NO_PREALLOC asks for that.
 */

import { MAP_TYPE } from '../../../bpf/map_type.js';
import type { Arena } from '../region/arena.js';
import type { MapAttributes } from './attributes.js';
import { HashTable } from './hash_table.js';
import { HASH } from './layout.js';

export class HashMap extends HashTable {
  constructor(attr: MapAttributes, id: number, arena: Arena) {
    super(attr, id, arena, { nodeValue: attr.valueSize, lru: attr.type === MAP_TYPE.LRU_HASH });
    if (this.lockOffset !== undefined) this.header.setUint32(HASH.LOCK, this.lockOffset + 1, true);
  }

  lookup(key: Uint8Array): Uint8Array | undefined {
    this.checkReadable();
    return this.readNode(key, first => this.withoutLock(this.copyWords(first, this.valueSize)));
  }

  update(key: Uint8Array, value: Uint8Array, flags = 0n): void {
    this.checkKey(key);
    this.checkValue(value);
    this.checkWritable(flags);
    this.updateNode(key, this.withoutLock(value), flags);
  }

  override lookupAndDelete(key: Uint8Array): Uint8Array | undefined {
    this.checkReadable();
    this.checkWritable();
    return this.takeNode(key, first => this.withoutLock(this.copyWords(first, this.valueSize)));
  }
}

/** Stacks (BPF_MAP_TYPE_STACK), the reader's side: the list of stack_code.ts, where it is explained. */

import { UPDATE } from '../../../bpf/map_type.js';
import type { Arena } from '../region/arena.js';
import type { MapAttributes } from './attributes.js';
import { HASH, QUEUE } from './layout.js';
import { MARK, nodeOf, successor } from './node_pool.js';
import { QueueOrStack } from './queue.js';

const HEAD = QUEUE.HEAD / 8;
const FREE = HASH.FREE / 8;

export class StackMap extends QueueOrStack {
  // What a search leaves, as in hash_table.ts.
  private prev = 0;
  private link = 0n;
  private node = 0;
  private next = 0n;

  constructor(attr: MapAttributes, id: number, arena: Arena) {
    super(attr, id, arena, attr.maxEntries);
  }

  push(value: Uint8Array, flags = 0n): void {
    this.checkPush(value, flags);
    const { words } = this;
    let fresh = this.popFree();
    for (; fresh === 0; fresh = this.popFree()) {
      this.find(true);
      if (nodeOf(Atomics.load(words, FREE)) !== 0) continue;
      if (flags !== UPDATE.EXIST || this.node === 0) throw this.overfull();
      this.deleteFound();
    }
    words[fresh] = successor(words[fresh]!, 0, MARK);
    this.writeWords(this.valueIndex(fresh), value);
    for (;;) {
      const link = Atomics.load(words, HEAD);
      words[fresh] = successor(words[fresh]!, nodeOf(link));
      if (this.swap(HEAD, link, successor(link, fresh))) return;
    }
  }

  pop(): Uint8Array | undefined {
    for (;;) {
      this.find(false);
      if (this.node === 0) return undefined;
      const value = this.copyWords(this.valueIndex(this.node), this.valueSize);
      if (this.deleteFound()) return value;
    }
  }

  peek(): Uint8Array | undefined {
    for (;;) {
      this.find(false);
      if (this.node === 0) return undefined;
      const value = this.copyWords(this.valueIndex(this.node), this.valueSize);
      if (Atomics.load(this.words, this.node) === this.next) return value;
    }
  }

  /** `node` = the first live node, or the last one; 0 where there is none. Unlinks the marked ones before it. */
  private find(last: boolean): void {
    restart: for (;;) {
      this.prev = HEAD;
      this.link = Atomics.load(this.words, HEAD);
      for (;;) {
        this.node = nodeOf(this.link);
        if (this.node === 0) return;
        this.next = Atomics.load(this.words, this.node);
        if ((this.next & MARK) !== 0n) {
          if (this.unlink()) continue;
          continue restart;
        }
        if (Atomics.load(this.words, this.prev) !== this.link) continue restart;
        if (!last || nodeOf(this.next) === 0) return;
        this.prev = this.node;
        this.link = this.next;
      }
    }
  }

  private deleteFound(): boolean {
    const deleted = successor(this.next, nodeOf(this.next), MARK);
    if (!this.swap(this.node, this.next, deleted)) return false;
    this.next = deleted;
    this.unlink();
    return true;
  }

  private unlink(): boolean {
    const past = successor(this.link, nodeOf(this.next));
    if (!this.swap(this.prev, this.link, past)) return false;
    this.link = past;
    this.pushFree(this.node);
    return true;
  }
}

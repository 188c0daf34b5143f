/**
 * Queues (BPF_MAP_TYPE_QUEUE), the reader's side: the queue of queue_code.ts, where it is explained. There are no keys:
 * `update` with an empty key pushes, `lookup` peeks, `lookupAndDelete` pops.
 */

import { UPDATE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import type { Arena } from '../region/arena.js';
import type { MapAttributes } from './attributes.js';
import { NODE, padded, QUEUE } from './layout.js';
import { nodeOf, PooledMap, type PoolShape, successor } from './node_pool.js';

const HEAD = QUEUE.HEAD / 8;
const TAIL = QUEUE.TAIL / 8;

/** The pool of a queue or stack: `nodes` of them, all free. */
function queueShape(attr: MapAttributes, nodes: number): PoolShape {
  const valueOffset = NODE.KEY;
  const nodeSize = valueOffset + padded(attr.valueSize);
  return {
    pool: QUEUE.POOL,
    nodeSize,
    valueOffset,
    entries: nodes,
    nodes,
    size: QUEUE.POOL + nodes * nodeSize,
  };
}

/** What queues and stacks share: the operations of maps without keys. */
export abstract class QueueOrStack extends PooledMap {
  constructor(attr: MapAttributes, id: number, arena: Arena, nodes: number) {
    super(attr, id, arena, queueShape(attr, nodes));
  }

  /** Pushes a value. Throws E2BIG where the map is full; with UPDATE.EXIST the oldest value goes instead. */
  abstract push(value: Uint8Array, flags?: bigint): void;
  /** Takes the next value out; `undefined` where there is none. */
  abstract pop(): Uint8Array | undefined;
  /** The next value, which stays. */
  abstract peek(): Uint8Array | undefined;

  lookup(key: Uint8Array): Uint8Array | undefined {
    this.checkKey(key);
    this.checkReadable();
    return this.peek();
  }

  update(key: Uint8Array, value: Uint8Array, flags = 0n): void {
    this.checkKey(key);
    this.push(value, flags);
  }

  override lookupAndDelete(key: Uint8Array): Uint8Array | undefined {
    this.checkKey(key);
    this.checkReadable();
    this.checkWritable();
    return this.pop();
  }

  delete(key: Uint8Array): void {
    this.checkKey(key);
    throw this.unsupported('delete an element', 'pop it with lookupAndDelete');
  }

  nextKey(): Uint8Array | undefined {
    throw this.unsupported('list the elements', 'pop them with lookupAndDelete');
  }

  override entries(): never {
    throw this.unsupported('list the elements', 'pop them with lookupAndDelete');
  }

  protected checkPush(value: Uint8Array, flags: bigint): void {
    this.checkValue(value);
    this.checkWritable(flags);
    if (flags === UPDATE.NOEXIST) {
      throw new BpfError(
        'EINVAL',
        `UPDATE.NOEXIST is not for map '${this.name}', which has no keys; use 0 or 2.`,
      );
    }
  }

  protected overfull(): BpfError {
    return this.error(
      'E2BIG',
      `Map '${this.name}' is full with ${this.maxEntries} entries; pop some, or push with UPDATE.EXIST to drop the oldest.`,
    );
  }
}

export class QueueMap extends QueueOrStack {
  constructor(attr: MapAttributes, id: number, arena: Arena) {
    // One node more than values: the one that came out last stays linked.
    super(attr, id, arena, attr.maxEntries + 1);
    const first = this.popFree();
    this.words[first] = 0n;
    this.words[HEAD] = successor(0n, first);
    this.words[TAIL] = successor(0n, first);
  }

  push(value: Uint8Array, flags = 0n): void {
    this.checkPush(value, flags);
    const { words } = this;
    let head = Atomics.load(words, HEAD);
    let fresh = this.popFree();
    while (fresh === 0) {
      if (flags !== UPDATE.EXIST || !this.drop(head)) throw this.overfull();
      head = Atomics.load(words, HEAD);
      fresh = this.popFree();
    }
    words[fresh] = successor(words[fresh]!, 0);
    this.writeWords(this.valueIndex(fresh), value);
    for (;;) {
      const tail = Atomics.load(words, TAIL);
      const last = nodeOf(tail);
      const next = Atomics.load(words, last);
      if (Atomics.load(words, TAIL) !== tail) continue;
      if (nodeOf(next) !== 0) {
        this.swap(TAIL, tail, successor(tail, nodeOf(next)));
        continue;
      }
      if (!this.swap(last, next, successor(next, fresh))) continue;
      this.swap(TAIL, tail, successor(tail, fresh));
      return;
    }
  }

  pop(): Uint8Array | undefined {
    return this.take(true);
  }

  peek(): Uint8Array | undefined {
    return this.take(false);
  }

  /** Drops the oldest value, if HEAD is still `head`; false where there is none. */
  private drop(head: bigint): boolean {
    const { words } = this;
    const tail = Atomics.load(words, TAIL);
    const next = Atomics.load(words, nodeOf(head));
    if (Atomics.load(words, HEAD) !== head) return true;
    if (nodeOf(head) === nodeOf(tail)) {
      if (nodeOf(next) === 0) return false;
      this.swap(TAIL, tail, successor(tail, nodeOf(next)));
    } else if (this.swap(HEAD, head, successor(head, nodeOf(next)))) {
      this.pushFree(nodeOf(head));
    }
    return true;
  }

  private take(removes: boolean): Uint8Array | undefined {
    const { words } = this;
    for (;;) {
      const head = Atomics.load(words, HEAD);
      const tail = Atomics.load(words, TAIL);
      const next = Atomics.load(words, nodeOf(head));
      if (Atomics.load(words, HEAD) !== head) continue;
      if (nodeOf(head) === nodeOf(tail)) {
        if (nodeOf(next) === 0) return undefined;
        this.swap(TAIL, tail, successor(tail, nodeOf(next)));
        continue;
      }
      const value = this.copyWords(this.valueIndex(nodeOf(next)), this.valueSize);
      if (!removes) {
        if (Atomics.load(words, HEAD) === head) return value;
      } else if (this.swap(HEAD, head, successor(head, nodeOf(next)))) {
        this.pushFree(nodeOf(head));
        return value;
      }
    }
  }
}

/**
 * A ring of records in memory shared with a process: programs append, on any thread and in signal handlers, and
 * this side consumes. Not a map: ring buffers, perf event arrays and the trace log each have one.
 *
 * Why nobody waits and nothing is torn. A position counts bytes since the beginning; a *lap* is a round of the ring.
 * Every word of the ring that is free for lap n holds `FREE + n * SIZE`, which no header and no other lap's free
 * word equals (bit 63). To reserve, a program reads PRODUCER = p and exchanges the free word of p's lap at p for the
 * header (compare-exchange): that is the moment of reservation, and the header says where the next record begins.
 * Then PRODUCER moves on, by whoever comes first: the owner, or anybody who finds the header there.
 *
 * - A header is exchanged at p only while PRODUCER is p: PRODUCER leaves p only after the word at p was exchanged,
 *   and no word ever holds the free word of a lap again. So a thread that slept for laps between its look at
 *   PRODUCER and its exchange fails and looks again; it can't spoil what lies there by now.
 * - There is room: CONSUMER was read before PRODUCER and only grows; the words up to CONSUMER + SIZE are free.
 * - A thread interrupted, or gone for good, between exchange and PRODUCER's step is helped by the next.
 * - BUSY is in the header from the exchange on, so the reader stops at a record that is not finished yet. Its owner
 *   clears BUSY with one store, behind its payload's (x86 keeps the order of stores).
 * - The reader first makes consumed words free for the next lap, then moves CONSUMER.
 *
 * A record whose owner never submits it (killed by a longjmp out of a signal handler, or with its thread) holds up
 * the reader, since a sleeping owner may yet write it. When one has been BUSY for a second, the reader asks
 * (`whenQuiet`) for a moment when no thread of the process is in, or will return into, a program; BUSY records are
 * discarded then.
 */

import { randomBytes } from 'node:crypto';
import { BpfError } from '../../errno.js';
import type { Arena, Block } from '../region/arena.js';
import type { RingMemory } from '../region/ring_region.js';
import { MAP } from './layout.js';
import { RECORD_HEADER, RINGBUF } from './ringbuf_layout.js';

/** Consumed records are given back at the latest when they are so many bytes, or a quarter of the ring. */
const RELEASE_BYTES = 64 << 10;
/** How long a record is BUSY before its owner is looked for, and at most between two such looks, ms. */
const STUCK_MS = 1000;
const STUCK_MAX_MS = 60_000;
/** How long `wait` sleeps between two looks at the ring, ms: this share of the time for which nothing came, and at most. */
const SLEEP_SHARE = 1 / 8;
const SHORTEST_SLEEP_MS = 1;
const LONGEST_SLEEP_MS = 50;
/** A ring of which this share was filled since the last wait is looked at without sleeping for so long, ms. */
const BUSY_SHARE = 1 / 64;
const EAGER_MS = 2;

/** `FREE`: bit 63, which no header has; random below, so that no payload has it by chance; room for many laps. */
function freeWord(): bigint {
  return (1n << 63n) | (randomBytes(8).readBigUInt64LE() >> 8n);
}

/** Resolves when node has served the events that wait. */
const nextTurn = (): Promise<void> => new Promise(resolve => setImmediate(resolve));

export interface RingOptions {
  /** Fields that every map begins with. */
  readonly type?: number;
  readonly keySize?: number;
  readonly valueSize?: number;
  readonly maxEntries?: number;
  /** What people know the ring by. */
  readonly name?: string;
  /**
   * Asks for `discard` to be called at a moment when no thread is in a program, nor will return into one. It is
   * asked again later where that moment did not come.
   */
  readonly whenQuiet?: ((discard: () => void) => void) | undefined;
}

/** Called with each record: its bytes, good until it returns, and the number that its writer gave it. */
export type OnRecord = (bytes: Uint8Array, tag: number) => void;

export class Ring {
  /** Where the map begins in the traced process. */
  readonly address: bigint;
  readonly size: number;
  readonly name: string;

  readonly #arena: Arena;
  readonly #block: Block;
  readonly #memory: RingMemory;
  /** The map's block, as words. */
  readonly #fields: BigUint64Array;
  /** Both copies of the ring, as words and as halves of them. */
  readonly #words: BigUint64Array;
  readonly #halves: Int32Array;
  readonly #free: bigint;
  readonly #whenQuiet: RingOptions['whenQuiet'];
  /** Everything before is consumed, and CONSUMER says so. */
  #released = 0;
  #consuming = false;
  #freed = false;
  #droppedAtEnd = 0n;
  #stuck = { at: -1, since: 0, wait: STUCK_MS };
  /** What was consumed when `wait` was last called. */
  /** Since when nothing came, as `wait` saw it. */
  #quietSince = performance.now();
  #lastWait = 0;

  constructor(arena: Arena, memory: RingMemory, options: RingOptions = {}) {
    this.size = memory.size;
    this.name = options.name ?? '';
    this.#arena = arena;
    this.#memory = memory;
    this.#whenQuiet = options.whenQuiet;
    this.#block = arena.alloc(RINGBUF.BYTES, 64);
    this.address = this.#block.address;
    const { buffer, byteOffset } = this.#block.bytes;
    this.#fields = new BigUint64Array(buffer, byteOffset, RINGBUF.BYTES / 8);
    const ring = memory.bytes;
    this.#words = new BigUint64Array(ring.buffer, ring.byteOffset, ring.length / 8);
    this.#halves = new Int32Array(ring.buffer, ring.byteOffset, ring.length / 4);
    this.#free = freeWord();
    this.#words.fill(this.#free, 0, this.size / 8);

    const header = new DataView(buffer, byteOffset, RINGBUF.BYTES);
    header.setUint32(MAP.TYPE, options.type ?? 0, true);
    header.setUint32(MAP.KEY_SIZE, options.keySize ?? 0, true);
    header.setUint32(MAP.VALUE_SIZE, options.valueSize ?? 0, true);
    header.setUint32(MAP.MAX_ENTRIES, options.maxEntries ?? 0, true);
    header.setBigUint64(RINGBUF.DATA, memory.address, true);
    header.setBigUint64(RINGBUF.SIZE, BigInt(this.size), true);
    header.setBigUint64(RINGBUF.MASK, BigInt(this.size - 1), true);
    header.setBigUint64(RINGBUF.FREE, this.#free, true);
  }

  /** Records that found no room. */
  get dropped(): bigint {
    return this.#freed ? this.#droppedAtEnd : Atomics.load(this.#fields, RINGBUF.DROPPED / 8);
  }

  /** Whether a finished record waits. */
  get readable(): boolean {
    if (this.#freed || this.#released === this.#producer()) return false;
    return Atomics.load(this.#halves, (this.#released % this.size) >> 2) >= 0;
  }

  /**
   * Hands finished records to `record`, in the order of their reservation, up to one that is not finished: how many
   * there were. What `record` throws ends it; its record counts as consumed. Throws EIO where the process wrote
   * over the ring.
   */
  consume(record: OnRecord, limit = Number.POSITIVE_INFINITY): number {
    if (this.#freed) throw new BpfError('EBADF', `ring buffer '${this.name}' is closed`);
    if (this.#consuming)
      throw new BpfError(
        'EBUSY',
        `ring buffer '${this.name}' is consumed already, further up this very call`,
      );
    this.#consuming = true;
    const { size } = this;
    const { buffer, byteOffset } = this.#memory.bytes;
    const halves = this.#halves;
    const step = Math.min(RELEASE_BYTES, size / 4);
    let position = this.#released;
    let index = position % size;
    let count = 0;
    try {
      const end = this.#producer();
      while (position < end && count < limit) {
        const word = Atomics.load(halves, index >> 2);
        if (word < 0) {
          this.#busyAt(position);
          break;
        }
        const length = word & RECORD_HEADER.LENGTH;
        const total = (length + RECORD_HEADER.BYTES + 7) & ~7;
        if (total > end - position) {
          this.#release(position);
          throw this.#damaged(position, `a record of ${length} bytes`);
        }
        const payload = index + RECORD_HEADER.BYTES;
        const tag = halves[(index + RECORD_HEADER.TAG) >> 2]!;
        position += total;
        index += total;
        if (index >= size) index -= size;
        if ((word & RECORD_HEADER.DISCARD) === 0) {
          count++;
          record(new Uint8Array(buffer, byteOffset + payload, length), tag);
        }
        if (position - this.#released >= step) this.#release(position);
      }
    } finally {
      if (position > this.#released) this.#release(position);
      this.#consuming = false;
    }
    return count;
  }

  /**
   * Resolves to true when there is something to consume, to false after `timeoutMs`. No program makes a system call
   * to wake us, so this looks: at once, then every millisecond, less often the longer nothing comes, and every 50 ms
   * in the end, which costs a reader without records half a percent of a CPU. It always lets node's other events be served first, so that a
   * reader that never runs out of records does not keep them waiting.
   */
  async wait(timeoutMs: number): Promise<boolean> {
    const begin = performance.now();
    const busy = this.#released - this.#lastWait > this.size * BUSY_SHARE;
    if (this.#released !== this.#lastWait) this.#quietSince = begin;
    this.#lastWait = this.#released;
    for (let looks = 0; !this.#freed; looks++) {
      if (this.readable) {
        if (looks === 0) await nextTurn();
        return true;
      }
      this.#lookForAbandoned();
      const waited = performance.now() - begin;
      if (waited >= timeoutMs) return false;
      if (looks === 0 || (busy && waited < EAGER_MS)) await nextTurn();
      else {
        const quiet = performance.now() - this.#quietSince;
        const sleep = Math.min(Math.max(quiet * SLEEP_SHARE, SHORTEST_SLEEP_MS), LONGEST_SLEEP_MS);
        await new Promise(resolve => setTimeout(resolve, Math.min(sleep, timeoutMs - waited)));
      }
    }
    return false;
  }

  /**
   * Discards every record that is reserved and not finished. Only when no thread is in a program, nor will return
   * into one: the memory is used again. Returns how many there were.
   */
  discardUnfinished(): number {
    let count = 0;
    const end = this.#producer();
    for (let position = this.#released; position < end; ) {
      const half = (position % this.size) >> 2;
      const word = Atomics.load(this.#halves, half);
      if (word < 0) {
        count++;
        Atomics.store(this.#halves, half, (word & RECORD_HEADER.LENGTH) | RECORD_HEADER.DISCARD);
      }
      position += ((word & RECORD_HEADER.LENGTH) + RECORD_HEADER.BYTES + 7) & ~7;
    }
    return count;
  }

  /** No program uses it any more. */
  close(): void {
    if (this.#freed) return;
    this.#droppedAtEnd = this.dropped;
    this.#freed = true;
    this.#memory.free();
    this.#arena.free(this.#block);
  }

  /** PRODUCER, which the process could have written over. */
  #producer(): number {
    const end = Number(Atomics.load(this.#fields, RINGBUF.PRODUCER / 8));
    if (end < this.#released || end - this.#released > this.size || end % 8 !== 0)
      throw this.#damaged(end, 'its write position');
    return end;
  }

  /** Gives the bytes before `position` back: free words of their next lap, then CONSUMER. */
  #release(position: number): void {
    const { size } = this;
    for (let from = this.#released; from < position; ) {
      const index = from % size;
      const lap = BigInt(from - index + size);
      const length = Math.min(size - index, position - from);
      this.#words.fill(this.#free + lap, index / 8, (index + length) / 8);
      from += length;
    }
    this.#released = position;
    Atomics.store(this.#fields, RINGBUF.CONSUMER / 8, BigInt(position));
  }

  /** Notes that the record at `position` is not finished. */
  #busyAt(position: number): void {
    if (this.#stuck.at === position) this.#lookForAbandoned();
    else this.#stuck = { at: position, since: performance.now(), wait: STUCK_MS };
  }

  /** Asks for a quiet moment where the first record has not been finished for long. */
  #lookForAbandoned(): void {
    const stuck = this.#stuck;
    const position = this.#released;
    if (this.#whenQuiet === undefined || position === this.#producer()) return;
    if (stuck.at !== position) {
      this.#stuck = { at: position, since: performance.now(), wait: STUCK_MS };
      return;
    }
    const now = performance.now();
    if (now - stuck.since < stuck.wait) return;
    // A stop is not free for the process: ask less and less often.
    stuck.since = now;
    stuck.wait = Math.min(stuck.wait * 2, STUCK_MAX_MS);
    this.#whenQuiet(() => {
      if (!this.#freed) this.discardUnfinished();
    });
  }

  /** The process wrote over the ring: all that was in it is given up, so that later records can be read again. */
  #damaged(position: number, what: string): BpfError {
    const lap = this.#free + BigInt(this.#released - (this.#released % this.size));
    const index = (this.#released % this.size) / 8;
    this.#words.fill(lap, index, this.size / 8);
    this.#words.fill(lap + BigInt(this.size), 0, index);
    Atomics.store(this.#fields, RINGBUF.PRODUCER / 8, BigInt(this.#released));
    return new BpfError(
      'EIO',
      `the process wrote over ring buffer '${this.name}': ${what} at ${position} can't be; its records are lost. Look for a wild pointer in the traced program`,
    );
  }
}

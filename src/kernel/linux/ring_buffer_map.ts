/**
 * The kernel's ring buffer (`BPF_MAP_TYPE_RINGBUF`), read through mappings: one page with the position up to which records
 * are consumed, which we write; one with the position up to which there are records; and the data twice in a row, so that
 * each record is in one piece.
 *
 *     record: u32 length, bit 31 it is being written, bit 30 it was discarded; u32 of the kernel's; the bytes; up to 8
 */

import { MAP, mmap, munmap, PROT, viewMemory } from '../../ffi/libc.js';
import { BpfError } from '../errno.js';
import type { MapCreateAttr } from '../kernel.js';
import { LinuxMap } from './map.js';
import { pollReadable } from './poll.js';

const PAGE = 4096;
const HEADER = 8;
const BUSY = 0x8000_0000;
const DISCARDED = 0x4000_0000;

export class RingBufferMap extends LinuxMap {
  readonly #consumerAt: bigint;
  readonly #producerAt: bigint;
  readonly #consumer: BigInt64Array<ArrayBuffer>;
  readonly #producer: BigInt64Array<ArrayBuffer>;
  readonly #data: Uint8Array;
  readonly #headers: Int32Array<ArrayBuffer>;
  readonly #size: number;

  constructor(attr: MapCreateAttr, possibleCpus: number) {
    super(attr, possibleCpus);
    this.#size = attr.maxEntries;
    const fd = this.fd.number;
    this.#consumerAt = mmap(0n, PAGE, PROT.READ | PROT.WRITE, MAP.SHARED, fd, 0);
    this.#producerAt = mmap(0n, PAGE + 2 * this.#size, PROT.READ, MAP.SHARED, fd, PAGE);
    this.#consumer = new BigInt64Array(viewMemory(this.#consumerAt, PAGE), 0, 1);
    const producer = viewMemory(this.#producerAt, PAGE + 2 * this.#size);
    this.#producer = new BigInt64Array(producer, 0, 1);
    this.#data = new Uint8Array(producer, PAGE);
    this.#headers = new Int32Array(producer, PAGE);
  }

  /** Hands on the records that are finished, in order; never waits. */
  consume(record: (bytes: Uint8Array) => void, limit = Number.POSITIVE_INFINITY): number {
    // The mappings are gone with it.
    if (this.fd.closed) throw new BpfError('EBADF', `ring buffer ${this.name} is closed`);
    let taken = 0;
    let at = Number(Atomics.load(this.#consumer, 0));
    try {
      while (taken < limit && at < Number(Atomics.load(this.#producer, 0))) {
        const place = at % this.#size;
        const header = Atomics.load(this.#headers, place / 4) >>> 0;
        if (header & BUSY) break;
        const length = header & ~(BUSY | DISCARDED);
        at += Math.ceil((length + HEADER) / 8) * 8;
        if (header & DISCARDED) continue;
        taken++;
        record(this.#data.subarray(place + HEADER, place + HEADER + length));
      }
    } finally {
      // Also where `record` throws: its record counts as consumed.
      Atomics.store(this.#consumer, 0, BigInt(at));
    }
    return taken;
  }

  /** Whether a finished record may be there. */
  get #readable(): boolean {
    return Atomics.load(this.#consumer, 0) !== Atomics.load(this.#producer, 0);
  }

  async wait(timeoutMs: number): Promise<boolean> {
    if (this.#readable) return true;
    await pollReadable([this.fd.number], timeoutMs);
    return !this.fd.closed && this.#readable;
  }

  override free(): void {
    if (this.fd.closed) return;
    munmap(this.#consumerAt, PAGE);
    munmap(this.#producerAt, PAGE + 2 * this.#size);
    super.free();
  }
}

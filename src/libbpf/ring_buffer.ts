/** Records of a ring buffer (or a perf event array) as they come: typed where a type is known. */

import { formatValue } from '../btf/value.js';
import { BpfError } from '../kernel/errno.js';
import type { BpfMap } from '../kernel/kernel.js';
import { type BtfValue, type Codec, hex } from './codec.js';

/** How many records are taken before the reader of `for await` gets them. */
const BATCH = 4096;
/** How often a closed buffer is noticed by who waits for records, ms. */
const WAIT_MS = 100;

/** Reads one buffer; there should be one reader. */
export class RingBuffer implements AsyncIterable<BtfValue>, Disposable {
  readonly map: BpfMap;
  readonly #codec: Codec | undefined;
  /** What was there when it was closed, for who still reads. */
  readonly #rest: BtfValue[] = [];
  #closed = false;

  /** Without `codec` a record is hexadecimal text. Throws EINVAL for a map that has no records. */
  constructor(map: BpfMap, codec: Codec | undefined) {
    if (map.consume === undefined)
      throw new BpfError('EINVAL', `map ${map.name} is no ring buffer: it has no records to read`);
    this.map = map;
    this.#codec = codec;
  }

  /** Records that found no room so far. */
  get dropped(): bigint {
    return this.map.dropped ?? 0n;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** A record's value; of one that is shorter than the type, hexadecimal text. */
  decode(bytes: Uint8Array): BtfValue {
    const codec = this.#codec;
    return codec === undefined || bytes.length < codec.size ? hex(bytes) : codec.decode(bytes);
  }

  /** A record as text, in the manner of C. */
  format(bytes: Uint8Array): string {
    const codec = this.#codec;
    if (codec?.btf === undefined || codec.typeId === undefined || bytes.length < codec.size)
      return hex(bytes);
    return formatValue(codec.btf, codec.typeId, bytes);
  }

  /** Hands on the bytes of each record that is there, and returns how many that were; never waits. */
  consumeBytes(record: (bytes: Uint8Array) => void, limit?: number): number {
    return this.#closed ? 0 : this.map.consume!(record, limit);
  }

  /** Hands on what is there, and returns how many records that were; never waits. */
  consume(record: (value: BtfValue) => void, limit?: number): number {
    return this.consumeBytes(bytes => record(this.decode(bytes)), limit);
  }

  /** Resolves when there may be something to consume, or after `timeoutMs`. */
  async wait(timeoutMs: number): Promise<void> {
    if (this.map.wait !== undefined) await this.map.wait(timeoutMs);
    else await new Promise(resolve => setTimeout(resolve, Math.min(timeoutMs, 10)));
  }

  /** Ends `for await` loops, after what is there now. The map may be freed afterwards. */
  close(): void {
    if (this.#closed) return;
    this.consume(value => this.#rest.push(value));
    this.#closed = true;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<BtfValue> {
    const batch: BtfValue[] = [];
    while (!this.#closed) {
      this.consume(value => batch.push(value), BATCH);
      if (batch.length > 0) yield* batch.splice(0);
      else await this.wait(WAIT_MS);
    }
    yield* this.#rest.splice(0);
  }
}

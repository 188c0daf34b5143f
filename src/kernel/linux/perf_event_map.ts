/**
 * The kernel's perf event array (`bpf_perf_event_output`): a buffer for each CPU, which is the array's value there. Records
 * of one CPU come in order.
 */

import { MAP, mmap, munmap, PROT, viewMemory } from '../../ffi/libc.js';
import { BpfError } from '../errno.js';
import type { MapCreateAttr } from '../kernel.js';
import type { Fd } from './bpf.js';
import { cpus } from './cpus.js';
import { LinuxMap } from './map.js';
import { enableEvent, perfEventOpen } from './perf_event.js';
import { pollReadable } from './poll.js';

const PAGE = 4096;
/** Bytes of each CPU's buffer. */
const DATA_BYTES = 64 * PAGE;
/** linux/perf_event.h: PERF_TYPE_SOFTWARE, PERF_COUNT_SW_BPF_OUTPUT, PERF_SAMPLE_RAW. */
const EVENT = { type: 1, config: 10n, sampleType: 1n << 10n, wakeup: 1 } as const;
/** Words of `struct perf_event_mmap_page`: how far the kernel wrote, and we read; bytes. */
const HEAD = 1024 / 8;
const TAIL = 1032 / 8;
const RECORD = { LOST: 2, SAMPLE: 9 } as const;
const HEADER_BYTES = 8;

interface CpuBuffer {
  readonly event: Fd;
  readonly address: bigint;
  readonly positions: BigUint64Array<ArrayBuffer>;
  readonly data: Uint8Array;
}

export class PerfEventMap extends LinuxMap {
  readonly #buffers: CpuBuffer[] = [];
  #dropped = 0n;

  constructor(attr: MapCreateAttr, possibleCpus: number) {
    super({ ...attr, keySize: 4, valueSize: 4, maxEntries: attr.maxEntries || possibleCpus }, possibleCpus);
    try {
      for (const cpu of cpus('online')) if (cpu < this.maxEntries) this.#buffers.push(this.#open(cpu));
    } catch (cause) {
      this.free();
      throw cause;
    }
  }

  #open(cpu: number): CpuBuffer {
    const event = perfEventOpen(EVENT, -1, cpu);
    const length = PAGE + DATA_BYTES;
    const address = mmap(0n, length, PROT.READ | PROT.WRITE, MAP.SHARED, event.number, 0);
    const memory = viewMemory(address, length);
    const key = Buffer.alloc(4);
    key.writeUInt32LE(cpu);
    const value = Buffer.alloc(4);
    value.writeInt32LE(event.number);
    this.update(key, value);
    enableEvent(event);
    return {
      event,
      address,
      positions: new BigUint64Array(memory, 0, PAGE / 8),
      data: new Uint8Array(memory, PAGE),
    };
  }

  get dropped(): bigint {
    return this.#dropped;
  }

  consume(record: (bytes: Uint8Array) => void, limit = Number.POSITIVE_INFINITY): number {
    if (this.fd.closed) throw new BpfError('EBADF', `perf event array ${this.name} is closed`);
    let taken = 0;
    for (const buffer of this.#buffers) {
      let at = Number(Atomics.load(buffer.positions, TAIL));
      try {
        while (taken < limit && at < Number(Atomics.load(buffer.positions, HEAD))) {
          const header = bytesAt(buffer, at, HEADER_BYTES);
          const type = header.readUInt32LE(0);
          const size = header.readUInt16LE(6);
          const whole = bytesAt(buffer, at, size);
          at += size;
          // A sample: its length in a word, then its bytes. A loss: an id, then how many.
          if (type === RECORD.LOST) this.#dropped += whole.readBigUInt64LE(HEADER_BYTES + 8);
          else if (type === RECORD.SAMPLE) {
            taken++;
            const length = whole.readUInt32LE(HEADER_BYTES);
            record(whole.subarray(HEADER_BYTES + 4, HEADER_BYTES + 4 + length));
          }
        }
      } finally {
        Atomics.store(buffer.positions, TAIL, BigInt(at));
      }
    }
    return taken;
  }

  get #readable(): boolean {
    return this.#buffers.some(
      ({ positions }) => Atomics.load(positions, HEAD) !== Atomics.load(positions, TAIL),
    );
  }

  async wait(timeoutMs: number): Promise<boolean> {
    if (this.#readable) return true;
    await pollReadable(
      this.#buffers.map(({ event }) => event.number),
      timeoutMs,
    );
    return !this.fd.closed && this.#readable;
  }

  override free(): void {
    if (this.fd.closed) return;
    for (const { event, address } of this.#buffers) {
      munmap(address, PAGE + DATA_BYTES);
      event.close();
    }
    super.free();
  }
}

/** A copy: a record may go over the end of the buffer. */
function bytesAt({ data }: CpuBuffer, at: number, length: number): Buffer {
  const from = at % DATA_BYTES;
  const first = data.subarray(from, Math.min(from + length, DATA_BYTES));
  return first.length === length
    ? Buffer.from(first)
    : Buffer.concat([first, data.subarray(0, length - first.length)]);
}

/**
 * The trace log: what trace_printk and trace_vprintk print, one ring for each process, read by us. The counterpart of
 * the kernel's trace_pipe. The programs' side is helpers/trace_code.ts.
 */

import { SYMBOL_MARK } from '../helpers/format_code.js';
import type { Arena } from '../region/arena.js';
import type { MapRing } from '../region/ring_region.js';
import { Ring, type RingOptions } from './ringbuf_reader.js';

/** Bytes of the ring: several thousand lines. */
const LOG_BYTES = 1 << 19;
/** The most characters of one line, and the zero byte behind them (the kernel's MAX_BPRINTF_BUF). */
export const LOG_LINE_BYTES = 1024;

/**
 * A record of the log: byte offsets.
 *
 *     0          8         12
 *     | TIME u64 | TID u32 | TEXT …, a zero byte |
 */
export const LOG_RECORD = { TIME: 0, TID: 8, TEXT: 12 } as const;

/** One thing that a program printed. */
export interface TraceRecord {
  /** CLOCK_MONOTONIC, ns; 0 where the process has no clock of ours. */
  readonly time: bigint;
  /** 0 where it is not known. */
  readonly tid: number;
  /** The thread's name; empty where it is not known. */
  readonly comm: string;
  /** Without the newline that formats end with. */
  readonly text: string;
}

export interface TraceLogOptions {
  readonly whenQuiet?: RingOptions['whenQuiet'];
  /** The name of a thread. */
  readonly threadName?: ((tid: number) => string | undefined) | undefined;
  /** The name of the function at an address: for %ps; with the offset in it (`name+0x1c`) for %pS and %pB. */
  readonly symbol?: ((address: bigint, withOffset: boolean) => string | undefined) | undefined;
}

const NEWLINE = 0x0a;
const MARKED = new RegExp(`${String.fromCharCode(SYMBOL_MARK)}([sSB])(0x[0-9a-f]+)`, 'g');

export class TraceLog {
  readonly #ring: Ring;
  readonly #options: TraceLogOptions;

  constructor(arena: Arena, mapRing: MapRing, options: TraceLogOptions = {}) {
    this.#ring = new Ring(arena, mapRing(LOG_BYTES), { name: 'trace', whenQuiet: options.whenQuiet });
    this.#options = options;
  }

  /** Where the ring begins in the traced process: what the helpers are emitted with. */
  get address(): bigint {
    return this.#ring.address;
  }

  /** Lines that found no room. */
  get dropped(): bigint {
    return this.#ring.dropped;
  }

  /** What was printed since the last call, in order. Throws EIO where the process wrote over the log. */
  read(): TraceRecord[] {
    const records: TraceRecord[] = [];
    this.#ring.consume(bytes => {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      if (bytes.length < LOG_RECORD.TEXT) return;
      const tid = view.getUint32(LOG_RECORD.TID, true);
      records.push({
        time: view.getBigUint64(LOG_RECORD.TIME, true),
        tid,
        comm: this.#options.threadName?.(tid) ?? '',
        text: this.#textOf(bytes.subarray(LOG_RECORD.TEXT)),
      });
    });
    return records;
  }

  /** Resolves to true when there is something to read, to false after `timeoutMs`. */
  wait(timeoutMs: number): Promise<boolean> {
    return this.#ring.wait(timeoutMs);
  }

  close(): void {
    this.#ring.close();
  }

  /** The text up to its end, with names for marked addresses. */
  #textOf(bytes: Uint8Array): string {
    // %c may have printed zero bytes: the end are those behind all else, and the newline that formats end with.
    let end = bytes.length;
    while (end > 0 && bytes[end - 1] === 0) end--;
    if (bytes[end - 1] === NEWLINE) end--;
    const text = Buffer.from(bytes.subarray(0, end)).toString('utf8');
    return text.replace(MARKED, (_all, kind: string, address: string) => {
      return this.#options.symbol?.(BigInt(address), kind !== 's') ?? address;
    });
  }
}

/**
 * How a ring buffer lies in shared memory: the map's own block, and the records in the ring. Declared once for the
 * machine code (helpers/ringbuf_code.ts) and the reader (ringbuf_reader.ts).
 */

/**
 * Byte offsets in the map's block, behind the fields of every map (layout.ts). What programs write, what the reader
 * writes and what never changes have a cache line each.
 *
 *     16  DATA      u64   address of the ring in the traced process
 *     24  SIZE      u64   bytes of the ring, a power of two
 *     32  MASK      u64   SIZE - 1
 *     40  FREE      u64   what a free word holds in the first lap
 *     64  PRODUCER  u64   bytes reserved since the beginning
 *    128  CONSUMER  u64   bytes consumed since the beginning
 *    192  DROPPED   u64   records that found no room
 */
export const RINGBUF = {
  DATA: 16,
  SIZE: 24,
  MASK: 32,
  FREE: 40,
  PRODUCER: 64,
  CONSUMER: 128,
  DROPPED: 192,
  BYTES: 256,
} as const;

/**
 * The header of a record (linux/bpf.h, BPF_RINGBUF_HDR_SZ): two u32. The first has the length and the flags; the
 * second is page offset in the kernel, and here a number that the writer chose (perf event arrays: the CPU).
 *
 *     31    30       29       0
 *     | BUSY | DISCARD | length |
 *
 * Length counts the payload, and the record takes it and the header, rounded up to 8 bytes.
 */
export const RECORD_HEADER = {
  BYTES: 8,
  TAG: 4,
  BUSY: 0x8000_0000,
  DISCARD: 0x4000_0000,
  LENGTH: 0x3fff_ffff,
} as const;

/** Flags of ringbuf_output, _submit and _discard, and of ringbuf_query (linux/bpf.h). */
export const RB_FLAG = { NO_WAKEUP: 1, FORCE_WAKEUP: 2 } as const;
export const RB_QUERY = { AVAIL_DATA: 0, RING_SIZE: 1, CONS_POS: 2, PROD_POS: 3 } as const;

/**
 * How a map lies in shared memory: declared here once, for the machine code in the traced process and for the
 * reader on our side. The kernel's words are kept (`key_size`, `max_entries`, …). Not for what the maps do.
 */

/**
 * Byte offsets of the fields that every map starts with, all u32.
 *
 *     0        4          8            12
 *     | type   | key_size | value_size | max_entries |
 */
export const MAP = { TYPE: 0, KEY_SIZE: 4, VALUE_SIZE: 8, MAX_ENTRIES: 12 } as const;

/**
 * Byte offsets of an array map. STRIDE, u32: bytes from one value to the next. Values start a cache line of
 * their own, and each of them at a multiple of 8.
 */
export const ARRAY = { STRIDE: 16, VALUES: 64 } as const;

/**
 * Byte offsets of a hash map. The first cache line never changes while the map lives; the heads of the two free
 * lists have their own.
 *
 *     16  VALUE_OFFSET u32   bytes from a node's start to its value
 *     20  NODE_SIZE    u32   bytes of a node
 *     24  SEED         u64   start of the hash
 *     32  BUCKET_MASK  u64   number of buckets - 1
 *     40  POOL         u64   bytes from the map's start to the first node
 *     48  NODES        u64   number of nodes in the pool
 *     64  FREE         u64   list word: nodes free for new keys
 *     72  SPARE        u64   list word: nodes free for replacements
 *    128  BUCKETS      u64[] list words, one for each bucket; behind them the pool
 */
export const HASH = {
  VALUE_OFFSET: 16,
  NODE_SIZE: 20,
  SEED: 24,
  BUCKET_MASK: 32,
  POOL: 40,
  NODES: 48,
  FREE: 64,
  SPARE: 72,
  BUCKETS: 128,
} as const;

/**
 * Byte offsets in a node of a hash map. The key is padded with zeros to a multiple of 8 bytes, the value follows,
 * padded too. In a free node, the first four bytes of the key are the low half of the list word of the next one.
 */
export const NODE = { NEXT: 0, KEY: 8, NEXT_FREE: 8 } as const;

/**
 * A list word: who comes next, and how often the word has changed.
 *
 *     63            32 31                         2   1      0
 *     |   version     | offset of the node / 8    | SPARE | MARK |
 *
 * The offset counts from the map's start, so the word means the same in both address spaces; 0 is nobody.
 * MARK: the node that holds this word is deleted. SPARE, only beside MARK: it goes back to the spare list.
 */
export const WORD = { MARK: 1, SPARE: 2, FLAGS: 3, VERSION_SHIFT: 32 } as const;

/** `size` rounded up to whole 64-bit words, in bytes. */
export function padded(size: number): number {
  return Math.ceil(size / 8) * 8;
}

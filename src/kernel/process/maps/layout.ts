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
 * Byte offsets of all maps that are arrays: plain, per CPU, of maps, of programs, task storage. STRIDE, u32: bytes
 * from one value to the next. SLOT_STRIDE, u64: bytes from one CPU's values to the next CPU's (0 where there is one
 * of each). LOCK, u32: 1 more than the offset of the spin lock in a value, 0 where there is none. Values start a cache
 * line of their own, and each of them at a multiple of 8.
 */
export const ARRAY = { STRIDE: 16, SLOT_STRIDE: 24, LOCK: 32, VALUES: 64 } as const;

/**
 * Byte offsets of all maps that are made of nodes in a pool: hash, queue, stack, stack trace. The first 128 bytes
 * never change while the map lives; what changes has cache lines of its own.
 *
 *     16  VALUE_OFFSET u32   bytes from a node's start to its value
 *     20  NODE_SIZE    u32   bytes of a node
 *     24  SEED         u64   start of the hash
 *     32  BUCKET_MASK  u64   number of buckets - 1
 *     40  POOL         u64   bytes from the map's start to the first node
 *     48  NODES        u64   number of nodes in the pool
 *     56  REF_DELTA    u32   LRU: bytes from a node's value to its REF word; 0: nothing is evicted
 *     60  PER_CPU_SIZE u32   per-CPU: bytes of one CPU's value; value_size is that of the node's own (PER_CPU) then
 *     64  SLOT_STRIDE  u64   per-CPU: bytes from one CPU's values to the next CPU's
 *     72  LENGTHS      u64   LPM trie: bytes from the map's start to the bitmap of the prefix lengths in it
 *     80  MAX_PREFIX   u32   LPM trie: bits of the longest prefix
 *     84  LOCK         u32   1 more than the offset of the spin lock in a value, 0 where there is none
 *    128  FREE         u64   list word: nodes free for new keys
 *    136  SPARE        u64   list word: nodes free for replacements
 *    144  HAND         u64   LRU: number of the node that is looked at next for eviction
 *    192  BUCKETS      u64[] list words, one for each bucket; behind them the pool
 */
export const HASH = {
  VALUE_OFFSET: 16,
  NODE_SIZE: 20,
  SEED: 24,
  BUCKET_MASK: 32,
  POOL: 40,
  NODES: 48,
  REF_DELTA: 56,
  PER_CPU_SIZE: 60,
  SLOT_STRIDE: 64,
  LENGTHS: 72,
  MAX_PREFIX: 80,
  LOCK: 84,
  FREE: 128,
  SPARE: 136,
  HAND: 144,
  BUCKETS: 192,
} as const;

/**
 * Byte offsets in a queue or stack, where the buckets of a hash map are. HEAD: list word, where the next pop takes
 * from. TAIL: list word, the last node of a queue.
 */
export const QUEUE = { HEAD: 192, TAIL: 256, POOL: 320 } as const;

/** Byte offsets in a bloom filter: the bits start after the fields that it shares with the hash map (SEED). */
export const BLOOM = { HASHES: 16, BIT_MASK: 32, BITS: 64 } as const;

/**
 * Byte offsets in a node of a hash map. The key is padded with zeros to a multiple of 8 bytes, the value follows,
 * padded too. In a free node, the first four bytes of the key are the low half of the list word of the next one.
 */
export const NODE = { NEXT: 0, KEY: 8, NEXT_FREE: 8 } as const;

/**
 * What a node of a per-CPU hash map has for a value: a bit for each CPU, whether its value means anything (else it is
 * zeros, whatever stands there: so a new key touches no CPU's memory but the own), and the bytes from the map's start
 * to CPU 0's value of this node.
 */
export const PER_CPU = { MASK: 0, MASK_BYTES: 16, OFFSET: 16, BYTES: 24 } as const;

/** Byte offsets in a node of a stack trace map; a bucket's list word leads to it. COUNT: how many addresses, u32. */
export const TRACE = { HASH: 0, COUNT: 8, IPS: 16 } as const;

/**
 * Byte offsets in a thread's piece of a task storage map. CLAIM, u64: which thread's it is (the claim of its block,
 * threads/layout.ts), 0 for nobody's. TID, u32: the thread's id, for the reader.
 */
export const STORAGE = { CLAIM: 0, TID: 8, VALUE: 16 } as const;

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

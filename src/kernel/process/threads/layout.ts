/**
 * What we know of each thread of a process, in memory that code of ours finds in a few instructions: a table of blocks
 * that is private to the process (a forked child begins with an empty one: MADV_WIPEONFORK), keyed by the word at
 * `%fs:0`, where the C libraries keep the thread pointer; and a few words that the process, its children and we share.
 *
 * A block has a **slot** number, below `POSSIBLE_CPUS`: the "CPU" of per-CPU maps and of bpf_get_smp_processor_id.
 * Two threads never have one slot at the same time, forked children included.
 */

/** Slots that there are: the kernel's number of possible CPUs, as programs and readers of per-CPU maps see it. */
export const POSSIBLE_CPUS = 128;

/** Blocks of the table: a power of two, twice as many as slots, so that probing is short. */
export const BLOCKS = 256;
export const BLOCK_SHIFT = 6;
export const BLOCK_SIZE = 1 << BLOCK_SHIFT;

/**
 * One block, byte offsets; a cache line.
 *
 *     0  u64 key      the word at %fs:0, plus 1; or one of KEY
 *     8  u64 active   rsp of the program that runs on this thread and must not be entered again; 0 for none
 *    16  u32 slot
 *    20  u32 tid      as the process sees it; 0 where it is not known
 *    24  u64 random   state of bpf_get_prandom_u32
 *    32  u64 claim    which claim of all this thread's was, from 1: another number, another thread
 */
export const THREAD = { key: 0, active: 8, slot: 16, tid: 20, random: 24, claim: 32 } as const;
/** A thread's name, with the null byte (TASK_COMM_LEN). */
export const COMM_BYTES = 16;

/** Keys that are no thread's: those are multiples of 8, plus 1. */
export const KEY = {
  empty: 0n,
  /** Free again; the search for another key goes on behind it. */
  gone: 2n,
  /** A program may still work with it, and nobody shall find it: a stop that finds no thread in our code frees it. */
  retired: 4n,
  /** A thread is about to put its key here. */
  claiming: 6n,
} as const;

/**
 * The private mapping: a header, then the blocks.
 *
 *     0  u32 attached  1 in the process that we follow; 0 in a child that it forked
 *     4  u32 tgid      0 where no program has asked for it yet
 *    64  blocks
 */
export const TABLE = { attached: 0, tgid: 4, blocks: 64 } as const;
export const TABLE_BYTES = (TABLE.blocks + BLOCKS * BLOCK_SIZE + 4095) & -4096;

/**
 * The words that we, the process and its children share.
 *
 *        0  u64 free[2]     bit n of word w: slot 64 w + n is free
 *       16  u64 claims      threads that claimed a block so far
 *       24  u64 exhausted   times that a thread found no slot
 *       32  u32 tid_offset  where a thread's id lies behind %fs:0; 0 while it is not known
 *       40  u64 seed        of the random numbers
 *       48  char comm[16]   name of the process: what a new thread has until we look
 *       64  u64 uid_gid     gid << 32 | uid
 *      128  u32 owner[128]  thread id of each slot's owner; 0 where it is not known
 *      640  char comms[128][16]  name of each slot's owner
 */
export const SHARED = {
  free: 0,
  claims: 16,
  exhausted: 24,
  tidOffset: 32,
  seed: 40,
  comm: 48,
  uidGid: 64,
  owners: 128,
  comms: 128 + POSSIBLE_CPUS * 4,
  size: 128 + POSSIBLE_CPUS * (4 + COMM_BYTES),
} as const;

/** Multiplier of the hash: 2^32 divided by the golden ratio. */
const HASH_FACTOR = 0x9e3779b1 | 0;
/** Leaves the hash's upper bits where a block's offset has them. */
const HASH_SHIFT = 32 - Math.log2(BLOCKS) - BLOCK_SHIFT;
const HASH_MASK = (BLOCKS - 1) << BLOCK_SHIFT;
export const HASH = { factor: HASH_FACTOR, shift: HASH_SHIFT, mask: HASH_MASK } as const;

/** Where the search for the thread pointer `fs` begins: the offset of a block, from the first. */
export function homeOf(fs: bigint): number {
  return (Math.imul(Number(fs & 0xffff_ffffn) | 0, HASH_FACTOR) >>> HASH_SHIFT) & HASH_MASK;
}

/** Addresses of the two parts in the process: what code is made with. */
export interface ThreadCode {
  /** The private mapping. */
  readonly table: bigint;
  /** The shared words. */
  readonly shared: bigint;
  /** Threads may run that have no thread pointer yet: a static program before its C library has begun. */
  readonly early?: boolean;
}

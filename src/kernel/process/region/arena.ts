/**
 * The memory that the traced process and this one share, as its users see it: blocks. Not for mapping that
 * memory, which is the region's work.
 */

/** Hands out blocks of shared memory. */
export interface Arena {
  /** A zeroed block of `size` bytes, at a multiple of `align` (a power of two) in both address spaces. */
  alloc(size: number, align?: number): Block;
  free(block: Block): void;
}

/** A piece of shared memory, under its two addresses. */
export interface Block {
  /** Where the traced process sees it. */
  readonly address: bigint;
  /** The same memory, seen by us. */
  readonly bytes: Uint8Array;
  readonly size: number;
}

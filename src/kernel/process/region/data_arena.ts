/**
 * The allocator of shared data: maps, metadata tables, program arrays. First fit from free lists by size, else from
 * the end of the newest region; a request that fits nowhere has a region of its own mapped.
 */

import type { Arena, Block } from './arena.js';
import { PAGE_SIZE, type SharedRegion } from './region.js';

/** Every block starts at a cache line: two maps never share one. */
const LINE = 64;
/** What one region holds at least; pages that nobody touches cost nothing. */
export const DATA_REGION_BYTES = 32 << 20;

export class DataArena implements Arena {
  readonly regions: SharedRegion[] = [];
  readonly #mapRegion: (size: number) => SharedRegion;
  readonly #free = new Map<number, Block[]>();
  #used = 0;
  #inUse = 0;

  /** `mapRegion` maps a data region of at least `size` bytes into the process. */
  constructor(first: SharedRegion, mapRegion: (size: number) => SharedRegion) {
    this.regions.push(first);
    this.#mapRegion = mapRegion;
  }

  /** Bytes of blocks that are not free. */
  get inUse(): number {
    return this.#inUse;
  }

  alloc(size: number, align = 8): Block {
    const rounded = Math.max(LINE, (size + LINE - 1) & -LINE);
    this.#inUse += rounded;
    const list = this.#free.get(rounded);
    const index = list?.findIndex(block => block.address % BigInt(align) === 0n) ?? -1;
    if (list !== undefined && index >= 0) {
      const [block] = list.splice(index, 1);
      block.bytes.fill(0);
      return block;
    }
    let region = this.regions[this.regions.length - 1];
    let start = (this.#used + align - 1) & -align;
    if (start + rounded > region.size) {
      region = this.#mapRegion(Math.max(DATA_REGION_BYTES, (rounded + PAGE_SIZE - 1) & -PAGE_SIZE));
      this.regions.push(region);
      start = 0;
    }
    this.#used = start + rounded;
    return {
      address: region.address + BigInt(start),
      bytes: region.bytes.subarray(start, start + rounded),
      size: rounded,
    };
  }

  free(block: Block): void {
    this.#inUse -= block.size;
    const list = this.#free.get(block.size);
    if (list === undefined) this.#free.set(block.size, [block]);
    else list.push(block);
  }
}

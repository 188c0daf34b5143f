/**
 * A region of machine code within reach of the modules it serves: trampolines, programs, and a slot for each target.
 *
 * Planned first: its address is chosen and code is laid out while the process runs; mapped then, in the one stop of
 * a link. From there on it is written through the shared mapping.
 */

import type { TracedProcess } from '../../../process/process.js';
import type { RemoteThread } from '../../../process/remote.js';
import { BpfError } from '../../errno.js';
import { PAGE_SIZE, planCodeAddress, SharedRegion } from './region.js';

/** A slot's record and first instructions share a cache line where its size allows. */
const SLOT_ALIGN = 64;
const INT3 = 0xcc;

/** Blocks larger than this have fewer sizes, so that one that was freed fits again. */
const LARGE = 256;

/** Bytes of a block for `size`. */
export function roundedSize(size: number): number {
  const step = size > LARGE ? LARGE : SLOT_ALIGN;
  return (size + step - 1) & -step;
}

/** A piece of a code region. */
export interface CodeBlock {
  readonly region: CodeRegion;
  /** From the start of the region, bytes. */
  readonly offset: number;
  readonly size: number;
}

export class CodeRegion {
  readonly address: bigint;
  readonly size: number;
  #shared: SharedRegion | undefined;
  #bytes: Uint8Array;
  #used = 0;
  readonly #free = new Map<number, number[]>();

  private constructor(address: bigint, size: number) {
    this.address = address;
    this.size = size;
    this.#bytes = new Uint8Array(size).fill(INT3);
  }

  /** Plans a region for `size` bytes of code within reach of [`low`, `high`) of the process. */
  static plan(
    process: TracedProcess,
    size: number,
    low: bigint,
    high: bigint,
    planned: readonly CodeRegion[],
  ): CodeRegion {
    const rounded = (size + PAGE_SIZE - 1) & -PAGE_SIZE;
    return new CodeRegion(planCodeAddress(process, rounded, low, high, planned), rounded);
  }

  /** Maps the region and what was written to it so far. Throws EEXIST where its place was taken meanwhile. */
  map(remote: RemoteThread, pid: number): void {
    this.#shared = SharedRegion.map(remote, pid, 'code', this.address, this.size);
    this.#shared.bytes.set(this.#bytes);
    this.#bytes = this.#shared.bytes;
  }

  get mapped(): boolean {
    return this.#shared !== undefined;
  }

  /** The mapping, once there is one. */
  get shared(): SharedRegion | undefined {
    return this.#shared;
  }

  /** Bytes that a new block can still have. */
  get room(): number {
    return this.size - this.#used;
  }

  /** Free blocks of a rounded size. */
  freeBlocks(rounded: number): number {
    return this.#free.get(rounded)?.length ?? 0;
  }

  /** Bytes of blocks that are not free. */
  get inUse(): number {
    let free = 0;
    for (const [size, offsets] of this.#free) free += size * offsets.length;
    return this.#used - free;
  }

  /** Whether a relative jump from anywhere in the region reaches [`low`, `high`). */
  reaches(low: bigint, high: bigint): boolean {
    const limit = 0x7fff_0000n;
    return high - this.address < limit && this.address + BigInt(this.size) - low < limit;
  }

  alloc(size: number): CodeBlock {
    const rounded = roundedSize(size);
    const reused = this.#free.get(rounded)?.pop();
    if (reused !== undefined) return { region: this, offset: reused, size: rounded };
    if (rounded > this.room)
      throw new BpfError(
        'ENOMEM',
        `a code region at 0x${this.address.toString(16)} is full; it was planned too small`,
      );
    const offset = this.#used;
    this.#used += rounded;
    return { region: this, offset, size: rounded };
  }

  free(block: CodeBlock): void {
    this.#bytes.fill(INT3, block.offset, block.offset + block.size);
    const list = this.#free.get(block.size);
    if (list === undefined) this.#free.set(block.size, [block.offset]);
    else list.push(block.offset);
  }

  /** The bytes of a block, to be written. Taken anew for each use: mapping the region moves them. */
  bytesOf(block: CodeBlock): Uint8Array {
    return this.#bytes.subarray(block.offset, block.offset + block.size);
  }

  /** Where the process sees a block. */
  addressOf(block: CodeBlock): bigint {
    return this.address + BigInt(block.offset);
  }

  contains(address: bigint): boolean {
    return address >= this.address && address < this.address + BigInt(this.size);
  }
}

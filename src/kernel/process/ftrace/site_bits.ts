/**
 * One bit for each byte of a module's code: set where a branch must not go (the inside of a patch site), or where
 * it matters that it goes (its entry). Made to be asked tens of millions of times: every byte of the code that
 * could be a branch asks once.
 */

import { BpfError } from '../../errno.js';
import type { CodeSection } from './patch_site.js';

/** Distances in code are 32 bits with sign: code beyond that is not one program. */
const MAX_SIZE = 2 ** 31;

export class SiteBits {
  /** The lowest address of the code. Bits are numbered from here. */
  readonly base: number;
  /** How many addresses there are. */
  readonly size: number;
  readonly words: Uint32Array;

  constructor(sections: readonly CodeSection[]) {
    let low = Number.POSITIVE_INFINITY;
    let high = 0;
    for (const { address, bytes } of sections) {
      low = Math.min(low, address);
      high = Math.max(high, address + bytes.length);
    }
    this.base = low;
    this.size = Math.max(high - low, 0);
    if (this.size > MAX_SIZE) {
      throw new BpfError(
        'ENOEXEC',
        `the executable sections from 0x${low.toString(16)} to 0x${high.toString(16)} lie more than 2 GiB apart: ` +
          'name a file whose code is in one place',
      );
    }
    this.words = new Uint32Array((this.size + 31) >>> 5);
  }

  /** Marks the addresses from `from` to before `to`. */
  mark(from: number, to: number): void {
    for (let i = from - this.base; i < to - this.base; i++) this.words[i >>> 5] |= 1 << (i & 31);
  }

  /** True where `address` is marked; false for every address outside the code. */
  has(address: number): boolean {
    const i = address - this.base;
    return i >= 0 && i < this.size && ((this.words[i >>> 5] >>> (i & 31)) & 1) !== 0;
  }
}

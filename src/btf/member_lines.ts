/** Members of a struct as lines of C, with the padding that a compiler would not put there by itself. */

import type { Btf } from './btf.js';
import type { Layouts } from './layout.js';
import type { BtfComposite, BtfMember } from './types.js';

/** Gaps of more bytes than this become an array. */
const MAX_GAP = 256;

/** Integers by their bytes. */
export const INTEGERS = new Map([
  [1, 'char'],
  [2, 'short'],
  [4, 'int'],
  [8, 'long'],
]);

/** Follows where a compiler would put the next member, and writes padding where it must be elsewhere. */
export class MemberLines {
  readonly lines: string[] = [];
  readonly #btf: Btf;
  readonly #layouts: Layouts;
  readonly #type: BtfComposite;
  readonly #packed: boolean;
  #bit = 0;

  constructor(btf: Btf, layouts: Layouts, type: BtfComposite, packed: boolean) {
    this.#btf = btf;
    this.#layouts = layouts;
    this.#type = type;
    this.#packed = packed;
  }

  add(line: string, { type, bitOffset, bitSize }: BtfMember): void {
    this.lines.push(line);
    const end = bitOffset + (bitSize > 0 ? bitSize : this.#sizeOf(type) * 8);
    this.#bit = this.#type.kind === 'union' ? Math.max(this.#bit, end) : end;
  }

  #sizeOf(id: number): number {
    const kind = this.#btf.kindOf(this.#btf.resolve(id));
    return kind === 'void' || kind === 'fwd' || kind === 'func_proto' ? 0 : this.#btf.sizeOf(id);
  }

  padTo(member: BtfMember): void {
    if (this.#type.kind === 'union' || this.#placeOf(member) === member.bitOffset) return;
    this.#pad(member.bitOffset);
  }

  /** Where a compiler puts the member by itself. */
  #placeOf({ type, bitSize }: BtfMember): number {
    const alignment = this.#packed ? 8 : this.#layouts.alignmentOf(type) * 8;
    if (bitSize === 0) return roundUp(this.#bit, alignment);
    if (this.#packed) return this.#bit;
    const bits = this.#sizeOf(type) * 8;
    return (this.#bit % bits) + bitSize > bits ? roundUp(this.#bit, alignment) : this.#bit;
  }

  /** `alignment` in bytes: the size is rounded up to it anyway. */
  padToEnd(alignment: number): void {
    const bits = this.#type.size * 8;
    if (roundUp(this.#bit, alignment * 8) >= bits) return;
    if (this.#type.kind === 'union') this.lines.push(`char __size[${this.#type.size}]`);
    else this.#pad(bits);
  }

  #pad(to: number): void {
    while (this.#bit < to) {
      const left = to - this.#bit;
      if (this.#bit % 8 === 0 && left >= MAX_GAP * 8) {
        const bytes = Math.floor(left / 8);
        this.lines.push(`char __pad${this.#bit / 8}[${bytes}]`);
        this.#bit += bytes * 8;
        continue;
      }
      const unit = [64, 32, 16, 8].find(bits => this.#bit % bits === 0 && left >= bits);
      const width = unit ?? Math.min(left, 8 - (this.#bit % 8));
      this.lines.push(`${INTEGERS.get((unit ?? 8) / 8)}: ${width}`);
      this.#bit += width;
    }
  }
}

function roundUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

/** How a C compiler for x86-64 (and BPF) lays out what BTF describes, to say what C must be told to get the same layout. */

import type { Btf } from './btf.js';
import { POINTER_SIZE } from './types.js';

const MAX_ALIGNMENT = 16;

export class Layouts {
  readonly #btf: Btf;
  readonly #alignments = new Map<number, number>();

  constructor(btf: Btf) {
    this.#btf = btf;
  }

  /** Bytes that a compiler aligns the type to by itself, once it is packed where it must be. */
  alignmentOf(id: number): number {
    const at = this.#btf.resolve(id);
    const type = this.#btf.type(at);
    switch (type.kind) {
      case 'int':
      case 'float':
      case 'enum':
      case 'enum64': {
        // A size that is no power of two is aligned like its largest part that is one: 12 bytes to 4.
        const power = type.size & -type.size;
        return Math.max(1, Math.min(power, MAX_ALIGNMENT));
      }
      case 'ptr':
        return POINTER_SIZE;
      case 'array':
        return this.alignmentOf(type.type);
      case 'struct':
      case 'union': {
        const known = this.#alignments.get(at);
        if (known !== undefined) return known;
        const alignment = this.isPacked(at) ? 1 : this.#widest(at);
        this.#alignments.set(at, alignment);
        return alignment;
      }
      default:
        return 1;
    }
  }

  /** The alignment of the widest member; bitfields without a name have none. */
  #widest(id: number): number {
    const type = this.#btf.type(id);
    if (type.kind !== 'struct' && type.kind !== 'union') return 1;
    let widest = 1;
    for (const member of type.members)
      if (member.name !== '' || member.bitSize === 0)
        widest = Math.max(widest, this.alignmentOf(member.type));
    return widest;
  }

  /** Whether only a packed struct has members and a size like these. */
  isPacked(id: number): boolean {
    const type = this.#btf.type(id);
    if (type.kind !== 'struct' && type.kind !== 'union') return false;
    if (type.size % this.#widest(id) !== 0) return true;
    return type.members.some(({ type: member, bitOffset, bitSize }) => {
      if (bitSize === 0) return bitOffset % (this.alignmentOf(member) * 8) !== 0;
      // Compilers put a bitfield into one value of its type, unless the struct is packed.
      const bits = this.#btf.sizeOf(member) * 8;
      return (bitOffset % bits) + bitSize > bits;
    });
  }
}

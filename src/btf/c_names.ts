/**
 * Names of types in one piece of C: BTF of a kernel or program comes from many files, which may have called different
 * things alike. All but the first get a suffix (`name___2`), which CO-RE takes for a flavor.
 */

import type { Btf } from './btf.js';

export class CNames {
  readonly #btf: Btf;
  /** `struct`, `union` and `enum` tags are one space of names in C; typedefs and enumerators another. */
  readonly #tags = new Map<string, number>();
  readonly #identifiers = new Map<string, number>();
  readonly #names = new Map<number, string>();

  constructor(btf: Btf) {
    this.#btf = btf;
  }

  /** The tag of a struct, union or enum. */
  tag(id: number): string {
    return this.#nameOf(id, this.#tags);
  }

  typedef(id: number): string {
    return this.#nameOf(id, this.#identifiers);
  }

  enumerator(name: string): string {
    return unique(this.#identifiers, name);
  }

  #nameOf(id: number, space: Map<string, number>): string {
    const known = this.#names.get(id);
    if (known !== undefined) return known;
    const name = unique(space, this.#btf.name(id));
    this.#names.set(id, name);
    return name;
  }
}

function unique(space: Map<string, number>, name: string): string {
  const count = (space.get(name) ?? 0) + 1;
  space.set(name, count);
  return count === 1 ? name : `${name}___${count}`;
}

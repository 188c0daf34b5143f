/**
 * The order in which C can declare all types of BTF: each behind those that it needs, with forward declarations of
 * structs that are only pointed to.
 */

import { BpfError } from '../kernel/errno.js';
import type { Btf } from './btf.js';
import type { BtfComposite } from './types.js';

/** How deep declarations wait for others. */
const MAX_DEPENDENCY_DEPTH = 1000;

export interface Declaration {
  readonly id: number;
  readonly forward: boolean;
}

/** Takes types one after the other; `declarations` is the order. */
export class DeclarationOrder {
  readonly #btf: Btf;
  readonly declarations: Declaration[] = [];
  /** By id: what was printed, or is just being looked at. */
  readonly #declared = new Set<number>();
  readonly #defined = new Set<number>();

  constructor(btf: Btf) {
    this.#btf = btf;
  }

  add(id: number): void {
    const type = this.#btf.type(id);
    switch (type.kind) {
      case 'struct':
      case 'union':
        if (type.name !== undefined) this.#need(id, true, 0);
        break;
      case 'enum':
      case 'enum64':
        if (type.name !== undefined) this.#need(id, true, 0);
        break;
      case 'typedef':
        this.#need(id, true, 0);
        break;
      case 'fwd':
        this.#need(id, false, 0);
        break;
      default:
    }
  }

  /** `whole`: the type's size must be known there, a declaration is not enough. */
  #need(id: number, whole: boolean, depth: number): void {
    if (depth > MAX_DEPENDENCY_DEPTH)
      throw new BpfError(
        'E2BIG',
        `${this.#btf.label}: type ${id} needs more types before it than can be printed`,
      );
    const type = this.#btf.type(id);
    switch (type.kind) {
      case 'struct':
      case 'union':
        this.#composite(id, type, whole, depth);
        break;
      case 'enum':
      case 'enum64':
        if (!this.#defined.has(id)) this.#define(id);
        break;
      case 'fwd':
        this.#forward(id);
        break;
      case 'typedef':
        // The compiler has this one itself.
        if (type.name === '__builtin_va_list') return;
        if (!this.#declared.has(id)) {
          this.#declared.add(id);
          this.#need(type.type, false, depth + 1);
          this.#define(id);
        }
        if (whole) this.#need(type.type, true, depth + 1);
        break;
      case 'ptr':
        this.#need(type.type, false, depth + 1);
        break;
      case 'array':
        this.#need(type.type, true, depth + 1);
        break;
      case 'const':
      case 'volatile':
      case 'restrict':
      case 'type_tag':
        this.#need(type.type, whole, depth + 1);
        break;
      case 'func_proto':
        this.#need(type.returnType, false, depth + 1);
        for (const param of type.params) this.#need(param.type, false, depth + 1);
        break;
      default:
    }
  }

  #composite(id: number, { name, members }: BtfComposite, whole: boolean, depth: number): void {
    if (this.#defined.has(id)) return;
    if (name !== undefined && !whole) {
      this.#forward(id);
      return;
    }
    // One without a name is printed where it is used: what it needs must be there then.
    this.#defined.add(id);
    for (const member of members) this.#need(member.type, true, depth + 1);
    if (name !== undefined) this.declarations.push({ id, forward: false });
  }

  #forward(id: number): void {
    if (this.#declared.has(id) || this.#defined.has(id)) return;
    this.#declared.add(id);
    this.declarations.push({ id, forward: true });
  }

  #define(id: number): void {
    this.#defined.add(id);
    const type = this.#btf.type(id);
    // An enum without a name is printed where it is used.
    const inPlace = (type.kind === 'enum' || type.kind === 'enum64') && type.name === undefined;
    if (!inPlace) this.declarations.push({ id, forward: false });
  }

  /** Enums without a name that nothing uses: their values are constants all the same. */
  addUnused(id: number): void {
    const type = this.#btf.type(id);
    const isEnum = type.kind === 'enum' || type.kind === 'enum64';
    if (!isEnum || this.#defined.has(id) || type.values.length === 0) return;
    this.#defined.add(id);
    this.declarations.push({ id, forward: false });
  }
}

/** Checks what BTF types refer to: functions have prototypes, members and elements have sizes and lie inside. */

import { damagedBtf } from './raw.js';
import type { BtfTable } from './table.js';
import { countOfInfo, flagOfInfo, isModifierKind, KIND, KINDS } from './types.js';

const MAX_SIZE = 0xffff_ffff;

export function validateReferences(table: BtfTable, relaxed: boolean): void {
  const checks = new ReferenceChecks(table, relaxed);
  for (let id = table.raw.firstId; id <= table.typeCount; id++) checks.check(id);
}

class ReferenceChecks {
  readonly #table: BtfTable;
  readonly #relaxed: boolean;

  constructor(table: BtfTable, relaxed: boolean) {
    this.#table = table;
    this.#relaxed = relaxed;
  }

  #fail(id: number, what: string): never {
    throw damagedBtf(this.#table.raw.label, `type ${id} (${KINDS[this.#table.kind(id)]}) ${what}`);
  }

  #kindName(id: number): string {
    return KINDS[this.#table.kind(id)];
  }

  check(id: number): void {
    const table = this.#table;
    const kind = table.kind(id);
    switch (kind) {
      case KIND.ARRAY:
        this.#array(id);
        return;
      case KIND.STRUCT:
      case KIND.UNION:
        this.#members(id);
        return;
      case KIND.FUNC:
        if (table.kind(table.third(id)) !== KIND.FUNC_PROTO)
          this.#fail(id, `has a ${this.#kindName(table.third(id))} for a prototype`);
        return;
      case KIND.FUNC_PROTO:
        this.#prototype(id);
        return;
      case KIND.VAR:
        // An extern of type void is a symbol of the kernel's.
        if (table.resolve(table.third(id)) !== 0) this.#value(id, table.third(id), 'a variable');
        return;
      case KIND.DATASEC:
        this.#datasec(id);
        return;
      case KIND.DECL_TAG:
        this.#declTag(id);
        return;
      case KIND.PTR:
        this.#notData(id);
        return;
      default:
        if (isModifierKind(kind)) this.#notData(id);
    }
  }

  /** Pointers and names are for types: not for variables, functions, sections and tags of declarations. */
  #notData(id: number): void {
    const kind = this.#table.kind(this.#table.third(id));
    if (kind === KIND.FUNC || kind === KIND.VAR || kind === KIND.DATASEC || kind === KIND.DECL_TAG)
      this.#fail(id, `refers to a ${KINDS[kind]}`);
    if (kind !== KIND.TYPE_TAG || this.#relaxed) return;
    // Tags stand behind a pointer, in front of every qualifier.
    const own = this.#table.kind(id);
    if (isModifierKind(own) && own !== KIND.TYPE_TAG && own !== KIND.TYPEDEF)
      this.#fail(id, 'stands in front of a type tag');
  }

  /** A value of the type must have a size: its bytes, or -1 where that is not asked for. */
  #value(id: number, referred: number, what: string): number {
    const table = this.#table;
    const kind = table.kind(referred);
    if (kind === KIND.VAR || kind === KIND.DATASEC || kind === KIND.DECL_TAG || kind === KIND.FUNC)
      this.#fail(id, `has a ${KINDS[kind]} as ${what}`);
    const size = table.sizeOf(referred);
    if (size < 0 && !this.#relaxed) this.#fail(id, `has ${what} without a size, type ${referred}`);
    if (size > MAX_SIZE) this.#fail(id, `has ${what} of ${size} bytes`);
    return size;
  }

  #array(id: number): void {
    const table = this.#table;
    this.#value(id, table.word(id, 3), 'an element');
    if (table.sizeOf(id) > MAX_SIZE) this.#fail(id, `has ${table.sizeOf(id)} bytes`);
    const index = table.resolve(table.word(id, 4));
    if (table.kind(index) !== KIND.INT && !this.#relaxed)
      this.#fail(id, `has an index of a type that is no integer`);
  }

  #members(id: number): void {
    const table = this.#table;
    const info = table.info(id);
    const count = countOfInfo(info);
    const bits = table.third(id) * 8;
    const withBits = flagOfInfo(info);
    for (let index = 0; index < count; index++) {
      const type = table.word(id, 4 + 3 * index);
      const word = table.word(id, 5 + 3 * index);
      const size = this.#value(id, type, 'a member');
      const offset = withBits ? word & 0xff_ffff : word;
      const width = withBits ? word >>> 24 : 0;
      if (width > 0) this.#bitfield(id, type, width);
      const end = offset + (width > 0 ? width : size < 0 ? 0 : this.#memberBits(type, size));
      if (end > bits) this.#fail(id, `has a member up to bit ${end}, and only ${bits} bits`);
      if (width === 0 && offset % 8 !== 0 && (withBits || table.kind(table.resolve(type)) !== KIND.INT))
        this.#fail(id, `has a member at bit ${offset}, which is no byte`);
    }
  }

  /** Bits from a member's offset to its end: of an int, those that are its value. */
  #memberBits(type: number, size: number): number {
    const table = this.#table;
    const resolved = table.resolve(type);
    if (table.kind(resolved) !== KIND.INT) return size * 8;
    const word = table.word(resolved, 3);
    const used = (word & 0xff) + ((word >>> 16) & 0xff);
    return used === 0 ? size * 8 : used;
  }

  #bitfield(id: number, type: number, width: number): void {
    const table = this.#table;
    const resolved = table.resolve(type);
    const kind = table.kind(resolved);
    if (kind !== KIND.INT && kind !== KIND.ENUM && kind !== KIND.ENUM64)
      this.#fail(id, `has a bitfield of a type that is no integer`);
    if (width > table.third(resolved) * 8)
      this.#fail(id, `has a bitfield of ${width} bits in a type of ${table.third(resolved)} bytes`);
  }

  #prototype(id: number): void {
    const table = this.#table;
    const count = table.count(id);
    if (table.resolve(table.third(id)) !== 0) this.#value(id, table.third(id), 'a result');
    for (let index = 0; index < count; index++) {
      const type = table.word(id, 4 + 2 * index);
      if (type !== 0) this.#value(id, type, 'a parameter');
    }
  }

  #datasec(id: number): void {
    const table = this.#table;
    const count = table.count(id);
    for (let index = 0; index < count; index++) {
      const type = table.word(id, 3 + 3 * index);
      const kind = table.kind(type);
      // Externs that are functions have a section too (.ksyms).
      if (kind !== KIND.VAR && kind !== KIND.FUNC) this.#fail(id, `has a ${KINDS[kind]} for a variable`);
      if (kind === KIND.VAR && table.third(id) !== 0 && table.sizeOf(type) > table.word(id, 5 + 3 * index))
        this.#fail(id, `has a variable of ${table.sizeOf(type)} bytes in ${table.word(id, 5 + 3 * index)}`);
    }
  }

  #declTag(id: number): void {
    const table = this.#table;
    const target = table.third(id);
    const kind = table.kind(target);
    const component = table.word(id, 3) | 0;
    let components = 0;
    if (kind === KIND.STRUCT || kind === KIND.UNION) components = table.count(target);
    else if (kind === KIND.FUNC) {
      const proto = table.third(target);
      components = table.kind(proto) === KIND.FUNC_PROTO ? table.count(proto) : 0;
    } else if (kind !== KIND.VAR && kind !== KIND.TYPEDEF) this.#fail(id, `is on a ${KINDS[kind]}`);
    if (component >= components) this.#fail(id, `is on component ${component}, of ${components}`);
  }
}

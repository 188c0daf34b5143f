/** Checks each type of BTF data alone: flags, counts, sizes, and that its names and ids are some. */

import { damagedBtf } from './raw.js';
import type { BtfTable } from './table.js';
import { countOfInfo, flagOfInfo, INT_ENCODING, isModifierKind, KIND, KINDS, kindOfInfo } from './types.js';

/** Bits of an int's second word that mean something. */
const INT_MASK = 0x0fff_ffff;
const MAX_INT_BITS = 128;
const MAX_ENUM_SIZE = 8;
const FLOAT_SIZES = [2, 4, 8, 12, 16];
const EXTERN = 2;
/** Names of the kernel are shorter (KSYM_NAME_LEN). */
const MAX_IDENTIFIER = 512;

export function validateMeta(table: BtfTable, relaxed: boolean): void {
  const checks = new MetaChecks(table, relaxed);
  const { firstId } = table.raw;
  for (let id = firstId; id <= table.typeCount; id++) checks.check(id);
}

class MetaChecks {
  readonly #table: BtfTable;
  readonly #relaxed: boolean;
  /** Offsets of names that were found to be identifiers: many types share a name. */
  readonly #identifiers: Uint8Array;

  constructor(table: BtfTable, relaxed: boolean) {
    this.#table = table;
    this.#relaxed = relaxed;
    this.#identifiers = new Uint8Array(relaxed ? 0 : table.raw.strings.length);
  }

  #fail(id: number, what: string): never {
    throw damagedBtf(this.#table.raw.label, `type ${id} (${KINDS[this.#table.kind(id)]}) ${what}`);
  }

  check(id: number): void {
    const { words, starts, firstId } = this.#table.raw;
    const start = starts[id - firstId];
    const name = words[start];
    const info = words[start + 1];
    const third = words[start + 2];
    const kind = kindOfInfo(info);
    const count = countOfInfo(info);
    this.#name(id, name);
    if (flagOfInfo(info) && !mayHaveFlag(kind)) this.#fail(id, 'has a flag that its kind does not have');
    if (count !== 0 && !mayHaveCount(kind)) this.#fail(id, `has a count of ${count}, its kind has none`);
    if (isModifierKind(kind)) {
      this.#modifier(id, kind, name);
      this.#id(id, third);
      return;
    }
    switch (kind) {
      case KIND.INT:
        this.#int(id, third, words[start + 3]);
        return;
      case KIND.PTR:
        this.#anonymous(id, name);
        this.#id(id, third);
        return;
      case KIND.ARRAY:
        this.#anonymous(id, name);
        if (third !== 0) this.#fail(id, 'has a size beside its elements');
        this.#someId(id, words[start + 3]);
        this.#someId(id, words[start + 4]);
        return;
      case KIND.STRUCT:
      case KIND.UNION:
        if (name !== 0) this.#identifier(id, name);
        this.#members(id, start);
        return;
      case KIND.ENUM:
      case KIND.ENUM64:
        if (name !== 0) this.#identifier(id, name);
        this.#enum(id, start, kind === KIND.ENUM ? 2 : 3);
        return;
      case KIND.FWD:
        if (third !== 0) this.#fail(id, 'is a declaration with a size');
        this.#identifier(id, name);
        return;
      case KIND.FUNC:
        if (count > EXTERN) this.#fail(id, `has linkage ${count}`);
        this.#identifier(id, name);
        this.#someId(id, third);
        return;
      case KIND.FUNC_PROTO:
        this.#anonymous(id, name);
        this.#id(id, third);
        this.#params(id, start);
        return;
      case KIND.VAR:
        if (words[start + 3] > EXTERN) this.#fail(id, `has linkage ${words[start + 3]}`);
        this.#identifier(id, name);
        this.#id(id, third);
        return;
      case KIND.DATASEC:
        this.#datasec(id, start);
        return;
      case KIND.FLOAT:
        if (!FLOAT_SIZES.includes(third)) this.#fail(id, `has a size of ${third} bytes`);
        return;
      default: {
        // decl_tag
        if (this.#nameLength(name) === 0) this.#fail(id, 'has no tag');
        this.#someId(id, third);
        if ((words[start + 3] | 0) < -1) this.#fail(id, `is on component ${words[start + 3] | 0}`);
      }
    }
  }

  #modifier(id: number, kind: number, name: number): void {
    if (kind === KIND.TYPEDEF) this.#identifier(id, name);
    else if (kind === KIND.TYPE_TAG) {
      if (this.#nameLength(name) === 0) this.#fail(id, 'has no tag');
    } else this.#anonymous(id, name);
  }

  #int(id: number, size: number, word: number): void {
    if ((word & ~INT_MASK) !== 0) this.#fail(id, `has 0x${word.toString(16)} where its bits should be`);
    const bits = (word & 0xff) + ((word >>> 16) & 0xff);
    if (bits > MAX_INT_BITS) this.#fail(id, `has ${bits} bits, more than ${MAX_INT_BITS}`);
    if (Math.ceil(bits / 8) > size) this.#fail(id, `has ${bits} bits in ${size} bytes`);
    if (size > MAX_INT_BITS / 8) this.#fail(id, `has ${size} bytes`);
    const encoding = word >>> 24;
    const { SIGNED, CHAR, BOOL } = INT_ENCODING;
    if (encoding !== 0 && encoding !== SIGNED && encoding !== CHAR && encoding !== BOOL) {
      // gcc and pahole write "signed char" as both.
      if (encoding !== (SIGNED | CHAR)) this.#fail(id, `has encoding ${encoding}`);
    }
  }

  #members(id: number, start: number): void {
    const { words } = this.#table.raw;
    const info = words[start + 1];
    const size = words[start + 2];
    const isUnion = kindOfInfo(info) === KIND.UNION;
    const withBits = flagOfInfo(info);
    const end = start + 3 + 3 * countOfInfo(info);
    let last = 0;
    for (let at = start + 3; at < end; at += 3) {
      const name = words[at];
      this.#name(id, name);
      if (name !== 0) this.#identifier(id, name);
      this.#someId(id, words[at + 1]);
      const offset = withBits ? words[at + 2] & 0xff_ffff : words[at + 2];
      if (isUnion && offset !== 0 && !this.#relaxed) this.#fail(id, `has a member at bit ${offset}`);
      if (offset < last && !this.#relaxed)
        this.#fail(id, `has a member at bit ${offset}, behind one at ${last}`);
      if (Math.ceil(offset / 8) > size)
        this.#fail(id, `has a member at bit ${offset}, outside its ${size} bytes`);
      last = offset;
    }
  }

  #enum(id: number, start: number, step: number): void {
    const { words } = this.#table.raw;
    const size = words[start + 2];
    if (size === 0 || size > MAX_ENUM_SIZE || (size & (size - 1)) !== 0)
      this.#fail(id, `has a size of ${size} bytes`);
    const end = start + 3 + step * countOfInfo(words[start + 1]);
    for (let at = start + 3; at < end; at += step) {
      this.#name(id, words[at]);
      this.#identifier(id, words[at]);
    }
  }

  #params(id: number, start: number): void {
    const { words } = this.#table.raw;
    const end = start + 3 + 2 * countOfInfo(words[start + 1]);
    for (let at = start + 3; at < end; at += 2) {
      this.#name(id, words[at]);
      if (words[at] !== 0) this.#identifier(id, words[at]);
      this.#id(id, words[at + 1]);
      if (words[at + 1] === 0) {
        if (at + 2 < end) this.#fail(id, 'has a parameter of type void');
        if (words[at] !== 0) this.#fail(id, 'has a name for its "..."');
      }
    }
  }

  #datasec(id: number, start: number): void {
    const { words } = this.#table.raw;
    const size = words[start + 2];
    const end = start + 3 + 3 * countOfInfo(words[start + 1]);
    if (this.#nameLength(words[start]) === 0) this.#fail(id, 'has no name');
    let last = 0;
    for (let at = start + 3; at < end; at += 3) {
      this.#someId(id, words[at]);
      const offset = words[at + 1];
      const length = words[at + 2];
      // An object that was not linked: sizes and offsets are relocations.
      if (size === 0) continue;
      if (offset < last)
        this.#fail(id, `has a variable at ${offset}, in front of where the last one ends, ${last}`);
      if (length === 0 || offset + length > size)
        this.#fail(id, `has a variable at ${offset} of ${length} bytes, outside its ${size}`);
      last = offset + length;
    }
  }

  #id(id: number, referred: number): void {
    if (referred > this.#table.typeCount)
      this.#fail(id, `refers to type ${referred}, and there are ${this.#table.typeCount}`);
  }

  #someId(id: number, referred: number): void {
    if (referred === 0) this.#fail(id, 'refers to no type');
    this.#id(id, referred);
  }

  #name(id: number, offset: number): void {
    if (offset >= this.#table.namesEnd && offset !== 0)
      this.#fail(id, `has a name at ${offset}, outside the names`);
  }

  #anonymous(id: number, name: number): void {
    if (name !== 0) this.#fail(id, 'has a name, which its kind has not');
  }

  /** Whether a name is there is all that is asked: 1 or 0. */
  #nameLength(offset: number): number {
    const { firstName, strings } = this.#table.raw;
    if (offset === 0) return 0;
    return offset < firstName
      ? Math.min(1, this.#table.nameBytes(offset).length)
      : Math.min(1, strings[offset - firstName]);
  }

  /** A name that C, or an assembler, can have. */
  #identifier(id: number, offset: number): void {
    // gcc 12 writes functions without a name, and C++ has names of all sorts.
    if (this.#relaxed) return;
    const { firstName, strings } = this.#table.raw;
    // A base's names were checked where they are used there, which is enough to print them.
    if (offset < firstName && offset !== 0) return;
    const start = offset - firstName;
    if (this.#identifiers[start]) return;
    let at = start;
    while (isNameByte(strings[at], at === start) && at - start < MAX_IDENTIFIER) at++;
    if (at === start)
      this.#fail(id, offset === 0 || strings[start] === 0 ? 'has no name' : badName(strings[start]));
    if (strings[at] !== 0)
      this.#fail(id, at - start >= MAX_IDENTIFIER ? 'has a name that is too long' : badName(strings[at]));
    this.#identifiers[start] = 1;
  }
}

function badName(byte: number): string {
  return `has a name with a byte 0x${byte.toString(16)}, which no name of C has there`;
}

/** Letters, `_`, `.`, and digits behind the first. */
function isNameByte(byte: number, first: boolean): boolean {
  const letter = byte | 0x20;
  if (letter >= 0x61 && letter <= 0x7a) return true;
  if (byte === 0x5f || byte === 0x2e) return true;
  return !first && byte >= 0x30 && byte <= 0x39;
}

function mayHaveFlag(kind: number): boolean {
  switch (kind) {
    case KIND.STRUCT:
    case KIND.UNION:
    case KIND.ENUM:
    case KIND.ENUM64:
    case KIND.FWD:
    case KIND.TYPE_TAG:
    case KIND.DECL_TAG:
      return true;
    default:
      return false;
  }
}

function mayHaveCount(kind: number): boolean {
  switch (kind) {
    case KIND.STRUCT:
    case KIND.UNION:
    case KIND.ENUM:
    case KIND.ENUM64:
    case KIND.FUNC:
    case KIND.FUNC_PROTO:
    case KIND.DATASEC:
      return true;
    default:
      return false;
  }
}

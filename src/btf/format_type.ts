/**
 * Prints BTF as C, as `bpftool btf dump format c` does: one declaration, or all types in an order that a compiler takes,
 * with forward declarations. A compiler lays the printed structs out as BTF says: padding is written out, and what must
 * be packed is.
 */

import { BpfError } from '../kernel/errno.js';
import type { Btf } from './btf.js';
import { CNames } from './c_names.js';
import { DeclarationOrder } from './declaration_order.js';
import { Layouts } from './layout.js';
import { INTEGERS, MemberLines } from './member_lines.js';
import { spellType } from './spelling.js';
import type { BtfComposite, BtfEnum, BtfType } from './types.js';

/** Lines that one printing may take, besides some for each type: structs without names can repeat without end. */
const FREE_LINES = 100_000;
const LINES_PER_TYPE = 64;
/** Structs without names within each other. */
const MAX_NESTING = 64;

/** The C declaration of one type: a body for structs, unions and enums; what it refers to is only named. */
export function formatType(btf: Btf, id: number): string {
  return new TypePrinter(btf, 1).declaration(id);
}

/** All types, each behind those that it needs; text of whole lines. */
export function formatAllTypes(btf: Btf): string {
  const order = new DeclarationOrder(btf);
  for (let id = 1; id <= btf.typeCount; id++) order.add(id);
  for (let id = 1; id <= btf.typeCount; id++) order.addUnused(id);
  const printer = new TypePrinter(btf, btf.typeCount);
  return order.declarations
    .map(({ id, forward }) => (forward ? printer.forward(id) : `${printer.declaration(id)}\n`))
    .map(text => `${text}\n`)
    .join('');
}

/** Prints declarations; names that were used twice are told apart for all of them. */
class TypePrinter {
  readonly #btf: Btf;
  readonly #names: CNames;
  readonly #layouts: Layouts;
  /** Enums without a name that were printed. */
  readonly #enums = new Set<number>();
  #lines: number;

  constructor(btf: Btf, types: number) {
    this.#btf = btf;
    this.#names = new CNames(btf);
    this.#layouts = new Layouts(btf);
    this.#lines = FREE_LINES + types * LINES_PER_TYPE;
  }

  forward(id: number): string {
    const type = this.#btf.type(id);
    return `${type.kind === 'fwd' ? `${type.of} ${type.name ?? ''}` : this.#head(id, type)};`;
  }

  declaration(id: number): string {
    const type = this.#btf.type(id);
    switch (type.kind) {
      case 'struct':
      case 'union':
        return `${this.#composite(id, type, 0)};`;
      case 'enum':
      case 'enum64':
        return `${this.#enum(id, type, 0)};`;
      case 'fwd':
        return this.forward(id);
      case 'typedef':
        return `typedef ${this.#spell(type.type, this.#names.typedef(id), 0)};`;
      case 'func':
        return `${type.linkage === 'static' ? 'static ' : type.linkage === 'extern' ? 'extern ' : ''}${this.#spell(id, '', 0)};`;
      case 'var':
        return `${type.linkage === 'static' ? 'static ' : type.linkage === 'extern' ? 'extern ' : ''}${this.#spell(id, '', 0)};`;
      default:
        return this.#spell(id, '', 0);
    }
  }

  #spell(id: number, declared: string, level: number): string {
    return spellType(this.#btf, id, declared, {
      tags: true,
      maxDepth: 16,
      anonymous: inner => this.#inPlace(inner, level),
      named: inner => this.#named(inner),
    });
  }

  #named(id: number): string | undefined {
    const type = this.#btf.type(id);
    if (type.kind === 'typedef') return this.#names.typedef(id);
    return type.name === undefined ? undefined : this.#head(id, type);
  }

  #head(id: number, type: BtfType): string {
    switch (type.kind) {
      case 'struct':
      case 'union':
        return type.name === undefined ? type.kind : `${type.kind} ${this.#names.tag(id)}`;
      case 'enum':
      case 'enum64':
        return type.name === undefined ? 'enum' : `enum ${this.#names.tag(id)}`;
      case 'fwd':
        return `${type.of} ${type.name ?? ''}`;
      default:
        return type.name ?? '';
    }
  }

  /** The body of a type without a name, where it is used. */
  #inPlace(id: number, level: number): string {
    const type = this.#btf.type(id);
    if (type.kind === 'struct' || type.kind === 'union') return this.#composite(id, type, level);
    return type.kind === 'enum' || type.kind === 'enum64' ? this.#enumInPlace(id, type, level) : 'void';
  }

  #line(): void {
    if (this.#lines-- <= 0)
      throw new BpfError(
        'E2BIG',
        `${this.#btf.label}: its types are too large to be printed; they repeat each other`,
      );
  }

  #composite(id: number, type: BtfComposite, level: number): string {
    if (level > MAX_NESTING)
      throw new BpfError(
        'E2BIG',
        `${this.#btf.label}: type ${id} is nested deeper than ${MAX_NESTING} levels`,
      );
    const packed = this.#layouts.isPacked(id);
    const lines = new MemberLines(this.#btf, this.#layouts, type, packed);
    const inner = '\t'.repeat(level + 1);
    for (const member of type.members) {
      lines.padTo(member);
      this.#line();
      const bits = member.bitSize > 0 ? `: ${member.bitSize}` : '';
      lines.add(`${this.#spell(member.type, member.name, level + 1)}${bits}`, member);
    }
    lines.padToEnd(packed ? 1 : this.#layouts.alignmentOf(id));
    const body = lines.lines.map(line => `${inner}${line};\n`).join('');
    return `${this.#head(id, type)} {\n${body}${'\t'.repeat(level)}}${packed ? ' __attribute__((packed))' : ''}`;
  }

  #enum(id: number, type: BtfEnum, level: number): string {
    const head = this.#head(id, type);
    if (type.values.length === 0) return head;
    return `${head} ${this.#enumBody(type, level)}`;
  }

  /** The second time, its values would be declared again: what is left is an integer of its size. */
  #enumInPlace(id: number, type: BtfEnum, level: number): string {
    if (!this.#enums.has(id)) {
      this.#enums.add(id);
      if (type.values.length > 0) return this.#enum(id, type, level);
    }
    return `${type.signed ? '' : 'unsigned '}${INTEGERS.get(type.size) ?? 'int'}`;
  }

  #enumBody(type: BtfEnum, level: number): string {
    const inner = '\t'.repeat(level + 1);
    const lines = type.values.map(({ name, value }) => {
      this.#line();
      return `${inner}${this.#names.enumerator(name)} = ${constant(value)},\n`;
    });
    return `{\n${lines.join('')}${'\t'.repeat(level)}}${enumAttribute(type)}`;
  }
}

function constant(value: bigint): string {
  if (value > 0x7fff_ffff_ffff_ffffn) return `${value}ULL`;
  // The lowest number has no literal of its own.
  if (value === -(2n ** 63n)) return '-9223372036854775807LL - 1';
  return value > 0xffff_ffffn || value < -0x8000_0000n ? `${value}LL` : String(value);
}

/** An enum is an int unless its values need more, or it is told. */
function enumAttribute({ size, values }: BtfEnum): string {
  if (size === 1) return ' __attribute__((mode(byte)))';
  if (size === 2) return ' __attribute__((mode(HI)))';
  const wide = values.some(({ value }) => value > 0xffff_ffffn || value < -0x8000_0000n);
  return size === 8 && !wide ? ' __attribute__((mode(DI)))' : '';
}

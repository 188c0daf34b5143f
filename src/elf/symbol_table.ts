/**
 * Symbol tables of an ELF file (gABI chapter 4, "Symbol Table"): .symtab and .dynsym decoded as they stand.
 * What a symbol means for tracing (functions, aliases, sizes) is decided in process/symbols.
 *
 * A symbol: | name u32 | info u8: bind << 4 + type | other u8 | section u16 | value u64 | size u64 |
 */

import { damaged, readU64, SYM_SIZE, VERSYM_HIDDEN } from './format.js';
import type { StringTable } from './string_table.js';

/** What a symbol stands for; `IFUNC` is a resolver, called once to choose the function (GNU). */
export type SymbolType =
  | 'NOTYPE'
  | 'OBJECT'
  | 'FUNC'
  | 'SECTION'
  | 'FILE'
  | 'COMMON'
  | 'TLS'
  | 'IFUNC'
  | 'OTHER';

/** Who sees a symbol; `UNIQUE` is GNU's global that exists once in a process. */
export type SymbolBind = 'LOCAL' | 'GLOBAL' | 'WEAK' | 'UNIQUE' | 'OTHER';

/** One symbol. */
export interface ElfSymbol {
  readonly name: string;
  /** File virtual address, for symbols of sections that are loaded. */
  readonly value: number;
  /** Bytes; 0 where unknown. */
  readonly size: number;
  readonly type: SymbolType;
  readonly bind: SymbolBind;
  /** Index into the sections; 0 is undefined, from 0xff00 on it is none. */
  readonly sectionIndex: number;
  readonly from: 'symtab' | 'dynsym';
  /** A .dynsym name kept for old programs: new ones get another symbol of this name (VERSYM_HIDDEN). */
  readonly oldVersion: boolean;
}

/** One symbol table: its records, its names, and for .dynsym the versions where it has them (u16 each). */
export interface SymbolTable {
  readonly bytes: Buffer;
  readonly names: StringTable;
  readonly from: 'symtab' | 'dynsym';
  readonly versions?: Buffer | undefined;
}

const TYPES: readonly SymbolType[] = [
  'NOTYPE',
  'OBJECT',
  'FUNC',
  'SECTION',
  'FILE',
  'COMMON',
  'TLS',
  'OTHER',
  'OTHER',
  'OTHER',
  'IFUNC',
  'OTHER',
  'OTHER',
  'OTHER',
  'OTHER',
  'OTHER',
];
const BINDS: readonly SymbolBind[] = ['LOCAL', 'GLOBAL', 'WEAK'];
const STB_GNU_UNIQUE = 10;

/** The most symbols that are read; a browser with all its symbols has about a million. */
const MAX_SYMBOLS = 4 * 2 ** 20;

/**
 * The symbols of a table, without the first, which is always empty. `types` leaves out all others: names are
 * what takes time. Throws ENOEXEC for a name outside the string table, and for more symbols than any file has.
 */
export function decodeSymbols(
  { bytes, names, from, versions }: SymbolTable,
  path: string,
  types?: ReadonlySet<SymbolType>,
): ElfSymbol[] {
  const count = Math.floor(bytes.length / SYM_SIZE);
  if (count > MAX_SYMBOLS)
    throw damaged(path, `its symbol table holds ${count} symbols, more than any program has`);
  const symbols: ElfSymbol[] = [];
  for (let index = 1; index < count; index++) {
    const at = index * SYM_SIZE;
    const info = bytes[at + 4];
    const type = TYPES[info & 15];
    if (types && !types.has(type)) continue;
    const bind = info >> 4;
    symbols.push({
      name: names.at(bytes.readUInt32LE(at)),
      value: readU64(bytes, at + 8),
      size: readU64(bytes, at + 16),
      type,
      bind: BINDS[bind] ?? (bind === STB_GNU_UNIQUE ? 'UNIQUE' : 'OTHER'),
      sectionIndex: bytes.readUInt16LE(at + 6),
      from,
      oldVersion: versions !== undefined && (versions.readUInt16LE(index * 2) & VERSYM_HIDDEN) !== 0,
    });
  }
  return symbols;
}

/**
 * How many dynamic symbols a DT_GNU_HASH table covers: one more than the highest index that its chains reach.
 * Layout: | buckets u32 | first symbol u32 | bloom words u32 | shift u32 | bloom u64[] | bucket u32[] | chain u32[] |
 * `wordAt` reads the u32 at a byte offset into the table, `undefined` beyond its file bytes.
 */
export function countByGnuHash(wordAt: (offset: number) => number | undefined): number | undefined {
  const buckets = wordAt(0);
  const firstSymbol = wordAt(4);
  const bloomWords = wordAt(8);
  if (buckets === undefined || firstSymbol === undefined || bloomWords === undefined) return undefined;
  const bucketsAt = 16 + bloomWords * 8;
  let last = 0;
  for (let bucket = 0; bucket < buckets; bucket++) {
    const symbol = wordAt(bucketsAt + bucket * 4);
    if (symbol === undefined) return undefined;
    if (symbol > last) last = symbol;
  }
  if (last < firstSymbol) return firstSymbol;
  const chainAt = bucketsAt + buckets * 4;
  // The lowest bit of a chain's word marks its last symbol.
  for (;;) {
    const word = wordAt(chainAt + (last - firstSymbol) * 4);
    if (word === undefined) return undefined;
    last++;
    if (word & 1) return last;
  }
}

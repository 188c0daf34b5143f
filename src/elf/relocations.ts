/**
 * Relocations that the dynamic linker (or a static program's own start-up code) applies: DT_RELA, DT_JMPREL
 * and DT_RELR. Those of object files are in object_relocations.ts.
 *
 * A RELA entry: | offset u64 | type u32 | symbol u32 | addend s64 |
 */

import type { ElfFile } from './file.js';
import {
  DT_JMPREL,
  DT_PLTRELSZ,
  DT_RELA,
  DT_RELASZ,
  DT_RELR,
  DT_RELRSZ,
  DT_SYMTAB,
  damaged,
  R_X86_64_RELATIVE,
  RELA_SIZE,
  RELR_SIZE,
  readS64,
  readU64,
  SHF_ALLOC,
  SHT_RELA,
  SYM_SIZE,
} from './format.js';

/** One place to be relocated. */
export interface Relocation {
  /** File virtual address of the place. */
  readonly offset: number;
  /** R_X86_64_…. */
  readonly type: number;
  readonly symbolName?: string;
  /** For RELATIVE and IRELATIVE a file virtual address; for DT_RELR read from the place itself. */
  readonly addend: number;
}

/** A RELR bitmap word covers this many places after the last address. */
const RELR_BITS = 63;

/**
 * Yields the relocations, only those of the given types when told so (RELR entries are of type RELATIVE).
 * Throws ENOEXEC when a table lies outside the file.
 */
export function* relocationsOf(elf: ElfFile, types?: ReadonlySet<number>): Generator<Relocation> {
  for (const table of relaTables(elf)) yield* decodeRela(elf, table, types);
  if (!types || types.has(R_X86_64_RELATIVE)) yield* decodeRelr(elf);
}

function relaTables(elf: ElfFile): Buffer[] {
  const dynamic = elf.dynamic;
  if (!dynamic) {
    // A static program that is not position-independent has IRELATIVE entries without a dynamic table.
    // More tables than two are not made by any linker, and would only multiply the work.
    const loaded = elf.sections.filter(section => section.type === SHT_RELA && section.flags & SHF_ALLOC);
    return loaded.slice(0, 2).map(section => elf.sectionBytes(section));
  }
  const tables: Buffer[] = [];
  const rela = dynamic.get(DT_RELA) ?? 0;
  const relaSize = dynamic.get(DT_RELASZ) ?? 0;
  const plt = dynamic.get(DT_JMPREL) ?? 0;
  const pltSize = dynamic.get(DT_PLTRELSZ) ?? 0;
  if (relaSize > 0) tables.push(tableAt(elf, rela, relaSize));
  // Some linkers let DT_RELA span the PLT's table too.
  const spanned = plt >= rela && plt + pltSize <= rela + relaSize;
  if (pltSize > 0 && !spanned) tables.push(tableAt(elf, plt, pltSize));
  return tables;
}

function tableAt(elf: ElfFile, address: number, size: number): Buffer {
  const bytes = elf.bytesAt(address, size);
  if (!bytes) throw damaged(elf.path, 'its relocations lie outside the file');
  return bytes;
}

function* decodeRela(elf: ElfFile, bytes: Buffer, types?: ReadonlySet<number>): Generator<Relocation> {
  for (let at = 0; at + RELA_SIZE <= bytes.length; at += RELA_SIZE) {
    const type = bytes.readUInt32LE(at + 8);
    if (types && !types.has(type)) continue;
    const symbol = bytes.readUInt32LE(at + 12);
    const offset = readU64(bytes, at);
    const addend = readS64(bytes, at + 16);
    const symbolName = symbol === 0 ? undefined : dynamicSymbolName(elf, symbol);
    yield symbolName === undefined ? { offset, type, addend } : { offset, type, symbolName, addend };
  }
}

function dynamicSymbolName(elf: ElfFile, index: number): string | undefined {
  const table = elf.dynamic?.get(DT_SYMTAB);
  const names = elf.dynamicStrings;
  if (table === undefined || !names) return undefined;
  const symbol = elf.bytesAt(table + index * SYM_SIZE, SYM_SIZE);
  if (!symbol) throw damaged(elf.path, 'a relocation names a symbol that is not there');
  return names.at(symbol.readUInt32LE(0));
}

/**
 * DT_RELR ("RELR relative relocations" of the gABI): an even word is an address to relocate; an odd word is a
 * bitmap whose bit i (from 1) stands for the i-th word after the last one covered.
 */
function* decodeRelr(elf: ElfFile): Generator<Relocation> {
  const size = elf.dynamic?.get(DT_RELRSZ) ?? 0;
  if (size === 0) return;
  const bytes = tableAt(elf, elf.dynamic?.get(DT_RELR) ?? 0, size);
  let next = 0;
  // Each place is a word of the file and is relocated once; more places than words are damage.
  let left = Math.floor(elf.size / 8);
  for (let at = 0; at + RELR_SIZE <= bytes.length; at += RELR_SIZE) {
    const low = bytes.readUInt32LE(at);
    const high = bytes.readUInt32LE(at + 4);
    if ((low & 1) === 0) {
      const address = readU64(bytes, at);
      yield relative(elf, address);
      next = address + 8;
      continue;
    }
    for (let bit = 1; bit <= RELR_BITS; bit++) {
      const set = bit < 32 ? (low >>> bit) & 1 : (high >>> (bit - 32)) & 1;
      if (!set) continue;
      if (--left < 0) throw damaged(elf.path, 'it relocates more words than it has');
      yield relative(elf, next + (bit - 1) * 8);
    }
    next += RELR_BITS * 8;
  }
}

function relative(elf: ElfFile, offset: number): Relocation {
  const place = elf.bytesAt(offset, 8);
  if (!place) throw damaged(elf.path, 'a relative relocation lies outside its segments');
  return { offset, type: R_X86_64_RELATIVE, addend: readS64(place, 0) };
}

/**
 * Relocations of object files (ET_REL), which a linker or loader applies: SHT_REL sections, whose addend stands at the
 * place itself. What the dynamic linker applies is in relocations.ts.
 *
 * A REL entry: | offset u64 | type u32 | symbol u32 |
 */

import type { ElfFile, Section } from './file.js';
import { damaged, REL_SIZE, readU64, SHT_REL } from './format.js';
import { lastStartingAtOrBefore } from './ranges.js';
import type { ElfSymbol } from './symbol_table.js';

/** One place of a section that is to be changed. */
export interface ObjectRelocation {
  /** Bytes from the section's start. */
  readonly offset: number;
  /** R_BPF_…. */
  readonly type: number;
  readonly symbol: ElfSymbol;
}

/**
 * The relocations of each section that has some, by the section's index, lowest offset first. `symbols` are all of
 * .symtab (`ElfFile.symbols()`). Throws ENOEXEC where one names no symbol or lies outside its section.
 */
export function objectRelocations(
  elf: ElfFile,
  symbols: readonly ElfSymbol[],
  wanted: (target: Section) => boolean,
): Map<number, ObjectRelocation[]> {
  const found = new Map<number, ObjectRelocation[]>();
  for (const table of elf.sections) {
    if (table.type !== SHT_REL) continue;
    const target = elf.sections[table.info];
    if (target === undefined)
      throw damaged(elf.path, `section ${table.name} relocates a section that is not there`);
    if (!wanted(target)) continue;
    if (found.has(table.info)) throw damaged(elf.path, `section ${target.name} is relocated twice`);
    found.set(table.info, decode(elf, table, target, symbols));
  }
  return found;
}

/** Those of a section that lie from byte `begin` up to `end`. */
export function relocationsWithin(
  sorted: readonly ObjectRelocation[],
  begin: number,
  end: number,
): readonly ObjectRelocation[] {
  const first = lastStartingAtOrBefore(sorted, begin - 1, ({ offset }) => offset) + 1;
  const last = lastStartingAtOrBefore(sorted, end - 1, ({ offset }) => offset);
  return sorted.slice(first, last + 1);
}

function decode(
  elf: ElfFile,
  table: Section,
  target: Section,
  symbols: readonly ElfSymbol[],
): ObjectRelocation[] {
  const bytes = elf.sectionBytes(table);
  const relocations: ObjectRelocation[] = [];
  for (let at = 0; at + REL_SIZE <= bytes.length; at += REL_SIZE) {
    const offset = readU64(bytes, at);
    if (offset >= target.size)
      throw damaged(elf.path, `a relocation of section ${target.name} lies outside it`);
    // The first symbol, which is empty, is not among the decoded ones.
    const symbol = symbols[bytes.readUInt32LE(at + 12) - 1];
    if (symbol === undefined)
      throw damaged(elf.path, `a relocation of section ${target.name} names a symbol that is not there`);
    relocations.push({ offset, type: bytes.readUInt32LE(at + 8), symbol });
  }
  return relocations.sort((a, b) => a.offset - b.offset);
}

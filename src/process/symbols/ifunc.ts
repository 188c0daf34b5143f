/**
 * Where the functions that IFUNC resolvers chose can be read in a live process: the places that the dynamic
 * linker (or a static program's start-up code) writes them to. Pure: addresses of the file in, addresses of the
 * file out; reading the process is the caller's.
 */

import type { ElfFile } from '../../elf/file.js';
import { R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_IRELATIVE, R_X86_64_JUMP_SLOT } from '../../elf/format.js';

const IRELATIVE: ReadonlySet<number> = new Set([R_X86_64_IRELATIVE]);

/**
 * Slots that hold what this file's own resolvers returned: resolver address to slot address, the first slot of
 * each. Before the file is relocated a slot holds the resolver or a PLT address: an address of an executable
 * mapping that is neither is the function. Throws ENOEXEC for damaged relocations.
 */
export function ifuncSlots(elf: ElfFile): Map<number, number> {
  const slots = new Map<number, number>();
  for (const { addend, offset } of elf.relocations(IRELATIVE))
    if (!slots.has(addend)) slots.set(addend, offset);
  return slots;
}

/**
 * How good a slot is for reading what a symbol leads to: GLOB_DAT is filled in at start; a pointer in data
 * may be changed by the program; JUMP_SLOT leads back to the file's own PLT until the first call.
 */
const PREFERENCE = new Map([
  [R_X86_64_GLOB_DAT, 0],
  [R_X86_64_64, 1],
  [R_X86_64_JUMP_SLOT, 2],
]);
const SYMBOL_TYPES: ReadonlySet<number> = new Set(PREFERENCE.keys());

/**
 * Slots that hold the addresses of named symbols, of this file or another: symbol name to slot address. One
 * slot for each name, the one most likely to be filled in. Throws ENOEXEC for damaged relocations.
 */
export function symbolSlots(elf: ElfFile): Map<string, number> {
  const best = new Map<string, { slot: number; rank: number }>();
  for (const { symbolName, type, addend, offset } of elf.relocations(SYMBOL_TYPES)) {
    if (symbolName === undefined || symbolName === '' || (type === R_X86_64_64 && addend !== 0)) continue;
    const rank = PREFERENCE.get(type)!;
    const known = best.get(symbolName);
    if (!known || rank < known.rank) best.set(symbolName, { slot: offset, rank });
  }
  return new Map([...best].map(([name, { slot }]) => [name, slot]));
}

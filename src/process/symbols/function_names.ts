/**
 * Functions of a file by their exact names. Few names are looked for by going over the functions once; for many a hash
 * table of all names is made, which is kept with the file, as libbpf does for a multi-link's targets.
 */

import type { ElfFile } from '../../elf/file.js';
import type { ModuleFunction } from './functions.js';

/** More names than this are worth the table. */
export const HASH_ABOVE = 1024;

type NameTable = ReadonlyMap<string, readonly ModuleFunction[]>;

const tables = new WeakMap<ElfFile, NameTable>();

/** Whether the table of a file was made. */
export function hasNameTable(elf: ElfFile): boolean {
  return tables.has(elf);
}

/** The functions that have one of the names, each with that name; in the order of the names, or of the functions. */
export function functionsNamed(
  elf: ElfFile,
  functions: readonly ModuleFunction[],
  names: readonly string[],
): (readonly [name: string, of: ModuleFunction])[] {
  const known = tables.get(elf);
  if (known === undefined && names.length <= HASH_ABOVE) {
    const wanted = new Set(names);
    return functions.flatMap(of => {
      const name = of.aliases.find(alias => wanted.has(alias));
      return name === undefined ? [] : [[name, of] as const];
    });
  }
  const table = known ?? tableOf(functions);
  tables.set(elf, table);
  return [...new Set(names)].flatMap(name => (table.get(name) ?? []).map(of => [name, of] as const));
}

function tableOf(functions: readonly ModuleFunction[]): NameTable {
  const table = new Map<string, ModuleFunction[]>();
  for (const of of functions)
    for (const alias of of.aliases) {
      const namesakes = table.get(alias);
      if (namesakes === undefined) table.set(alias, [of]);
      else namesakes.push(of);
    }
  return table;
}

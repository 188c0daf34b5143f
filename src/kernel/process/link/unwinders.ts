/**
 * The unwinders of a process: whether each can be told the original return addresses where ours stand on the stack. That
 * of libgcc can, which asks `_Unwind_Find_FDE` about each (trampoline/return.ts); one that can't would end the program at
 * the first exception, so then no function is traced at its return.
 */

import { frameEntries } from '../../../elf/eh_frame.js';
import type { ElfFile } from '../../../elf/file.js';
import type { Module } from '../../../process/image.js';
import type { SkipReason } from '../../kernel.js';
import { sitesOf } from '../ftrace/module_sites.js';

/** The unwinder's look-up of what belongs to a return address: where it can be told the original one. */
export const FIND_FDE = '_Unwind_Find_FDE';
const RAISE = '_Unwind_RaiseException';
/** Beside it in libgcc, and in no other unwinder: LLVM's and nongnu.org's have a `FIND_FDE` too, and do not ask it. */
const OF_LIBGCC = '__register_frame_info_bases';
/** What unwinders ask the dynamic linker for the frames of an address. */
const FRAME_FINDERS = ['_dl_find_object', 'dl_iterate_phdr'];
const UNWINDER_FUNCTION = /^_Unwind_/;

const known = new WeakMap<ElfFile, string | undefined>();

/** Why exceptions in code of a module could not pass functions that are traced at their return; `undefined` where they can. */
export function unwinderRefusal({ elf, name, isMain }: Module): SkipReason | undefined {
  if (!known.has(elf)) known.set(elf, findRefusal(elf, name, isMain));
  const detail = known.get(elf);
  return detail === undefined ? undefined : { reason: 'unwinder', detail };
}

function findRefusal(elf: ElfFile, name: string, isMain: boolean): string | undefined {
  const sites = sitesOf(elf, name);
  const defines = (symbol: string): boolean => sites.functions.some(f => f.aliases.includes(symbol));
  if (defines(RAISE) && !(defines(FIND_FDE) && defines(OF_LIBGCC)))
    return `${name} has an unwinder of its own that can't be told our return addresses; exceptions would end the program`;
  if (isMain && elf.interpreter === undefined && elf.symbols().length === 0)
    return `${name} is static and has no symbols: whether it has an unwinder, and where, can't be told`;
  if (!defines(FIND_FDE) && hidesUnwinder(elf))
    return `${name} handles exceptions with an unwinder in itself, whose symbols are stripped: it can't be found to be told our return addresses`;
  return undefined;
}

/**
 * A file that was linked with libgcc's unwinder (`-static-libgcc`) and stripped: it has code that handles exceptions,
 * takes nothing from another unwinder, and asks the dynamic linker for frames.
 */
function hidesUnwinder(elf: ElfFile): boolean {
  const symbols = elf.symbols();
  const finds = symbols.some(s => s.sectionIndex === 0 && FRAME_FINDERS.includes(s.name));
  if (!finds || symbols.some(s => UNWINDER_FUNCTION.test(s.name))) return false;
  for (const { cie } of frameEntries(elf)) if (cie.personality) return true;
  return false;
}

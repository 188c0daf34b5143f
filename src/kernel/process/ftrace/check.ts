/**
 * Whether functions of a file can be attached, by everything that is known without a process: names that must not be
 * traced, and the analysis of their code.
 */

import type { ElfFile } from '../../../elf/file.js';
import type { SkipReason } from '../../kernel.js';
import { denied } from './deny_list.js';
import { sitesOf } from './module_sites.js';
import { isPatchSite, type PatchSite, REFUSALS, type Refusal } from './patch_site.js';

/** A function of a file, with all its names. */
export interface CheckedFunction {
  readonly name: string;
  readonly aliases: readonly string[];
  /** File virtual address. */
  readonly address: number;
  readonly size: number;
}

const TEXT_RELOCATIONS: SkipReason = {
  reason: 'text-relocations',
  detail: 'its file has text relocations, so its code in memory is not what the file says',
};

/** The patch site of each function of `elf`, or why it has none; in the order given. */
export function checkFunctions(
  elf: ElfFile,
  module: string,
  functions: readonly CheckedFunction[],
): (PatchSite | SkipReason)[] {
  if (elf.hasTextRelocations) return functions.map(() => TEXT_RELOCATIONS);
  const sites = sitesOf(elf, module);
  const refused = functions.map(f => {
    for (const alias of f.aliases) {
      const why = denied(alias, name => sites.hasSymbol(name));
      if (why !== undefined) return { reason: 'denied', detail: why };
    }
    return undefined;
  });
  const rest = functions.filter((_, i) => refused[i] === undefined);
  const found = sites.find(rest)[Symbol.iterator]();
  return refused.map(why => why ?? outcome(found.next().value!));
}

function outcome(result: PatchSite | Refusal): PatchSite | SkipReason {
  if (isPatchSite(result)) return result;
  const { reason, detail } = result;
  return { reason, detail: detail === undefined ? REFUSALS[reason] : `${REFUSALS[reason]}: ${detail}` };
}

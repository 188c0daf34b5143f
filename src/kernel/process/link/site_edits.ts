/**
 * The edits of text that take a patch site from one slot to another, or to its own bytes and back.
 */

import type { PatchSite } from '../ftrace/patch_site.js';
import type { TextEdit } from '../ftrace/text_edit.js';
import type { ProcessTarget } from '../targets.js';
import { islandBytes, patchBytes } from '../trampoline/slot.js';
import type { Slot } from './slots.js';

interface Place {
  readonly target: ProcessTarget;
  readonly site: PatchSite;
}

/** Where the process has a patch site. */
export function siteAddress({ site, target }: Place): bigint {
  return target.owner.bias + BigInt(site.address);
}

/** Where it has the island of one, if it has one. */
export function islandAddress({ site, target }: Place): bigint | undefined {
  return site.island && target.owner.bias + BigInt(site.island.address);
}

/** The edits that lead a site to slot `to` instead of slot `from`; `undefined` stands for its own bytes. */
export function siteEdits(place: Place, from: Slot | undefined, to: Slot | undefined): TextEdit[] {
  const { site } = place;
  const at = siteAddress(place);
  // The island is there for as long as anything jumps to it.
  const stages = to === undefined ? { site: 0, island: 1 } : { site: 1, island: 0 };
  const patch = (slot: Slot): Uint8Array => patchBytes(site, at, slot);
  const own = edit(at, site.original, from && patch(from), to && patch(to), stages.site);
  const island = islandAddress(place);
  if (island === undefined) return own;
  const jump = (slot: Slot): Uint8Array => islandBytes(island, slot);
  return [...own, ...edit(island, site.island!.original, from && jump(from), to && jump(to), stages.island)];
}

function edit(
  address: bigint,
  original: Uint8Array,
  from: Uint8Array | undefined,
  to: Uint8Array | undefined,
  stage: number,
): TextEdit[] {
  if (from !== undefined && to !== undefined && Buffer.compare(from, to) === 0) return [];
  if (to === undefined)
    return from === undefined
      ? []
      : [{ address, expect: from, replace: original.subarray(0, from.length), stage }];
  return [{ address, expect: from ?? original, replace: to, stage }];
}

/**
 * Islands: padding between functions near a patch site that has room for a jump of 2 bytes only. That jump leads to
 * the island, whose 5 bytes hold the jump to the slot. Here is where such padding lies and who has it; that nothing
 * branches to it is asked elsewhere (find_patch_sites.ts), as for patch sites.
 */

import { ENDBR64_LENGTH, Flow } from '../../../x86/decoder.js';
import { type CodeMap, lastAtOrBelow } from './code_map.js';
import { fillerLength } from './filler.js';
import { ISLAND_SIZE, PATCH_SIZE, type PatchSite, SHORT_PATCH_SIZE } from './patch_site.js';

/** How far behind itself, and how far ahead, a `jmp rel8` reaches. */
const REACH_BACK = 128;
const REACH_AHEAD = 127;
const INT3 = 0xcc;
const UD2 = [0x0f, 0x0b];

/** Addresses from `from` to before `to`. */
export interface Gap {
  readonly from: number;
  readonly to: number;
}

/** The padding of a module, looked at where somebody asks. */
export class Islands {
  readonly #map: CodeMap;
  /** The padding in front of the start that follows a start, by that start. */
  readonly #gaps = new Map<number, Gap | undefined>();

  constructor(map: CodeMap) {
    this.#map = map;
  }

  /** The padding in which a jump at `site` can find an island, ascending. */
  near(site: PatchSite): Gap[] {
    const behind = site.address + SHORT_PATCH_SIZE;
    const low = behind - REACH_BACK;
    const high = behind + REACH_AHEAD + ISLAND_SIZE;
    const { starts } = this.#map;
    const found: Gap[] = [];
    for (let i = Math.max(lastAtOrBelow(starts, low), 0); i < starts.length && starts[i] < high; i++) {
      const gap = this.#behind(starts[i]);
      if (gap === undefined) continue;
      const from = Math.max(gap.from, low);
      const to = Math.min(gap.to, high);
      if (to - from >= ISLAND_SIZE) found.push({ from, to });
    }
    return found;
  }

  #behind(start: number): Gap | undefined {
    if (!this.#gaps.has(start)) this.#gaps.set(start, this.#find(start));
    return this.#gaps.get(start);
  }

  /**
   * The filler between the function around `start` and the next known start: nops and int3 only, behind an instruction
   * that does not fall through. A function may well run through its padding into the next one, so all of it is decoded.
   */
  #find(start: number): Gap | undefined {
    const map = this.#map;
    const section = map.section(start);
    if (section === undefined) return undefined;
    const { bytes, address: base } = section;
    const next = Math.min(map.startAbove(start), base + bytes.length);
    const frame = map.frame(start);
    const codeEnd = frame === undefined ? start : frame.start + frame.size;
    const last = bytes[next - 1 - base];
    // Most functions end without filler: they need no decoding. A nop ends with its displacement, if not with 90.
    if (codeEnd > next - ISLAND_SIZE || (last !== 0 && last !== 0x90 && last !== INT3)) return undefined;

    const decoder = map.decoder(section);
    let filler = next;
    let leaves = false;
    for (let at = Math.max(frame?.start ?? start, base); at < next; ) {
      const length = at >= codeEnd ? fillerLength(bytes, at - base) : 0;
      if (length > 0) {
        if (filler === next) filler = at;
        at += length;
        if (at > next) return undefined;
        continue;
      }
      // Behind what the unwind table covers there may be data: decoding would be out of step.
      if (frame !== undefined && at >= codeEnd) return undefined;
      const flow = decoder.decode(at);
      if (flow === Flow.invalid || decoder.end > next) return undefined;
      filler = next;
      leaves =
        flow === Flow.jump ||
        flow === Flow.jumpIndirect ||
        flow === Flow.return ||
        (flow === Flow.trap && bytes[at - base] === UD2[0] && bytes[at + 1 - base] === UD2[1]);
      at = decoder.end;
    }
    // A function shorter than a patch may want the padding behind it for itself, now or later.
    const from = Math.max(filler, start + ENDBR64_LENGTH + PATCH_SIZE);
    return leaves && next - from >= ISLAND_SIZE ? { from, to: next } : undefined;
  }
}

/**
 * Finds an island for `site` in `gaps` that `isFree` is true of, byte by byte: its address, the lowest there is;
 * `undefined` where there is none.
 */
export function chooseIsland(gaps: readonly Gap[], isFree: (address: number) => boolean): number | undefined {
  for (const { from, to } of gaps) {
    let free = 0;
    for (let address = from; address < to; address++) {
      free = isFree(address) ? free + 1 : 0;
      if (free === ISLAND_SIZE) return address + 1 - ISLAND_SIZE;
    }
  }
  return undefined;
}

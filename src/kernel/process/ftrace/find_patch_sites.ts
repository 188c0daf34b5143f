/**
 * Finds where and how the entries of a module's functions can be replaced, or says why not: the work that ftrace
 * does from the compiler's `__mcount_loc` section, done here from the instructions alone. Bytes in, sites out;
 * no process is touched, and all of it happens before the process is stopped.
 */

import { Flow } from '../../../x86/decoder.js';
import { type BranchScan, scanAbsolute, scanBranches, verifyBranches } from './branches.js';
import { CodeMap, lastAtOrBelow } from './code_map.js';
import { examineEntry } from './entry.js';
import { chooseIsland, type Gap, Islands } from './islands.js';
import { forEachTableTarget } from './jump_tables.js';
import {
  type CodeSection,
  ISLAND_SIZE,
  isPatchSite,
  type ModuleCode,
  type PatchSite,
  type Refusal,
  type RefusalReason,
  SHORT_PATCH_SIZE,
  type TracedFunction,
} from './patch_site.js';
import { SiteBits } from './site_bits.js';

/** Reasons that only say that 5 bytes are too many: 2 bytes and an island may do. */
const WANTS_ISLAND: ReadonlySet<RefusalReason> = new Set<RefusalReason>([
  'too-short',
  'overlaps-function',
  'call-returns-inside',
  'branch-into-entry',
  'undecided-branch',
  'pointer-into-entry',
  'jump-table-into-entry',
]);

/**
 * The patch site of each function, or the refusal, in the order of `functions`. The same address twice gives the
 * same site twice. `taken`: the addresses of island bytes that other functions of the module have; those given out
 * here are added.
 */
export function findPatchSites(
  code: ModuleCode,
  functions: readonly TracedFunction[],
  taken: Set<number> = new Set(),
): (PatchSite | Refusal)[] {
  const map = new CodeMap(code, functions);
  try {
    const results = new Map<number, PatchSite | Refusal>();
    for (const fn of functions) {
      if (!results.has(fn.address)) results.set(fn.address, examineEntry(map, fn));
    }
    refuseEntered(map, new Sites(results), functions);
    for (const site of findIslands(map, functions, results, taken)) results.set(site.function, site);
    return functions.map(fn => results.get(fn.address)!);
  } finally {
    map.free();
  }
}

/** Looks once more at the functions that were refused for lack of room: those sites that an island serves. */
function findIslands(
  map: CodeMap,
  functions: readonly TracedFunction[],
  results: ReadonlyMap<number, PatchSite | Refusal>,
  taken: Set<number>,
): PatchSite[] {
  const short = new Map<number, PatchSite | Refusal>();
  for (const fn of functions) {
    const plain = results.get(fn.address)!;
    if (isPatchSite(plain) || !WANTS_ISLAND.has(plain.reason) || short.has(fn.address)) continue;
    const site = examineEntry(map, fn, SHORT_PATCH_SIZE);
    if (isPatchSite(site)) short.set(fn.address, site);
  }
  const sites = new Sites(short, SHORT_PATCH_SIZE);
  if (sites.list.length === 0) return [];
  const islands = new Islands(map);
  const near = new Map(sites.list.map(site => [site.function, islands.near(site)]));
  const entered = refuseEntered(map, sites, functions, [...near.values()].flat());

  const found: PatchSite[] = [];
  for (const { function: address } of sites.list) {
    const site = short.get(address)!;
    if (!isPatchSite(site)) continue;
    const at = chooseIsland(near.get(address)!, byte => !taken.has(byte) && !entered.has(byte));
    if (at === undefined) continue;
    for (let byte = at; byte < at + ISLAND_SIZE; byte++) taken.add(byte);
    const section = map.section(at)!;
    const original = Uint8Array.from(
      section.bytes.subarray(at - section.address, at - section.address + ISLAND_SIZE),
    );
    found.push({ ...site, kind: 'island', island: { address: at, original } });
  }
  return found;
}

/** The sites still standing, found by any address inside them. */
class Sites {
  readonly #results: Map<number, PatchSite | Refusal>;
  readonly list: PatchSite[];
  readonly #addresses: Float64Array;
  readonly #patch: number | undefined;

  /** `patch`: bytes of each site that are replaced; all of them where left out. */
  constructor(results: Map<number, PatchSite | Refusal>, patch?: number) {
    this.#results = results;
    this.#patch = patch;
    this.list = [...results.values()].filter(isPatchSite).sort((a, b) => a.address - b.address);
    this.#addresses = Float64Array.from(this.list, site => site.address);
  }

  /** Behind the last byte of `site` that nothing may branch to. */
  endOf(site: PatchSite): number {
    return site.address + (this.#patch ?? site.length);
  }

  /** The site that holds `address`, its function's address (before `endbr64`) included. */
  at(address: number): PatchSite | undefined {
    const i = lastAtOrBelow(this.#addresses, address);
    const site = this.list[i];
    if (site && address < site.address + site.length) return site;
    const next = this.list[i + 1];
    return next && address >= next.function ? next : undefined;
  }

  /** True where a site starts at `from` or behind it, before `to`. */
  anyIn(from: number, to: number): boolean {
    const last = this.list[lastAtOrBelow(this.#addresses, to - 1)];
    return last !== undefined && last.address >= from;
  }

  refuse(site: PatchSite, reason: RefusalReason, detail: string): void {
    if (isPatchSite(this.#results.get(site.function)!)) {
      this.#results.set(site.function, { function: site.function, reason, detail });
    }
  }

  markLoop(site: PatchSite): void {
    const result = this.#results.get(site.function)!;
    if (isPatchSite(result)) this.#results.set(site.function, { ...result, loopsToEntry: true });
  }
}

/**
 * Refuses every site that something branches into, and those whose own loops do not survive a hook. Returns the
 * addresses in `gaps` that something branches or points to.
 */
function refuseEntered(
  map: CodeMap,
  sites: Sites,
  functions: readonly TracedFunction[],
  gaps: readonly Gap[] = [],
): ReadonlySet<number> {
  const entered = new Set<number>();
  if (sites.list.length === 0) return entered;
  const { module } = map;
  const inside = new SiteBits(module.sections);
  const entries = new SiteBits(module.sections);
  for (const site of sites.list) {
    inside.mark(site.address + 1, sites.endOf(site));
    entries.mark(site.function, site.address + 1);
  }
  for (const { from, to } of gaps) inside.mark(from, to);
  const refuse = (target: number, reason: RefusalReason, detail: string): void => {
    const site = sites.at(target);
    if (site === undefined) entered.add(target);
    else sites.refuse(site, reason, detail);
  };

  const refusePointer = (pointer: number): void => {
    if (inside.has(pointer)) refuse(pointer, 'pointer-into-entry', `to 0x${pointer.toString(16)}`);
  };
  for (const pointer of module.pointers) refusePointer(pointer);
  for (const section of module.fixedData ?? [])
    forEachWord(section, inside.base, inside.base + inside.size, refusePointer);

  const scan: BranchScan = { inside: [], toEntry: [], registerJumps: [] };
  for (const section of module.sections) {
    scanBranches(section, inside, entries, scan);
    if (module.fixedData) scanAbsolute(section, inside, scan.inside);
  }
  const verdicts = verifyBranches(map, scan.inside);
  scan.inside.forEach(({ address, target }, i) => {
    const verdict = verdicts[i];
    if (verdict === 'none') return;
    const reason = verdict === 'real' ? 'branch-into-entry' : 'undecided-branch';
    refuse(target, reason, `from 0x${address.toString(16)}`);
  });
  refuseTables(map, sites, inside, scan.registerJumps);
  refuseLoops(map, sites, functions, scan);
  return entered;
}

/**
 * Calls `visit` for the aligned 8-byte words from `low` to before `high` of data that has no relocations: code addresses
 * stand among them.
 */
function forEachWord(section: CodeSection, low: number, high: number, visit: (word: number) => void): void {
  const skipped = -section.address & 7;
  let bytes = section.bytes.subarray(skipped);
  if (bytes.byteOffset % 4 !== 0) bytes = Uint8Array.from(bytes);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
  for (let i = 0; i + 1 < words.length; i += 2) {
    const word = words[i] + words[i + 1] * 2 ** 32;
    if (word >= low && word < high) visit(word);
  }
}

/** Refuses sites that a jump table of their own function leads into. */
function refuseTables(map: CodeMap, sites: Sites, inside: SiteBits, registerJumps: readonly number[]): void {
  let start = 0;
  let end = 0;
  for (const jump of registerJumps) {
    if (jump >= start && jump < end) continue;
    // An unwind-table entry is the whole of a function, even where symbols name places inside it.
    const frame = map.frame(jump);
    const section = map.section(jump)!;
    start = Math.max(frame?.start ?? map.startBelow(jump), section.address);
    end = frame ? frame.start + frame.size : map.endOf(start);
    end = Math.min(end, section.address + section.bytes.length);
    if (!sites.anyIn(start, end)) continue;
    forEachTableTarget(map, section, start, end, target => {
      if (!inside.has(target)) return;
      const site = sites.at(target);
      // What follows a table is read too, as if it belonged to it: only the function's own site is believed. A case
      // behind its end is one that the compiler knows to be impossible.
      if (site === undefined || site.function < start || site.function >= end) return;
      sites.refuse(site, 'jump-table-into-entry', `from 0x${jump.toString(16)}`);
    });
  }
}

function refuseLoops(
  map: CodeMap,
  sites: Sites,
  functions: readonly TracedFunction[],
  scan: BranchScan,
): void {
  const sizes = new Map(functions.map(fn => [fn.address, fn.size]));
  const endOf = (site: PatchSite) => {
    const size = sizes.get(site.function)!;
    return Math.max(size > 0 ? site.function + size : 0, map.endOf(site.function));
  };
  const own = scan.toEntry.filter(({ address, target }) => {
    const site = sites.at(target)!;
    return address >= site.function && address < endOf(site);
  });
  const verdicts = verifyBranches(map, own);
  own.forEach(({ address, target }, i) => {
    if (verdicts[i] === 'none') return;
    const site = sites.at(target)!;
    if (usesRedZone(map, site.function, endOf(site))) {
      sites.refuse(site, 'red-zone-loop', `from 0x${address.toString(16)}`);
    } else sites.markLoop(site);
  });
}

/** True where the code from `start` to `end` touches memory below rsp, or can't be decoded. */
function usesRedZone(map: CodeMap, start: number, end: number): boolean {
  const decoder = map.decoder(map.section(start)!);
  for (let address = start; address < end; address = decoder.end) {
    if (decoder.decode(address) === Flow.invalid || decoder.touchesRedZone()) return true;
  }
  return false;
}

/**
 * The functions of a program or library, from its symbols and those of its separate debug file: what a tracer
 * can name. Several names at one address are one function. Not here: which of them can be patched, and where
 * an IFUNC leads in a live process (ifunc.ts).
 */

import { findDebugFile } from '../../elf/debug_file.js';
import type { ElfFile, ElfSymbol, SymbolType } from '../../elf/file.js';
import { SHN_LORESERVE, SHN_UNDEF } from '../../elf/format.js';
import { type FrameRange, frameRanges } from '../../elf/frames.js';
import { lastStartingAtOrBefore } from '../../elf/ranges.js';
import { BpfError } from '../../kernel/errno.js';
import { nameOfStripped, strippedFunctions } from './stripped.js';

/** One function of a file. */
export interface ModuleFunction {
  /** The name that people know it by, of all it has. */
  readonly name: string;
  /** All its names, `name` first. */
  readonly aliases: readonly string[];
  /** File virtual address. */
  readonly address: number;
  /** Bytes; where the symbol has none, up to the next function or the end of its frame, never 0. */
  readonly size: number;
  /** False where the symbol says no size, or one that can't be: `size` is an upper bound then. */
  readonly sizeKnown: boolean;
  /** The code is a resolver that chooses the function when the program starts (STT_GNU_IFUNC). */
  readonly ifunc: boolean;
}

interface Region {
  readonly start: number;
  readonly end: number;
}

/** What is known about one address while symbols are collected. */
interface Entry {
  readonly address: number;
  /** The end of the executable section that it is in. */
  readonly limit: number;
  size: number;
  ifunc: boolean;
  readonly first: Name;
  /** The other names; few functions have any. */
  others: Map<string, Name> | undefined;
}

interface Name {
  readonly text: string;
  /** The best of BIND_RANKS that the name has. */
  rank: number;
}

const FUNCTION_TYPES: ReadonlySet<SymbolType> = new Set(['FUNC', 'IFUNC']);

/**
 * What is named like a function and is never called: a part that gcc or clang moved out of the way (`f.cold`),
 * entered by a jump from the middle of `f`; and the code that the kernel returns to from a signal handler.
 * Neither has arguments or a return address of its own.
 */
const NEVER_CALLED = /\.cold(\.\d+)?$|^__restore(_rt)?$/;

/**
 * Every function of the file, sorted by address: symbols of type FUNC and IFUNC in executable sections, except
 * PLT stubs, cold parts and signal returns. Functions may overlap. The separate debug file is looked for unless it is given;
 * `null` means none. A file without any function symbol has those of stripped.ts. Throws `BpfError` ENOEXEC for object files, core dumps and damaged symbols of the file itself.
 */
export function functionsOf(elf: ElfFile, debugFile?: ElfFile | null): ModuleFunction[] {
  if (elf.type === 'REL' || elf.type === 'CORE') {
    const what = elf.type === 'REL' ? 'an object file' : 'a core dump';
    throw new BpfError('ENOEXEC', `${elf.path} is ${what}; give a program or a library`);
  }
  const regions = functionRegions(elf);
  const entries = new Map<number, Entry>();
  addSymbols(entries, elf.symbols(FUNCTION_TYPES), regions);
  if (debugFile) addSymbols(entries, debugFile.symbols(FUNCTION_TYPES), regions);
  else if (debugFile === undefined) addSymbols(entries, installedDebugSymbols(elf), regions);
  if (entries.size === 0) return unnamedFunctions(elf, regions);
  // A typed array sorts many times faster than objects with a comparison, and node itself has 77,000 functions.
  const sorted = Array.from(Float64Array.from(entries.keys()).sort(), address => entries.get(address)!);
  const ends = new UnknownEnds(elf, sorted);
  const functions: ModuleFunction[] = [];
  for (const [index, entry] of sorted.entries()) {
    const aliases = namesOf(entry);
    if (aliases.length === 0) continue;
    const sizeKnown = entry.size > 0 && entry.address + entry.size <= entry.limit;
    const size = sizeKnown ? entry.size : ends.endOf(index) - entry.address;
    const { address, ifunc } = entry;
    functions.push({ name: aliases[0], aliases, address, size, sizeKnown, ifunc });
  }
  return functions;
}

/** The functions of a file without any function symbol. */
function unnamedFunctions(elf: ElfFile, regions: readonly Region[]): ModuleFunction[] {
  return strippedFunctions(elf)
    .filter(({ start }) => regionAt(regions, start) !== undefined)
    .map(({ start, size }) => {
      const name = nameOfStripped(start);
      return { name, aliases: [name], address: start, size, sizeKnown: true, ifunc: false };
    });
}

/** Function symbols of the installed debug file. They are a bonus: a damaged debug file is as good as none. */
function installedDebugSymbols(elf: ElfFile): ElfSymbol[] {
  const found = findDebugFile(elf);
  try {
    return found?.symbols(FUNCTION_TYPES) ?? [];
  } catch (error) {
    if (error instanceof BpfError) return [];
    throw error;
  } finally {
    found?.close();
  }
}

/** Executable sections that hold functions, not stubs that lead to other files; sorted, without overlaps. */
function functionRegions(elf: ElfFile): Region[] {
  const regions: Region[] = [];
  for (const { name, address, bytes } of elf.executableSections()) {
    if (/^\.i?plt(\.|$)/.test(name)) continue;
    const previous = regions.at(-1);
    const start = Math.max(address, previous?.end ?? 0);
    if (start < address + bytes.length) regions.push({ start, end: address + bytes.length });
  }
  return regions;
}

function regionAt(regions: readonly Region[], address: number): Region | undefined {
  const region = regions[lastStartingAtOrBefore(regions, address, ({ start }) => start)];
  return region && address < region.end ? region : undefined;
}

function addSymbols(entries: Map<number, Entry>, symbols: readonly ElfSymbol[], regions: readonly Region[]) {
  for (const symbol of symbols) {
    if (symbol.sectionIndex === SHN_UNDEF || isReserved(symbol.sectionIndex)) continue;
    const region = regionAt(regions, symbol.value);
    if (!region) continue;
    const at = symbol.name.indexOf('@');
    const name = at > 0 ? symbol.name.slice(0, at) : symbol.name;
    const old = symbol.oldVersion || (at > 0 && symbol.name[at + 1] !== '@');
    const rank = old ? OLD_VERSION : BIND_RANKS[symbol.bind];
    const { value: address, size } = symbol;
    const ifunc = symbol.type === 'IFUNC';
    const entry = entries.get(address);
    if (!entry) {
      const first = { text: name, rank };
      entries.set(address, { address, limit: region.end, size, ifunc, first, others: undefined });
      continue;
    }
    if (size > entry.size) entry.size = size;
    if (ifunc) entry.ifunc = true;
    addName(entry, name, rank);
  }
}

function addName(entry: Entry, text: string, rank: number): void {
  const known = entry.first.text === text ? entry.first : entry.others?.get(text);
  if (known) {
    if (rank < known.rank) known.rank = rank;
    return;
  }
  entry.others ??= new Map();
  entry.others.set(text, { text, rank });
}

/** SHN_ABS and the like; SHN_XINDEX means a real section with a large number. */
function isReserved(sectionIndex: number): boolean {
  return sectionIndex >= SHN_LORESERVE && sectionIndex !== 0xffff;
}

/** Exported names are the ones that people know: a library's `read` is weak where its `__read` is global. */
const BIND_RANKS = { GLOBAL: 0, UNIQUE: 0, WEAK: 1, LOCAL: 2, OTHER: 2 } as const;
/**
 * The rank of names that only old programs link to, and that new ones know another function by: `name@VERSION`
 * in .symtab, where `name@@VERSION` is the present one.
 */
const OLD_VERSION = 3;

/** The names of an address, best first; none when it is no function by any of them. */
function namesOf({ first, others }: Entry): string[] {
  if (!others) return isFunctionName(first) ? [first.text] : [];
  const names = [first, ...others.values()].filter(isFunctionName).sort(compareNames);
  return names.map(({ text }) => text);
}

function isFunctionName({ text }: Name): boolean {
  return text !== '' && !NEVER_CALLED.test(text);
}

/** Exported first, old versions last; then fewest underscores in front, global, short, by the alphabet. */
function compareNames(a: Name, b: Name): number {
  return (
    Math.max(a.rank, BIND_RANKS.WEAK) - Math.max(b.rank, BIND_RANKS.WEAK) ||
    leadingUnderscores(a.text) - leadingUnderscores(b.text) ||
    a.rank - b.rank ||
    a.text.length - b.text.length ||
    (a.text < b.text ? -1 : 1)
  );
}

function leadingUnderscores(name: string): number {
  let count = 0;
  while (name[count] === '_') count++;
  return count;
}

/** Ends of functions whose symbol has no size; the frames are read only when there is one. */
class UnknownEnds {
  readonly #elf: ElfFile;
  readonly #entries: readonly Entry[];
  #frames: readonly FrameRange[] | undefined;

  constructor(elf: ElfFile, entries: readonly Entry[]) {
    this.#elf = elf;
    this.#entries = entries;
  }

  /** The end of the function: that of its section, of its frame, or the start of the next: what is first. */
  endOf(index: number): number {
    const { address, limit } = this.#entries[index];
    const next = this.#entries[index + 1]?.address ?? limit;
    return Math.min(limit, next, this.#frameEnd(address) ?? limit);
  }

  #frameEnd(address: number): number | undefined {
    this.#frames ??= frameRanges(this.#elf);
    const frame = this.#frames[lastStartingAtOrBefore(this.#frames, address, ({ start }) => start)];
    return frame && address < frame.start + frame.size ? frame.start + frame.size : undefined;
  }
}

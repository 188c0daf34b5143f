/**
 * The patch sites of a file: what the analysis needs, gathered from the file, and its results kept, for a process
 * maps the same libraries again and again.
 */

import type { ElfFile } from '../../../elf/file.js';
import {
  R_X86_64_64,
  R_X86_64_IRELATIVE,
  R_X86_64_RELATIVE,
  SHF_ALLOC,
  SHF_EXECINSTR,
  SHT_PROGBITS,
} from '../../../elf/format.js';
import { frameRanges } from '../../../elf/frames.js';
import { lastStartingAtOrBefore } from '../../../elf/ranges.js';
import { functionsOf, type ModuleFunction } from '../../../process/symbols/functions.js';
import { findPatchSites } from './find_patch_sites.js';
import type { ModuleCode, PatchSite, Refusal } from './patch_site.js';

const POINTER_TYPES: ReadonlySet<number> = new Set([R_X86_64_64, R_X86_64_IRELATIVE, R_X86_64_RELATIVE]);

const cache = new WeakMap<ElfFile, ModuleSites>();

/** What is known of a file's functions; made once for each file. */
export function sitesOf(elf: ElfFile, name: string): ModuleSites {
  let sites = cache.get(elf);
  if (sites === undefined) {
    sites = new ModuleSites(elf, name);
    cache.set(elf, sites);
  }
  return sites;
}

export class ModuleSites {
  readonly #elf: ElfFile;
  readonly #name: string;
  readonly #results = new Map<number, PatchSite | Refusal>();
  /** The bytes of all islands in use by `#results`. */
  readonly #islands = new Set<number>();
  #functions: readonly ModuleFunction[] | undefined;
  #byAddress: Map<number, ModuleFunction> | undefined;
  #code: ModuleCode | undefined;
  #symbols: Set<string> | undefined;

  constructor(elf: ElfFile, name: string) {
    this.#elf = elf;
    this.#name = name;
  }

  /** Every function of the file, by address. */
  get functions(): readonly ModuleFunction[] {
    this.#functions ??= functionsOf(this.#elf);
    return this.#functions;
  }

  /** The function that starts at file address `address`, where a symbol says so. */
  functionAt(address: number): ModuleFunction | undefined {
    this.#byAddress ??= new Map(this.functions.map(f => [f.address, f]));
    return this.#byAddress.get(address);
  }

  /** Reads all that the file says of its code: unwind table, relocations, names. Later calls find it read. */
  prepare(): void {
    this.#code ??= this.#gather();
    this.#symbols ??= new Set(this.#elf.symbols().map(s => s.name));
  }

  /** Whether any symbol of the file, function or data, has this name. */
  hasSymbol(name: string): boolean {
    this.prepare();
    return this.#symbols!.has(name);
  }

  /** Size of the function that starts at a file address, by its symbol or its unwind frame; `undefined` where neither does. */
  sizeAt(address: number): number | undefined {
    this.prepare();
    const known = this.functionAt(address);
    if (known !== undefined) return known.size;
    const { frames } = this.#code!;
    const frame = frames[lastStartingAtOrBefore(frames, address, f => f.start)];
    return frame?.start === address ? frame.size : undefined;
  }

  /** The patch site of each function (file addresses), or why it has none; in the order given. */
  find(functions: readonly { name: string; address: number; size: number }[]): (PatchSite | Refusal)[] {
    const fresh = functions.filter(f => !this.#results.has(f.address));
    if (fresh.length > 0) {
      this.#code ??= this.#gather();
      const found = findPatchSites(this.#code, fresh, this.#islands);
      for (const [i, f] of fresh.entries()) this.#results.set(f.address, found[i]);
    }
    return functions.map(f => this.#results.get(f.address)!);
  }

  #gather(): ModuleCode {
    const elf = this.#elf;
    const sections = elf.executableSections();
    const frames = frameRanges(elf);
    const starts = new Set<number>();
    for (const f of this.functions) starts.add(f.address);
    for (const f of frames) starts.add(f.start);
    const inCode = (address: number): boolean =>
      sections.some(s => address >= s.address && address < s.address + s.bytes.length);
    const pointers: number[] = [];
    for (const { addend } of elf.relocations(POINTER_TYPES)) if (inCode(addend)) pointers.push(addend);
    return {
      name: this.#name,
      sections,
      functionStarts: Float64Array.from(starts).sort(),
      frames,
      pointers,
      readBytes: (address, length) => elf.bytesAt(address, length),
      ...(elf.type === 'EXEC' ? { fixedData: fixedData(elf) } : {}),
    };
  }
}

function fixedData(elf: ElfFile): { name: string; address: number; bytes: Uint8Array }[] {
  return elf.sections
    .filter(s => s.type === SHT_PROGBITS && (s.flags & SHF_ALLOC) !== 0 && (s.flags & SHF_EXECINSTR) === 0)
    .map(s => ({ name: s.name, address: s.address, bytes: elf.sectionBytes(s) }));
}

/**
 * The functions of a live process: selectors resolved to addresses, IFUNC symbols to what they chose, and several
 * names at one address to one function.
 */

import type { ElfFile } from '../../elf/file.js';
import { R_X86_64_RELATIVE } from '../../elf/format.js';
import { type Module, readModules, type UnreadableModule } from '../../process/image.js';
import { readMappings } from '../../process/mappings.js';
import type { TracedProcess } from '../../process/process.js';
import { functionsNamed } from '../../process/symbols/function_names.js';
import type { ModuleFunction } from '../../process/symbols/functions.js';
import { ifuncSlots, symbolSlots } from '../../process/symbols/ifunc.js';
import type { SelectorSet } from '../../process/symbols/selector.js';
import type { SkipReason, TargetFunction } from '../kernel.js';
import { sitesOf } from './ftrace/module_sites.js';
import type { Stopper } from './stopper.js';

/** A target with what the machine knows of it. */
export interface ProcessTarget extends TargetFunction {
  readonly owner: Module;
  /** Address in the owner's file. */
  readonly fileAddress: number;
  readonly aliases: readonly string[];
}

const RELATIVE: ReadonlySet<number> = new Set([R_X86_64_RELATIVE]);

const UNRESOLVED: SkipReason = {
  reason: 'ifunc-unresolved',
  detail: 'it is chosen when it is first used (IFUNC), and nothing has chosen it yet',
};
const IN_ANOTHER: SkipReason = {
  reason: 'ifunc-elsewhere',
  detail: 'it was resolved to code outside every file (the vdso)',
};

/** What became of the modules between two looks. */
export interface ModuleChanges {
  readonly came: readonly Module[];
  readonly gone: readonly Module[];
}

export class Targets {
  readonly #stopper: Stopper;
  readonly #process: TracedProcess;
  #modules: readonly Module[] = [];
  #unreadable: readonly UnreadableModule[] = [];
  #known = new Map<bigint, ProcessTarget>();

  constructor(stopper: Stopper) {
    this.#stopper = stopper;
    this.#process = stopper.process;
    this.refresh();
  }

  get modules(): readonly Module[] {
    return this.#modules;
  }

  get unreadable(): readonly UnreadableModule[] {
    return this.#unreadable;
  }

  /** Reads the memory map again, and tells what came and went. Modules that stay the same stay the same objects. */
  refresh(): ModuleChanges {
    const { modules, unreadable } = readModules(this.#process.task);
    const before = this.#modules;
    this.#modules = modules.map(
      m => before.find(old => old.elf === m.elf && old.bias === m.bias && old.path === m.path) ?? m,
    );
    this.#unreadable = unreadable;
    for (const [address, target] of this.#known)
      if (!this.#modules.includes(target.owner)) this.#known.delete(address);
    return {
      came: this.#modules.filter(m => !before.includes(m)),
      gone: before.filter(m => !this.#modules.includes(m)),
    };
  }

  /** What the machine knows of a target that `match` returned. */
  get(address: bigint): ProcessTarget | undefined {
    return this.#known.get(address);
  }

  /** The module whose code holds `address`. */
  moduleAt(address: bigint): Module | undefined {
    return this.#modules.find(m => m.text.some(t => address >= t.start && address < t.end));
  }

  /** The functions that the selectors match, each address once, in order of address within each module. */
  match(selectors: SelectorSet): ProcessTarget[] {
    const all = this.#collect(owner => {
      if (!selectors.matchesModule(owner)) return [];
      const { functions } = sitesOf(owner.elf, owner.name);
      return functions.flatMap(of => {
        if (!selectors.matchesFunction(owner, of.aliases)) return [];
        const name = of.aliases.find(alias => selectors.matchesFunction(owner, [alias])) ?? of.name;
        return [{ of, name }];
      });
    });
    const found = new Map<bigint, ProcessTarget>();
    const chosen = new Set<bigint>();
    for (const { target, ifunc } of all) {
      const { address } = target;
      // What an IFUNC chose has the IFUNC's name: `memcpy`, not `__memmove_avx_unaligned_erms`.
      if (ifunc ? chosen.has(address) : found.has(address)) continue;
      found.set(address, target);
      if (ifunc) chosen.add(address);
    }
    return [...found.values()];
  }

  /** The functions that have one of the names, by name, in modules that `inModule` names; one for each name. */
  named(names: readonly string[], inModule: (owner: Module) => boolean): ProcessTarget[] {
    const all = this.#collect(owner =>
      inModule(owner)
        ? functionsNamed(owner.elf, sitesOf(owner.elf, owner.name).functions, names).map(([name, of]) => ({
            of,
            name,
          }))
        : [],
    );
    return all.map(({ target }) => target);
  }

  /** The function that begins at an address. */
  at(address: bigint): ProcessTarget | undefined {
    const known = this.#known.get(address);
    const owner = this.moduleAt(address);
    if (known !== undefined || owner === undefined) return known;
    const of = sitesOf(owner.elf, owner.name).functionAt(Number(address - owner.bias));
    if (of === undefined || of.ifunc) return undefined;
    return this.#collect(module => (module === owner ? [{ of, name: of.name }] : []))[0]?.target;
  }

  /** Makes targets of functions; IFUNCs become what they chose. */
  #collect(
    wanted: (owner: Module) => readonly { of: ModuleFunction; name: string }[],
  ): { target: ProcessTarget; ifunc: boolean }[] {
    const found: { target: ProcessTarget; ifunc: boolean }[] = [];
    const unresolved: ProcessTarget[] = [];
    for (const owner of this.#modules) {
      for (const { of, name } of wanted(owner)) {
        sitesOf(owner.elf, owner.name).prepare();
        const target: ProcessTarget = {
          module: owner.name,
          name,
          address: owner.bias + BigInt(of.address),
          size: of.size,
          owner,
          fileAddress: of.address,
          aliases: of.aliases,
        };
        const resolved = of.ifunc ? this.#resolve(target) : target;
        if (resolved.unresolved !== undefined) unresolved.push(resolved);
        else found.push({ target: resolved, ifunc: of.ifunc });
      }
    }
    for (const target of this.#call(unresolved)) found.push({ target, ifunc: true });
    for (const { target } of found)
      if (target.unresolved === undefined) this.#known.set(target.address, target);
    return found;
  }

  /**
   * IFUNCs that nothing has used so far: their resolvers are asked, in the process, as the linker would at the first
   * use. Only in files that are relocated; a resolver reads its file's data.
   */
  #call(unresolved: readonly ProcessTarget[]): readonly ProcessTarget[] {
    const callable = unresolved.filter(t => t.unresolved === UNRESOLVED && this.#isRelocated(t.owner));
    if (callable.length === 0) return unresolved;
    const chosen = this.#stopper.during(stop =>
      stop.remote(remote => callable.map(target => remote.callFunction(target.address))),
    ).value;
    return unresolved.map(target => {
      const index = callable.indexOf(target);
      return index < 0 ? target : this.#leads(target, chosen[index]);
    });
  }

  #isRelocated({ elf, bias }: Module): boolean {
    if (elf.interpreter === undefined && elf.type === 'EXEC') return false;
    for (const { offset, addend } of elf.relocations(RELATIVE)) {
      const bytes = this.#process.readMapped(bias + BigInt(offset), 8);
      if (bytes.length < 8) return false;
      return new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true) === bias + BigInt(addend);
    }
    return false;
  }

  /**
   * Where an IFUNC leads: read from the slot that its own file's IRELATIVE relocation filled, else from another
   * module's slot for the name. A slot that is not bound yet leads to a PLT, which no module's symbols know.
   */
  #resolve(target: ProcessTarget): ProcessTarget {
    const { owner } = target;
    const own = ifuncSlotsOf(owner).get(target.fileAddress);
    const candidates: bigint[] = [];
    if (own !== undefined) candidates.push(owner.bias + BigInt(own));
    for (const module of this.#modules) {
      const slots = symbolSlotsOf(module);
      for (const alias of target.aliases) {
        const slot = slots.get(alias);
        if (slot !== undefined) candidates.push(module.bias + BigInt(slot));
      }
    }
    for (const slot of candidates) {
      const bytes = this.#process.readMapped(slot, 8);
      if (bytes.length < 8) continue;
      const address = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
      if (address === target.address) continue;
      const resolved = this.#leads(target, address);
      if (resolved.unresolved !== UNRESOLVED) return resolved;
    }
    return { ...target, unresolved: UNRESOLVED };
  }

  /** The target that an IFUNC chose: the function at `address`, unresolved where none is known there. */
  #leads(target: ProcessTarget, address: bigint): ProcessTarget {
    const home = this.moduleAt(address);
    if (home === undefined) return { ...target, unresolved: this.#inVdso(address) ? IN_ANOTHER : UNRESOLVED };
    const fileAddress = Number(address - home.bias);
    const size = sitesOf(home.elf, home.name).sizeAt(fileAddress);
    if (size === undefined) return { ...target, unresolved: UNRESOLVED };
    const { unresolved: _, ...rest } = target;
    return { ...rest, address, size, owner: home, fileAddress };
  }

  #inVdso(address: bigint): boolean {
    return readMappings(this.#process.task).some(
      m => m.path === '[vdso]' && address >= m.start && address < m.end,
    );
  }
}

const ownSlots = new WeakMap<ElfFile, Map<number, number>>();
const namedSlots = new WeakMap<ElfFile, Map<string, number>>();

function ifuncSlotsOf({ elf }: Module): Map<number, number> {
  let slots = ownSlots.get(elf);
  if (slots === undefined) {
    slots = ifuncSlots(elf);
    ownSlots.set(elf, slots);
  }
  return slots;
}

function symbolSlotsOf({ elf }: Module): Map<string, number> {
  let slots = namedSlots.get(elf);
  if (slots === undefined) {
    slots = symbolSlots(elf);
    namedSlots.set(elf, slots);
  }
  return slots;
}

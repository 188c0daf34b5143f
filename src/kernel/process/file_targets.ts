/**
 * The functions of files that nothing runs: what selectors would match in a process that had these modules. Libraries
 * that a selector names and nobody gave are looked for where the dynamic linker would.
 */

import { existsSync, readdirSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Btf } from '../../btf/btf.js';
import { ElfFile } from '../../elf/file.js';
import { functionsOf, type ModuleFunction } from '../../process/symbols/functions.js';
import { moduleTypes, prototypeOf } from '../../process/symbols/prototypes.js';
import type { SelectableModule, Selector, SelectorSet } from '../../process/symbols/selector.js';
import { BpfError } from '../errno.js';
import type { TargetFunction } from '../kernel.js';

export interface FileTargetsOptions {
  /** The main program. */
  readonly program?: string | undefined;
  /** Libraries that it has. */
  readonly libraries?: readonly string[] | undefined;
  /** Where other libraries are looked for; the system's folders where left out. */
  readonly folders?: readonly string[];
}

const SYSTEM_FOLDERS = [
  '/lib/x86_64-linux-gnu',
  '/usr/lib/x86_64-linux-gnu',
  '/lib64',
  '/usr/lib64',
  '/lib',
  '/usr/lib',
  '/usr/local/lib',
];

/** Libraries that one selector may find: more are all that there are, and no process has them all. */
const MOST_FOUND = 16;

/** Functions of different files have different addresses: each file has a place of its own. */
const PLACE = 1n << 40n;

interface FileModule extends SelectableModule {
  readonly name: string;
  readonly elf: ElfFile;
  readonly place: bigint;
  functions?: readonly ModuleFunction[];
}

export class FileTargets {
  readonly #modules: FileModule[] = [];
  readonly #folders: readonly string[];
  /** What was looked for already, by MODULE as it was typed: why nothing was found, or nothing. */
  readonly #sought = new Map<string, string | undefined>();

  /** Throws ENOENT, ENOEXEC and the like for files that can't be read. */
  constructor(options: FileTargetsOptions = {}) {
    if (options.program !== undefined) this.#add(options.program, true);
    for (const path of options.libraries ?? []) this.#add(path, false);
    const own = process.env.LD_LIBRARY_PATH?.split(':').filter(folder => folder !== '') ?? [];
    this.#folders = options.folders ?? [...own, ...SYSTEM_FOLDERS];
  }

  /** Names of the modules that are known now. */
  modules(): string[] {
    return this.#modules.map(({ name }) => name);
  }

  /** The types of a module; `undefined` where it has none. */
  types(name: string): Btf | undefined {
    const module = this.#modules.find(one => one.name === name);
    return module && moduleTypes(module.path);
  }

  /** The functions that the selectors match, with prototypes where the files have types. */
  match(selectors: SelectorSet): TargetFunction[] {
    for (const selector of selectors.selectors) this.#seek(selector);
    return this.#modules.flatMap(module => {
      if (!selectors.matchesModule(module)) return [];
      const types = moduleTypes(module.path);
      module.functions ??= functionsOf(module.elf);
      return module.functions
        .filter(({ aliases }) => selectors.matchesFunction(module, aliases))
        .map(({ aliases, name, address, size }) => {
          const prototype = types && prototypeOf(types, aliases);
          return {
            module: module.name,
            name: aliases.find(alias => selectors.matchesFunction(module, [alias])) ?? name,
            address: module.place + BigInt(address),
            size,
            ...(prototype === undefined ? {} : { prototype }),
          };
        });
    });
  }

  /** Why the selectors match nothing. */
  whyNone(selectors: SelectorSet): string {
    for (const selector of selectors.selectors) {
      if (selector.excludes) continue;
      const why = this.#seek(selector);
      if (why !== undefined) return why;
    }
    return `no function of ${this.modules().join(', ')} matches ${selectors.selectors.map(({ text }) => text).join(',')}`;
  }

  close(): void {
    for (const { elf } of this.#modules) elf.close();
    this.#modules.length = 0;
  }

  /** Finds the library that a selector names, if none of those given is meant. Why there is none, else `undefined`. */
  #seek(selector: Selector): string | undefined {
    if (selector.excludes || this.#modules.some(module => selector.matchesModule(module))) return undefined;
    const { module } = selector;
    if (module === undefined) return 'the main program is not known; give it with --file';
    if (!this.#sought.has(module)) this.#sought.set(module, this.#find(selector, module));
    return this.#sought.get(module);
  }

  #find(selector: Selector, module: string): string | undefined {
    const paths = new Set<string>();
    if (module.startsWith('/') && existsSync(module)) paths.add(realpathSync(module));
    else
      for (const folder of this.#folders) {
        for (const name of namesIn(folder)) {
          const path = join(folder, name);
          if (!/\.so(\.|$)/.test(name) || !selector.matchesModule({ path, isMain: false })) continue;
          const real = realPath(path);
          // A process maps the file behind the link.
          if (real !== undefined && selector.matchesModule({ path: real, isMain: false })) paths.add(real);
        }
        // The linker takes the first folder that has it.
        if (paths.size > 0) break;
      }
    if (paths.size > MOST_FOUND)
      return `${module} are ${paths.size} libraries here; give those that are meant with --module`;
    let added = 0;
    for (const path of paths) {
      try {
        this.#add(path, false);
        added++;
      } catch (cause) {
        // libc.so is a text for the static linker.
        if (!(cause instanceof BpfError)) throw cause;
      }
    }
    return added > 0 ? undefined : `no library ${module} is in the system's folders; give it with --module`;
  }

  #add(path: string, isMain: boolean): void {
    const elf = ElfFile.open(path);
    if (elf.type !== 'EXEC' && elf.type !== 'DYN') {
      elf.close();
      throw new BpfError('ENOEXEC', `${path} is no program and no library; give one that was linked`);
    }
    const place = PLACE * BigInt(this.#modules.length + 1);
    this.#modules.push({ path, name: basename(path), isMain, elf, place });
  }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}

/** Addresses as `module:function+0x1f`: of a process, also when it is gone, for modules are remembered as they come. */

import type { ElfFile } from '../elf/file.js';
import { lastStartingAtOrBefore } from '../elf/ranges.js';
import { BpfError } from '../kernel/errno.js';
import { type Module, readModules } from '../process/image.js';
import { functionsOf, type ModuleFunction } from '../process/symbols/functions.js';

/** What could be an address of code, as values print it. */
const ADDRESS = /\b0x[0-9a-f]{6,16}\b/g;

/** Names of addresses, of whichever machine. */
export interface AddressNames {
  /** Reads what is there now; `pid` is that of the process. */
  look(pid?: number): void;
  /** Another machine: nothing of the one before is where it was. */
  forget(): void;
  /** `undefined` for what is no code. */
  name(address: bigint): string | undefined;
  /** Text with the names of functions in the place of their addresses. */
  annotate(text: string): string;
}

export function annotateWith(names: Pick<AddressNames, 'name'>, text: string): string {
  return text.replace(ADDRESS, word => names.name(BigInt(word)) ?? word);
}

export class Symbolizer implements AddressNames {
  #modules: readonly Module[] = [];
  readonly #functions = new Map<ElfFile, readonly ModuleFunction[]>();

  /** Reads which modules a process has now; those that it had stay known where nothing took their place. */
  look(pid?: number): void {
    if (pid === undefined) return;
    let now: readonly Module[];
    try {
      now = readModules(pid).modules;
    } catch (cause) {
      if (cause instanceof BpfError) return;
      throw cause;
    }
    const gone = this.#modules.filter(old => now.every(m => m.end <= old.start || m.start >= old.end));
    this.#modules = [...now, ...gone];
  }

  forget(): void {
    this.#modules = [];
  }

  name(address: bigint): string | undefined {
    const module = this.#modules.find(m => m.text.some(t => address >= t.start && address < t.end));
    if (module === undefined) return undefined;
    const at = Number(address - module.bias);
    const functions = this.#functionsOf(module.elf);
    const found = functions[lastStartingAtOrBefore(functions, at, f => f.address)];
    if (found === undefined || at >= found.address + found.size) return `${module.name}+0x${at.toString(16)}`;
    const distance = at - found.address;
    return `${module.name}:${found.name}${distance === 0 ? '' : `+0x${distance.toString(16)}`}`;
  }

  annotate(text: string): string {
    return annotateWith(this, text);
  }

  #functionsOf(elf: ElfFile): readonly ModuleFunction[] {
    let functions = this.#functions.get(elf);
    if (functions === undefined) {
      functions = [...functionsOf(elf)].sort((a, b) => a.address - b.address);
      this.#functions.set(elf, functions);
    }
    return functions;
  }
}

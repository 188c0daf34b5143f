/**
 * The functions of the running kernel: its code symbols (/proc/kallsyms) as targets, whether ftrace and BTF know them,
 * what they take and return, and why one can't be attached.
 */

import { readFileSync } from 'node:fs';
import { functionPrototype } from '../../process/symbols/prototypes.js';
import type { SelectableModule, SelectorSet } from '../../process/symbols/selector.js';
import { BpfError } from '../errno.js';
import type { AttachType, FunctionPrototype, SkipReason, TargetFunction } from '../kernel.js';
import {
  deniedByName,
  hasChangedArguments,
  isAlwaysModifiable,
  isPiece,
  isSystemCall,
  kernelRefusal,
  mostArgumentWords,
  prototypeRefusal,
} from './deny.js';
import { FunctionIds } from './function_ids.js';
import { KernelSymbols } from './kallsyms.js';
import { KERNEL_MODULE, type KernelTypes } from './kernel_types.js';
import { readInjectable, readTraceable, TRACED } from './traceable.js';

/** Another name of `kernel`. */
const VMLINUX = 'vmlinux';

export interface KernelFunctionsOptions {
  /** Where the file systems with `/proc` and `/sys` begin; `/` where left out. */
  readonly root?: string;
}

/** A function in BTF: the id of its FUNC in the types of its module. */
export interface FunctionId {
  readonly module: string;
  readonly id: number;
}

const SOME_OF_NAME =
  'its module has several functions of that name, and ftrace traces some of them without saying which';

/** A target that remembers its symbol, so that it need not be looked up. */
class KernelFunction implements TargetFunction {
  readonly module: string;
  readonly name: string;
  readonly address: bigint;
  readonly size: number;
  readonly #symbols: KernelSymbols;
  readonly #index: number;

  constructor(symbols: KernelSymbols, index: number, name: string, address: bigint) {
    this.module = symbols.modules[symbols.owner(index)];
    this.name = name;
    this.address = address;
    this.size = symbols.size(index);
    this.#symbols = symbols;
    this.#index = index;
  }

  /** `undefined` for what was no target of these symbols, or is a copy. */
  static indexOf(target: TargetFunction, symbols: KernelSymbols): number | undefined {
    return #index in target && target.#symbols === symbols ? target.#index : undefined;
  }
}

export class KernelFunctions {
  readonly #types: KernelTypes | undefined;
  readonly #root: string;
  #symbols: KernelSymbols;
  /** What selectors know of a module; the same objects, which selectors remember. */
  #modules: readonly SelectableModule[] = [];
  #ids: FunctionIds;
  #traceable: Uint8Array | null | undefined;
  #injectable: ReadonlySet<string> | null | undefined;
  #mostWords: number | undefined;
  /** Why the functions of a prototype are refused, by its id, for each module. */
  readonly #prototypes = new Map<string, Map<number, SkipReason | undefined>>();

  /** Without types no function can be attached by its type, only by its address. Throws EOPNOTSUPP without kallsyms. */
  constructor(types: KernelTypes | undefined, { root = '' }: KernelFunctionsOptions = {}) {
    this.#types = types;
    this.#root = root;
    this.#symbols = this.#read();
    this.#ids = new FunctionIds(this.#symbols, types);
  }

  /** Reads the symbols again: modules may have come and gone. */
  refresh(): void {
    this.#symbols = this.#read();
    this.#types?.forgetModules();
    this.#ids = new FunctionIds(this.#symbols, this.#types);
    this.#prototypes.clear();
    this.#traceable = undefined;
    this.#injectable = undefined;
  }

  /** `kernel`, then the loaded modules that have code. */
  get modules(): readonly string[] {
    return this.#symbols.modules;
  }

  /**
   * The kernel shows where its functions are. Where it does not (kptr_restrict), the addresses of targets are stand-ins:
   * unlike each other, and nothing else; several names of one function are several targets then.
   */
  get hasAddresses(): boolean {
    return this.#symbols.hasAddresses;
  }

  /** Whether the kernel says which functions can be traced; without that, attaching may fail for some. */
  get knowsTraceable(): boolean {
    return this.#traceableSymbols() !== null;
  }

  /** The functions that the selectors match, each address once, in order of address. */
  functions(selectors: SelectorSet): TargetFunction[] {
    const symbols = this.#symbols;
    const wanted = this.#modules.map(module => selectors.matchesModule(module));
    const found: TargetFunction[] = [];
    const { order, count } = symbols;
    for (let place = 0; place < count; place++) {
      const index = order[place];
      if (!wanted[symbols.owner(index)]) continue;
      const module = this.#modules[symbols.owner(index)];
      const names = [symbols.name(index)];
      while (place + 1 < count && symbols.isAlias(index, order[place + 1]))
        names.push(symbols.name(order[++place]));
      if (!selectors.matchesFunction(module, names)) continue;
      const name =
        names.length === 1 ? names[0] : names.find(alias => selectors.matchesFunction(module, [alias]));
      if (!names.every(isPiece)) found.push(this.#target(index, name ?? names[0]));
    }
    return found;
  }

  /**
   * The functions of these names, `[MODULE:]FUNCTION` without patterns, a list for each. A name without a module is one of
   * the kernel's, or else of every module that has it.
   */
  named(names: readonly string[]): TargetFunction[][] {
    return names.map(text => {
      const colon = text.indexOf(':');
      const name = text.slice(colon + 1);
      const indices = this.#symbols.find(name);
      const firsts = indices.filter(
        (index, position) =>
          indices.findIndex(other => this.#symbols.owner(other) === this.#symbols.owner(index)) === position,
      );
      const inModule = (module: string): number[] =>
        firsts.filter(index => this.#symbols.modules[this.#symbols.owner(index)] === module);
      const module = colon < 0 ? KERNEL_MODULE : text.slice(0, colon);
      const inKernel = inModule(module === VMLINUX ? KERNEL_MODULE : module);
      const found = colon < 0 && inKernel.length === 0 ? firsts : inKernel;
      return found.map(index => this.#target(index, name));
    });
  }

  /** The function that begins at an address (or has it as a stand-in). */
  at(address: bigint): TargetFunction | undefined {
    const symbols = this.#symbols;
    const index = symbols.hasAddresses ? symbols.at(address) : Number(address) - 1;
    if (index === undefined || index < 0 || index >= symbols.count) return undefined;
    return this.#target(index, symbols.name(index));
  }

  /**
   * Why a program of this kind can't be attached to a function by its type; `undefined` where it can. Where the kernel
   * does not say what it can trace, it may refuse yet.
   */
  check(target: TargetFunction, attachType: AttachType = 'fentry'): SkipReason | undefined {
    const symbols = this.#symbols;
    const aliases = this.#aliasesOf(target);
    if (aliases.length === 0) return kernelRefusal('unknown-function');
    const refused = this.#checkSymbols(aliases);
    if (refused !== undefined) return refused;
    const names = aliases.length === 1 ? [target.name] : aliases.map(index => symbols.name(index));
    if (names.every(hasChangedArguments)) return kernelRefusal('changed-arguments');
    if (aliases.every(index => symbols.isDuplicate(index))) return kernelRefusal('duplicate-name');
    const denied = firstDenied(names, attachType);
    if (denied !== undefined) return denied;
    const found = this.#find(target, aliases);
    if (found === undefined) return kernelRefusal('no-types');
    const unfit = this.#checkPrototype(found);
    if (unfit !== undefined) return unfit;
    if (attachType === 'fmod_ret' && !this.#isModifiable(found)) return kernelRefusal('not-modifiable');
    return undefined;
  }

  /** Why a kprobe multi link can't have a function, which it names by its address. Types are not asked for. */
  checkAddress(target: TargetFunction): SkipReason | undefined {
    const aliases = this.#aliasesOf(target);
    if (aliases.length === 0) return kernelRefusal('unknown-function');
    const refused = this.#checkSymbols(aliases);
    if (refused !== undefined) return refused;
    const names = aliases.map(index => this.#symbols.name(index));
    if (names.every(hasChangedArguments)) return kernelRefusal('changed-arguments');
    const traceable = this.#traceableSymbols();
    if (traceable !== null && aliases.every(index => traceable[index] !== TRACED.YES))
      return { reason: 'duplicate-name', detail: SOME_OF_NAME };
    return firstDenied(names, 'fentry');
  }

  /** What a function takes and returns; `undefined` where the kernel's types do not say. */
  prototypeOf(target: TargetFunction): FunctionPrototype | undefined {
    const found = this.btfOf(target);
    return found === undefined ? undefined : this.#prototype(found);
  }

  /** The function in the types of its module: under its own name, or another that it has. */
  btfOf(target: TargetFunction): FunctionId | undefined {
    return this.#find(target, this.#aliasesOf(target));
  }

  #read(): KernelSymbols {
    const path = `${this.#root}/proc/kallsyms`;
    let bytes: Buffer;
    try {
      bytes = readFileSync(path);
    } catch (cause) {
      throw new BpfError(
        'EOPNOTSUPP',
        `the functions of the kernel are not known: ${path} can't be read (${(cause as Error).message}); it needs a kernel with CONFIG_KALLSYMS and /proc mounted`,
        { cause },
      );
    }
    const symbols = new KernelSymbols(bytes);
    this.#modules = symbols.modules.map(path =>
      path === KERNEL_MODULE
        ? { path, isMain: true, names: [KERNEL_MODULE, VMLINUX] }
        : { path, isMain: false },
    );
    return symbols;
  }

  #target(index: number, name: string): TargetFunction {
    const symbols = this.#symbols;
    return new KernelFunction(symbols, index, name, this.#addressOf(index));
  }

  #addressOf(index: number): bigint {
    return this.#symbols.hasAddresses ? this.#symbols.address(index) : BigInt(index + 1);
  }

  /** The symbols of a target, its own first; none where its module has it no more. */
  #aliasesOf(target: TargetFunction): number[] {
    const symbols = this.#symbols;
    const own =
      KernelFunction.indexOf(target, symbols) ??
      symbols
        .find(target.name)
        .find(
          index =>
            symbols.modules[symbols.owner(index)] === target.module &&
            this.#addressOf(index) === target.address,
        );
    if (own === undefined) return [];
    const others = symbols.aliases(own);
    return others.length === 1 ? others : [own, ...others.filter(index => index !== own)];
  }

  #traceableSymbols(): Uint8Array | null {
    if (this.#traceable === undefined) this.#traceable = readTraceable(this.#root, this.#symbols) ?? null;
    return this.#traceable;
  }

  #checkSymbols(aliases: readonly number[]): SkipReason | undefined {
    const traceable = this.#traceableSymbols();
    if (traceable === null || aliases.some(index => traceable[index] !== TRACED.NO)) return undefined;
    return kernelRefusal('not-traceable');
  }

  #find({ module }: TargetFunction, aliases: readonly number[]): FunctionId | undefined {
    for (const index of aliases) {
      const id = this.#symbols.isDuplicate(index) ? undefined : this.#ids.of(module, index);
      if (id !== undefined) return { module, id };
    }
    return undefined;
  }

  #prototype({ module, id }: FunctionId): FunctionPrototype | undefined {
    const types = this.#types?.module(module);
    return types === undefined ? undefined : functionPrototype(types, id);
  }

  #checkPrototype(found: FunctionId): SkipReason | undefined {
    const { module, id } = found;
    let known = this.#prototypes.get(module);
    if (known === undefined) {
      known = new Map();
      this.#prototypes.set(module, known);
    }
    const key = this.#types?.module(module)?.referred(id) ?? 0;
    if (known.has(key)) return known.get(key);
    const prototype = this.#prototype(found);
    const refused =
      prototype === undefined ? kernelRefusal('no-types') : prototypeRefusal(prototype, this.#words());
    known.set(key, refused);
    return refused;
  }

  #words(): number {
    this.#mostWords ??= mostArgumentWords(readFileSync(`${this.#root}/proc/sys/kernel/osrelease`, 'latin1'));
    return this.#mostWords;
  }

  #isModifiable({ module, id }: FunctionId): boolean {
    const name = this.#types?.module(module)?.name(id) ?? '';
    if (isAlwaysModifiable(name)) return true;
    if (this.#injectable === undefined) this.#injectable = readInjectable(this.#root) ?? null;
    // Where the list can't be read, the kernel is the one to say.
    return this.#injectable?.has(name) ?? isSystemCall(name);
  }
}

function firstDenied(names: readonly string[], attachType: AttachType): SkipReason | undefined {
  for (const name of names) {
    const reason = deniedByName(name, attachType);
    if (reason !== undefined) return reason;
  }
  return undefined;
}

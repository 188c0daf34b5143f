/** What objects name of the running kernel: its functions for programs, its variables, its settings. */

import { kfuncName, kfuncNumber } from '../../bpf/kfuncs.js';
import { BpfError } from '../errno.js';
import type { KernelNames } from '../kernel.js';
import { readKconfig } from './kconfig.js';
import { KERNEL_MODULE, type KernelTypes } from './kernel_types.js';
import { KernelSymbolAddresses } from './ksyms.js';

/** Kernel functions that are the kernel's alone have numbers from here on: their BTF ids follow. */
const OWN_KFUNCS = 0x4000_0000;

export class LinuxNames implements KernelNames {
  readonly #types: () => KernelTypes;
  readonly #symbols = new KernelSymbolAddresses();
  #kconfig: ReadonlyMap<string, bigint | string> | undefined;

  /** `types` is asked when they are needed. */
  constructor(types: () => KernelTypes) {
    this.#types = types;
  }

  kfuncNumber(name: string): number | undefined {
    return kfuncNumber(name) ?? this.ownKfunc(name);
  }

  /** The number of the kernel's own function, also where every machine has one of that name. */
  ownKfunc(name: string): number | undefined {
    const id = this.#types().functionId(KERNEL_MODULE, name);
    return id === undefined ? undefined : OWN_KFUNCS + id;
  }

  /** The BTF id of the function that a number stands for. Throws ENOENT where this kernel has it not. */
  kfuncId(number: number): number {
    if (number >= OWN_KFUNCS) return number - OWN_KFUNCS;
    const name = kfuncName(number);
    const id = name === undefined ? undefined : this.#types().functionId(KERNEL_MODULE, name);
    if (id === undefined)
      throw new BpfError('ENOENT', `this kernel has no function ${name ?? number} for programs`);
    return id;
  }

  ksymAddress(name: string): bigint | undefined {
    return this.#symbols.find(name);
  }

  ksymTypeId(name: string): number | undefined {
    return this.#types().vmlinux.find(name, 'var');
  }

  kconfig(name: string): bigint | string | undefined {
    this.#kconfig ??= readKconfig();
    return this.#kconfig.get(name);
  }
}

/**
 * The running kernel's types: BTF that it shows of itself (`vmlinux`) and of each loaded module, which continues
 * vmlinux's. Read when they are asked for.
 */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { Btf } from '../../btf/btf.js';
import { BpfError } from '../errno.js';

/** The module name of what is built into the kernel. */
export const KERNEL_MODULE = 'kernel';

const BTF_DIRECTORY = '/sys/kernel/btf';
const VMLINUX = 'vmlinux';
/** What a kernel module can be named; it becomes part of a path. */
const MODULE_NAME = /^[\w-]+$/;

export interface KernelTypesOptions {
  /** Where the file system with `/sys` begins; `/` where left out. */
  readonly root?: string;
}

export class KernelTypes {
  readonly #directory: string;
  #vmlinux: Btf | undefined;
  readonly #modules = new Map<string, Btf>();

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** Throws EOPNOTSUPP where the kernel shows no types. */
  static open({ root = '' }: KernelTypesOptions = {}): KernelTypes {
    const directory = root + BTF_DIRECTORY;
    if (!existsSync(`${root}/sys/kernel`))
      throw new BpfError(
        'EOPNOTSUPP',
        `the types of the kernel can't be read: ${root}/sys is not mounted (mount -t sysfs sysfs /sys)`,
      );
    if (!existsSync(`${directory}/${VMLINUX}`))
      throw new BpfError(
        'EOPNOTSUPP',
        `the kernel shows no types: there is no ${directory}/${VMLINUX}; run a kernel that was built with CONFIG_DEBUG_INFO_BTF`,
      );
    return new KernelTypes(directory);
  }

  /** Types of what is built in. Throws EACCES where they can't be read, EINVAL where they are damaged. */
  get vmlinux(): Btf {
    this.#vmlinux ??= this.#parse(VMLINUX);
    return this.#vmlinux;
  }

  /** Types of a loaded module, or of `kernel`; `undefined` where there are none (CONFIG_DEBUG_INFO_BTF_MODULES). */
  module(name: string): Btf | undefined {
    if (name === KERNEL_MODULE) return this.vmlinux;
    const known = this.#modules.get(name);
    if (known !== undefined) return known;
    if (!MODULE_NAME.test(name) || name === VMLINUX || !existsSync(`${this.#directory}/${name}`))
      return undefined;
    const types = this.#parse(name, this.vmlinux);
    this.#modules.set(name, types);
    return types;
  }

  /** Reads the types of modules again when they are asked for: other modules may have come under their names. */
  forgetModules(): void {
    this.#modules.clear();
  }

  /** What has types: `kernel`, then the loaded modules by name. */
  modules(): string[] {
    const names = readdirSync(this.#directory).filter(name => name !== VMLINUX);
    return [KERNEL_MODULE, ...names.sort()];
  }

  /**
   * The id of a function's FUNC in the types of its module; `undefined` where they do not have it, or have several with
   * different prototypes.
   */
  functionId(module: string, name: string): number | undefined {
    const types = this.module(module);
    if (types === undefined) return undefined;
    let found: number | undefined;
    for (const id of types.findOwn(name)) {
      if (types.kindOf(id) !== 'func') continue;
      if (found !== undefined && !takeTheSame(types, found, id)) return undefined;
      found ??= id;
    }
    return found;
  }

  #parse(name: string, base?: Btf): Btf {
    const path = `${this.#directory}/${name}`;
    let bytes: Uint8Array;
    try {
      bytes = readFileSync(path);
    } catch (cause) {
      throw new BpfError('EACCES', `the types in ${path} can't be read: ${(cause as Error).message}`, {
        cause,
      });
    }
    return Btf.parse(bytes, { name: path, trusted: true, ...(base === undefined ? {} : { base }) });
  }
}

/** Two FUNCs have the same types; older kernels have one twice, with other names for its parameters. */
export function takeTheSame(types: Btf, one: number, other: number): boolean {
  const a = types.referred(one);
  const b = types.referred(other);
  if (a === b) return true;
  if (types.referred(a) !== types.referred(b)) return false;
  const params = types.paramTypes(a);
  const others = types.paramTypes(b);
  return params.length === others.length && params.every((type, index) => type === others[index]);
}

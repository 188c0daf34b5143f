/** Addresses of the kernel as `module:function+0x1f`, by /proc/kallsyms, which is read when the first is asked for. */

import { readFileSync } from 'node:fs';
import { lastStartingAtOrBefore } from '../elf/ranges.js';
import { type AddressNames, annotateWith } from './symbolize.js';

interface KernelFunction {
  readonly address: bigint;
  readonly name: string;
  readonly module: string;
}

/** The module that is built in. */
const KERNEL = 'kernel';
/** An address of the kernel as a number without a sign. */
const DECIMAL = /\b1844\d{16}\b/g;
/** Behind the last function of a module there may be anything. */
const LARGEST_FUNCTION = 1n << 20n;

export class KernelSymbolizer implements AddressNames {
  #functions: readonly KernelFunction[] | undefined;

  look(): void {}
  forget(): void {}

  name(address: bigint): string | undefined {
    // Below is user space.
    if (address >> 63n === 0n) return undefined;
    this.#functions ??= readFunctions();
    const found = this.#functions[lastStartingAtOrBefore(this.#functions, address, f => f.address)];
    if (found === undefined || address - found.address > LARGEST_FUNCTION) return undefined;
    const distance = address - found.address;
    return `${found.module}:${found.name}${distance === 0n ? '' : `+0x${distance.toString(16)}`}`;
  }

  annotate(text: string): string {
    return annotateWith(this, text).replace(DECIMAL, word => this.name(BigInt(word)) ?? word);
  }
}

function readFunctions(): KernelFunction[] {
  const functions: KernelFunction[] = [];
  for (const line of readFileSync('/proc/kallsyms', 'latin1').split('\n')) {
    const match = /^([0-9a-f]+) [tTwW] (\S+)(?:\t\[(\S+)\])?$/.exec(line);
    if (match === null) continue;
    const address = BigInt(`0x${match[1]}`);
    if (address !== 0n) functions.push({ address, name: match[2], module: match[3] ?? KERNEL });
  }
  return functions.sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0));
}

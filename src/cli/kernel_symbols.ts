/** Addresses of the kernel as `module:function+0x1f`, by /proc/kallsyms, which is read when the first is asked for. */

import { readFileSync } from 'node:fs';
import { KernelSymbols } from '../kernel/linux/kallsyms.js';
import { type AddressNames, annotateWith } from './symbolize.js';

/** An address of the kernel as a number without a sign. */
const DECIMAL = /\b1844\d{16}\b/g;
/** Behind the last function of a module there may be anything. */
const LARGEST_FUNCTION = 1n << 20n;

export class KernelSymbolizer implements AddressNames {
  #symbols: KernelSymbols | undefined;

  look(): void {}
  forget(): void {}

  name(address: bigint): string | undefined {
    // Below is user space.
    if (address >> 63n === 0n) return undefined;
    this.#symbols ??= new KernelSymbols(readFileSync('/proc/kallsyms'));
    const symbols = this.#symbols;
    const index = symbols.before(address);
    if (index === undefined) return undefined;
    const distance = address - symbols.address(index);
    if (distance > LARGEST_FUNCTION) return undefined;
    const text = `${symbols.modules[symbols.owner(index)]}:${symbols.name(index)}`;
    return distance === 0n ? text : `${text}+0x${distance.toString(16)}`;
  }

  annotate(text: string): string {
    return annotateWith(this, text).replace(DECIMAL, word => this.name(BigInt(word)) ?? word);
  }
}

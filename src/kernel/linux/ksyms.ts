/** Addresses of the kernel's variables and functions by name, from /proc/kallsyms, which is read at the first question. */

import { readFileSync } from 'node:fs';

const ADDRESS_DIGITS = 16;
/** A line is an address, a space, a letter, a space, the name, and behind a tab the module. */
const NAME_AT = ADDRESS_DIGITS + 3;

export class KernelSymbolAddresses {
  #text: Buffer | undefined;

  /** `undefined` for a name that there is not, and where the kernel hides its addresses. */
  find(name: string): bigint | undefined {
    this.#text ??= readFileSync('/proc/kallsyms');
    for (let at = this.#text.indexOf(` ${name}`); at >= 0; at = this.#text.indexOf(` ${name}`, at + 1)) {
      const end = this.#text[at + 1 + Buffer.byteLength(name)];
      const start = at + 1 - NAME_AT;
      if ((end !== 10 && end !== 9) || start < 0 || (start > 0 && this.#text[start - 1] !== 10)) continue;
      const address = BigInt(`0x${this.#text.toString('latin1', start, start + ADDRESS_DIGITS)}`);
      if (address !== 0n) return address;
    }
    return undefined;
  }
}

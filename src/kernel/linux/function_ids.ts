/** Which FUNC of its module's types each code symbol of the kernel is. */

import type { KernelSymbols } from './kallsyms.js';
import { type KernelTypes, takeTheSame } from './kernel_types.js';

/** In place of an id: several FUNCs of different prototypes have the name. */
const AMBIGUOUS = -1;

export class FunctionIds {
  readonly #symbols: KernelSymbols;
  readonly #types: KernelTypes | undefined;
  /** By symbol, of those modules that were asked for; 0 where there is none. */
  readonly #ids: Int32Array;
  readonly #found = new Set<string>();

  constructor(symbols: KernelSymbols, types: KernelTypes | undefined) {
    this.#symbols = symbols;
    this.#types = types;
    this.#ids = new Int32Array(symbols.count);
  }

  /** The FUNC with the name of a symbol of `module`; `undefined` where there is none, or several that differ. */
  of(module: string, symbol: number): number | undefined {
    if (!this.#found.has(module)) this.#find(module);
    return this.#ids[symbol] > 0 ? this.#ids[symbol] : undefined;
  }

  /** All of a module at once: that is quicker than a thousand names one by one. */
  #find(module: string): void {
    this.#found.add(module);
    const types = this.#types?.module(module);
    const owner = this.#symbols.modules.indexOf(module);
    const ids = this.#ids;
    types?.eachFunction((id, names, start, end) =>
      this.#symbols.each(names, start, end, symbol => {
        if (this.#symbols.owner(symbol) !== owner) return;
        const other = ids[symbol];
        if (other === 0) ids[symbol] = id;
        else if (other < 0 || !takeTheSame(types, other, id)) ids[symbol] = AMBIGUOUS;
      }),
    );
  }
}

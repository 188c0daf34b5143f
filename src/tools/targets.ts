/**
 * The functions that a tool traces, each with a slot of its own: the number that its program reads as the cookie, and by
 * which the tool finds it again.
 */

import { BpfError } from '../kernel/errno.js';
import type { TargetFunction } from '../kernel/kernel.js';

export class FunctionSlots {
  readonly #slots = new Map<bigint, number>();
  readonly #functions: TargetFunction[] = [];
  readonly #limit: number;

  /** There is room for `limit` functions. */
  constructor(limit = Number.POSITIVE_INFINITY) {
    this.#limit = limit;
  }

  /** By slot; those that could not be attached are among them. */
  get functions(): readonly TargetFunction[] {
    return this.#functions;
  }

  /**
   * The function's slot. A library that was unloaded and loaded again at the same place keeps its slots. Throws E2BIG
   * where there is no room.
   */
  slotOf(target: TargetFunction): number {
    const known = this.#slots.get(target.address);
    if (known !== undefined && this.#functions[known].name === target.name) return known;
    const slot = this.#functions.length;
    if (slot >= this.#limit) throw tooMany(slot);
    this.#slots.set(target.address, slot);
    this.#functions.push(target);
    return slot;
  }

  has(address: bigint): boolean {
    return this.#slots.has(address);
  }

  /** How many functions have slots and are not among `skipped`. */
  without(skipped: readonly { readonly address: bigint }[]): number {
    return this.#functions.length - skipped.filter(({ address }) => this.#slots.has(address)).length;
  }
}

function tooMany(slots: number): BpfError {
  return new BpfError(
    'E2BIG',
    `the process loaded libraries with more functions than there is room for (${slots}); give selectors that match fewer`,
  );
}

/**
 * The functions that a tool's selectors match, each with a slot of its own: the number that its program reads as the
 * cookie, and by which the tool finds it again.
 */

import { BpfError } from '../kernel/errno.js';
import type { Kernel, SkippedFunction, TargetFunction, TracingMultiLink } from '../kernel/kernel.js';
import type { SelectorSet } from '../process/symbols/selector.js';

/** A function to attach to, and its slot. */
export interface NewTarget {
  readonly target: TargetFunction;
  readonly slot: number;
}

export class SelectedTargets {
  readonly #kernel: Kernel;
  readonly #selectors: SelectorSet;
  readonly #slots = new Map<bigint, number>();
  readonly #functions: TargetFunction[] = [];
  /** IFUNCs that have not been chosen so far; they join when they are. */
  #unresolved: readonly SkippedFunction[] = [];

  constructor(kernel: Kernel, selectors: SelectorSet) {
    this.#kernel = kernel;
    this.#selectors = selectors;
  }

  /** By slot; those that could not be attached are among them. */
  get functions(): readonly TargetFunction[] {
    return this.#functions;
  }

  get unresolved(): readonly SkippedFunction[] {
    return this.#unresolved;
  }

  /** Functions that matched so far. */
  get matched(): number {
    return this.#functions.length + this.#unresolved.length;
  }

  /**
   * What matches now and is not in `done`, by address: all at first, then what libraries bring. Throws E2BIG where there
   * are more than `limit` in all.
   */
  find(done: ReadonlySet<bigint>, limit = Number.POSITIVE_INFINITY): NewTarget[] {
    const matched = this.#kernel.functions(this.#selectors);
    this.#unresolved = matched.flatMap(({ unresolved, module, name, address }) =>
      unresolved === undefined ? [] : [{ ...unresolved, module, function: name, address }],
    );
    const found: NewTarget[] = [];
    for (const target of matched) {
      if (target.unresolved !== undefined || done.has(target.address)) continue;
      // A library that was unloaded and loaded again at the same place keeps its slots.
      let slot = this.#slots.get(target.address);
      if (slot === undefined || this.#functions[slot].name !== target.name) {
        slot = this.#functions.length;
        if (slot >= limit) throw tooMany(slot);
        this.#slots.set(target.address, slot);
        this.#functions.push(target);
      }
      found.push({ target, slot });
    }
    return found;
  }
}

function tooMany(slots: number): BpfError {
  return new BpfError(
    'E2BIG',
    `the selectors match more functions than there is room for (${slots}); give selectors that match fewer`,
  );
}

/** Addresses of what links are attached to, or could not be. */
export function attempted(links: readonly TracingMultiLink[]): Set<bigint> {
  const addresses = new Set<bigint>();
  for (const { targets, skipped } of links) {
    for (const { target } of targets) addresses.add(target.address);
    for (const { address } of skipped) addresses.add(address);
  }
  return addresses;
}

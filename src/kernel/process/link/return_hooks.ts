/**
 * Which calls under way run which programs when they return: what the hooks of a live process keep for functions that are
 * traced at their return. Nothing of it is in the process until the first such program comes.
 */

import type { RemoteThread } from '../../../process/remote.js';
import { SelectorSet } from '../../../process/symbols/selector.js';
import type { CodeRegion } from '../region/code_region.js';
import type { Stop, Stopper } from '../stopper.js';
import type { Targets } from '../targets.js';
import { CallReturns } from './call_returns.js';
import type { LinkHost } from './link.js';
import { MultiLink } from './multi_link.js';
import type { Slot } from './slots.js';
import { FIND_FDE } from './unwinders.js';

export class ReturnHooks {
  readonly #stopper: Stopper;
  readonly #targets: Targets;
  readonly #host: LinkHost;
  #returns: CallReturns | undefined;
  #unwinders: MultiLink | undefined;
  /** Every slot whose calls run programs at their return, by its record: the function. */
  readonly #claiming = new Map<bigint, bigint>();
  /** The record of such a slot that a function's text leads to now. */
  readonly #leading = new Map<bigint, bigint>();

  constructor(stopper: Stopper, targets: Targets, host: LinkHost) {
    this.#stopper = stopper;
    this.#targets = targets;
    this.#host = host;
  }

  /** Where the process has what returns need; `undefined` before `open`. */
  get place(): CallReturns['place'] | undefined {
    return this.#returns?.place;
  }

  /** Prepares the process; `prepared` is told before any return address can be ours. */
  open(code: CodeRegion, prepared: (place: CallReturns['place']) => void): void {
    if (this.#returns !== undefined) return;
    this.#returns = new CallReturns(this.#stopper, code);
    prepared(this.#returns.place);
    this.#unwinders = new MultiLink(this.#host, 0, this.#returns.unwinder, false);
    this.followUnwinders();
  }

  /** Unwinders of libraries that came since see through our return addresses, too. */
  followUnwinders(): void {
    const link = this.#unwinders;
    if (link === undefined) return;
    const known = new Set(link.targets.map(({ target }) => target.address));
    const targets = this.#targets
      .match(SelectorSet.parse([`*:${FIND_FDE}`]))
      .filter(target => !known.has(target.address));
    if (targets.length > 0) link.add(targets.map(target => ({ target, cookie: 0n })));
  }

  get watchesUnwinders(): boolean {
    return (this.#unwinders?.targets.length ?? 0) > 0;
  }

  /** Gives unwinders their bytes back: when no return address on any stack is ours, and none will be. */
  letUnwindersGo(): void {
    this.#unwinders?.detach();
    this.#unwinders = undefined;
  }

  /** A function's text leads to `slot` now: where calls under way read their programs from, after the next settling. */
  lead(func: bigint, slot: Slot | undefined): void {
    if (slot?.claims === true) {
      this.#claiming.set(slot.address, func);
      this.#leading.set(func, slot.address);
    } else this.#leading.delete(func);
  }

  /**
   * Takes programs that left off the calls under way, and returns how many calls have any left. With `quiet` (no thread
   * is in code of ours) it is final, until text leads to such a slot again.
   */
  settle(stop: Stop, quiet: boolean): number {
    const recordFor = (record: bigint): bigint | undefined => {
      const func = this.#claiming.get(record);
      return func === undefined ? undefined : this.#leading.get(func);
    };
    return this.#returns?.settle(stop, recordFor, quiet).pending ?? 0;
  }

  /** Takes what is in private memory of the process out of it, when no call needs it any more. */
  unmap(remote: RemoteThread): void {
    this.#returns?.unmap(remote);
  }
}

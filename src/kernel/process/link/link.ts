/**
 * What every link of a live process is: one program on some functions, and their owner. What the machine does for it
 * (slots, records, text) is behind `LinkHost`; how many functions, and whether more may join, is its kind's.
 */

import { BpfError } from '../../errno.js';
import type { BpfProg, LinkKind, LinkTarget, SkippedFunction } from '../../kernel.js';
import type { Block } from '../region/arena.js';

/** What attaching some targets came to. */
export interface Attached {
  readonly targets: readonly LinkTarget[];
  readonly skipped: readonly SkippedFunction[];
  /** How long the process stood still, ms. */
  readonly pauseMs: number;
}

/** The part of the machine that links need. */
export interface LinkHost {
  /** A counter in shared memory for a link's missed calls. */
  missedCounter(): Block;
  attach(link: Link, targets: readonly LinkTarget[], skipInvalid: boolean): Attached;
  /** Returns how long the process stood still, ms. */
  detach(link: Link): number;
}

export abstract class Link {
  abstract readonly kind: LinkKind;
  readonly id: number;
  readonly prog: BpfProg;
  readonly #missed: Block;
  readonly #host: LinkHost;
  readonly #targets: LinkTarget[] = [];
  readonly #skipped: SkippedFunction[] = [];
  #pauseMs = 0;
  #detached = false;

  constructor(host: LinkHost, id: number, prog: BpfProg) {
    this.#host = host;
    this.#missed = host.missedCounter();
    this.id = id;
    this.prog = prog;
  }

  /** One program on one function: it may have a trampoline of its own. */
  get plain(): boolean {
    return this.kind === 'tracing';
  }

  /** Calls whose return could not be waited for: more were under way than there is room to note. */
  get missed(): bigint {
    const { bytes } = this.#missed;
    return new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  }

  /** Where programs in the process count them. */
  get missedAt(): bigint {
    return this.#missed.address;
  }

  get targets(): readonly LinkTarget[] {
    return this.#targets;
  }

  get skipped(): readonly SkippedFunction[] {
    return this.#skipped;
  }

  get pauseMs(): number {
    return this.#pauseMs;
  }

  protected join(targets: readonly LinkTarget[], skipInvalid: boolean): void {
    if (this.#detached) throw new BpfError('EINVAL', `link ${this.id} is detached; create another one`);
    const done = this.#host.attach(this, targets, skipInvalid);
    for (const target of done.targets) this.#targets.push(target);
    for (const skipped of done.skipped) this.#skipped.push(skipped);
    this.#pauseMs = done.pauseMs;
  }

  detach(): void {
    if (this.#detached) return;
    this.#detached = true;
    this.#pauseMs = this.#host.detach(this);
  }

  /** Drops targets whose module was unmapped: there is nothing left to restore. */
  forget(gone: (target: LinkTarget) => boolean): void {
    const kept = this.#targets.filter(target => !gone(target));
    this.#targets.length = 0;
    for (const target of kept) this.#targets.push(target);
  }
}

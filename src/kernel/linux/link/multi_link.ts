/** What all ways to be on many functions have in common: which of the functions that are given join, and which are left out. */

import type { LinkTarget, SkipReason, TracingMultiLink, Way } from '../../kernel.js';
import { type LinuxHost, refusalOf } from '../host.js';
import type { LinuxProg } from '../linux_prog.js';
import { LinuxLink } from './link.js';

export abstract class LinuxMultiLink extends LinuxLink implements TracingMultiLink {
  readonly kind = 'tracing_multi';
  abstract readonly way: Way;
  protected readonly host: LinuxHost;
  protected readonly skipInvalid: boolean;

  /** Attaches nothing yet: that is `open`'s, which a constructor ends with. */
  constructor(host: LinuxHost, prog: LinuxProg, skipInvalid: boolean) {
    super(host.nextId(), prog);
    this.host = host;
    this.skipInvalid = skipInvalid;
  }

  /** Attaches to the first functions, or leaves nothing behind. */
  protected open(targets: readonly LinkTarget[]): void {
    try {
      this.add(targets);
    } catch (cause) {
      this.detach();
      throw cause;
    }
  }

  add(targets: readonly LinkTarget[]): void {
    this.attaching(() => {
      const fresh = this.withoutDuplicates(targets, this.skipInvalid);
      return this.join(fresh.filter(one => this.#fits(one)));
    });
  }

  /** Nobody but us looks whether what the program reads is the same on all. */
  #fits(one: LinkTarget): boolean {
    const why = this.refusal(one) ?? this.unfit(this.host, this.prog, one.target);
    if (why !== undefined) this.leaveOut(one.target, why, this.skipInvalid);
    return why === undefined;
  }

  /** Why this way can't have a function. */
  protected refusal({ target }: LinkTarget): SkipReason | undefined {
    return refusalOf(this.host, this.prog.attachType, target);
  }

  /** Attaches to functions that fit: to all, or, with `skipInvalid`, to those that the kernel takes; else throws, and to none. */
  protected abstract join(targets: readonly LinkTarget[]): readonly LinkTarget[];
}

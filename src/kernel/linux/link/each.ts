/**
 * A program on many functions by a tracing link for each, for kernels that have nothing better: it is loaded for each of
 * them. Seen from outside it is one multi-link, all or nothing.
 */

import { BpfError } from '../../errno.js';
import type { LinkTarget, SkipReason, TracingMultiLink } from '../../kernel.js';
import { VerifierError } from '../../verifier_error.js';
import { type LinuxHost, sortTargets, type TypedTarget } from '../host.js';
import type { LinuxProg } from '../linux_prog.js';
import { SavedCalls } from '../saved_calls.js';
import { LinuxLink } from './link.js';
import { refusedReason } from './refused.js';
import { attachOne, detachOne, missedOf, type OneAttached } from './tracing.js';

/** More take long to attach, and a program in the kernel each: who wants them says so. */
const MOST_LINKS = 1000;
/** How often it is told how far it came, ms. */
const PROGRESS_MS = 1000;

/** A program on its functions. */
interface Attached {
  readonly prog: LinuxProg;
  readonly saved: SavedCalls;
  readonly ones: { readonly target: TypedTarget; readonly one: OneAttached }[];
}

export class EachLink extends LinuxLink implements TracingMultiLink {
  readonly kind = 'tracing_multi';
  readonly way = 'tracing';
  readonly #host: LinuxHost;
  readonly #skipInvalid: boolean;
  #now: Attached;
  /** Of what was let go of. */
  #missedBefore = 0n;

  constructor(host: LinuxHost, prog: LinuxProg, skipInvalid: boolean, targets: readonly LinkTarget[]) {
    super(host.nextId(), prog);
    this.#host = host;
    this.#skipInvalid = skipInvalid;
    this.#now = { prog, saved: new SavedCalls(host), ones: [] };
    try {
      this.add(targets);
    } catch (cause) {
      this.detach();
      throw cause;
    }
  }

  add(targets: readonly LinkTarget[]): void {
    this.attaching(() => {
      const fresh = this.withoutDuplicates(targets, this.#skipInvalid);
      const { good, bad } = sortTargets(this.#host, this.prog.attachType, fresh);
      for (const { target, why } of bad) this.leaveOut(target, why, this.#skipInvalid);
      const agreeing = good.filter(one => this.#agrees(one));
      this.#checkCount(agreeing.length);
      return this.#attach(this.#now, agreeing, this.#skipInvalid);
    });
  }

  #agrees({ target }: TypedTarget): boolean {
    const why = this.unfit(this.#host, this.prog, target);
    if (why !== undefined) this.leaveOut(target, why, this.#skipInvalid);
    return why === undefined;
  }

  #checkCount(more: number): void {
    const { maxLinks = MOST_LINKS } = this.#host.options;
    const count = this.#now.ones.length + more;
    if (count <= maxLinks) return;
    throw new BpfError(
      'E2BIG',
      `program ${this.prog.name} is for ${count} functions, and this kernel attaches it to each by a link of its own, of which ${maxLinks} are the most: select fewer, or allow more with --max-links ${count}`,
    );
  }

  /** Attaches to all, or throws and to none of them. */
  #attach(now: Attached, targets: readonly TypedTarget[], mayLeave: boolean): TypedTarget[] {
    const before = now.ones.length;
    const { progress } = this.#host.options;
    let told = performance.now();
    try {
      for (const [index, target] of targets.entries()) {
        const one = this.#attachOne(now, target, mayLeave);
        if (one !== undefined) now.ones.push({ target, one });
        if (progress === undefined || performance.now() - told < PROGRESS_MS) continue;
        told = performance.now();
        progress(`attached to ${index + 1} of ${targets.length} functions`);
      }
    } catch (cause) {
      for (const { one } of now.ones.splice(before).reverse()) detachOne(one);
      throw cause;
    }
    return now.ones.slice(before).map(({ target }) => target);
  }

  /** `undefined` where it is left out. */
  #attachOne({ prog, saved }: Attached, target: TypedTarget, mayLeave: boolean): OneAttached | undefined {
    try {
      return attachOne(prog, target, saved, true);
    } catch (cause) {
      if (!(cause instanceof BpfError)) throw cause;
      if (cause.code === 'EMFILE')
        throw new BpfError(
          'EMFILE',
          `program ${prog.name} takes two open files for each function, and this process may not have so many: select fewer, or allow more with ulimit -n`,
          { cause },
        );
      const why = refusal(cause, prog);
      if (why === undefined) throw cause;
      this.leaveOut(target.target, why, mayLeave);
      return undefined;
    }
  }

  get missed(): bigint {
    return this.#now.ones.reduce((sum, { one }) => sum + missedOf(one), this.#missedBefore);
  }

  /** Function by function there is the new one before the old one goes; all or nothing. */
  protected replace(prog: LinuxProg): void {
    const old = this.#now;
    const next = { prog, saved: old.saved, ones: [] };
    this.#attach(
      next,
      old.ones.map(({ target }) => target),
      false,
    );
    this.#letGo(old);
    this.#now = next;
  }

  protected close(): void {
    this.#letGo(this.#now);
    this.#now.saved.close();
  }

  #letGo({ ones }: Attached): void {
    for (const { one } of ones.splice(0).reverse()) {
      this.#missedBefore += missedOf(one);
      detachOne(one);
    }
  }
}

/** Why one function is left out; `undefined` for what is wrong with all. */
function refusal(cause: BpfError, prog: LinuxProg): SkipReason | undefined {
  if (cause instanceof VerifierError)
    return {
      reason: 'kernel-refused',
      detail: `the kernel's verifier refuses the program for it: ${cause.message}`,
    };
  return cause.code === 'EINVAL' || cause.code === 'ENOENT' || cause.code === 'EBUSY'
    ? refusedReason(prog)
    : undefined;
}

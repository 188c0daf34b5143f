/**
 * A program on many functions by a tracing link for each, for kernels that have nothing better: it is loaded for each of
 * them. Seen from outside it is one multi-link, all or nothing.
 */

import { BpfError } from '../../errno.js';
import type { LinkTarget, SkipReason } from '../../kernel.js';
import { VerifierError } from '../../verifier_error.js';
import { type LinuxHost, type TypedTarget, typed } from '../host.js';
import type { LinuxProg } from '../linux_prog.js';
import { SavedCalls } from '../saved_calls.js';
import { LinuxMultiLink } from './multi_link.js';
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

export class EachLink extends LinuxMultiLink {
  readonly way = 'tracing';
  #now: Attached;
  /** Of what was let go of. */
  #missedBefore = 0n;

  constructor(host: LinuxHost, prog: LinuxProg, skipInvalid: boolean, targets: readonly LinkTarget[]) {
    super(host, prog, skipInvalid);
    this.#now = { prog, saved: new SavedCalls(host), ones: [] };
    this.open(targets);
  }

  protected join(targets: readonly LinkTarget[]): readonly LinkTarget[] {
    this.#checkCount(targets.length);
    const withIds = targets.map(one => typed(this.host, one));
    return this.#attach(this.#now, withIds, this.skipInvalid);
  }

  #checkCount(more: number): void {
    const { maxLinks = MOST_LINKS } = this.host.options;
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
    const tell = this.#teller('attached to', targets.length);
    try {
      for (const [index, target] of targets.entries()) {
        const one = this.#attachOne(now, target, mayLeave);
        if (one !== undefined) now.ones.push({ target, one });
        tell(index + 1);
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
    const before = this.#missedBefore + this.#now.saved.lost;
    return this.#now.ones.reduce((sum, { one }) => sum + missedOf(one), before);
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
    const { saved } = this.#now;
    this.#letGo(this.#now);
    this.#missedBefore += saved.lost;
    saved.close();
  }

  /** The kernel takes its time for each: longer than for attaching. */
  #letGo({ ones }: Attached): void {
    const tell = this.#teller('detached from', ones.length);
    for (const [index, { one }] of ones.splice(0).reverse().entries()) {
      this.#missedBefore += missedOf(one);
      detachOne(one);
      tell(index + 1);
    }
  }

  /** Tells now and then how far it came. */
  #teller(what: string, all: number): (done: number) => void {
    const { progress } = this.host.options;
    let told = performance.now();
    return done => {
      if (progress === undefined || performance.now() - told < PROGRESS_MS) return;
      told = performance.now();
      progress(`${what} ${done} of ${all} functions`);
    };
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

/** The plain tracing link of the kernel: one program on one function. */

import type { LinkTarget, TracingLink } from '../../kernel.js';
import { Attr, bpf, Fd, refusedBy } from '../bpf.js';
import { type LinuxHost, refusalOf, type TypedTarget, typed } from '../host.js';
import type { LinuxProg, Part } from '../linux_prog.js';
import { progInfo } from '../program.js';
import { SavedCalls } from '../saved_calls.js';
import { LinuxLink } from './link.js';

/** Offsets in the attribute of BPF_LINK_CREATE. */
const LINK = { prog: 0, attachType: 8, cookie: 24 } as const;

/** A program on one function: what the kernel has of it, in the order in which it was attached. */
export interface OneAttached {
  readonly prog: LinuxProg;
  readonly parts: readonly Part[];
  readonly fds: readonly Fd[];
}

/** Loads a program for one function, and attaches it. Throws with the kernel's reason. */
export function attachOne(prog: LinuxProg, target: TypedTarget, saved: SavedCalls, own = false): OneAttached {
  const one = { prog, parts: prog.loadPlain(target, saved, own), fds: [] as Fd[] };
  try {
    for (const { form, loaded } of one.parts) {
      const attr = new Attr()
        .u32(LINK.prog, loaded.fd.number)
        .u32(LINK.attachType, form.attach)
        .u64(LINK.cookie, target.cookie);
      one.fds.push(new Fd(bpf('LINK_CREATE', attr)));
    }
    return one;
  } catch (cause) {
    detachOne(one);
    throw refusedBy(cause, `a link of program ${prog.name} to ${target.target.module}:${target.target.name}`);
  }
}

/** What is at the entry goes before what is at the return: what was seen to enter is seen to return. */
export function detachOne({ prog, parts, fds }: OneAttached): void {
  for (const fd of [...fds].reverse()) fd.close();
  for (const { loaded, own } of parts) if (own) prog.retire(loaded);
}

export function missedOf({ parts }: OneAttached): bigint {
  return parts.reduce((sum, { loaded }) => sum + progInfo(loaded.fd.number).recursionMisses, 0n);
}

export class PlainLink extends LinuxLink implements TracingLink {
  readonly kind = 'tracing';
  readonly #saved: SavedCalls;
  #target: TypedTarget | undefined;
  #one: OneAttached | undefined;
  /** Of what was let go of. */
  #missedBefore = 0n;

  constructor(host: LinuxHost, prog: LinuxProg, target: LinkTarget) {
    super(host.nextId(), prog);
    this.#saved = new SavedCalls(host);
    try {
      this.attaching(() => {
        const why = refusalOf(host, prog.attachType, target.target);
        if (why !== undefined) this.leaveOut(target.target, why, false);
        this.#target = typed(host, target);
        this.#one = attachOne(prog, this.#target, this.#saved);
        return [target];
      });
    } catch (cause) {
      this.detach();
      throw cause;
    }
  }

  get missed(): bigint {
    return this.#missedBefore + this.#saved.lost + (this.#one === undefined ? 0n : missedOf(this.#one));
  }

  /**
   * The kernel has no way to do it at once: the new one is attached before the old one goes. A call under way that the old one
   * saw enter is seen by the new one at its return.
   */
  protected replace(prog: LinuxProg): void {
    const next = attachOne(prog, this.#target!, this.#saved);
    this.#letGo();
    this.#one = next;
  }

  #letGo(): void {
    if (this.#one === undefined) return;
    this.#missedBefore += missedOf(this.#one);
    detachOne(this.#one);
    this.#one = undefined;
  }

  protected close(): void {
    this.#letGo();
    this.#missedBefore += this.#saved.lost;
    this.#saved.close();
  }
}

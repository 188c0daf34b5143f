/** The plain tracing link of the kernel: one program on one function. */

import type { LinkTarget, TracingLink } from '../../kernel.js';
import { Attr, bpf, Fd, refusedBy } from '../bpf.js';
import { type LinuxHost, PLAIN, sortTargets, type TypedTarget } from '../host.js';
import type { LinuxProg } from '../linux_prog.js';
import { type LoadedProg, progInfo } from '../program.js';
import { LinuxLink } from './link.js';

/** Offsets in the attribute of BPF_LINK_CREATE. */
const LINK = { prog: 0, attachType: 8, cookie: 24 } as const;

/** One program, loaded for one function, and its link. Throws with the kernel's reason. */
export function attachPlain(prog: LinuxProg, { fd }: LoadedProg, target: TypedTarget): Fd {
  const attr = new Attr()
    .u32(LINK.prog, fd.number)
    .u32(LINK.attachType, PLAIN[prog.attachType])
    .u64(LINK.cookie, target.cookie);
  try {
    return new Fd(bpf('LINK_CREATE', attr));
  } catch (cause) {
    throw refusedBy(cause, `a link of program ${prog.name} to ${target.target.module}:${target.target.name}`);
  }
}

export class PlainLink extends LinuxLink implements TracingLink {
  readonly kind = 'tracing';
  #loaded: LoadedProg | undefined;
  #link: Fd | undefined;
  #target: TypedTarget | undefined;

  constructor(host: LinuxHost, prog: LinuxProg, target: LinkTarget) {
    super(host.nextId(), prog);
    try {
      this.attaching(() => {
        const { good, bad } = sortTargets(host, prog.attachType, [target]);
        for (const { target: refused, why } of bad) this.leaveOut(refused, why, false);
        this.#target = good[0];
        this.#attach(prog);
        return good;
      });
    } catch (cause) {
      this.detach();
      throw cause;
    }
  }

  #attach(prog: LinuxProg): void {
    const loaded = prog.loadPlain(this.#target!);
    this.#link = attachPlain(prog, loaded, this.#target!);
    this.#loaded = loaded;
  }

  get missed(): bigint {
    return this.#loaded === undefined || this.#loaded.fd.closed
      ? 0n
      : progInfo(this.#loaded.fd.number).recursionMisses;
  }

  /** The kernel has no way to do it at once: the new one is attached before the old one goes. */
  protected replace(prog: LinuxProg): void {
    const old = this.#link;
    this.#attach(prog);
    old?.close();
  }

  protected close(): void {
    this.#link?.close();
  }
}

/**
 * A kprobe multi-link (`BPF_LINK_TYPE_KPROBE_MULTI`): one program on many functions by their addresses, with cookies. Where the
 * program runs at both ends of a call it is one session link, or, on kernels without, a link at the returns and one at the
 * entries.
 */

import { callLayout } from '../../../process/symbols/call_layout.js';
import { BpfError } from '../../errno.js';
import type { LinkTarget, SkipReason } from '../../kernel.js';
import { Attr, bpf, Fd, objectInfo, refusedBy } from '../bpf.js';
import type { LinuxHost } from '../host.js';
import type { LinuxProg, Part } from '../linux_prog.js';
import { progInfo } from '../program.js';
import { SavedCalls } from '../saved_calls.js';
import { LinuxMultiLink } from './multi_link.js';
import { findRefused, isOfFunctions, refusedReason } from './refused.js';

/** Offsets in the attribute of BPF_LINK_CREATE, and its flag for the return. */
const LINK = { prog: 0, attachType: 8, flags: 16, count: 20, names: 24, addresses: 32, cookies: 40 } as const;
const AT_RETURN = 1;
/** `struct bpf_link_info`: calls that were missed. */
const INFO = { missed: 32, size: 64 } as const;

/** One program and its links. */
interface Attached {
  readonly prog: LinuxProg;
  readonly parts: readonly Part[];
  readonly saved: SavedCalls;
  /** For each `add`: a link for each part. */
  readonly links: { readonly fds: readonly Fd[]; readonly targets: readonly LinkTarget[] }[];
}

export class KprobeMultiLink extends LinuxMultiLink {
  readonly way = 'kprobe_multi';
  #now: Attached | undefined;
  /** Of what was let go of. */
  #missedBefore = 0n;

  constructor(host: LinuxHost, prog: LinuxProg, skipInvalid: boolean, targets: readonly LinkTarget[]) {
    super(host, prog, skipInvalid);
    this.open(targets);
  }

  protected join(targets: readonly LinkTarget[]): readonly LinkTarget[] {
    this.#checkArguments(targets);
    this.#now ??= this.#load(this.prog);
    return this.#attach(this.#now, targets, this.skipInvalid);
  }

  /** Without addresses it is found by its name, which must be its alone. */
  protected override refusal(one: LinkTarget): SkipReason | undefined {
    const { targets } = this.host;
    return targets.hasAddresses
      ? (one.target.unresolved ?? targets.checkAddress(one.target))
      : super.refusal(one);
  }

  /** Registers do not say how many arguments a function has: it is the number that the first one has. */
  #checkArguments(targets: readonly LinkTarget[]): void {
    const { prototype } = this.prog.attr.target ?? {};
    if (prototype === undefined || !this.prog.asksForArguments) return;
    const words = callLayout(prototype).words.length;
    const other = targets.find(
      ({ target }) => callLayout(this.host.targets.prototypeOf(target)).words.length !== words,
    );
    if (other !== undefined)
      throw new BpfError(
        'EOPNOTSUPP',
        `program ${this.prog.name} asks for arguments by number, of which ${other.target.name} does not have ${words}: a kprobe does not know how many there are`,
      );
  }

  #load(prog: LinuxProg): Attached {
    const saved = new SavedCalls(this.host);
    try {
      return { prog, parts: prog.loadKprobe(saved), saved, links: [] };
    } catch (cause) {
      saved.close();
      throw cause;
    }
  }

  /** Attaches to all, or throws and to none. */
  #attach(now: Attached, targets: readonly LinkTarget[], mayLeave: boolean): readonly LinkTarget[] {
    if (targets.length === 0) return [];
    let good = targets;
    let fds = this.#links(now, good);
    if (fds === undefined) {
      const bad = new Set(
        findRefused(targets, mayLeave ? targets.length : 1, part => this.#links(now, part)),
      );
      for (const { target } of bad) this.leaveOut(target, refusedReason(now.prog), mayLeave);
      good = targets.filter(one => !bad.has(one));
      fds = good.length === 0 ? [] : this.#links(now, good);
      if (fds === undefined)
        throw new BpfError(
          'EBUSY',
          `the kernel refuses ${good.length} functions together that it takes one by one: something else changes them now; try again`,
        );
    }
    now.links.push({ fds, targets: good });
    return good;
  }

  /** A link for each part; `undefined` where the kernel refuses one of the functions. */
  #links({ prog, parts }: Attached, targets: readonly LinkTarget[]): Fd[] | undefined {
    const fds: Fd[] = [];
    try {
      for (const part of parts) fds.push(this.#create(part, targets));
      return fds;
    } catch (cause) {
      for (const fd of fds.reverse()) fd.close();
      if (isOfFunctions(cause)) return undefined;
      throw refusedBy(cause, `a kprobe multi-link of program ${prog.name} to ${targets.length} functions`);
    }
  }

  #create({ form, loaded }: Part, targets: readonly LinkTarget[]): Fd {
    const attr = new Attr()
      .u32(LINK.prog, loaded.fd.number)
      .u32(LINK.attachType, form.attach)
      .u32(LINK.flags, form.atReturn ? AT_RETURN : 0)
      .u32(LINK.count, targets.length)
      .words(
        LINK.cookies,
        targets.map(({ cookie }) => cookie),
      );
    if (this.host.targets.hasAddresses)
      attr.words(
        LINK.addresses,
        targets.map(({ target }) => target.address),
      );
    else
      attr.texts(
        LINK.names,
        targets.map(({ target }) => target.name),
      );
    return new Fd(bpf('LINK_CREATE', attr));
  }

  get missed(): bigint {
    let missed = this.#missedBefore;
    if (this.#now !== undefined) missed += missedOf(this.#now);
    return missed;
  }

  /** The new one is attached to all before the old one goes: the kernel has no way to do it at once. */
  protected replace(prog: LinuxProg): void {
    const old = this.#now!;
    const next = this.#load(prog);
    try {
      this.#attach(
        next,
        old.links.flatMap(({ targets }) => targets),
        false,
      );
    } catch (cause) {
      this.#letGo(next);
      throw cause;
    }
    this.#letGo(old);
    this.#now = next;
  }

  protected close(): void {
    if (this.#now !== undefined) this.#letGo(this.#now);
    this.#now = undefined;
  }

  /** Entries go before returns: what was seen to enter is seen to return. */
  #letGo(attached: Attached): void {
    this.#missedBefore += missedOf(attached);
    for (const { fds } of attached.links) for (const fd of [...fds].reverse()) fd.close();
    for (const { loaded, own } of attached.parts) if (own) attached.prog.retire(loaded);
    attached.saved.close();
  }
}

function missedOf({ parts, links, saved }: Attached): bigint {
  let missed = saved.lost;
  for (const { loaded } of parts) missed += progInfo(loaded.fd.number).recursionMisses;
  for (const { fds } of links)
    for (const fd of fds)
      missed += objectInfo(fd.number, Buffer.alloc(INFO.size)).readBigUInt64LE(INFO.missed);
  return missed;
}

/**
 * The kernel's own tracing multi-link (`BPF_LINK_TYPE_TRACING_MULTI`): one program on many functions of one BTF object by one
 * `link_create`, with ids and cookies. Functions of several modules take one for each module, and the program is loaded for
 * each.
 */

import type { LinkTarget } from '../../kernel.js';
import { Attr, bpf, Fd, refusedBy } from '../bpf.js';
import { type LinuxHost, NATIVE_MULTI, type TypedTarget, typed } from '../host.js';
import type { LinuxProg } from '../linux_prog.js';
import { type LoadedProg, progInfo } from '../program.js';
import { LinuxMultiLink } from './multi_link.js';
import { findRefused, isOfFunctions, refusedReason } from './refused.js';

/** Offsets in the attribute of BPF_LINK_CREATE. */
const LINK = { prog: 0, attachType: 8, ids: 16, cookies: 24, count: 32 } as const;

/** What is attached in one BTF object. */
interface Part {
  readonly loaded: LoadedProg;
  readonly links: { readonly fd: Fd; readonly targets: readonly TypedTarget[] }[];
}

export class NativeMultiLink extends LinuxMultiLink {
  readonly way = 'tracing_multi';
  #parts = new Map<string, Part>();

  constructor(host: LinuxHost, prog: LinuxProg, skipInvalid: boolean, targets: readonly LinkTarget[]) {
    super(host, prog, skipInvalid);
    this.open(targets);
  }

  protected join(targets: readonly LinkTarget[]): readonly LinkTarget[] {
    const withIds = targets.map(one => typed(this.host, one));
    return this.#attach(this.#parts, this.prog, withIds, this.skipInvalid);
  }

  /** Attaches `targets` by one link for each BTF object; all or nothing. */
  #attach(
    parts: Map<string, Part>,
    prog: LinuxProg,
    targets: readonly TypedTarget[],
    mayLeave: boolean,
  ): TypedTarget[] {
    const byModule = new Map<string, TypedTarget[]>();
    for (const one of targets) {
      const list = byModule.get(one.target.module);
      if (list === undefined) byModule.set(one.target.module, [one]);
      else list.push(one);
    }
    const made: { part: Part; fd: Fd }[] = [];
    const attached: TypedTarget[] = [];
    try {
      for (const [module, list] of byModule) {
        let part = parts.get(module);
        if (part === undefined) {
          part = { loaded: prog.loadNative(module), links: [] };
          parts.set(module, part);
        }
        const { loaded } = part;
        let good: readonly TypedTarget[] = list;
        let fd = create(prog, loaded, list);
        if (fd === undefined) {
          const attempt = (some: readonly TypedTarget[]): Fd[] | undefined => {
            const one = create(prog, loaded, some);
            return one && [one];
          };
          const bad = new Set(findRefused(list, mayLeave ? list.length : 1, attempt));
          for (const { target } of bad) this.leaveOut(target, refusedReason(prog), mayLeave);
          good = list.filter(one => !bad.has(one));
          fd = good.length === 0 ? undefined : create(prog, loaded, good);
        }
        if (fd === undefined) continue;
        part.links.push({ fd, targets: good });
        made.push({ part, fd });
        attached.push(...good);
      }
      return attached;
    } catch (cause) {
      for (const { part, fd } of made.reverse()) {
        fd.close();
        part.links.pop();
      }
      throw cause;
    }
  }

  get missed(): bigint {
    let missed = 0n;
    if (!this.detached)
      for (const { loaded } of this.#parts.values()) missed += progInfo(loaded.fd.number).recursionMisses;
    return missed;
  }

  /** The new one is attached to all before the old one goes: the kernel has no way to do it at once. */
  protected replace(prog: LinuxProg): void {
    const parts = new Map<string, Part>();
    try {
      this.#attach(parts, prog, this.#all(), false);
    } catch (cause) {
      this.#letGo(parts);
      throw cause;
    }
    this.#letGo(this.#parts);
    this.#parts = parts;
  }

  #all(): TypedTarget[] {
    return [...this.#parts.values()].flatMap(({ links }) => links.flatMap(({ targets }) => targets));
  }

  protected close(): void {
    this.#letGo(this.#parts);
  }

  #letGo(parts: ReadonlyMap<string, Part>): void {
    for (const { links } of parts.values()) for (const { fd } of links) fd.close();
  }
}

/** One link on all of them; `undefined` where the kernel refuses one. */
function create(prog: LinuxProg, { fd }: LoadedProg, targets: readonly TypedTarget[]): Fd | undefined {
  const attr = new Attr()
    .u32(LINK.prog, fd.number)
    .u32(LINK.attachType, NATIVE_MULTI[prog.attachType] as number)
    .pointer(LINK.ids, new Uint8Array(Uint32Array.from(targets, ({ btfId }) => btfId).buffer))
    .words(
      LINK.cookies,
      targets.map(({ cookie }) => cookie),
    )
    .u32(LINK.count, targets.length);
  try {
    return new Fd(bpf('LINK_CREATE', attr));
  } catch (cause) {
    if (isOfFunctions(cause)) return undefined;
    throw refusedBy(cause, `a tracing multi-link of program ${prog.name} to ${targets.length} functions`);
  }
}

/** The tracing multi-link (`bpf_tracing_multi_link`): one program on many functions, one owner of them all. */

import type { BpfProg, LinkPattern, LinkTarget, TargetFunction, TracingMultiLink } from '../../kernel.js';
import { type Appeared, Link, type LinkHost } from './link.js';

export class MultiLink extends Link implements TracingMultiLink {
  readonly kind = 'tracing_multi';
  readonly way = 'tracing_multi';
  readonly #skipInvalid: boolean;
  readonly #pattern: (LinkPattern & { match(): readonly TargetFunction[] }) | undefined;

  /** With a pattern, `match` tells what it matches now; nothing joins before `open` or `add`. */
  constructor(
    host: LinkHost,
    id: number,
    prog: BpfProg,
    skipInvalid: boolean,
    pattern?: LinkPattern & { match(): readonly TargetFunction[] },
  ) {
    super(host, id, prog);
    this.#skipInvalid = skipInvalid;
    this.#pattern = pattern;
  }

  add(targets: readonly LinkTarget[]): void {
    this.join(targets, this.#skipInvalid);
  }

  /** Joins what the pattern matches for the first time. */
  open(): void {
    this.add(this.#matched());
  }

  #matched(): LinkTarget[] {
    const pattern = this.#pattern;
    if (pattern === undefined) return [];
    this.retry('ifunc-unresolved');
    const joined = new Set(this.targets.map(({ target }) => target.address));
    const left = new Set(this.skipped.map(s => keyOf(s.module, s.function, s.address)));
    return pattern
      .match()
      .filter(({ module, name, address }) => !joined.has(address) && !left.has(keyOf(module, name, address)))
      .map(target => ({
        target,
        cookie: target.unresolved === undefined ? (pattern.cookie?.(target) ?? 0n) : 0n,
      }));
  }

  protected override wanted(appeared: Appeared, gone: readonly LinkTarget[]): LinkTarget[] {
    return this.#pattern === undefined ? super.wanted(appeared, gone) : this.#matched();
  }
}

/** Another library may be where one was. */
function keyOf(module: string, name: string, address: bigint): string {
  return `${address} ${module} ${name}`;
}

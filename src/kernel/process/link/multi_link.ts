/** The tracing multi-link (`bpf_tracing_multi_link`): one program on many functions, one owner of them all. */

import type { BpfProg, LinkTarget, TracingMultiLink } from '../../kernel.js';
import { Link, type LinkHost } from './link.js';

export class MultiLink extends Link implements TracingMultiLink {
  readonly kind = 'tracing_multi';
  readonly #skipInvalid: boolean;

  constructor(host: LinkHost, id: number, prog: BpfProg, skipInvalid: boolean) {
    super(host, id, prog);
    this.#skipInvalid = skipInvalid;
  }

  add(targets: readonly LinkTarget[]): void {
    this.join(targets, this.#skipInvalid);
  }
}

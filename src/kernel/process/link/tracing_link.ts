/** The plain tracing link (`bpf_tracing_link`): one program on one function. */

import type { BpfProg, LinkTarget, TracingLink } from '../../kernel.js';
import { Link, type LinkHost } from './link.js';

export class PlainLink extends Link implements TracingLink {
  readonly kind = 'tracing';

  /** Attaches it. Throws EINVAL and the like naming the function. */
  constructor(host: LinkHost, id: number, prog: BpfProg, target: LinkTarget) {
    super(host, id, prog);
    this.join([target], false);
  }
}

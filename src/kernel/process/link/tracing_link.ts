/** The plain tracing link (`bpf_tracing_link`): one program on one function. */

import type { LinkTarget, TracingLink } from '../../kernel.js';
import { Link } from './link.js';

export class PlainLink extends Link implements TracingLink {
  readonly kind = 'tracing';

  /** Attaches it. Throws EINVAL and the like naming the function. */
  open(target: LinkTarget): void {
    this.join([target], false);
  }
}

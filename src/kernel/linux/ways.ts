/**
 * By which way a program comes to many functions: the best that the kernel has and that can give the program what it reads,
 * or the one that was asked for.
 */

import { BpfError } from '../errno.js';
import type { AttachType, LinkTarget, TracingMultiLink, Way } from '../kernel.js';
import { VerifierError } from '../verifier_error.js';
import type { LinuxHost } from './host.js';
import { EachLink } from './link/each.js';
import { KprobeMultiLink } from './link/kprobe_multi.js';
import { NativeMultiLink } from './link/native.js';
import type { LinuxProg } from './linux_prog.js';

const LINKS = {
  tracing_multi: NativeMultiLink,
  kprobe_multi: KprobeMultiLink,
  tracing: EachLink,
} as const satisfies Record<Way, unknown>;

/** The ways that may be tried, best first. Throws EOPNOTSUPP, with what is missing, where there is none. */
export function waysOf({ options, features }: LinuxHost, attachType: AttachType): readonly Way[] {
  const { ways, why } = features.ways(attachType);
  const { way } = options;
  if (way === undefined && ways.length > 0) return ways;
  if (way !== undefined && ways.includes(way)) return [way];
  const wanted = way === undefined ? 'be on many functions' : `be on many functions by the way ${way}`;
  throw new BpfError('EOPNOTSUPP', `${attachType} programs can't ${wanted} here: ${why ?? otherWays(ways)}`);
}

function otherWays(ways: readonly Way[]): string {
  return ways.length === 0 ? 'there is no way' : `this kernel has ${ways.join(', ')} for them`;
}

/** Loads a program in the first way in which it can be. Throws the first refusal: of the best way. */
export function loadMulti(host: LinuxHost, prog: LinuxProg): void {
  tryWays(host, prog, way => {
    prog.loadFor(way);
    prog.way = way;
  });
}

/** Attaches a program to many functions. Throws as the link does, by the best way that the program can be in. */
export function linkMulti(
  host: LinuxHost,
  prog: LinuxProg,
  skipInvalid: boolean,
  targets: readonly LinkTarget[],
): TracingMultiLink {
  return tryWays(host, prog, way => new LINKS[way](host, prog, skipInvalid, targets));
}

/** Goes on to the next way where one can't have the program; a function that can't be attached is no reason to. */
function tryWays<T>(host: LinuxHost, prog: LinuxProg, attempt: (way: Way) => T): T {
  let first: BpfError | undefined;
  const ways = waysOf(host, prog.attachType);
  // It was found out when it was loaded that it can't be in those before.
  for (const way of ways.slice(Math.max(0, ways.indexOf(prog.way ?? ways[0])))) {
    try {
      return attempt(way);
    } catch (cause) {
      const passes =
        cause instanceof VerifierError || (cause instanceof BpfError && cause.code === 'EOPNOTSUPP');
      if (!passes) throw cause;
      first ??= cause;
    }
  }
  throw first;
}

/** Which functions the kernel refuses when it refuses a link as a whole, of which it names none. */

import { SystemError } from '../../../ffi/libc.js';
import { errnoName } from '../../errno.js';
import type { SkipReason } from '../../kernel.js';
import type { Fd } from '../bpf.js';
import type { LinuxProg } from '../linux_prog.js';

/** Why a function is left out that the kernel refuses. */
export function refusedReason({ attr }: LinuxProg): SkipReason {
  const detail = attr.sleepable
    ? 'the kernel does not run programs that may sleep in it, and does not say why'
    : 'the kernel does not attach tracing programs to it, and does not say why';
  return { reason: 'kernel-refused', detail };
}

/** What a kernel says of a function that it does not attach to; EADDRNOTAVAIL has no name here. */
const OF_FUNCTIONS: ReadonlySet<string | undefined> = new Set(['EINVAL', 'ENOENT', 'EBUSY', 'ESRCH']);
const EADDRNOTAVAIL = 99;

/** Whether a link was refused because of its functions. */
export function isOfFunctions(cause: unknown): boolean {
  return (
    cause instanceof SystemError &&
    (cause.errno === EADDRNOTAVAIL || OF_FUNCTIONS.has(errnoName(cause.errno)))
  );
}

/** Those that the kernel refuses, at most `most` of them: halves are tried till they are found. */
export function findRefused<T>(
  list: readonly T[],
  most: number,
  attempt: (part: readonly T[]) => readonly Fd[] | undefined,
): T[] {
  const found: T[] = [];
  const search = (part: readonly T[]): void => {
    if (part.length === 0 || found.length >= most) return;
    const links = attempt(part);
    if (links !== undefined) for (const fd of links) fd.close();
    else if (part.length === 1) found.push(part[0]);
    else {
      const middle = part.length >> 1;
      search(part.slice(0, middle));
      search(part.slice(middle));
    }
  };
  search(list);
  return found;
}

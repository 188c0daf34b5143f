/** Waiting for file descriptors on a thread of libuv's, so that node's loop goes on. */

import { pollAsync } from '../../ffi/libc.js';

/** A wait in the kernel is no longer than this, so that a map that is closed meanwhile is let go of soon, ms. */
const LONGEST_MS = 250;

/** Resolves when one of them can be read, or after `timeoutMs` at the latest: whether one can. */
export async function pollReadable(fds: readonly number[], timeoutMs: number): Promise<boolean> {
  return (await pollAsync(fds, Math.min(timeoutMs, LONGEST_MS))) > 0;
}

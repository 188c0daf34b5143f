/**
 * Moves threads off islands (ftrace/islands.ts) whose padding is about to be put back. A thread stands there between
 * the two jumps of a patch site: both do nothing but jump, so it starts again at the site.
 */

import type { TracedProcess } from '../../process/process.js';
import { R, setRegisters } from '../../process/registers.js';
import { forEachSavedRip } from '../../process/stacks.js';
import type { Stop } from './stopper.js';

/** `sites`: the site of each island, by the island's address. Threads in a signal handler will return to the site. */
export function stepBack(process: TracedProcess, stop: Stop, sites: ReadonlyMap<number, bigint>): void {
  if (sites.size === 0) return;
  const islands = [...sites.keys()];
  const low = islands.reduce((a, b) => Math.min(a, b));
  const high = islands.reduce((a, b) => Math.max(a, b)) + 1;
  for (const thread of stop.threads) {
    const site = sites.get(Number(thread.registers[R.rip]));
    if (site !== undefined) {
      thread.registers[R.rip] = site;
      setRegisters(thread.tid, thread.registers);
    }
    forEachSavedRip(
      process,
      thread,
      low,
      high,
      address => sites.has(address),
      (address, at) => {
        process.pokeText(thread.tid, at, sites.get(address)!);
        return false;
      },
    );
  }
}

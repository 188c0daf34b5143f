/** The machine's processors, by the kernel's lists of them, such as 0-3,8. */

import { readFileSync } from 'node:fs';

/** Numbers of those that are running, or that there may be. */
export function cpus(which: 'online' | 'possible'): number[] {
  const list = readFileSync(`/sys/devices/system/cpu/${which}`, 'utf8').trim();
  return list.split(',').flatMap(part => {
    const [first, last = first] = part.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

/** How many values per-CPU maps have for each key. */
export function possibleCpus(): number {
  return Math.max(...cpus('possible')) + 1;
}

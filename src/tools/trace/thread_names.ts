/** Names of threads, as the kernel has them (`comm`), kept for those that are gone. */

import { existsSync, readFileSync } from 'node:fs';

/** The kernel's idle threads, one for each CPU, have this number, and no folder. */
const IDLE = 0;
/** How often a name is read again, ms: threads are named after they have begun. */
const AGAIN_MS = 500;

export class ThreadNames {
  readonly #names = new Map<string, { name: string; read: number }>();

  /** The thread's name, or that of its process where it was gone before it was asked for; empty where both are. */
  readonly name = (pid: number, tid: number): string => {
    const key = `${pid} ${tid}`;
    const known = this.#names.get(key);
    const now = performance.now();
    if (known !== undefined && now - known.read < AGAIN_MS) return known.name;
    const fresh = read(pid, tid) ?? known?.name ?? (pid === tid ? '' : this.name(pid, pid));
    this.#names.set(key, { name: fresh, read: now });
    return fresh;
  };
}

function read(pid: number, tid: number): string | undefined {
  if (tid === IDLE) return 'swapper';
  try {
    const name = readFileSync(`/proc/${pid}/task/${tid}/comm`, 'utf8').replace(/\n$/, '');
    // A name is anything: keep it on its line.
    return name.replace(/[^\x20-\x7e]/g, '?');
  } catch {
    return undefined;
  }
}

/** Whether the thread still runs. */
export function threadRuns(pid: number, tid: number): boolean {
  return tid === IDLE || existsSync(`/proc/${pid}/task/${tid}`);
}

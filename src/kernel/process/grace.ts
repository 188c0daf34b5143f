/**
 * The grace period: what text, records and maps no longer name is freed when nobody can still be in it, and never
 * before. It ends however long a thread sits in a traced function: such a thread is in no code of ours, and the stop that
 * looks takes what it would run at its return off the call (`kfunc_md/settle.ts`).
 *
 * Two conditions, one after the other: a stop that finds no thread of the process in code of ours; and, for what only
 * one user may have at a time, that no child which the process forked is left. A child has our memory and its own text,
 * which still leads there; it is not stopped by us. What a child that came after the quiet stop has leads there no more.
 */

import { readdirSync } from 'node:fs';
import { programIdentity } from '../../process/process.js';

type Free = () => void;

export class GracePeriod {
  readonly #task: number;
  #quiet: Free[] = [];
  #alone: Free[] = [];
  /** Quiet since, and perhaps in use by forked children. */
  #settled: Free[] = [];

  /** `task`: a thread of the process. */
  constructor(task: number) {
    this.#task = task;
  }

  /** `free` is called in the first stop that finds no thread in code of ours. */
  whenQuiet(free: Free): void {
    this.#quiet.push(free);
  }

  /** The same, and after that stop, when no forked child is there that has our memory. */
  whenAlone(free: Free): void {
    this.#alone.push(free);
  }

  /** A quiet stop would free something, or let it be freed. */
  get waitsForQuiet(): boolean {
    return this.#quiet.length > 0 || this.#alone.length > 0;
  }

  /** Something waits for children to end. */
  get waitsForChildren(): boolean {
    return this.#settled.length > 0;
  }

  /** In a stop: no thread is in code of ours, and no call under way names what was retired. */
  quiet(): void {
    const free = this.#quiet;
    this.#quiet = [];
    this.#settled.push(...this.#alone);
    this.#alone = [];
    for (const one of free) one();
  }

  /** After a stop: frees what is nobody's. */
  reclaim(): void {
    if (this.#settled.length === 0 || hasForks(this.#task)) return;
    const free = this.#settled;
    this.#settled = [];
    for (const one of free) one();
  }
}

/**
 * Whether a process forked off the one of `task` and did not exec since: it has the same auxiliary vector, random
 * addresses and all. One that may not be looked into is not seen.
 */
export function hasForks(task: number): boolean {
  const own = programIdentity(task);
  if (own === '') return false;
  return readdirSync('/proc').some(
    name => /^\d+$/.test(name) && Number(name) !== task && programIdentity(Number(name)) === own,
  );
}

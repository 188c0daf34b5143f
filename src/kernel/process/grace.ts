/**
 * The grace period: what text, records and maps no longer name is freed when nobody can still be in it, and never
 * before. It ends however long a thread sits in a traced function: such a thread is in no code of ours, and the stop that
 * looks takes what it would run at its return off the call (`kfunc_md/settle.ts`).
 *
 * Two conditions, one after the other: that every thread which was in code of ours when it was retired was seen outside
 * since, each in a stop of its own if need be (of many threads that are always busy there is always one inside); and, for
 * what only one user may have at a time, that no child which the process forked is left. A child has our memory and its own
 * text, which still leads there; it is not stopped by us. What a child that came later has leads there no more.
 */

import { readdirSync } from 'node:fs';
import { programIdentity } from '../../process/process.js';

type Free = () => void;

/** Between two looks for forked children passes so many times what one takes. */
const LOOK_SHARE = 20;

/** What was retired, and the threads that may be in it. */
interface Batch {
  readonly quiet: readonly Free[];
  readonly alone: readonly Free[];
  waiting: number[];
}

export class GracePeriod {
  readonly #task: number;
  #quiet: Free[] = [];
  #alone: Free[] = [];
  #batches: Batch[] = [];
  /** Quiet since, and perhaps in use by forked children. */
  #settled: Free[] = [];
  #nextLook = 0;

  /** `task`: a thread of the process. */
  constructor(task: number) {
    this.#task = task;
  }

  /** `free` is called in the first stop by which no thread can be in what it frees. */
  whenQuiet(free: Free): void {
    this.#quiet.push(free);
  }

  /** The same, and after that stop, when no forked child is there that has our memory. */
  whenAlone(free: Free): void {
    this.#alone.push(free);
  }

  /** A stop may free something, or let it be freed. */
  get waitsForQuiet(): boolean {
    return this.#quiet.length > 0 || this.#alone.length > 0 || this.#batches.length > 0;
  }

  /** Something waits for children to end. */
  get waitsForChildren(): boolean {
    return this.#settled.length > 0;
  }

  /** In a stop: these threads are in code of ours; of the others no call under way names what was retired. */
  look(inside: ReadonlySet<number>): void {
    this.#batches.push({ quiet: this.#quiet, alone: this.#alone, waiting: [...inside] });
    this.#quiet = [];
    this.#alone = [];
    const over: Batch[] = [];
    this.#batches = this.#batches.filter(batch => {
      batch.waiting = batch.waiting.filter(tid => inside.has(tid));
      if (batch.waiting.length === 0) over.push(batch);
      return batch.waiting.length > 0 && (batch.quiet.length > 0 || batch.alone.length > 0);
    });
    for (const { quiet, alone } of over) {
      this.#settled.push(...alone);
      for (const free of quiet) free();
    }
  }

  /** After a stop: frees what is nobody's. Looking for children takes a share of the time at most. */
  reclaim(): void {
    const begin = performance.now();
    if (this.#settled.length === 0 || begin < this.#nextLook) return;
    const forked = hasForks(this.#task);
    this.#nextLook = begin + (performance.now() - begin) * LOOK_SHARE;
    if (forked) return;
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

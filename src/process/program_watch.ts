/**
 * Whether a process that is not our child still runs the program that it ran: asked twenty times a second, for the
 * price of one system call.
 *
 * An open /proc/PID/mem belongs to the memory that the process had then (proc_pid_mem(5)): when that is gone, by exec or
 * by exit, there is nothing to read any more. Now and then the whole is looked at: a child made by vfork may
 * keep the memory for a while.
 */

import { closeSync, openSync, readSync } from 'node:fs';
import { programIdentity } from './process.js';

/** auxv's address of the program headers (getauxval(3)): memory that every program has. */
const AT_PHDR = 3n;
/** Every so many-th look is a whole one. */
const WHOLE_LOOK = 10;

export class ProgramWatch implements Disposable {
  readonly #task: number;
  /** What tells programs apart. */
  readonly identity: string;
  readonly #address: bigint | undefined;
  readonly #byte = Buffer.alloc(1);
  #memory: number | undefined;
  #looks = 0;

  constructor(task: number) {
    this.#task = task;
    this.identity = programIdentity(task);
    const auxv = Buffer.from(this.identity, 'latin1');
    for (let at = 0; at + 16 <= auxv.length; at += 16)
      if (auxv.readBigUInt64LE(at) === AT_PHDR) this.#address = auxv.readBigUInt64LE(at + 8);
    try {
      this.#memory = openSync(`/proc/${task}/mem`, 'r');
    } catch {
      // Then every look is a whole one.
    }
  }

  /** It runs that program; false for one that execed another, or ended. */
  get unchanged(): boolean {
    if (++this.#looks % WHOLE_LOOK !== 0 && this.#memory !== undefined && this.#address !== undefined)
      try {
        return readSync(this.#memory, this.#byte, 0, 1, this.#address) === 1;
      } catch {
        // Not mapped any more: that says nothing.
      }
    const now = programIdentity(this.#task);
    return now !== '' && now === this.identity;
  }

  [Symbol.dispose](): void {
    if (this.#memory !== undefined) closeSync(this.#memory);
    this.#memory = undefined;
  }
}

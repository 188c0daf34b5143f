/**
 * Whether a process that we do not trace has ended. An open /proc/PID/stat belongs to that process alone, also when the
 * number is another's later (proc_pid_stat(5)).
 */

import { closeSync, openSync, readdirSync, readSync } from 'node:fs';

/** The line's length is far below it. */
const MOST_BYTES = 1024;

export class EndWatch implements Disposable {
  readonly pid: number;
  readonly #buffer = Buffer.alloc(MOST_BYTES);
  #stat: number | undefined;

  constructor(pid: number) {
    this.pid = pid;
    try {
      this.#stat = openSync(`/proc/${pid}/stat`, 'r');
    } catch {
      // It has ended already.
    }
  }

  get ended(): boolean {
    if (this.#stat === undefined) return true;
    try {
      const length = readSync(this.#stat, this.#buffer, 0, MOST_BYTES, 0);
      const line = this.#buffer.toString('latin1', 0, length);
      // The name before the state may hold anything, brackets too.
      const state = line[line.lastIndexOf(')') + 2];
      // The main thread may end before others.
      return 'ZX'.includes(state) && readdirSync(`/proc/${this.pid}/task`).length <= 1;
    } catch {
      return true;
    }
  }

  [Symbol.dispose](): void {
    if (this.#stat !== undefined) closeSync(this.#stat);
    this.#stat = undefined;
  }
}

/** What programs print with `bpf_trace_printk`: the kernel's trace pipe, which all programs of the machine share. */

import { closeSync, constants, openSync, readSync } from 'node:fs';
import { BpfError } from '../errno.js';

const PIPES = ['/sys/kernel/tracing/trace_pipe', '/sys/kernel/debug/tracing/trace_pipe'];
/** `name-pid [cpu] flags time: bpf_trace_printk: text` */
const LINE = /: bpf_trace_v?printk: (.*)$/;

export class TraceLog {
  readonly #fd: number;
  readonly #buffer = Buffer.alloc(64 << 10);
  #rest = '';

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Throws EOPNOTSUPP where it can't be read. */
  static open(): TraceLog {
    for (const path of PIPES)
      try {
        return new TraceLog(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
      } catch {
        // The other place, then.
      }
    throw new BpfError(
      'EOPNOTSUPP',
      `what programs print can't be read: ${PIPES[0]} can't be opened (mount -t tracefs tracefs /sys/kernel/tracing; it needs root)`,
    );
  }

  /** The lines since the last call; never waits. */
  read(): string[] {
    for (;;) {
      let length: number;
      try {
        length = readSync(this.#fd, this.#buffer);
      } catch {
        // Nothing is there now.
        break;
      }
      if (length === 0) break;
      this.#rest += this.#buffer.toString('utf8', 0, length);
    }
    const lines = this.#rest.split('\n');
    this.#rest = lines.pop() as string;
    return lines.flatMap(line => LINE.exec(line)?.[1] ?? []);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

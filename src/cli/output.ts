/**
 * What the commands print with. Written straight to the file descriptors: node's own streams would make a pipe that
 * we share with the traced program non-blocking, and the program would meet EAGAIN.
 */

import { writeSync } from 'node:fs';
import { sleepHere } from '../ffi/libc.js';

function write(fd: number, text: string): void {
  const bytes = Buffer.from(text, 'utf8');
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(fd, bytes, done);
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      // Somebody else made the pipe non-blocking: wait for its reader.
      if (code === 'EAGAIN') sleepHere(1);
      // The reader is gone (`| head`): there is nobody to tell.
      else if (code === 'EPIPE') return;
      else throw cause;
    }
  }
}

/** Results: standard output. */
export function print(text: string): void {
  write(1, text);
}

/** Everything else: standard error, one line. */
export function note(text: string): void {
  write(2, `multitrace: ${text}\n`);
}

/** Text for standard error as it is. */
export function printError(text: string): void {
  write(2, text);
}

/** A number with thousands apart. */
export function grouped(value: number | bigint): string {
  return value.toString().replace(/\B(?=(\d{3})+$)/g, ',');
}

/** Columns of text, aligned; those named in `right` to the right. The last column is not padded. */
export function table(rows: readonly (readonly string[])[], right: readonly number[]): string {
  const widths: number[] = [];
  for (const row of rows)
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  return rows
    .map(row =>
      row
        .map((cell, i) =>
          right.includes(i) ? cell.padStart(widths[i]) : i === row.length - 1 ? cell : cell.padEnd(widths[i]),
        )
        .join('  '),
    )
    .map(line => `${line}\n`)
    .join('');
}

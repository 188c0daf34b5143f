/**
 * What the commands print with. Written straight to the file descriptors: node's own streams would make a pipe that
 * we share with the traced program non-blocking, and the program would meet EAGAIN.
 */

import { writeSync } from 'node:fs';
import { sleepHere } from '../ffi/libc.js';

const STDOUT = 1;

/** Is told when nobody gets what is printed any more. */
let onLost: (() => void) | undefined;
let failed = false;

/** Calls `lost`, once, when standard output can't be written to: its reader is gone (`| head`), or there is no room. */
export function whenOutputIsLost(lost: () => void): void {
  onLost = lost;
}

/** Results could not be written, although somebody may want them. */
export function outputFailed(): boolean {
  return failed;
}

function write(fd: number, text: string): void {
  const bytes = Buffer.from(text, 'utf8');
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(fd, bytes, done);
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      // Somebody else made the pipe non-blocking: wait for its reader.
      if (code === 'EAGAIN') sleepHere(1);
      else {
        if (fd === STDOUT) lost(cause as NodeJS.ErrnoException);
        return;
      }
    }
  }
}

function lost({ code, message }: NodeJS.ErrnoException): void {
  // A reader that is gone has what it wants.
  if (code !== 'EPIPE' && !failed) {
    failed = true;
    note(`standard output can't be written to: ${message}`);
  }
  const tell = onLost;
  onLost = undefined;
  tell?.();
}

/** Results: standard output. */
export function print(text: string): void {
  write(STDOUT, text);
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

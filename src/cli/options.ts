/**
 * What the commands have in common: how a command line is split, values checked, and errors told.
 */

import { constants } from 'node:os';
import { InvalidArgumentError } from 'commander';
import { BpfError } from '../kernel/errno.js';
import type { ExitStatus } from '../process/process.js';
import { note } from './output.js';

/** Bad usage or input that could be told before anything was done. */
export const EXIT_USAGE = 2;
/** Something failed. */
export const EXIT_FAILURE = 1;

/** Splits at the first `--`: what is ours, and the command to trace. */
export function splitCommand(argv: readonly string[]): { own: string[]; command: string[] | undefined } {
  const at = argv.indexOf('--');
  return at < 0
    ? { own: [...argv], command: undefined }
    : { own: argv.slice(0, at), command: argv.slice(at + 1) };
}

/** A commander argument parser: a positive number of seconds. */
export function seconds(text: string): number {
  const value = Number(text);
  if (!(value > 0) || !Number.isFinite(value) || value > 1e6)
    throw new InvalidArgumentError('Give a positive number of seconds, such as 5 or 0.5.');
  return value;
}

/** A commander argument parser: a positive whole number. */
export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || value > 2 ** 31 - 1)
    throw new InvalidArgumentError('Give a positive whole number.');
  return value;
}

/** A commander argument parser: how much the verifier logs. */
export function logLevel(text: string): number {
  if (!/^[0-7]$/.test(text)) {
    const levels = '1 (the path that was refused), 2 (every instruction), 4 (statistics)';
    throw new InvalidArgumentError(`Give ${levels}, or a sum of them.`);
  }
  return Number(text);
}

/** A commander argument parser for options that are given several times. */
export function collect(text: string, before: readonly string[] | undefined): readonly string[] {
  return [...(before ?? []), text];
}

/** Some numbers have two names; the first is the usual one (SIGABRT, not SIGIOT). */
const signalNames = new Map<number, string>(
  Object.entries(constants.signals)
    .map(([name, number]): [number, string] => [number, name])
    .reverse(),
);

/** `SIGINT` for 2. */
export function signalName(signal: number): string {
  return signalNames.get(signal) ?? `SIG${signal}`;
}

/** The exit status that stands for the program's: its code, or 128 and its signal, as shells do. */
export function exitCodeOf(exit: ExitStatus | undefined): number {
  if (exit === undefined) return 0;
  return 'code' in exit ? exit.code : 128 + exit.signal;
}

/** Tells an error in one line; the exit status for it. */
export function tell(cause: unknown): number {
  if (cause instanceof BpfError) {
    note(cause.message);
    return cause.code === 'EINVAL' ? EXIT_USAGE : EXIT_FAILURE;
  }
  note(`internal error: ${cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)}`);
  return EXIT_FAILURE;
}

/**
 * What tracing adds to a call, measured: a program of ours (calibration_program.ts) calls an empty function, once as it is
 * and once traced by the very program that `latency` uses, on this machine, now.
 */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { BpfError } from '../../kernel/errno.js';
import { ProcessKernel } from '../../kernel/process/machine.js';
import type { TracedProcess } from '../../process/process.js';
import { spawnStopped } from '../../process/spawn.js';
import { SelectorSet } from '../../process/symbols/selector.js';
import { CALLS, calibrationProgram, RESULTS, TRACED } from './calibration_program.js';
import { percentile } from './histogram.js';
import { Latency } from './latency.js';

export interface Overhead {
  /** What a traced call costs more than an untraced one, ns. */
  readonly perCall: number;
  /** The part of it that is within the measured duration, ns. */
  readonly measured: number;
}

/** How long the program may take, ms; it takes some 20. */
const LIMIT_MS = 3000;
const LOOK_MS = 2;

/** `undefined` where it can't be measured: there is no folder to run a program from, or the process may not be traced. */
export function measureOverhead(): Overhead | undefined {
  let folder: string | undefined;
  let child: TracedProcess | undefined;
  try {
    folder = mkdtempSync(join(tmpdir(), 'multitrace-calibration-'));
    const path = join(folder, 'calibration');
    writeFileSync(path, calibrationProgram(), { mode: 0o755 });
    child = spawnStopped([path]);
    return measure(child);
  } catch (cause) {
    if (cause instanceof BpfError || (cause as NodeJS.ErrnoException).code !== undefined) return undefined;
    throw cause;
  } finally {
    child?.kill(constants.signals.SIGKILL);
    const until = performance.now() + LIMIT_MS;
    while (child !== undefined && child.poll() !== 'ended' && performance.now() < until) child.pause(LOOK_MS);
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  }
}

/** Whoever called ends the process: there is nothing to put back in it. */
function measure(child: TracedProcess): Overhead | undefined {
  const kernel = new ProcessKernel(child);
  const latency = new Latency(kernel, SelectorSet.parse([TRACED]), {});
  child.resumeAll();
  const until = performance.now() + LIMIT_MS;
  const word = (at: number): number => Number(child.readWord(RESULTS.address + BigInt(at)));
  while (word(RESULTS.done) === 0) {
    if (performance.now() > until) return undefined;
    child.pause(LOOK_MS);
  }
  const [seen] = latency.read();
  if (seen === undefined) return undefined;
  const overhead = {
    perCall: (word(RESULTS.tracedNs) - word(RESULTS.plainNs)) / CALLS,
    // Of an empty function: what it takes itself is within the error.
    measured: percentile(seen.histogram, 0.5, seen.max),
  };
  kernel.close();
  return overhead;
}

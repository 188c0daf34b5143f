/**
 * How long it takes to attach to thousands of functions of a running process, and how long that stands still: by the
 * command, which starts cold each time, and again and again in one process.
 */

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ProcessKernel } from '../src/kernel/process/machine.js';
import { openProcess } from '../src/process/process.js';
import { SelectorSet } from '../src/process/symbols/selector.js';
import { Counter } from '../src/tools/count.js';
import { median, spread } from './statistics.js';
import { compile, ROOT, Target } from './target.js';

export interface AttachRow {
  readonly name: string;
  readonly functions: number;
  /** Medians, ms; the spread as a share of the median. */
  readonly attachMs: number;
  readonly attachSpread: number;
  readonly pauseMs: number;
  readonly pauseSpread: number;
  readonly detachMs?: number;
}

const RUNS = 9;
const LIBRARY = '/usr/lib/x86_64-linux-gnu/libcrypto.so.3';
const SELECTOR = 'libcrypto:*';

interface Sample {
  readonly functions: number;
  readonly attachMs: number;
  readonly pauseMs: number;
  readonly detachMs?: number;
}

/** `undefined` where the library is not installed. */
export async function attachTime(say: (text: string) => void): Promise<AttachRow[] | undefined> {
  if (!existsSync(LIBRARY)) return undefined;
  const program = compile('loads.c', '-ldl');
  const command: Sample[] = [];
  const again: Sample[] = [];
  for (let i = 0; i < RUNS; i++) {
    say(`attaching: ${i + 1} of ${RUNS}`);
    for (const [samples, attach] of [
      [command, byCommand],
      [again, inThisProcess],
    ] as const) {
      const target = new Target(program, [LIBRARY]);
      await target.ask('ready');
      samples.push(attach(target.pid));
      target.end();
    }
  }
  // The first one in this process is as cold as the command.
  return [
    row(`${SELECTOR} of a running process, by the command`, command),
    row(`${SELECTOR} of a running process, again in one process`, again.slice(1)),
  ];
}

function row(name: string, samples: readonly Sample[]): AttachRow {
  const attach = samples.map(s => s.attachMs);
  const pause = samples.map(s => s.pauseMs);
  const detach = samples.flatMap(s => s.detachMs ?? []);
  return {
    name,
    functions: samples[0].functions,
    attachMs: median(attach),
    attachSpread: spread(attach),
    pauseMs: median(pause),
    pauseSpread: spread(pause),
    ...(detach.length > 0 ? { detachMs: median(detach) } : {}),
  };
}

function byCommand(pid: number): Sample {
  const args = ['count', SELECTOR, '-p', `${pid}`, '--duration', '0.1', '--json'];
  const json = execFileSync(join(ROOT, 'bin', 'multitrace'), args, { encoding: 'utf8' });
  const { attached, attachMs, pauseMs } = JSON.parse(json) as {
    attached: number;
    attachMs: number;
    pauseMs: number;
  };
  return { functions: attached, attachMs, pauseMs };
}

function inThisProcess(pid: number): Sample {
  const kernel = new ProcessKernel(openProcess(pid));
  const counter = new Counter(kernel, SelectorSet.parse([SELECTOR]));
  const { attached: functions, attachMs, pauseMs } = counter;
  const from = performance.now();
  counter.detach();
  const detachMs = performance.now() - from;
  kernel.close();
  return { functions, attachMs, pauseMs, detachMs };
}

/**
 * How long it takes to attach to thousands of functions of a running process, and how long that stands still.
 */

import { existsSync } from 'node:fs';
import { ProcessKernel } from '../src/kernel/process/machine.js';
import { openProcess } from '../src/process/process.js';
import { SelectorSet } from '../src/process/symbols/selector.js';
import { Counter } from '../src/tools/count.js';
import { median, spread } from './statistics.js';
import { compile, Target } from './target.js';

export interface AttachRow {
  readonly name: string;
  readonly functions: number;
  /** Of the first attachment: patch sites are looked for. ms. */
  readonly firstMs: number;
  /** Of later ones to processes with the same library, medians, ms. */
  readonly againMs: number;
  readonly pauseMs: number;
  readonly pauseSpread: number;
  readonly detachMs: number;
}

const PROCESSES = 9;
const LIBRARY = '/usr/lib/x86_64-linux-gnu/libcrypto.so.3';

/** `undefined` where the library is not installed. */
export async function attachTime(say: (text: string) => void): Promise<AttachRow | undefined> {
  if (!existsSync(LIBRARY)) return undefined;
  const program = compile('loads.c', '-ldl');
  const selectors = SelectorSet.parse(['libcrypto:*']);
  const attach: number[] = [];
  const pause: number[] = [];
  const detach: number[] = [];
  let functions = 0;
  for (let i = 0; i < PROCESSES; i++) {
    say(`attaching: process ${i + 1} of ${PROCESSES}`);
    const target = new Target(program, [LIBRARY]);
    await target.ask('ready');
    const kernel = new ProcessKernel(openProcess(target.pid));
    // Symbols are read here, once for the file.
    kernel.functions(selectors);
    const counter = new Counter(kernel, selectors);
    functions = counter.attached;
    attach.push(counter.attachMs);
    pause.push(counter.pauseMs);
    const from = performance.now();
    counter.detach();
    detach.push(performance.now() - from);
    kernel.close();
    target.end();
  }
  return {
    name: `libcrypto:* of a running process`,
    functions,
    firstMs: attach[0],
    againMs: median(attach.slice(1)),
    pauseMs: median(pause),
    pauseSpread: spread(pause),
    detachMs: median(detach),
  };
}

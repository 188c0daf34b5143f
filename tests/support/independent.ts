/** Counts of calls that owe nothing to multitrace: gdb's breakpoints, and the kernel's uprobes. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeRun, run } from './command.js';
import { compileTarget } from './compile.js';
import { fileFunctions, isPositionIndependent } from './symbols.js';

/** More hits than any test makes: gdb then never stops there, and counts. */
const IGNORED = 1_000_000_000;

/** Where Linux puts a position-independent program without randomization, which gdb turns off. */
const PIE_BASE_UNDER_GDB = 0x5555_5555_4000;

/** How often each function's first instruction ran, by a breakpoint on it that never stops. */
export async function countWithGdb(
  program: string,
  args: readonly string[],
  functions: readonly string[],
): Promise<Map<string, number>> {
  const folder = mkdtempSync(join(tmpdir(), 'multitrace-gdb-'));
  try {
    const script = join(folder, 'script');
    const known = new Map(fileFunctions(program).map(one => [one.name, one.address]));
    const bias = isPositionIndependent(program) ? PIE_BASE_UNDER_GDB : 0;
    const lines = ['set pagination off', 'set confirm off', `starti ${args.join(' ')} > /dev/null`];
    // By address: a name can mean something else in a library, and `break f` is behind the prologue.
    functions.forEach((name, i) => {
      const address = known.get(name);
      if (address === undefined) throw new Error(`${program} has no function ${name}`);
      lines.push(`break *${address + bias}`, `ignore ${i + 1} ${IGNORED}`);
    });
    lines.push('continue', 'info breakpoints');
    writeFileSync(script, `${lines.join('\n')}\n`);
    const done = await run('gdb', ['-nx', '-batch', '-x', script, program], { timeoutMs: 240_000 });
    const counts = new Map(functions.map(name => [name, 0]));
    let current: string | undefined;
    for (const line of done.stdout.split('\n')) {
      const breakpoint = /^(\d+)\s+breakpoint\s/.exec(line);
      if (breakpoint !== null) current = functions[Number(breakpoint[1]) - 1];
      const hits = /already hit (\d+) time/.exec(line);
      if (hits !== null && current !== undefined) counts.set(current, Number(hits[1]));
    }
    if ([...counts.values()].every(count => count === 0))
      throw new Error(`gdb counted nothing: ${describeRun(done)}`);
    return counts;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/**
 * How often the kernel hit a uprobe on each of these functions of `file` while the command ran: in its first thread
 * alone, or with `allThreads` anywhere, for a file that nothing else runs. `dynamic`: names of `.dynsym`.
 */
export async function countWithUprobes(
  file: string,
  functions: readonly string[],
  command: readonly string[],
  options: {
    readonly dynamic?: boolean;
    readonly allThreads?: boolean;
    readonly env?: NodeJS.ProcessEnv;
  } = {},
): Promise<Map<string, number>> {
  const known = new Map(fileFunctions(file, options.dynamic).map(one => [one.name, one.offset]));
  const nameAt = new Map<number, string>();
  for (const name of functions) {
    const offset = known.get(name);
    if (offset === undefined) throw new Error(`${file} has no function ${name}`);
    nameAt.set(offset, name);
  }
  const done = await run(
    compileTarget({ source: 'uprobes.c' }),
    [options.allThreads ? 'all' : 'one', file, [...nameAt.keys()].join(','), ...command],
    {
      timeoutMs: 120_000,
      ...(options.env === undefined ? {} : { env: options.env }),
    },
  );
  const counts = new Map<string, number>();
  for (const line of done.stderr.split('\n')) {
    const match = /^(0x[0-9a-f]+|0)\t(\d+)$/.exec(line);
    const name = match === null ? undefined : nameAt.get(Number(match[1]));
    if (match !== null && name !== undefined) counts.set(name, Number(match[2]));
  }
  if (counts.size !== nameAt.size) throw new Error(`not every uprobe was counted: ${describeRun(done)}`);
  return counts;
}

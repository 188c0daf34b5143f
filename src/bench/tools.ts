/**
 * Other tools as peers: debuggers and tracers of the distribution, each on a process of its own that runs the same
 * program. None is installed here: a tool that is not there is said to be missing.
 */

import { closeSync, existsSync, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { commandPath, RunningCommand, runCommand } from './commands.js';
import { type Attached, NotHere, type Round, type Row } from './row.js';
import { Target } from './target.js';

/** Debian packages of the tools; `multitrace bench --install-peers` installs them. */
export const PACKAGES: Readonly<Record<string, string>> = {
  gdb: 'gdb',
  ltrace: 'ltrace',
  uftrace: 'uftrace',
  bpftrace: 'bpftrace',
  perf: 'linux-perf',
};

const DEBUGGERS: ReadonlySet<string> = new Set(['gdb', 'ltrace']);
const ROUNDS = 3;
const LIMIT_MS = 30_000;
const INT3 = 0xcc;

/** From the breakpoint that is seen to events that are counted. */
const settled = (): Promise<void> => new Promise(resolve => setTimeout(resolve, 300));

/** A tool's row; whatever keeps the tool from work is the reason why it is not here. */
function tool(
  command: string,
  what: string,
  calls: string,
  attach: (round: Round, path: string) => Promise<Attached>,
  mostCalls?: number,
): Row {
  return {
    name: command,
    what,
    group: 'peer',
    calls,
    threads: 1,
    // A debugger stops the thread at each event; the others do their work in it.
    byClock: DEBUGGERS.has(command),
    rounds: ROUNDS,
    ...(mostCalls === undefined ? {} : { mostCalls }),
    attach: async round => {
      const path = commandPath(command);
      if (path === undefined)
        throw new NotHere(`${command} is not installed (multitrace bench --install-peers installs it)`);
      try {
        return await attach(round, path);
      } catch (cause) {
        throw new NotHere(`${command} does not work here: ${(cause as Error).message}`);
      }
    },
  };
}

/** A number in what a tool printed; where it is not there, the tool counted nothing. */
function found(text: string, pattern: RegExp): number {
  return Number(pattern.exec(text)?.[1]?.replaceAll(',', '') ?? 0);
}

/** The first byte of the traced function is a breakpoint now. */
function hasBreakpoint({ program }: Round, target: Target, name: string): boolean {
  const base = mainBase(target.pid, program.path);
  const memory = openSync(`/proc/${target.pid}/mem`, 'r');
  try {
    const byte = Buffer.alloc(1);
    readSync(memory, byte, 0, 1, base + program.fileOffset(name));
    return byte[0] === INT3;
  } finally {
    closeSync(memory);
  }
}

/** Where offset 0 of the program's file would be, from its executable mapping. */
function mainBase(pid: number, path: string): number {
  for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
    const match = /^([0-9a-f]+)-\S+ r.x. ([0-9a-f]+) .*$/.exec(line);
    if (match !== null && line.endsWith(path))
      return Number.parseInt(match[1], 16) - Number.parseInt(match[2], 16);
  }
  throw new Error('the traced program has ended');
}

async function gdb({ program }: Round, path: string): Promise<Attached> {
  const target = await program.start();
  const debuginfod = ['-iex', 'set debuginfod enabled off', '-iex', 'set auto-solib-add off'];
  const debug = new RunningCommand([path, '-nx', '-q', ...debuginfod, '-p', `${target.pid}`]);
  for (const line of ['set pagination off', 'break *ordinary', 'ignore 1 1000000000', 'continue'])
    debug.write(line);
  try {
    await debug.until('continued', () => debug.output.includes('Continuing.'));
  } catch (cause) {
    target.kill();
    throw cause;
  }
  return {
    target,
    detach: async () => {
      debug.interrupt();
      await debug.until('stopped', () => /received signal|Program/.test(debug.output));
      for (const line of ['info breakpoints', 'delete', 'detach', 'quit']) debug.write(line);
      await debug.end();
      await target.end();
    },
    count: () => found(debug.output, /already hit (\d+) time/),
  };
}

async function ltrace({ program }: Round, path: string): Promise<Attached> {
  const report = join(program.folder, 'ltrace');
  const target = await Target.start([path, '-c', '-L', '-x', 'ordinary', '-o', report, program.path]);
  return {
    target,
    detach: () => target.end(),
    count: () =>
      existsSync(report) ? found(readFileSync(report, 'utf8'), /\s(\d+) ordinary(?:@\S+)?$/m) : 0,
  };
}

async function uftrace({ program }: Round, path: string): Promise<Attached> {
  const data = join(program.folder, 'uftrace');
  const record = ['record', '--no-libcall', '-b', '64M', '-P', '^sled$', '-d', data];
  const target = await Target.start([path, ...record, program.path]);
  return {
    target,
    detach: () => target.end(),
    count: async () => {
      const report = await runCommand([path, 'report', '--no-pager', '-d', data], LIMIT_MS);
      return found(report.stdout, /\s(\d+)\s+sled$/m);
    },
  };
}

async function bpftrace(round: Round, path: string): Promise<Attached> {
  const target = await round.program.start();
  const script = `uprobe:${round.program.path}:ordinary { @hits = count(); }`;
  const running = new RunningCommand([path, '-e', script, '-p', `${target.pid}`]);
  try {
    await running.until('attached', () => hasBreakpoint(round, target, 'ordinary'));
    await settled();
  } catch (cause) {
    target.kill();
    throw cause;
  }
  return {
    target,
    detach: async () => {
      running.interrupt();
      await running.end();
      await target.end();
    },
    count: () => found(running.output, /@hits: (\d+)/),
  };
}

async function perf(round: Round, path: string): Promise<Attached> {
  const event = `multitrace_${process.pid}:hit`;
  const added = await runCommand(
    [path, 'probe', '-x', round.program.path, '--add', `${event}=ordinary`],
    LIMIT_MS,
  );
  if (added.status !== 0) throw new Error(added.stderr.trim().split('\n').at(-1));
  const target = await round.program.start();
  const stat = new RunningCommand([path, 'stat', '-x,', '-e', event, '-p', `${target.pid}`]);
  const remove = (): Promise<unknown> => runCommand([path, 'probe', '-q', '--del', event], LIMIT_MS);
  try {
    await stat.until('attached', () => hasBreakpoint(round, target, 'ordinary'));
    await settled();
  } catch (cause) {
    target.kill();
    await remove();
    throw cause;
  }
  return {
    target,
    detach: async () => {
      stat.interrupt();
      await stat.end();
      await remove();
      await target.end();
    },
    count: () => found(stat.output, /^(\d+),/m),
  };
}

export const TOOLS: readonly Row[] = [
  tool('gdb', 'a breakpoint of gdb with an ignore count', 'ordinary', gdb),
  tool('ltrace', 'ltrace -c, its breakpoints at entry and at return', 'ordinary', ltrace),
  tool(
    'uftrace',
    'uftrace record: its hook on a nop sled writes entry and return',
    'sled',
    uftrace,
    1_000_000,
  ),
  tool('bpftrace', 'bpftrace, count() on a uprobe', 'ordinary', bpftrace),
  tool('perf', 'perf stat on a uprobe of perf probe, without a program', 'ordinary', perf),
];

/** `multitrace bench`: what events cost, beside the kernel's and other tools' in one run. */

import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { commandPath } from '../bench/commands.js';
import { plot } from '../bench/plot.js';
import { allRows, runSuite } from '../bench/suite.js';
import { PACKAGES } from '../bench/tools.js';
import { BpfError } from '../kernel/errno.js';
import { jsonRows, reportText } from './bench_report.js';
import { note, print, printError, table } from './output.js';

export interface BenchOptions {
  readonly json?: boolean;
  readonly list?: boolean;
  readonly installPeers?: boolean;
  /** Threads. */
  readonly producers?: number;
  /** For each row. */
  readonly seconds?: number;
  readonly seed?: number;
  /** A file. */
  readonly svg?: string;
}

const MOST_PRODUCERS = 64;
const SECONDS = 2;

/** Runs the rows that are named, all where none is; the exit status. */
export async function bench(rows: readonly string[], options: BenchOptions): Promise<number> {
  if (options.list) {
    print(
      table(
        allRows().map(({ name, what }) => [name, what]),
        [],
      ),
    );
    return 0;
  }
  const { producers = 1, seconds = SECONDS, seed = Date.now() % 2 ** 31 } = options;
  if (producers > MOST_PRODUCERS)
    throw new BpfError('EINVAL', `--producers is ${producers}; at most ${MOST_PRODUCERS} threads are run`);
  if (options.installPeers) installPeers();
  let stopped = false;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => {
      // Who asks twice does not want to wait. What was started ends with us.
      if (stopped) process.exit(128 + constants.signals[signal]);
      clear();
      note('stopping after what is measured just now; results so far follow');
      stopped = true;
    });
  const measured = await runSuite({
    rows,
    producers,
    seconds,
    seed,
    say: progress(),
    stopped: () => stopped,
  });
  clear();
  print(options.json ? `${JSON.stringify(jsonRows(measured))}\n` : reportText(measured));
  if (options.svg !== undefined) writePlot(options.svg, plot(measured));
  return 0;
}

/** On a terminal one line that changes; else a line for each stage. */
function progress(): (text: string) => void {
  if (process.stderr.isTTY) return text => printError(`\r\x1b[K${text}`);
  let stage = '';
  return text => {
    const now = text.slice(0, text.indexOf(':'));
    if (now !== stage) note(now);
    stage = now;
  };
}

function clear(): void {
  if (process.stderr.isTTY) printError('\r\x1b[K');
}

function writePlot(file: string, svg: string): void {
  try {
    writeFileSync(file, svg);
  } catch (cause) {
    throw new BpfError('EACCES', `the plot can't be written to ${file}: ${(cause as Error).message}`);
  }
}

/** Installs the peers that are missing, which the user has asked for. */
function installPeers(): void {
  const missing = Object.entries(PACKAGES).filter(([command]) => commandPath(command) === undefined);
  if (missing.length === 0) return;
  const names = missing.map(([, name]) => name);
  if (process.getuid?.() !== 0 || commandPath('apt-get') === undefined)
    throw new BpfError(
      'EPERM',
      `--install-peers needs root and apt-get; install these by hand, or run without it: ${names.join(' ')}`,
    );
  note(`installing ${names.join(' ')}`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  for (const name of names)
    spawnSync('apt-get', ['install', '-y', '-q', '--no-install-recommends', name], {
      env,
      stdio: ['ignore', 'ignore', 2],
    });
}

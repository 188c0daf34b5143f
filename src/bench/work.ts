/**
 * Real work: programs of the distribution as they are, untraced and with every function of every library counted. Each
 * says itself how long its work took, so that starting and attaching are not in it.
 */

import { fileURLToPath } from 'node:url';
import { BpfError } from '../kernel/errno.js';
import { type CommandResult, commandPath, runCommand } from './commands.js';
import type { RoundsSetup } from './rounds.js';

const MULTITRACE = fileURLToPath(new URL('../../bin/multitrace', import.meta.url));
const ROUNDS = 5;
const LIMIT_MS = 120_000;
/** What the short form does of it. */
const SHORT = 0.1;

const SQL = (rows: number): string => `
.timer on
create table t(a integer primary key, b text, c real);
insert into t select value, 'row number ' || value, value * 1.5 from generate_series(1, ${rows});
create index i on t(b);
select count(*), sum(length(b)), sum(c) from t;
`;

const PYTHON = (times: number): string => `
import json, re, time
began = time.process_time()
rows = [{"id": i, "name": f"row {i}", "values": [i, i * 2, i / 3]} for i in range(2000)]
total = 0
for _ in range(${times}):
    back = json.loads(json.dumps(rows))
    total += sum(row["id"] for row in sorted(back, key=lambda row: row["name"]))
    total += len(re.findall(r"row (\\d+)", " ".join(row["name"] for row in back)))
    total += len({row["name"]: tuple(row["values"]) for row in back})
print("checksum", total)
print("seconds", time.process_time() - began)
`;

/** Units of work (operations; 1 for all of it) and the processor's seconds for them. */
interface Work {
  readonly units: number;
  readonly seconds: number;
}

interface Workload {
  readonly name: string;
  readonly what: string;
  readonly command: string;
  /** Its arguments, for as much work as \`share\` of the whole. */
  args(share: number): readonly string[];
  input?(share: number): string;
  /** What it says that it did. */
  work(output: string): Work | undefined;
  /** What must be the same with and without tracing. */
  result(output: string): string;
}

/** `openssl speed -mr` prints how many operations it did in how many seconds, once or for signing and verifying. */
function opensslWork(output: string): Work | undefined {
  const lines = [...output.matchAll(/^\+R\d?:(\d+):[^:]*:([\d.]+)$/gm)];
  const sum = (group: number): number => lines.reduce((all, match) => all + Number(match[group]), 0);
  return lines.length === 0 ? undefined : { units: sum(1), seconds: sum(2) };
}

const openssl = (algorithm: string, what: string, more: readonly string[]): Workload => ({
  name: `work-openssl-${algorithm}`,
  what,
  command: 'openssl',
  args: share => ['speed', '-mr', '-seconds', share < 1 ? '1' : '2', ...more, algorithm],
  work: opensslWork,
  result: () => '',
});

export const WORKLOADS: readonly Workload[] = [
  openssl('sha256', 'openssl speed, SHA-256 of 64 bytes', ['-bytes', '64']),
  openssl('ecdsap256', 'openssl speed, signatures on P-256', []),
  {
    name: 'work-sqlite-inserts',
    what: 'sqlite3, inserts, an index and a sum, in memory',
    command: 'sqlite3',
    args: () => ['-batch', ':memory:'],
    input: share => SQL(Math.round(400_000 * share)),
    work: output => {
      const times = [...output.matchAll(/^Run Time: real \S+ user ([\d.]+) sys ([\d.]+)$/gm)];
      const seconds = times.reduce((sum, [, user, system]) => sum + Number(user) + Number(system), 0);
      return times.length === 0 ? undefined : { units: 1, seconds };
    },
    result: output => output.replaceAll(/^Run Time.*\n/gm, ''),
  },
  {
    name: 'work-python',
    what: 'python3, JSON, sorting, regular expressions, dictionaries',
    command: 'python3',
    args: share => ['-c', PYTHON(Math.max(1, Math.round(60 * share)))],
    work: output => {
      const match = /^seconds ([\d.]+)$/m.exec(output);
      return match === null ? undefined : { units: 1, seconds: Number(match[1]) };
    },
    result: output => /^checksum \d+$/m.exec(output)?.[0] ?? '',
  },
];

export interface WorkSample {
  /** Seconds of the processor for one unit of the work. */
  readonly untraced: number;
  readonly traced: number;
  /** Of the traced run, for a second of the processor. */
  readonly eventsPerSecond: number;
}

export interface WorkResult {
  readonly name: string;
  readonly what: string;
  /** Functions that were counted. */
  readonly functions: number;
  readonly samples: readonly WorkSample[];
  readonly unavailable?: string;
}

/** The program itself, no wrapper of a version manager: what is traced is what does the work. */
function programPath(command: string): string | undefined {
  return commandPath(command, ['/usr/bin', '/bin', '/usr/local/bin']) ?? commandPath(command);
}

interface Ran extends Work {
  /** What must be the same with and without tracing. */
  readonly result: string;
}

async function untraced(workload: Workload, path: string, share: number): Promise<Ran> {
  const done = await runCommand([path, ...workload.args(share)], LIMIT_MS, workload.input?.(share));
  return understood(workload, done, done.stdout + done.stderr);
}

async function traced(workload: Workload, path: string, share: number) {
  const count = [process.execPath, MULTITRACE, 'count', '*:*', '--json', '--', path, ...workload.args(share)];
  const done = await runCommand(count, LIMIT_MS, workload.input?.(share));
  // With --json the program's own standard output goes to standard error.
  const ran = understood(workload, done, done.stderr);
  const report = JSON.parse(done.stdout) as {
    attached: number;
    functions: readonly { count: number }[];
  };
  const events = report.functions.reduce((sum, { count: calls }) => sum + calls, 0);
  return { ...ran, events, functions: report.attached };
}

function understood(workload: Workload, { status, stderr }: CommandResult, output: string): Ran {
  const work = workload.work(output);
  if (status !== 0 || work === undefined)
    throw new BpfError('EIO', `${workload.name} fails: ${stderr.trim().split('\n').at(-1)}`);
  return { ...work, result: workload.result(output) };
}

/** Runs the work untraced and traced in turn, in random order. */
export async function measureWork(
  wanted: (name: string) => boolean,
  setup: RoundsSetup,
): Promise<WorkResult[]> {
  const share = setup.seconds < 1 ? SHORT : 1;
  const rounds = share < 1 ? 1 : ROUNDS;
  const results: WorkResult[] = [];
  const rows = WORKLOADS.filter(({ name }) => wanted(name)).map(workload => ({
    workload,
    path: programPath(workload.command),
    samples: [] as WorkResult['samples'][number][],
    functions: 0,
  }));
  for (let round = 0; round < rounds && !setup.stopped(); round++)
    for (const row of setup.random.shuffled(rows)) {
      const { workload, path, samples } = row;
      if (path === undefined || setup.stopped()) continue;
      setup.say(`real work, round ${round + 1} of ${rounds}: ${workload.name}`);
      const tracedFirst = setup.random.below(2) === 0;
      const early = tracedFirst ? await traced(workload, path, share) : undefined;
      const bare = await untraced(workload, path, share);
      const counted = early ?? (await traced(workload, path, share));
      if (counted.result !== bare.result)
        throw new BpfError(
          'EIO',
          `${workload.name}: traced, its result is another: the benchmark is not valid`,
        );
      row.functions = counted.functions;
      samples.push({
        untraced: bare.seconds / bare.units,
        traced: counted.seconds / counted.units,
        eventsPerSecond: counted.events / counted.seconds,
      });
    }
  for (const { workload, path, samples, functions } of rows)
    results.push({
      name: workload.name,
      what: workload.what,
      functions,
      samples,
      ...(path === undefined ? { unavailable: `${workload.command} is not installed` } : {}),
    });
  return results;
}

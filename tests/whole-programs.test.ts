/**
 * Real programs traced whole (`'*:*'`: every function of every library): what they print and how they end is the
 * same as without.
 */

import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { describeRun, multitrace, type RunOptions, run } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { ROOT, TARGETS } from './support/paths.js';
import { type CountReport, countCommand, countOf, parseReport } from './support/report.js';
import { missingCommand, missingFile, SOAK } from './support/skip.js';

const PYTHON = '/usr/bin/python3';
const LIMIT_MS = 120_000;

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'multitrace-programs-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** Random hash seeds change how often Python calls what. */
const steady: NodeJS.ProcessEnv = { ...process.env, PYTHONHASHSEED: '0' };

/**
 * Runs the command without and with tracing and compares what it printed and its exit status; the report of the
 * traced run. `normalize` takes out what differs between any two runs.
 */
async function sameTraced(
  command: readonly string[],
  options: RunOptions & {
    readonly normalize?: (text: string) => string;
    readonly selectors?: readonly string[];
  } = {},
): Promise<CountReport> {
  const normalize = options.normalize ?? (text => text);
  const settings = { timeoutMs: LIMIT_MS, env: steady, ...options };
  const plain = await run(command[0], command.slice(1), settings);
  const selectors = options.selectors ?? ['*:*'];
  const traced = await multitrace(['count', ...selectors, '--json', '--', ...command], settings);
  const parsed = parseReport(traced);
  // What the command itself says there has its name in front.
  const said = normalize(traced.stderr.replace(/^multitrace: .*\n/gm, ''));
  for (const text of [plain.stdout, plain.stderr]) {
    expect(
      said.includes(normalize(text)),
      `the program's output is not the same: ${describeRun(traced)}\nuntraced: ${describeRun(plain)}`,
    ).toBe(true);
  }
  expect(said.length, `more was printed than untraced: ${describeRun(traced)}`).toBe(
    normalize(plain.stdout).length + normalize(plain.stderr).length,
  );
  expect(traced.status, describeRun(traced)).toBe(plain.status);
  expect(parsed.exit).toEqual({ code: plain.status, signal: null });
  console.log(
    `${command[0]}: ${parsed.attached} of ${parsed.matched} attached, ${parsed.functions.length} called, ${Math.round(plain.durationMs)} ms untraced, ${Math.round(traced.durationMs)} ms traced, attach ${parsed.attachMs} ms, pause ${parsed.pauseMs} ms`,
  );
  return parsed;
}

const PYTHON_SCRIPT = `
import json, re, ssl, sqlite3, threading, hashlib, zlib, decimal
data = [{'n': i, 's': 'x' * (i % 50), 'f': i / 7} for i in range(3000)]
text = json.dumps(data)
assert json.loads(text) == data
print('json', hashlib.sha256(text.encode()).hexdigest())
print('re', len(re.findall(r'"n": (\\d*7)\\b', text)), re.sub(r'(\\w+)@(\\w+)', r'\\2', 'me@there you@here'))
context = ssl.create_default_context()
print('ssl', ssl.OPENSSL_VERSION, len(context.get_ciphers()) > 5)
db = sqlite3.connect(':memory:')
db.execute('create table t(a integer, b text)')
db.executemany('insert into t values(?, ?)', ((i, str(i) * 3) for i in range(20000)))
print('sqlite', db.execute('select count(*), sum(a), max(b) from t').fetchall())
totals = []
def work(k):
    total = 0
    for i in range(20000):
        total += len(str(i * k)) + zlib.crc32(b'%d' % i) % 3
    totals.append((k, total))
threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print('threads', sorted(totals))
print('decimal', decimal.Decimal(2).sqrt())
try:
    raise ValueError('carried')
except ValueError as e:
    print('raised', e)
raise SystemExit(3)
`;

const NODE_SCRIPT = `
const { createHash } = require('node:crypto');
const { gzipSync, gunzipSync } = require('node:zlib');
const rows = Array.from({ length: 20000 }, (_, i) => ({ i, s: String(i).repeat(3), f: Math.sin(i) }));
const text = JSON.stringify(rows);
console.log('sha256', createHash('sha256').update(text).digest('hex'));
console.log('gzip', gunzipSync(gzipSync(text)).toString() === text);
console.log('sort', rows.sort((a, b) => a.f - b.f)[0].i, new Intl.NumberFormat('de').format(1234567.891));
const { Worker } = require('node:worker_threads');
const worker = new Worker('require("node:worker_threads").parentPort.postMessage([...Array(1e5).keys()].reduce((a, b) => a + b))', { eval: true });
worker.on('message', m => console.log('worker', m));
worker.on('exit', () => Promise.reject(new Error('caught')).catch(e => { console.log('rejected', e.message); process.exitCode = 6; }));
`;

const SQL = `
create table t(id integer primary key, a text, b real);
begin;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000000)
insert into t select i, 'row ' || i, i * 0.5 from n;
commit;
create index ta on t(a);
select count(*), sum(id), max(a), total(b) from t;
select a from t where a like 'row 99999_' order by a desc limit 3;
`;

describe('every function of every library', () => {
  test('openssl speed', async ({ skip }) => {
    const lacking = missingCommand('openssl');
    skip(lacking !== undefined, lacking);
    // It takes a second for each size of a block, of which there are six.
    const sizes = SOAK ? [] : ['-bytes', '64'];
    const report = await sameTraced(['openssl', 'speed', '-seconds', '1', ...sizes, 'sha256'], {
      // Speeds and times differ from run to run, and so does how wide they are printed.
      normalize: text => text.replace(/ *[\d.]+k?/g, '#'),
    });
    expect(report.attached).toBeGreaterThan(5000);
    expect(countOf(report, 'EVP_DigestUpdate') + countOf(report, 'EVP_Digest')).toBeGreaterThan(0);
  });

  test('python3 with json, re, ssl, sqlite3 and threads', async ({ skip }) => {
    const lacking = missingFile(PYTHON);
    skip(lacking !== undefined, lacking);
    const report = await sameTraced([PYTHON, '-c', PYTHON_SCRIPT]);
    expect(report.exit.code).toBe(3);
    const modules = new Set(report.functions.map(({ module }) => module));
    for (const library of ['libc', 'libssl', 'libcrypto', 'libsqlite3']) {
      expect(
        [...modules].some(module => module.includes(library)),
        `${library} was counted`,
      ).toBe(true);
    }
  });

  test('sqlite3 doing a million inserts', async ({ skip }) => {
    const lacking = missingCommand('sqlite3');
    skip(lacking !== undefined, lacking);
    const script = join(scratch, 'inserts.sql');
    writeFileSync(script, SQL);
    const report = await sameTraced([
      'sqlite3',
      '-bail',
      '-init',
      '/dev/null',
      ':memory:',
      `.read ${script}`,
    ]);
    expect(countOf(report, 'sqlite3_step')).toBeGreaterThan(0);
  });

  test('sqlite3 with its data in a file', async ({ skip }) => {
    const lacking = missingCommand('sqlite3');
    skip(lacking !== undefined, lacking);
    const clean = () => {
      for (const name of readdirSync(scratch)) if (name.startsWith('data.db')) rmSync(join(scratch, name));
    };
    clean();
    const sql = SQL.replace('1000000', '50000');
    const command = ['sqlite3', join(scratch, 'data.db')];
    const plain = await run(command[0], command.slice(1), { input: sql });
    const written = readFileSync(join(scratch, 'data.db'));
    clean();
    const traced = await multitrace(['count', '*:*', '--json', '--', ...command], {
      input: sql,
      timeoutMs: LIMIT_MS,
    });
    parseReport(traced);
    expect(traced.stderr, describeRun(traced)).toBe(plain.stdout + plain.stderr);
    expect(readFileSync(join(scratch, 'data.db')).equals(written), 'the files are the same').toBe(true);
  });

  test('git log -p on a project', async ({ skip }) => {
    const lacking = missingCommand('git');
    skip(lacking !== undefined, lacking);
    await sameTraced([
      'git',
      '--no-pager',
      '-C',
      repository(),
      'log',
      '-p',
      '--stat',
      '--no-color',
      '-n',
      '60',
    ]);
  });

  test('node -e', async () => {
    const report = await sameTraced([process.execPath, '-e', NODE_SCRIPT]);
    expect(report.exit.code).toBe(6);
  });

  test('bash -c with pipes', async ({ skip }) => {
    const lacking = missingCommand('bash');
    skip(lacking !== undefined, lacking);
    const script = `
      set -o pipefail
      for i in $(seq 1 200); do echo "line $i of \${#i}"; done | sort -r | sed 's/line/row/' | head -n 5 | tr a-z A-Z
      x=$(printf 'a\\nb\\nc\\n' | while read -r l; do echo -n "<$l>"; done); echo "$x"
      ( exit 4 ); echo "sub $?"
      cat <(echo from a process) <<< 'unread'
      trap 'echo trapped' EXIT
      false | true; exit $((7 + $?))`;
    const report = await sameTraced(['bash', '-c', script]);
    expect(report.exit.code).toBe(8);
  });

  test('gcc -c makes the same object', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const object = join(scratch, 'counts.o');
    const command = ['gcc', '-O2', '-c', join(TARGETS, 'counts.c'), '-o', object];
    execFileSync(command[0], command.slice(1));
    const untraced = join(scratch, 'untraced.o');
    copyFileSync(object, untraced);
    await sameTraced(command);
    expect(readFileSync(object).equals(readFileSync(untraced)), 'the objects are the same').toBe(true);
  });

  test('the compiler proper', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const compiler = execFileSync('gcc', ['-print-prog-name=cc1'], { encoding: 'utf8' }).trim();
    skip(!existsSync(compiler), `${compiler} does not exist`);
    const options = ['-quiet', '-O2', '-imultiarch', 'x86_64-linux-gnu', '-o', '-'];
    const report = await sameTraced([compiler, ...options, join(TARGETS, 'threads.c')]);
    expect(report.exit.code).toBe(0);
  });

  test('a static binary', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'counts.c', flags: ['-static'] });
    const report = await sameTraced([program, '5000']);
    expect(countOf(report, 'heavy')).toBe(5000);
  });

  test('a C++ program that throws through traced functions', async ({ skip }) => {
    const lacking = missingCommand('g++');
    skip(lacking !== undefined, lacking);
    const report = await sameTraced([compileTarget({ source: 'throws.cc' })]);
    expect(countOf(report, 'descend')).toBe(15270);
    expect(countOf(report, 'rethrow')).toBe(820);
    expect(countOf(report, '_Unwind_RaiseException')).toBeGreaterThan(0);
  });

  test('a static C++ program that throws', async ({ skip }) => {
    const lacking = missingCommand('g++');
    skip(lacking !== undefined, lacking);
    const report = await sameTraced([compileTarget({ source: 'throws.cc', flags: ['-static'] })]);
    expect(countOf(report, 'descend')).toBe(15270);
  });

  for (const compiler of ['gcc', 'clang-19'] as const) {
    test(`a C++ program that throws, unoptimized, by ${compiler}`, async ({ skip }) => {
      const lacking = missingCommand(compiler, 'g++');
      skip(lacking !== undefined, lacking);
      const flags = compiler === 'gcc' ? ['-O0', '-fcf-protection=full'] : ['-O0'];
      await sameTraced([
        compileTarget({ source: 'throws.cc', compiler, flags: [...flags, '-lstdc++', '-lm'] }),
      ]);
    });
  }
});

describe('programs that start others', () => {
  test('fork, vfork, posix_spawn, system', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'forks.c' });
    const report = await sameTraced([program]);
    // What the parent called is counted in any case; its children's calls may be.
    expect(countOf(report, 'step')).toBeGreaterThanOrEqual(11190);
    expect(countOf(report, 'sum_steps')).toBeGreaterThanOrEqual(21);
  });

  test('a child that outlives its parent, and the tracing, runs on unharmed', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'forks.c' });
    // The child keeps our pipes open: the run ends when the child does.
    const traced = await multitrace(['count', '*:*', '--', program, 'orphan'], { timeoutMs: 30_000 });
    expect(traced.stdout, describeRun(traced)).toMatch(/^orphan ok$/m);
    expect(traced.status, describeRun(traced)).toBe(0);
  });

  for (const [args, status, said] of [
    [['3'], 4, 'last 100\n'],
    [['2', 'echo'], 0, 'echoed\n'],
  ] as const) {
    test(`exec: execs ${args.join(' ')}`, async ({ skip }) => {
      const lacking = missingCommand('gcc');
      skip(lacking !== undefined, lacking);
      const traced = await multitrace(['count', '*:*', '--', compileTarget({ source: 'execs.c' }), ...args]);
      expect(traced.stdout, describeRun(traced)).toContain(said);
      expect(traced.status, describeRun(traced)).toBe(status);
    });
  }

  test('signal handlers, alternate stacks and siglongjmp', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const { run: traced } = await countCommand(['*:*'], [compileTarget({ source: 'signals.c' }), '300']);
    expect(traced.stderr, describeRun(traced)).toMatch(/^ok\njumps 200$/m);
    expect(traced.status, describeRun(traced)).toBe(0);
  });
});

let made: string | undefined;
/** The project itself where it is a clone with commits, else a small repository made of its sources. */
function repository(): string {
  const git = (folder: string, ...args: string[]) =>
    execFileSync('git', ['-C', folder, '-c', 'user.name=t', '-c', 'user.email=t@example.org', ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
  try {
    git(ROOT, 'rev-parse', '--verify', 'HEAD');
    return ROOT;
  } catch {
    // No commit yet, or not a clone.
  }
  if (made !== undefined) return made;
  made = join(scratch, 'repository');
  execFileSync('git', ['init', '-q', made]);
  for (const name of readdirSync(TARGETS)) {
    copyFileSync(join(TARGETS, name), join(made, name));
    git(made, 'add', '.');
    git(made, 'commit', '-q', '-m', `add ${name}`);
    writeFileSync(join(made, name), readFileSync(join(made, name), 'utf8').replaceAll('int', 'long'));
    git(made, 'commit', '-q', '-a', '-m', `change ${name}`);
  }
  return made;
}

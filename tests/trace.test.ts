/** `multitrace trace` on real programs whose trees are known beforehand. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { describeRun, multitrace, Running, run, startMultitrace } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { MULTITRACE } from './support/paths.js';
import { changedCode, tracerOf } from './support/process.js';
import { missingCommand, SOAK } from './support/skip.js';
import {
  type JsonCall,
  parseTrace,
  readChromeTrace,
  readSpeedscope,
  shapes,
  traceCommand,
} from './support/trace.js';

const lacking = missingCommand('gcc', 'g++', 'pahole');
const trees = (flag = '-O2') => compileTarget({ source: 'trees.c', flags: ['-g', flag] });
const folder = mkdtempSync(join(tmpdir(), 'multitrace-trace-'));
afterAll(() => rmSync(folder, { recursive: true }));

const only = (calls: readonly JsonCall[], name: string) => calls.filter(call => call.function === name);

describe.skipIf(lacking)('trees', () => {
  test.each(SOAK ? ['-O0', '-O2'] : ['-O2'])('are exactly what the program does (%s)', async flag => {
    const { calls, end, run } = await traceCommand(['top', 'middle', 'leaf'], [trees(flag), 'tree', '40']);
    expect(shapes(calls), describeRun(run)).toEqual(Array(40).fill('top(middle(leaf leaf) leaf)'));
    expect(only(calls, 'top').map(({ result }) => result)).toEqual(
      Array.from({ length: 40 }, (_, n) => 2 * n + 2),
    );
    expect(
      only(calls, 'leaf')
        .slice(3, 6)
        .map(({ args }) => args?.[0].value),
    ).toEqual([1, 2, 1]);
    expect(end).toMatchObject({ calls: 200, shown: 200, trees: 40, lost: 0, missed: 0, exit: { code: 0 } });
  });

  test('recursion', async () => {
    const { calls } = await traceCommand(['fib'], [trees(), 'fib', '4']);
    expect(shapes(calls)).toEqual(['fib(fib(fib(fib fib) fib) fib(fib fib))']);
    expect(calls[0].result).toBe(3);
  });

  test('50,000 calls within each other', async () => {
    const { calls, end, run } = await traceCommand(['deep'], [trees(), 'deep', '49999']);
    expect([end.calls, end.lost, end.missed, end.trees], describeRun(run)).toEqual([50_000, 0, 0, 1]);
    expect(calls.map(({ depth }) => depth)).toEqual(Array.from({ length: 50_000 }, (_, i) => i));
    expect(calls[0].result).toBe(49_999);
    const printed = await multitrace(['trace', 'deep', '--', trees(), 'deep', '60']);
    expect(printed.stdout).toMatch(/\n {91}\[61\] deep\(n=0\) = 0\n|\[61\] deep\(n=0\) = 0/);
  });

  test('tail calls between traced functions are within each other', async () => {
    const { calls } = await traceCommand(['tail_*', 'leaf'], [trees(), 'tail', '1']);
    expect(shapes(calls)).toEqual(['tail_begin(tail_end(leaf))']);
    expect(calls.map(({ result }) => result)).toEqual([4, 4, 4]);
  });

  test('calls that longjmp leaves never return, and what comes behind is nobody’s child of theirs', async () => {
    const selectors = ['catcher', 'between', 'jumper', 'leaf'];
    const { calls } = await traceCommand(selectors, [trees(), 'jump', '50']);
    // untraced_cleanup calls leaf from deeper down the stack than jumper was.
    expect(shapes(calls)).toEqual(Array(50).fill('catcher(between!(jumper!(leaf)) leaf leaf)'));
    for (const { end, durationNs, result } of only(calls, 'jumper'))
      expect([end, durationNs, result]).toEqual(['left', null, null]);
    const { calls: global } = await traceCommand(
      ['global_catcher', ...selectors],
      [trees(), 'global-jump', '9'],
    );
    expect(shapes(global)).toEqual(Array(9).fill('global_catcher(between!(jumper!(leaf)) leaf)'));
  });

  test('exceptions: cleanups and handlers are the children of the frames that they belong to', async () => {
    const program = compileTarget({ source: 'unwinds.cc', flags: ['-g'] });
    const { calls, run } = await traceCommand(['catching', 'guarded', 'thrower', 'leaf'], [program]);
    expect(shapes(calls), describeRun(run)).toEqual(
      Array(2).fill('catching(guarded!(thrower!(leaf) leaf) leaf leaf)'),
    );
  });

  test('a thread that ends within calls, a process that exits within them', async () => {
    const { calls } = await traceCommand(['exits', 'exiting', 'leaf'], [trees(), 'exit-thread']);
    expect(shapes(calls).sort()).toEqual(['exiting!(exits!(leaf))', 'leaf']);
    const { calls: dying, run } = await traceCommand(
      ['main', 'job', 'sleeper', 'leaf'],
      [trees(), 'die', '900'],
    );
    expect(shapes(dying)).toEqual(['main!(job(sleeper leaf) sleeper)']);
    expect(run.status).toBe(7);
  });

  test.each(['1', '2'])('coroutines are trees of their own (stack %s)', async where => {
    const { calls } = await traceCommand(['on_other', 'resume', 'leaf'], [trees(), 'coroutine', where]);
    expect(shapes(calls)).toEqual(['resume(leaf)', 'on_other(leaf leaf)', 'leaf', 'resume(leaf)']);
    expect(only(calls, 'on_other')[0].result).toBe(16);
  });

  test.each(['signals', 'own-stack'])('signal handlers in the middle of anything (%s)', async how => {
    const selectors = ['top', 'middle', 'leaf', 'on_signal'];
    const { calls, end, run } = await traceCommand(selectors, [trees(), how, '60']);
    const all = shapes(calls).join(' ');
    expect(end.lost, describeRun(run)).toBe(0);
    expect(only(calls, 'on_signal').length).toBeGreaterThanOrEqual(60);
    if (how === 'own-stack')
      for (const { parent } of only(calls, 'on_signal')) expect(parent, describeRun(run)).toBe(null);
    // Without the handlers every tree is what it is without signals.
    const without = all
      .replaceAll(/ ?on_signal\(leaf\)/g, '')
      .replaceAll('( ', '(')
      .replaceAll('leaf()', 'leaf');
    expect(new Set(without.trim().split(/ (?=top)/))).toEqual(new Set(['top(middle(leaf leaf) leaf)']));
  });

  test('threads are apart, and go by their names', async () => {
    const { calls, run } = await traceCommand(['job', 'sleeper', 'leaf'], [trees(), 'threads']);
    const threads = new Map<number, JsonCall[]>();
    for (const call of calls) threads.set(call.tid, [...(threads.get(call.tid) ?? []), call]);
    expect(threads.size, describeRun(run)).toBe(4);
    const names = new Set<string>();
    for (const own of threads.values()) {
      expect(shapes(own)).toEqual(Array(20).fill('job(sleeper leaf)'));
      for (const { thread } of own) names.add(thread);
    }
    expect([...names]).toEqual(expect.arrayContaining(['worker-1', 'worker-4']));
    const us = only(calls, 'sleeper').map(({ result, durationNs }) => [Number(result), Number(durationNs)]);
    for (const [asked, took] of us) expect(took).toBeGreaterThanOrEqual(asked * 1000);
  });
});

test.skipIf(lacking)('300 threads at once: every tree whole, with and without --entry', async () => {
  const { calls, end } = await traceCommand(['top', 'middle', 'leaf'], [trees(), 'crowd', '300']);
  expect(new Set(shapes(calls))).toEqual(new Set(['top(middle(leaf leaf) leaf)']));
  expect([end.calls, end.lost, end.missed]).toEqual([300 * 50 * 5, 0, 0]);
  const { calls: entered, end: last } = await traceCommand(
    ['leaf'],
    [trees(), 'crowd', '300'],
    ['-e', 'middle'],
  );
  expect(new Set(shapes(entered))).toEqual(new Set(['middle(leaf leaf)']));
  expect([last.calls, last.trees, last.lost]).toEqual([300 * 50 * 3, 300 * 50, 0]);
});

describe.skipIf(lacking)('values', () => {
  test('arguments and results by their types', async () => {
    const { calls } = await traceCommand(['typed'], [trees(), 'types']);
    const values = (call: JsonCall) => Object.fromEntries(call.args!.map(({ name, value }) => [name, value]));
    expect(values(calls[0])).toMatchObject({ c: 'GREEN', yes: true, small: -3, big: 2 ** 40 });
    expect(calls[0].args![0].text).toBe('hello "you"\n');
    expect(calls[0].resultText).toBe('hello "you"\n-4');
    expect(values(calls[1])).toMatchObject({ name: null, c: 99, yes: false, small: 3, big: 0, p: null });
    expect([calls[1].end, calls[1].result]).toEqual(['returned', null]);
    // A pointer that leads nowhere stays a pointer.
    expect(calls[2].args![0]).toEqual({ name: 'name', value: '0x8' });
    const { calls: others } = await traceCommand(
      ['nothing', 'odd', 'mixed', 'negative'],
      [trees(), 'results'],
    );
    expect(others.map(({ function: name, result }) => [name, result])).toEqual([
      ['nothing', null],
      ['odd', true],
      ['odd', false],
      ['mixed', 'GREEN'],
      ['negative', -5],
      ['negative', 5],
    ]);
    // Floating-point numbers are in other registers.
    expect(others[3].args!.map(({ name, value }) => [name, value])).toEqual([
      ['d', 1.5],
      ['n', 3],
      ['f', 2.5],
    ]);
  });

  test('arguments on the stack, structures by value', async () => {
    const { calls } = await traceCommand(['many', 'swapped'], [trees(), 'results']);
    expect(calls[0].args!.map(({ value }) => value)).toEqual([1, 2, 3, 4, 5, 6, -7, -8]);
    expect(calls[0].result).toBe(6);
    expect(calls[1].args!.map(({ value }) => value)).toEqual([
      { first: 1, second: 0.5 },
      { x: 2, y: 3 },
    ]);
    expect(calls[1].result).toEqual({ first: 5, second: 1.5 });
  });

  test('a function of which nothing is known shows its registers', async () => {
    const program = compileTarget({ source: 'trees.c', flags: ['-O2'] });
    const { calls } = await traceCommand(['negative'], [program, 'results']);
    expect(calls.map(({ registers, result }) => [registers?.[0], result])).toEqual([
      ['0x5', -5],
      ['0xfffffffffffffffb', 5],
    ]);
  });
});

describe.skipIf(lacking)('what is printed', () => {
  test('a block as documented: durations in a column, trees by indentation, results behind them', async () => {
    const run = await multitrace(['trace', 'top', 'middle', 'leaf', '--', trees(), 'tree', '1']);
    const [head, ...lines] = run.stdout.trimEnd().split('\n');
    expect(head).toMatch(/^── \d\d:\d\d:\d\d\.\d{6} {2}trees \d+ ──$/);
    expect(lines.map(line => line.slice(11))).toEqual([
      'top(n=0) {',
      '  middle(n=0) {',
      '    leaf(n=0) = 0',
      '    leaf(n=1) = 2',
      '  } = 2',
      '  leaf(n=0) = 0',
      '} = 2',
    ]);
    for (const line of lines)
      expect(line.slice(0, 11)).toMatch(line.endsWith('{') ? /^ {11}$/ : /^ *[\d.]+ (ns|us|ms) {2}$/);
    expect(run.stderr).toContain('5 calls in 1 tree shown of 5 seen');
    expect(run.stdout).not.toContain('\x1b');
  });

  test.skipIf(missingCommand('script'))('colours on a terminal, unless NO_COLOR is set', async () => {
    const line = `${process.execPath} ${MULTITRACE} trace leaf -- ${trees()} tree 1`;
    const env: NodeJS.ProcessEnv = { ...process.env, TERM: 'xterm' };
    delete env.NO_COLOR;
    const coloured = await run('script', ['-qec', line, '/dev/null'], { env });
    expect(coloured.stdout).toContain('\x1b[1mleaf\x1b[0m(n=0)');
    const without = await run('script', ['-qec', line, '/dev/null'], { env: { ...env, NO_COLOR: '1' } });
    expect(without.stdout).toContain('leaf(n=0) = 0');
    expect(without.stdout).not.toContain('\x1b[');
  });

  test('texts in quotes, enums by name, void without a result', async () => {
    const run = await multitrace(['trace', 'typed', 'nothing', '--', trees(), 'types']);
    expect(run.stdout).toMatch(
      /typed\(name="hello \\"you\\"\\n", c=GREEN, yes=true, small=-3, big=1099511627776, p=0x[0-9a-f]+\) = "hello \\"you\\"\\n-4"/,
    );
    const results = await multitrace(['trace', 'nothing', '--', trees(), 'results']);
    expect(results.stdout).toMatch(/nothing\(p=0x[0-9a-f]+\)\n/);
  });

  test('no two threads’ lines are in one block', async () => {
    const run = await multitrace(['trace', 'job', 'sleeper', 'leaf', '--', trees(), 'threads']);
    const blocks = run.stdout.split(/\n?── .* ──\n/).filter(block => block !== '');
    for (const block of blocks) {
      const us = new Set([...block.matchAll(/sleeper\(us=(\d+)\)/g)].map(match => match[1]));
      expect(us.size).toBe(1);
    }
    expect(blocks.length).toBeGreaterThanOrEqual(4);
  });

  test('a tree that goes on for long is shown in pieces, as a whole in the end', async () => {
    const slow = new Running(trees(), ['loop', '700000']);
    onTestFinished(() => slow.stop());
    const functions = ['job', 'sleeper', 'leaf'];
    const run = await multitrace(['trace', ...functions, '-d', '2.2', '-p', `${slow.pid}`]);
    expect(run.stdout).toMatch(/\n {11}job\(us=700000\) \{\n {13}sleeper\(us=700000\) \{\n/);
    expect(run.stdout).toMatch(
      /\(continued\) ──\n {11}in job > sleeper\n +([7-9]\d\d ms|[1-9]\.\d\d s) +\} = 700000\n/,
    );
    expect(run.stdout).toContain('still running when tracing ended');
  });
});

describe.skipIf(lacking)('filters', () => {
  test('--entry: only trees that begin there, the others within them', async () => {
    const { calls, end } = await traceCommand(
      ['leaf', 'middle'],
      [trees(), 'tree', '5'],
      ['--entry', 'middle'],
    );
    expect(shapes(calls)).toEqual(Array(5).fill('middle(leaf leaf)'));
    // The leaf that top calls itself was not even recorded.
    expect(end.calls).toBe(15);
    const { calls: nested } = await traceCommand(['leaf'], [trees(), 'fib', '3'], ['-e', 'fib']);
    expect(shapes(nested)).toEqual(['fib(fib(fib fib) fib)']);
  });

  test('--entry goes on behind a tree that longjmp left', async () => {
    const { calls } = await traceCommand(['leaf', 'jumper'], [trees(), 'jump', '20'], ['--entry', 'between']);
    expect(shapes(calls)).toEqual(Array(20).fill('between!(jumper!(leaf))'));
  });

  test('--entry that matches nothing is said with status 1', async () => {
    const run = await multitrace(['trace', 'leaf', '--entry', 'no_such', '--', trees(), 'tree', '1']);
    expect(run.status).toBe(1);
    expect(run.stderr).toContain('no function matched --entry no_such');
  });

  test('--min-duration shows whole trees', async () => {
    const more = ['--entry', 'job', '--min-duration', '4ms'];
    const { calls, end } = await traceCommand(['sleeper', 'leaf'], [trees(), 'sleep', '6'], more);
    const slow = only(calls, 'job').filter(({ args }) => args![0].value === 5000);
    expect(slow).toHaveLength(3);
    for (const shape of shapes(calls)) expect(shape).toBe('job(sleeper leaf)');
    for (const { durationNs } of only(calls, 'job')) expect(durationNs).toBeGreaterThanOrEqual(4e6);
    expect(end.trees + end.filtered).toBe(6);
  });

  test('--retval by the type of the result', async () => {
    const results = async (condition: string) => {
      const selectors = ['negative', 'odd', 'mixed', 'nothing'];
      const { calls } = await traceCommand(selectors, [trees(), 'results'], ['--retval', condition]);
      return calls.map(({ function: name, result }) => `${name} ${result}`);
    };
    expect(await results('<0')).toEqual(['negative -5']);
    expect(await results('==5')).toEqual(['mixed GREEN', 'negative 5']);
    const { calls } = await traceCommand(['typed'], [trees(), 'types'], ['--retval', '==null']);
    expect(calls).toHaveLength(1);
  });

  test('--depth and --max-calls', async () => {
    const { calls } = await traceCommand(['top', 'middle', 'leaf'], [trees(), 'tree', '2'], ['--depth', '2']);
    expect(shapes(calls)).toEqual(Array(2).fill('top(middle leaf)'));
    const run = await multitrace(['trace', 'fib', '--max-calls', '10', '--json', '--', trees(), 'fib', '20']);
    const { calls: few } = parseTrace(run);
    expect(few).toHaveLength(10);
    expect(run.stderr).toContain('ended after 10 calls; --max-calls N shows more');
  });

  test('--tid', async () => {
    const busy = new Running(trees(), ['loop', '100']);
    onTestFinished(() => busy.stop());
    const own = await multitrace([
      'trace',
      'job',
      '--json',
      '-d',
      '0.5',
      '--tid',
      `1,${busy.pid}`,
      '-p',
      `${busy.pid}`,
    ]);
    expect(parseTrace(own).calls.length).toBeGreaterThan(10);
    const none = await multitrace(['trace', 'job', '--json', '-d', '0.5', '--tid', '1', '-p', `${busy.pid}`]);
    expect(parseTrace(none).calls).toHaveLength(0);
  });

  test.each([
    [['--min-duration', '10'], /'10' is no duration/],
    [['--retval', '0'], /'0' is no condition on results/],
    [['--tid', 'x'], /'x' are no thread ids/],
    [['--output', 'x.txt'], /the format of x.txt can't be told/],
    [['--format', 'svg'], /chrome, speedscope/],
    [['--depth', '0'], /positive whole number/],
    [['--entry', ':'], /selector ':'/],
  ])('bad usage %j is one sentence and status 2', async (more, sentence) => {
    const run = await multitrace(['trace', 'leaf', ...more, '--', trees(), 'tree', '1']);
    expect(run.status, describeRun(run)).toBe(2);
    expect(run.stderr).toMatch(sentence);
    expect(run.stdout).toBe('');
  });
});

describe.skipIf(lacking)('files', () => {
  test('Chrome’s trace event format: every call once, nested, with threads', async () => {
    const path = join(folder, 'threads.json');
    const run = await multitrace(['trace', 'job', 'sleeper', 'leaf', '-o', path, '--', trees(), 'threads']);
    expect(run.stdout, describeRun(run)).toBe('');
    const { calls, threads } = readChromeTrace(path);
    for (const name of ['job', 'sleeper', 'leaf'])
      expect(calls.filter(call => call.name === name)).toHaveLength(80);
    expect([...threads.values()]).toEqual(expect.arrayContaining(['worker-1', 'worker-4']));
    expect(calls.find(({ name }) => name === 'sleeper')!.args.arguments).toMatch(/^us=\d+$/);
    expect(run.stderr).toContain(`written to ${path}`);
  });

  test('speedscope’s format: by its schema, a profile for each thread', async () => {
    const path = join(folder, 'threads.speedscope.json');
    await multitrace(['trace', 'job', 'sleeper', 'leaf', '-o', path, '--', trees(), 'threads']);
    const { profiles, calls } = readSpeedscope(path);
    expect(profiles).toHaveLength(4);
    expect(Object.fromEntries(calls)).toEqual({ job: 80, sleeper: 80, leaf: 80 });
  });

  test('calls that never return, and other stacks, nest too', async () => {
    for (const [name, how] of [
      ['jump', ['catcher', 'between', 'jumper', 'leaf']],
      ['coroutine', ['on_other', 'resume', 'leaf']],
    ] as const) {
      const chrome = join(folder, `${name}.json`);
      await multitrace(['trace', ...how, '-o', chrome, '--', trees(), name]);
      expect(readChromeTrace(chrome).calls.length).toBeGreaterThan(4);
      const speedscope = join(folder, `${name}-file`);
      await multitrace(['trace', ...how, '-o', speedscope, '--format', 'speedscope', '--', trees(), name]);
      expect(readSpeedscope(speedscope).calls.get('leaf')).toBeGreaterThan(2);
    }
  });

  test('a file that can’t be written is said before anything runs', async () => {
    const run = await multitrace(['trace', 'leaf', '-o', '/nowhere/x.json', '--', trees(), 'tree', '1']);
    expect(run.status).toBe(1);
    expect(run.stderr).toContain('/nowhere/x.json can’t be written'.replace('’', "'"));
  });
});

describe.skipIf(lacking)('whole programs', () => {
  test('a running process: Ctrl-C ends, and every byte is as it was', async () => {
    const busy = new Running(trees(), ['loop', '2000']);
    onTestFinished(() => busy.stop());
    const tracing = startMultitrace(['trace', '*', '--json', '-p', `${busy.pid}`]);
    onTestFinished(() => tracing.stop());
    await tracing.expectOutput(/"function":"job"/);
    tracing.child.kill('SIGINT');
    const run = await tracing.ended;
    expect(run.status, describeRun(run)).toBe(0);
    const { calls } = parseTrace(run);
    expect(only(calls, 'job').length).toBeGreaterThan(0);
    expect(changedCode(busy.pid).changed).toEqual([]);
    expect(tracerOf(busy.pid)).toBe(0);
  });

  test('a process that calls faster than can be read loses whole calls, says so, and goes on', async () => {
    const busy = new Running(trees(), ['busy']);
    onTestFinished(() => busy.stop());
    const seconds = SOAK ? '0.3' : '0.1';
    const tracing = ['trace', 'top', 'middle', 'leaf', '--json', '-d', seconds, '--max-calls', '100000000'];
    const run = await multitrace([...tracing, '-p', `${busy.pid}`]);
    const { calls, end } = parseTrace(run);
    expect(end.lostReturns).toBe(0);
    if (end.lost > 0) expect(run.stderr).toContain('found no room');
    // What was not lost fits together all the same.
    const byId = new Map(calls.map(call => [call.id, call]));
    const within = new Set(calls.map(call => `${call.function} in ${byId.get(call.parent ?? 0)?.function}`));
    for (const pair of within)
      expect(pair).toMatch(/^(top in undefined|middle in (top|undefined)|leaf in (top|middle|undefined))$/);
    expect(calls.filter(({ end: how }) => how === 'left')).toEqual([]);
    expect(changedCode(busy.pid).changed).toEqual([]);
  });

  test.skipIf(missingCommand('openssl'))(
    'openssl: every call of libcrypto in the order of a file’s digest',
    async () => {
      const { calls, end, run } = await traceCommand(
        ['libcrypto:EVP_Digest*'],
        ['openssl', 'dgst', '-sha256', '/etc/passwd'],
      );
      expect(end.lost).toBe(0);
      const names = calls.map(call => call.function);
      const order = ['EVP_DigestInit_ex', 'EVP_DigestUpdate', 'EVP_DigestFinal_ex'].map(name =>
        names.findIndex(found => found.startsWith(name.replace(/_ex$/, ''))),
      );
      expect(order, describeRun(run)).toEqual([...order].sort((a, b) => a - b));
      expect(order[0]).toBeGreaterThanOrEqual(0);
    },
  );

  test.skipIf(missingCommand('python3'))('python: libraries that dlopen brings join', async () => {
    const script = 'import ctypes, sqlite3; sqlite3.connect(":memory:").execute("select 1").fetchall()';
    const { calls, run } = await traceCommand(['libsqlite3:sqlite3_*'], ['python3', '-c', script]);
    const names = new Set(calls.map(call => call.function));
    expect(names.has('sqlite3_prepare_v2') || names.has('sqlite3_prepare_v3'), describeRun(run)).toBe(true);
    expect(names.has('sqlite3_step')).toBe(true);
    expect(run.status).toBe(0);
  });

  test('a static program, whose threads have no ids yet: they are told apart by their stacks', async () => {
    const program = compileTarget({ source: 'trees.c', flags: ['-g', '-static'] });
    const { calls, run } = await traceCommand(['sleeper', 'leaf'], [program, 'threads'], ['--entry', 'job']);
    expect(shapes(calls), describeRun(run)).toEqual(Array(80).fill('job(sleeper leaf)'));
    const tid = await multitrace(['trace', 'leaf', '--tid', '1', '--', program, 'tree', '1']);
    expect(tid.status).toBe(1);
    expect(tid.stderr).toContain('do not have their ids');
  });

  test('exec is followed', async () => {
    const { calls } = await traceCommand(['top', 'leaf'], ['sh', '-c', `exec ${trees()} tree 3`]);
    expect(shapes(calls)).toEqual(Array(3).fill('top(leaf leaf leaf)'));
  });

  test('nothing that matches is said with status 1', async () => {
    const run = await multitrace(['trace', 'no_such_function', '--', trees(), 'tree', '1']);
    expect(run.status).toBe(1);
    expect(run.stderr).toContain('no function of process');
  });
});

test('every option is in the help and in docs/trace.md', async () => {
  const page = readFileSync(new URL('../docs/trace.md', import.meta.url), 'utf8');
  for (const command of ['trace', 'latency']) {
    const help = await multitrace([command, '--help']);
    expect(help.status).toBe(0);
    const options = [...help.stdout.matchAll(/--([a-z-]+)/g)]
      .map(match => match[1])
      .filter(o => !['help', 'pid'].includes(o));
    expect(options.length).toBeGreaterThan(8);
    for (const option of options) expect(page, option).toContain(`--${option}`);
  }
});

/** The options of `multitrace count`: selectors and exclusions, what is printed, and when it ends. */

import { describe, expect, onTestFinished, test } from 'vitest';
import { describeRun, multitrace, Running, startMultitrace } from './support/command.js';
import { compileTarget, ownCounts } from './support/compile.js';
import { changedCode, processState, tracerOf, until } from './support/process.js';
import { countCommand, countOf, parseReport } from './support/report.js';
import { missingCommand } from './support/skip.js';

/** What `dying` is given to live long enough, in µs. */
const A_MINUTE = '60000000';
const lacking = missingCommand('gcc');
const counts = () => compileTarget({ source: 'counts.c' });
const names = (functions: readonly { readonly function: string }[]) =>
  functions.map(one => one.function).sort();

describe.skipIf(lacking)('selectors', () => {
  test('globs, several of them, without duplicates', async () => {
    const { report } = await countCommand(['*_args', 'six_*', 'by_[tp]*', 'lea?'], [counts(), '10']);
    expect(names(report.functions)).toEqual([
      'by_pointer',
      'by_table_a',
      'by_table_b',
      'float_args',
      'leaf',
      'mixed_args',
      'narrow_args',
      'nine_args',
      'six_args',
    ]);
    expect(report.matched).toBe(9);
  });

  test('`!` excludes, wherever it stands', async () => {
    for (const selectors of [
      ['*_args', '!n*'],
      ['!n*', '*_args'],
    ]) {
      const { report } = await countCommand(selectors, [counts(), '10']);
      expect(names(report.functions)).toEqual(['float_args', 'mixed_args', 'six_args']);
    }
  });

  test('no module means the main program', async () => {
    const { report } = await countCommand(['*'], [counts(), '10']);
    for (const { module } of report.functions) expect(module).toMatch(/counts/);
  });

  test('a module goes by its name with or without .so and version', async () => {
    const libc: string[][] = [];
    for (const module of ['libc', 'libc.so', 'libc.so.6', 'libc.*', 'lib[c]']) {
      const { report, run } = await countCommand([`${module}:qsort*`], [counts(), '10']);
      expect(
        report.functions.some(one => one.function.startsWith('qsort')),
        describeRun(run),
      ).toBe(true);
      libc.push(names(report.functions));
    }
    expect(new Set(libc.map(list => list.join()))).toHaveLength(1);
  });

  test('the main program goes by its file name too, and libraries can be excluded', async () => {
    const { report } = await countCommand(['*:*', '!libc:*', '!ld-linux*:*'], [counts(), '10']);
    expect(new Set(report.functions.map(one => one.module)).size).toBe(1);
    const { report: named } = await countCommand(['counts:heavy'], [counts(), '10']);
    expect(names(named.functions)).toEqual(['heavy']);
  });
});

describe.skipIf(lacking)('what is printed', () => {
  test('--top limits the table, highest first', async () => {
    const { report } = await countCommand(['*'], [counts(), '20000'], { more: ['--top', '3'] });
    expect(report.functions).toHaveLength(3);
    expect(report.functions.map(one => one.function).slice(0, 1)).toEqual(['heavy']);
  });

  test('--all shows functions that were not called', async () => {
    const { report } = await countCommand(['heavy', 'leaf'], [counts(), '0'], { more: ['--all'] });
    expect(report.functions.map(one => [one.function, one.count])).toEqual([
      ['leaf', 1011],
      ['heavy', 0],
    ]);
    const { report: without } = await countCommand(['heavy', 'leaf'], [counts(), '0']);
    expect(names(without.functions)).toEqual(['leaf']);
  });

  test('the table has each function with its count, behind the program’s own output', async () => {
    const done = await multitrace(['count', '*', '--', counts(), '123456']);
    expect(done.status, describeRun(done)).toBe(0);
    const own = ownCounts(done.stdout);
    expect(own.get('heavy')).toBe(123456);
    const table = done.stdout.slice(done.stdout.indexOf('checksum\t'));
    for (const [name, calls] of own) {
      const line = table.split('\n').find(text => new RegExp(`\\b${name}\\b`).test(text));
      if (line === undefined) continue; // It could not be attached; the JSON tests say which may not.
      expect(line.replaceAll(/[,. _'](?=\d{3})/g, ''), line).toContain(`${calls}`);
    }
    expect(table).toMatch(/\bheavy\b/);
  });

  test('--verbose names the refused functions with the reasons that --json gives', async () => {
    const program = compileTarget({ source: 'counts.c', flags: ['-Os', '-falign-functions=1'] });
    const { report } = await countCommand(['*'], [program, '10']);
    const done = await multitrace(['count', '*', '--verbose', '--', program, '10']);
    for (const skipped of report.skipped) {
      expect(done.stdout + done.stderr).toContain(skipped.function);
      expect(done.stdout + done.stderr).toContain(skipped.reason);
    }
  });
});

describe.skipIf(lacking)('a running process', () => {
  async function waiting(): Promise<Running> {
    const program = new Running(compileTarget({ source: 'behaves.c' }), ['wait']);
    onTestFinished(() => program.stop());
    await program.expectOutput(/^ready/);
    return program;
  }

  test('--duration ends the tracing, and the process runs on as it was', async () => {
    const program = await waiting();
    const done = await multitrace(['count', 'tick', '-p', `${program.pid}`, '--duration', '0.5', '--json']);
    const report = parseReport(done);
    expect(done.status, describeRun(done)).toBe(0);
    expect(report.pid).toBe(program.pid);
    expect(report.exit).toEqual({ code: null, signal: null });
    // One call each millisecond at most, for ever.
    expect(report.functions[0].count).toBeGreaterThan(10);
    expect(report.functions[0].count).toBeLessThan(done.durationMs);
    expect(done.durationMs).toBeLessThan(20_000);
    expect(changedCode(program.pid).changed).toEqual([]);
    expect(tracerOf(program.pid)).toBe(0);
    expect(processState(program.pid)).toMatch(/[SR]/);
  });

  test('--interval prints a table each interval, with what was called in it', async () => {
    const program = await waiting();
    const done = await multitrace([
      'count',
      'tick',
      '-p',
      `${program.pid}`,
      '--duration',
      '1.3',
      '--interval',
      '0.3',
    ]);
    expect(done.status, describeRun(done)).toBe(0);
    const rows = done.stdout.split('\n').filter(line => /\btick\b/.test(line));
    expect(rows.length, describeRun(done)).toBeGreaterThanOrEqual(4);
    const calls = rows.map(row => Number(/\d[\d,]*/.exec(row)?.[0].replaceAll(',', '')));
    // One call each millisecond at most: if each row had all calls until then, four would have twice as many and more.
    const shown = calls.slice(0, 4).reduce((sum, one) => sum + one, 0);
    expect(shown, `calls of one interval only: ${calls}`).toBeLessThan(done.durationMs);
  });

  test('SIGINT, SIGTERM and SIGHUP end the tracing with its result', async () => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      const program = await waiting();
      const tracer = startMultitrace(['count', 'tick', '-p', `${program.pid}`, '--json']);
      onTestFinished(() => tracer.stop());
      await until('it is patched', () => changedCode(program.pid).changed.length > 0);
      await new Promise(resolve => setTimeout(resolve, 300));
      const told = performance.now();
      tracer.child.kill(signal);
      const ended = await tracer.ended;
      expect(performance.now() - told, signal).toBeLessThan(10_000);
      expect(parseReport(ended).functions[0].count, describeRun(ended)).toBeGreaterThan(10);
      expect(changedCode(program.pid).changed).toEqual([]);
      expect(processState(program.pid)).toMatch(/[SR]/);
    }
  });

  test('that ends meanwhile: its counts are reported, and it ends as it would alone', async () => {
    for (const [args, exit] of [
      [[A_MINUTE], { code: 7, signal: null }],
      [[A_MINUTE, '15'], { code: null, signal: 'SIGTERM' }],
    ] as const) {
      const program = new Running(compileTarget({ source: 'dying.c' }), args);
      onTestFinished(() => program.stop());
      const tracer = startMultitrace(['count', 'spin', '-p', `${program.pid}`, '--json']);
      onTestFinished(() => tracer.stop());
      await until('it is patched', () => changedCode(program.pid).changed.length > 0);
      await new Promise(resolve => setTimeout(resolve, 300));
      const told = performance.now();
      program.child.kill('SIGUSR1');
      const done = await tracer.ended;
      const report = parseReport(done);
      // Only a process's parent is sure to be told how it ended.
      if (report.exit.code !== null || report.exit.signal !== null) expect(report.exit).toEqual(exit);
      expect(countOf(report, 'spin'), describeRun(done)).toBeGreaterThan(1000);
      expect(performance.now() - told, 'it ends when the process does').toBeLessThan(20_000);
      const ended = await program.ended;
      expect(ended.signal ?? ended.status).toBe(exit.signal ?? exit.code);
    }
  });

  test('--duration with a command ends the tracing, not the command', async () => {
    const program = compileTarget({ source: 'dying.c' });
    const done = await multitrace(['count', 'spin', '--duration', '0.3', '--json', '--', program, '3000000']);
    const report = parseReport(done);
    expect(report.functions[0].count, describeRun(done)).toBeGreaterThan(1000);
    expect(done.status).toBe(0);
  });
});

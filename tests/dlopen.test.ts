/**
 * Libraries that come after the program has started: patterns apply to them as they load, before their code runs,
 * and again when they come back.
 */

import { describe, expect, test } from 'vitest';
import { missingBpfCompiler } from './support/bpf.js';
import { describeRun, run } from './support/command.js';
import { compileTarget, ownCounts } from './support/compile.js';
import { linkObject } from './support/eight.js';
import { countWithUprobes } from './support/independent.js';
import { MULTITRACE } from './support/paths.js';
import { countCommand, countOf } from './support/report.js';
import { missingCommand, missingFile, uprobesRefused } from './support/skip.js';
import { libraryOf } from './support/symbols.js';

const PYTHON = '/usr/bin/python3';
const USE_SSL = `import ssl
context = ssl.create_default_context()
print(ssl.OPENSSL_VERSION, context.minimum_version.name)`;
const steady = { ...process.env, PYTHONHASHSEED: '0' };

describe('libraries loaded later', () => {
  test('python3 imports ssl: libssl is counted as it loads', async ({ skip }) => {
    const lacking = missingFile(PYTHON);
    skip(lacking !== undefined, lacking);
    const plain = await run(PYTHON, ['-c', USE_SSL], { env: steady });
    const { report, run: traced } = await countCommand(['libssl:*'], [PYTHON, '-c', USE_SSL], {
      env: steady,
    });
    expect(traced.stderr, describeRun(traced)).toBe(plain.stdout);
    expect(traced.status).toBe(0);
    expect(report.matched).toBeGreaterThan(400);
    expect(report.attached / report.matched).toBeGreaterThan(0.95);
    expect(countOf(report, 'SSL_CTX_new', /libssl/)).toBeGreaterThan(0);
    expect(
      countOf(report, 'OPENSSL_init_ssl', /libssl/),
      'called while the module is initialized',
    ).toBeGreaterThan(0);
  });

  test('python3 imports ssl: the kernel counts the same', async ({ skip }) => {
    const lacking = missingFile(PYTHON) ?? missingCommand('ldd', 'nm', 'gcc', 'openssl') ?? uprobesRefused();
    skip(lacking !== undefined, lacking);
    const library = libraryOf('/usr/bin/openssl', 'libssl.so');
    const { report } = await countCommand(['libssl:*'], [PYTHON, '-c', USE_SSL], { env: steady });
    const names = report.functions.map(one => one.function).slice(0, 60);
    expect(names.length).toBeGreaterThan(5);
    const kernel = await countWithUprobes(library, names, [PYTHON, '-c', USE_SSL], {
      dynamic: true,
      env: steady,
    });
    expect(new Map(names.map(name => [name, countOf(report, name)]))).toEqual(kernel);
  });

  for (const [title, libc] of [
    ['glibc', 'gcc'],
    ['musl', 'musl-gcc'],
  ] as const) {
    test(`a plugin’s constructor is counted, each time it is loaded (${title})`, async ({ skip }) => {
      const lacking = missingCommand(libc);
      skip(lacking !== undefined, lacking);
      const plugin = compileTarget({ source: 'plugin.c', compiler: libc, flags: ['-shared', '-fPIC'] });
      const host = compileTarget({ source: 'host.c', compiler: libc, flags: ['-rdynamic'] });
      const { report, run: traced } = await countCommand(['plugin:plugin_*'], [host, plugin, '5']);
      expect(traced.status, describeRun(traced)).toBe(0);
      const plain = await run(host, [plugin, '5']);
      expect(traced.stderr).toBe(plain.stdout);
      const own = ownCounts(traced.stderr);
      // musl never unloads: its plugin is made and ended once.
      expect(own.get('plugin_prepare')).toBe(title === 'musl' ? 1 : 5);
      own.delete('plugin_finish'); // Runs at exit with musl, behind the printed line.
      expect(new Map([...own.keys()].map(name => [name, countOf(report, name)]))).toEqual(own);
      expect(report.matched).toBeGreaterThanOrEqual(4);
    });
  }

  test('a plugin’s destructor is counted', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const plugin = compileTarget({ source: 'plugin.c', flags: ['-shared', '-fPIC'] });
    const host = compileTarget({ source: 'host.c', flags: ['-rdynamic'] });
    const { report } = await countCommand(['plugin:*', 'main'], [host, plugin, '40']);
    expect(countOf(report, 'plugin_finish')).toBe(40);
    expect(countOf(report, 'main')).toBe(1);
  });

  test('a pattern for a library that never loads matches nothing, and says so', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const host = compileTarget({ source: 'host.c', flags: ['-rdynamic'] });
    // The program fails to load its plugin: exit status 3 of its own.
    const { report, run: traced } = await countCommand(['plugin:*', 'main'], [host, '/nowhere/plugin.so']);
    expect(report.exit, describeRun(traced)).toEqual({ code: 3, signal: null });
    expect(traced.status).toBe(3);
    expect(report.functions.map(one => one.function)).toEqual(['main']);
  });

  test('run: plain and multi programs are on a library each time that it is loaded', async ({ skip }) => {
    const lacking = missingBpfCompiler() ?? missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const plugin = compileTarget({ source: 'plugin.c', flags: ['-shared', '-fPIC'] });
    const host = compileTarget({ source: 'host.c', flags: ['-rdynamic'] });
    const traced = await run(MULTITRACE, ['run', linkObject('plugin'), '--json', '--', host, plugin, '20']);
    expect(traced.status, describeRun(traced)).toBe(0);
    const { globals, programs } = JSON.parse(traced.stdout) as {
      globals: Record<string, Record<string, number>>;
      programs: { name: string; skipped: unknown[] }[];
    };
    const own = ownCounts(traced.stderr);
    const all = [...own.values()].reduce((sum, calls) => sum + calls, 0);
    expect(own.get('plugin_work')).toBe(2000);
    expect(globals['.bss']).toEqual({
      plain: own.get('plugin_work'),
      multi: all,
      exits: own.get('plugin_step'),
    });
    expect(programs.flatMap(({ skipped }) => skipped)).toEqual([]);
  });

  test('run: a plain program that matches several functions is refused with a sentence', async ({ skip }) => {
    const lacking = missingBpfCompiler() ?? missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const host = compileTarget({ source: 'host.c', flags: ['-rdynamic'] });
    const target = ['--target', 'on_work=libc:mem*'];
    const traced = await run(MULTITRACE, ['run', linkObject('plugin'), ...target, '--', host, 'x']);
    expect(traced.status, describeRun(traced)).toBe(1);
    expect(traced.stderr).toMatch(
      /^multitrace: program on_work \(section "fentry\/plugin:plugin_work"\) is for one function, and \d+ match: libc.so.6:\S+, .*; name one with its module, or make it SEC\("fentry.multi\/…"\)$/m,
    );
  });
});

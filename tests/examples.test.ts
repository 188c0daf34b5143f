/** The programs of examples/, each on the real Debian library that it names. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { CPU_VERSIONS, compileBpfFile, EXAMPLES, missingBpfCompiler } from './support/bpf.js';
import { describeRun, multitrace, type Run, Running } from './support/command.js';
import { ROOT } from './support/paths.js';
import { commandPath, missingCommand, missingFile } from './support/skip.js';

interface Report {
  programs: { name: string; attached: number; missed: number }[];
  maps: Record<string, { key: unknown; value: unknown }[]>;
  globals: Record<string, Record<string, unknown>>;
  exit: { code: number | null; signal: string | null };
}

const lacking = missingBpfCompiler();
const object = (name: string): string => compileBpfFile(join(EXAMPLES, `${name}.bpf.c`));

function reportOf(done: Run): Report {
  try {
    return JSON.parse(done.stdout) as Report;
  } catch (cause) {
    throw new Error(describeRun(done), { cause });
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

describe.skipIf(lacking !== undefined)('examples', () => {
  test('each compiles at every cpu version and is in the README', () => {
    const readme = readFileSync(join(EXAMPLES, 'README.md'), 'utf8');
    const files = readdirSync(EXAMPLES).filter(name => name.endsWith('.bpf.c'));
    expect(files.length).toBeGreaterThanOrEqual(5);
    for (const file of files) {
      expect(readme).toContain(file.replace(/\.bpf\.c$/, ''));
      for (const cpu of CPU_VERSIONS) compileBpfFile(join(EXAMPLES, file), cpu);
    }
  });

  test('malloc_sizes: sizes by caller', async ({ skip }) => {
    const missing = missingCommand('sqlite3');
    skip(missing !== undefined, missing);
    const command = ['sqlite3', ':memory:', 'select count(*) from sqlite_master'];
    const done = await multitrace(['run', object('malloc_sizes'), '--json', '--', ...command]);
    const { maps, programs, exit } = reportOf(done);
    expect(exit, describeRun(done)).toEqual({ code: 0, signal: null });
    expect(programs).toMatchObject([{ attached: 1, missed: 0 }]);
    const sizes = maps.callers.map(({ value }) => value as { calls: number; bytes: number; largest: number });
    const calls = sizes.reduce((sum, one) => sum + one.calls, 0);
    expect(calls).toBeGreaterThan(50);
    expect(calls).toBe(maps.by_bits.reduce((sum, { value }) => sum + (value as number), 0));
    for (const one of sizes) expect(one.bytes).toBeGreaterThanOrEqual(one.largest);
    const text = await multitrace(['run', object('malloc_sizes'), '--', ...command]);
    expect(text.stdout, describeRun(text)).toMatch(/libsqlite3\.so[\d.]*(:\w+)?\+0x/);
  });

  test('slow_ssl_read: reads of a client of a server on this machine', async ({ skip }) => {
    const missing = missingCommand('openssl');
    skip(missing !== undefined, missing);
    const folder = mkdtempSync(join(tmpdir(), 'multitrace-ssl-'));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const [key, certificate] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
    const request = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=localhost', '-days', '2'];
    execFileSync('openssl', [...request, '-keyout', key, '-out', certificate], { stdio: 'ignore' });
    const port = await freePort();
    const server = new Running('openssl', [
      's_server',
      '-accept',
      String(port),
      '-cert',
      certificate,
      '-key',
      key,
      '-www',
    ]);
    onTestFinished(() => server.stop());
    await server.expectOutput(/ACCEPT/);
    const client = ['openssl', 's_client', '-connect', `127.0.0.1:${port}`, '-quiet', '-ign_eof'];
    const done = await multitrace(
      ['run', object('slow_ssl_read'), '--set', 'limit_us=0', '--json', '--', ...client],
      {
        input: 'GET / HTTP/1.0\r\n\r\n',
      },
    );
    const { maps, programs } = reportOf(done);
    expect(programs[0].attached, describeRun(done)).toBe(2);
    const reads = maps.slow_reads.map(({ value }) => value as { microseconds: number; result: number });
    expect(reads.length).toBeGreaterThan(0);
    expect(reads.some(({ result }) => result > 0)).toBe(true);
    expect(maps.calls_by_bits.reduce((sum, { value }) => sum + (value as number), 0)).toBe(reads.length);
  });

  test('sqlite_statements: their text', async ({ skip }) => {
    const missing = missingCommand('sqlite3');
    skip(missing !== undefined, missing);
    const statements = ['create table t(a)', 'insert into t values(17)', 'select sum(a) from t'];
    const done = await multitrace([
      'run',
      object('sqlite_statements'),
      '--',
      'sqlite3',
      ':memory:',
      ...statements,
    ]);
    expect(done.status, describeRun(done)).toBe(0);
    for (const statement of statements) expect(done.stdout).toContain(statement);
    expect(done.stdout).toMatch(/^17$/m);
  });

  test('function_histogram: every call is in the histogram and at its function', async ({ skip }) => {
    const missing = missingCommand('openssl');
    skip(missing !== undefined, missing);
    const done = await multitrace(
      [
        'run',
        object('function_histogram'),
        '--target',
        'on_call=libcrypto:EVP_*',
        '--json',
        '--',
        'openssl',
        'dgst',
        '-sha256',
        'package.json',
      ],
      { cwd: ROOT },
    );
    const { maps, programs, globals } = reportOf(done);
    expect(programs[0].attached, describeRun(done)).toBeGreaterThan(500);
    const times = maps.functions.map(({ value }) => value as { calls: number });
    expect(times.length).toBeGreaterThan(10);
    const histogram = globals['.bss'].histogram as number[];
    expect(times.reduce((sum, { calls }) => sum + calls, 0)).toBe(histogram.reduce((sum, n) => sum + n, 0));
  });

  test('abort_stack: who called abort, named', async ({ skip }) => {
    const python = '/usr/bin/python3';
    const missing = missingFile(python);
    skip(missing !== undefined, missing);
    const done = await multitrace([
      'run',
      object('abort_stack'),
      '--',
      python,
      '-c',
      'import os; os.abort()',
    ]);
    expect(done.status, describeRun(done)).toBe(134);
    expect(done.stdout).toMatch(/^aborts: .*libc\.so\.6:abort.*python3/m);
  });

  test('opened_files: path and descriptor', async ({ skip }) => {
    const missing = commandPath('cat') === undefined ? 'cat is not installed' : undefined;
    skip(missing !== undefined, missing);
    const done = await multitrace(
      ['run', object('opened_files'), '--json', '--', 'cat', 'package.json', '/no/such'],
      {
        cwd: ROOT,
      },
    );
    const { maps, exit } = reportOf(done);
    expect(exit).toEqual({ code: 1, signal: null });
    const opened = maps.opened.map(({ value }) => value as { path: string; result: number });
    expect(opened).toContainEqual(
      expect.objectContaining({ path: 'package.json', result: expect.any(Number) }),
    );
    expect(opened.find(({ path }) => path === '/no/such')?.result).toBe(-1);
  });
});

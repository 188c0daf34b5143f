/**
 * CO-RE on a live process: one compiled program reads three levels of pointers in a C library's structures, whatever
 * layout the library was compiled with.
 */

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { compileBpf, missingBpfCompiler } from './support/bpf.js';
import { describeRun, multitrace } from './support/command.js';
import { TARGETS } from './support/paths.js';
import { missingCommand } from './support/skip.js';

const reason = missingBpfCompiler() ?? missingCommand('gcc', 'pahole');

/** A folder with the program and the library of one layout; where its types are. */
function build(layout: number, types: 'section' | 'debug information'): string {
  const folder = mkdtempSync(join(tmpdir(), 'multitrace-layout-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const source = join(TARGETS, 'layouts.c');
  const library = join(folder, 'libaccount.so');
  const gcc = (...args: string[]) => execFileSync('gcc', ['-O2', ...args, source], { stdio: 'pipe' });
  gcc('-g', '-shared', '-fPIC', '-DLIBRARY', `-DLAYOUT=${layout}`, '-o', library);
  if (types === 'section') {
    execFileSync('pahole', ['-J', library], { stdio: 'pipe' });
    execFileSync('strip', ['--strip-debug', library], { stdio: 'pipe' });
  }
  mkdirSync(join(folder, 'bin'));
  execFileSync('gcc', ['-O2', source, library, '-Wl,-rpath,$ORIGIN/..', '-o', join(folder, 'bin', 'uses')]);
  return folder;
}

describe.skipIf(reason)(`CO-RE against a library${reason === undefined ? '' : ` (${reason})`}`, () => {
  for (const layout of [1, 2, 3])
    for (const types of ['section', 'debug information'] as const)
      test(`layout ${layout}, types from its ${types}`, async () => {
        const folder = build(layout, types);
        const done = await multitrace([
          'run',
          compileBpf('three_levels'),
          '--json',
          '--',
          join(folder, 'bin', 'uses'),
        ]);
        expect(done.status, describeRun(done)).toBe(0);
        expect(done.stderr).toContain('sum 20');
        const { globals } = JSON.parse(done.stdout) as { globals: Record<string, object> };
        expect(globals['.bss']).toMatchObject({
          calls: 6,
          numbers: 10,
          totals: 5010,
          ages: 160,
          plain_ages: 160,
          nowhere: 1,
          last_name: 'owner 4',
        });
      }, 60_000);
});

/** The pages that list what the code has are the same as the code. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { KERNEL_DENIED, KERNEL_REFUSALS, NEVER_RETURNING } from '../src/kernel/linux/deny.js';
import { DENIED } from '../src/kernel/process/ftrace/deny_list.js';
import { EXIT_DENIED, EXIT_REFUSALS, RUNTIMES } from '../src/kernel/process/ftrace/exit_deny.js';
import { REFUSALS } from '../src/kernel/process/ftrace/patch_site.js';
import { LIVE_REFUSALS } from '../src/kernel/process/link/refusals.js';
import { BpfObject } from '../src/libbpf/object.js';
import { missingBpfCompiler } from './support/bpf.js';
import { run } from './support/command.js';
import { linkObject, openEight } from './support/eight.js';
import { ROOT } from './support/paths.js';
import { missingCommand } from './support/skip.js';

test('docs/reasons.md has every reason with its sentence', () => {
  const page = readFileSync(join(ROOT, 'docs', 'reasons.md'), 'utf8');
  for (const [word, sentence] of Object.entries({
    ...REFUSALS,
    ...LIVE_REFUSALS,
    ...EXIT_REFUSALS,
    ...KERNEL_REFUSALS,
  }))
    expect(page).toContain(`| \`${word}\` | ${sentence} |`);
  for (const { shown, why } of [...DENIED, ...EXIT_DENIED, ...RUNTIMES])
    expect(page).toContain(`| ${shown} | ${why} |`);
  for (const { names, why } of [...KERNEL_DENIED, ...NEVER_RETURNING])
    expect(page).toContain(`| ${names.map(name => `\`${name}\``).join(', ')} | ${why} |`);
});

test('docs/multi-link.md names files that are there, and tests that say what it quotes', () => {
  const page = readFileSync(join(ROOT, 'docs', 'multi-link.md'), 'utf8');
  const files = [...page.matchAll(/`((?:src|tests)\/[\w./-]+)`/g)].map(([, file]) => file);
  expect(files.length).toBeGreaterThan(60);
  for (const file of new Set(files)) expect(existsSync(join(ROOT, file)), file).toBe(true);
  const quotes = [...page.matchAll(/`([\w./-]+\.test\.ts)` "([^"]+)"/g)];
  expect(quotes.length).toBeGreaterThan(40);
  for (const [, file, words] of quotes) expect(readFileSync(join(ROOT, file), 'utf8'), file).toContain(words);
  // No row without its test.
  expect(page.match(/\.test\.ts`(?! ")/g)?.length).toBe(1);
});

test('every option of count and list is in its help, and the README names those of count', async () => {
  const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
  const help = await run(join(ROOT, 'bin', 'multitrace'), ['count', '--help']);
  expect(help.status).toBe(0);
  const options = [...help.stdout.matchAll(/--([a-z]+)/g)]
    .map(m => m[1])
    .filter(o => !['help', 'pid'].includes(o));
  expect(options.length).toBeGreaterThan(5);
  for (const option of options) expect(readme, option).toContain(`--${option}`);
});

describe.skipIf(missingBpfCompiler() !== undefined || missingCommand('gcc', 'pahole') !== undefined)(
  'docs/libbpf.md',
  () => {
    test('the pieces of "Attaching" run, and give what their comments say', async () => {
      const page = readFileSync(join(ROOT, 'docs', 'libbpf.md'), 'utf8');
      const section = /^## Attaching$(.*?)^## /ms.exec(page)![1];
      const pieces = [...section.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code]) => code);
      expect(pieces.length).toBeGreaterThanOrEqual(5);
      const eight = await openEight();
      const thrown = (work: () => void): unknown => {
        try {
          work();
        } catch (cause) {
          return cause;
        }
        throw new Error('nothing was thrown');
      };
      let compared = 0;
      for (const piece of pieces) {
        const is = (found: unknown, said: unknown): void => {
          compared++;
          expect(found, piece).toEqual(said);
        };
        const code = piece.replace(/^(?!const )(.*); \/\/ (.*)$/gm, 'is($1, $2);');
        using object = BpfObject.open(linkObject('eight'));
        for (const program of object.programs)
          program.autoload = ['entry_1', 'any_entry', 'takes_int'].includes(program.name);
        object.load(eight.kernel);
        new Function('object', 'kernel', 'thrown', 'is', code)(object, eight.kernel, thrown, is);
      }
      expect(compared).toBeGreaterThanOrEqual(14);
      await eight.end();
    });
  },
);

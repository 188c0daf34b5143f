/** The pages that list what the code has are the same as the code. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { DENIED } from '../src/kernel/process/ftrace/deny_list.js';
import { EXIT_DENIED, EXIT_REFUSALS, RUNTIMES } from '../src/kernel/process/ftrace/exit_deny.js';
import { REFUSALS } from '../src/kernel/process/ftrace/patch_site.js';
import { LIVE_REFUSALS } from '../src/kernel/process/link/refusals.js';
import { run } from './support/command.js';
import { ROOT } from './support/paths.js';

test('docs/reasons.md has every reason with its sentence', () => {
  const page = readFileSync(join(ROOT, 'docs', 'reasons.md'), 'utf8');
  for (const [word, sentence] of Object.entries({ ...REFUSALS, ...LIVE_REFUSALS, ...EXIT_REFUSALS }))
    expect(page).toContain(`| \`${word}\` | ${sentence} |`);
  for (const { shown, why } of [...DENIED, ...EXIT_DENIED, ...RUNTIMES])
    expect(page).toContain(`| ${shown} | ${why} |`);
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

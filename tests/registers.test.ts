/** A traced call changes no register: general, vector, x87 or MXCSR, stack pointer included. */

import { expect, test } from 'vitest';
import { describeRun, run } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { countCommand, countOf } from './support/report.js';
import { missingCommand } from './support/skip.js';

const lacking = missingCommand('gcc');

test.skipIf(lacking !== undefined)('a traced call changes no register', async () => {
  const program = compileTarget({ source: 'registers.c' });
  const untraced = await run(program, []);
  expect(untraced.stdout, describeRun(untraced)).toBe('ok 20000\n');
  const { report, run: traced } = await countCommand(['keeps_*'], [program]);
  expect(traced.stderr, describeRun(traced)).toContain('ok 20000\n');
  for (const name of ['keeps_frame', 'keeps_nop', 'keeps_endbr', 'keeps_jump'])
    expect(countOf(report, name), name).toBe(5000);
});

/**
 * Our verifier's verdicts against the kernel's, on the kernel's own tests of its verifier. They come in a Debian
 * package, which the long form of the tests fetches; the short one uses it where it is there already.
 */

import { beforeAll, describe, expect, test } from 'vitest';
import { annotatedCases } from './kernel-selftests/annotated.js';
import { arrayCases } from './kernel-selftests/arrays.js';
import { compileAnnotated, dumpArrays } from './kernel-selftests/compile.js';
import { LAXER } from './kernel-selftests/explained.js';
import { type Judged, judge } from './kernel-selftests/judge.js';
import { missingSelftests } from './kernel-selftests/source.js';
import { printTable, totalsOf } from './kernel-selftests/table.js';
import { missingBpfCompiler } from './support/bpf.js';
import { missingCommand, SOAK } from './support/skip.js';

/** What must be judged the same, of a hundred that are compared. */
const SAME = 95;
/** Programs that take seconds each: a million instructions, or as many as that. */
const LONG = [
  'verifier_loops1: loop_after_a_conditional_jump',
  'scale: scale test 1',
  'scale: scale test 2',
  'ld_dw: xor semi-random 64 bit imms, test 5',
];
const MINUTES = 60_000;

const missing = missingBpfCompiler() ?? missingCommand('gcc') ?? missingSelftests(SOAK);
if (missing !== undefined) console.log(`the kernel's tests are not compared: ${missing}`);

describe.skipIf(missing !== undefined)("the kernel's tests of its verifier", () => {
  let judged: Judged[] = [];

  beforeAll(async () => {
    const cases = [...(await compileAnnotated()).flatMap(annotatedCases), ...arrayCases(dumpArrays())];
    judged = cases.filter(({ name }) => SOAK || !LONG.includes(name)).map(judge);
    console.log(printTable(judged));
    if (process.env.MULTITRACE_SELFTESTS_LIST === '1')
      for (const { test, outcome, reason } of judged)
        if (outcome !== 'same') console.log(`${outcome}\t${test.name}\t[${test.section}]\t${reason}`);
  }, 10 * MINUTES);

  test('are many', () => {
    expect(totalsOf(judged).compared).toBeGreaterThan(1000);
  });

  test(`are judged as a kernel does in ${SAME} of 100 cases`, () => {
    expect(totalsOf(judged).percent).toBeGreaterThanOrEqual(SAME);
  });

  test('that a kernel refuses are refused, but for those that are known to be safe here', () => {
    const laxer = judged.filter(({ outcome }) => outcome === 'laxer');
    const unexplained = laxer.filter(({ test }) => LAXER[test.name] === undefined);
    expect(unexplained.map(({ test, reason }) => `${test.name}: ${reason}`)).toEqual([]);
    const names = new Set(laxer.map(({ test }) => test.name));
    const stale = Object.keys(LAXER).filter(name => !names.has(name));
    expect(stale, 'explained, and not laxer any more').toEqual([]);
  });
});

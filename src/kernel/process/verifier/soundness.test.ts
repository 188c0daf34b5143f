/**
 * Whatever the verifier accepts is safe: random programs (tests/soundness), and every accepted one is run in the
 * interpreter in a machine that knows exactly which bytes may be touched, and every register compared with what the
 * verifier believed of it: ranges, known bits, whether a pointer is null.
 *
 * MULTITRACE_SEED is the number of the first program, MULTITRACE_PROGRAMS how many there are: a long run can be cut
 * into parts, and one program repeated by its number.
 */

import { expect, test } from 'vitest';
import { checkProgram } from '../../../../tests/soundness/check.js';
import { SOAK } from '../../../../tests/support/skip.js';

const PROGRAMS = Number(process.env.MULTITRACE_PROGRAMS ?? (SOAK ? 1_000_000 : 2_000));
const FIRST = Number(process.env.MULTITRACE_SEED ?? (SOAK ? 0 : Date.now() % 2 ** 30));

// Two milliseconds each on a quiet machine; the time limit is for one that is not.
test(`no accepted one of ${PROGRAMS} programs goes wrong, from number ${FIRST} on`, {
  timeout: 60_000 + PROGRAMS * 30,
}, () => {
  let accepted = 0;
  let ended = 0;
  const kinds = new Map<string, number>();
  for (let number = FIRST; number < FIRST + PROGRAMS; number++) {
    const checked = checkProgram(number);
    if (checked.refused !== undefined) continue;
    accepted++;
    if (checked.ended > 0) ended++;
    const used = checked.operations.map(operation =>
      operation.kind === 'call' ? `call of ${operation.target}` : operation.kind,
    );
    for (const kind of new Set(used)) kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  if (PROGRAMS < 100) return;
  // Most are accepted and come to their end, not all; and everything that programs can do is in many of them.
  expect(accepted).toBeGreaterThan(PROGRAMS / 2);
  expect(accepted).toBeLessThan(PROGRAMS);
  expect(ended).toBeGreaterThan(accepted * 0.9);
  for (const kind of ['call of helper', 'call of subprogram', 'call of kfunc', 'mayGoto', 'atomic', 'movsx'])
    expect(kinds.get(kind) ?? 0, kind).toBeGreaterThan(accepted / 50);
});

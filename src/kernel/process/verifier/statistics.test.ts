/** A refusal says how far the walk came, as an accepted program does. */

import { expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2 } from '../../../bpf/builder.js';
import type { BpfInsn } from '../../../bpf/instruction.js';
import { VerifierError } from '../../verifier_error.js';
import { verifyProgram } from './verifier.js';

function refusal(insns: readonly BpfInsn[]): VerifierError {
  try {
    verifyProgram(insns, { maps: new Map(), nargs: 1 });
  } catch (error) {
    if (error instanceof VerifierError) return error;
    throw error;
  }
  throw new Error('the program is accepted');
}

test('of a program that goes wrong: what was walked up to there, over all paths', () => {
  const p = new ProgramBuilder();
  const out = p.label();
  p.load(8, R2, R1).jump('eq', R2, 0, out).mov(R0, 0).exit().bind(out).load(8, R0, R2).exit();
  const { statistics } = refusal(p.build());
  expect(statistics).toMatchObject({ processed: 5, restarts: 0 });
  expect(statistics?.timeMs).toBeGreaterThan(0);
});

test('of a program that is malformed: none, as nothing was walked', () => {
  expect(refusal(new ProgramBuilder().mov(R0, 0).build()).statistics).toBeUndefined();
});

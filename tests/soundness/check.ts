/**
 * One random program from its number: verified, and where it is accepted run a few times in a machine that knows what
 * may be touched, every register compared with what the verifier believed of it.
 */

import { disassemble } from '../../src/bpf/disassemble.js';
import { BpfError } from '../../src/kernel/errno.js';
import type { MapSpec, VerifierEnv } from '../../src/kernel/process/verifier/environment.js';
import { Beliefs, TooLong } from '../../src/kernel/process/verifier/fixture.js';
import { MAPS } from '../../src/kernel/process/verifier/rules_fixture.js';
import { type VerifiedProgram, verifyProgram } from '../../src/kernel/process/verifier/verifier.js';
import { runInMachine } from '../support/machine.js';
import { Random } from './random.js';
import { randomProgram } from './statements.js';
import { ARGUMENTS } from './writer.js';

const RUNS = 2;
/** Instructions that a walk may take: what loops for long costs the test its time. */
const WALK = 20_000;
const ALL_MAPS: ReadonlyMap<number, MapSpec> = new Map(
  Object.values(MAPS).map(map => [map.id, map as MapSpec]),
);

export interface Checked {
  /** instructions of the program */
  readonly length: number;
  /** why it is not accepted */
  readonly refused: string | undefined;
  /** runs that came to their end */
  readonly ended: number;
  readonly operations: VerifiedProgram['operations'];
  readonly processed: number;
}

/** Throws an `Error` that tells the whole program where an accepted one goes wrong. */
export function checkProgram(number: number): Checked {
  const random = new Random(number);
  const attachType = random.pick(['fentry', 'fexit', 'fmod_ret'] as const);
  const insns = randomProgram(random, attachType === 'fmod_ret');
  const beliefs = new Beliefs(WALK);
  const env: VerifierEnv = {
    attachType,
    nargs: ARGUMENTS,
    maps: ALL_MAPS,
    // With and without: paths then end in other places, and other registers are compared.
    rememberOften: number % 4 !== 0,
    allPrecise: number % 2 === 0,
    observe: beliefs,
  };
  let program: VerifiedProgram;
  try {
    program = verifyProgram(insns, env);
  } catch (error) {
    if (!(error instanceof BpfError || error instanceof TooLong)) throw error;
    const refused = error instanceof TooLong ? 'too long' : error.message;
    return { length: insns.length, refused, ended: 0, operations: [], processed: 0 };
  }
  let ended = 0;
  for (let run = 0; run < RUNS; run++) {
    try {
      if (runInMachine(program, beliefs, random.below)) ended++;
    } catch (error) {
      throw new Error(
        `program ${number}, run ${run}: ${(error as Error).message}\n${disassemble(insns).join('\n')}`,
      );
    }
  }
  const { operations, processed } = program;
  return { length: insns.length, refused: undefined, ended, operations, processed };
}

/**
 * What the compiler goes by: the program, and what the verifier found out about it. Code made from facts that are wrong
 * harms the process, so only `compileProgram` makes them, of what the verifier passed, and tests.
 */

import { argumentWords } from '../verifier/environment.js';
import type { VerifiedProgram } from '../verifier/verifier.js';

/** A function of the program: the main program, a subprogram or a callback. */
export interface FunctionFacts {
  /** index of its first instruction */
  readonly start: number;
  /** index behind its last instruction */
  readonly end: number;
  /** bytes of stack of its own */
  readonly stackDepth: number;
}

/** What code needs around it (`VerifiedProgram.needs`). */
export interface Needs {
  /** the block of the thread that it runs on */
  readonly thread: boolean;
  /** not to be entered again on one thread */
  readonly guard: boolean;
  /** somebody who sees to faults */
  readonly faults: boolean;
  /** programs that go on in its place */
  readonly tailCalls: boolean;
}

export type ProgramFacts = Pick<
  VerifiedProgram,
  | 'insns'
  | 'operations'
  | 'flow'
  | 'reached'
  | 'callMaps'
  | 'keyOffsets'
  | 'atomicOperands'
  | 'ownAtomics'
  | 'dynamicMaps'
  | 'probeLoads'
  | 'readsUnwritten'
> & {
  readonly subprograms: readonly FunctionFacts[];
  readonly needs: Needs;
  /** whether the program may say what the function returns, in place of the function */
  readonly mayOverride: boolean;
  /** whether somebody reads the r0 that the main program ends with */
  readonly hasResult: boolean;
  /** which word of the context holds the traced function's return value: behind the arguments that the program knows of */
  readonly returnAt: number | undefined;
};

/** What the verifier found out about `program`. */
export function factsOf(program: VerifiedProgram): ProgramFacts {
  const { insns, operations, flow, reached, callMaps, dynamicMaps, keyOffsets, atomicOperands, ownAtomics } =
    program;
  const { subprograms, probeLoads, readsUnwritten, needs, env } = program;
  const { attachType = 'fentry', context } = env;
  const traces = context === undefined;
  return {
    insns,
    operations,
    flow,
    reached,
    callMaps,
    dynamicMaps,
    keyOffsets,
    atomicOperands,
    ownAtomics,
    subprograms,
    probeLoads,
    readsUnwritten,
    needs,
    mayOverride: traces && attachType === 'fmod_ret',
    hasResult: !traces || attachType === 'fmod_ret',
    returnAt: traces && attachType !== 'fentry' ? argumentWords(env) : undefined,
  };
}

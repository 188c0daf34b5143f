/** What became of one program that a verifier was given, ours or the kernel's: for who wants to know what it took. Types only. */

import type { FunctionPrototype, Kernel, TargetFunction } from './kernel.js';
import type { WalkStatistics } from './verifier_error.js';

export interface Judgement {
  /** Left out where it was refused: the `VerifierError` has them then. */
  readonly statistics?: WalkStatistics | undefined;
  /** Of an accepted program, where one was asked for. */
  readonly log: string;
  /** How long it took, ms. */
  readonly timeMs: number;
  /** The function that it was verified for, where there was one. */
  readonly target: TargetFunction | undefined;
  readonly prototype: FunctionPrototype | undefined;
}

/** A machine that remembers them. */
export interface JudgingKernel extends Kernel {
  /** By the program's name. */
  readonly judgements: ReadonlyMap<string, Judgement>;
}

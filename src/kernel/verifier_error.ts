/** A verifier's refusal of a program, ours or the kernel's. */

import { BpfError, type ErrnoName } from './errno.js';

/** Statistics of the walk, as the kernel logs them. */
export interface WalkStatistics {
  readonly processed: number;
  readonly totalStates: number;
  readonly peakStates: number;
  /** how often it began again, because more was found to matter */
  readonly restarts: number;
  readonly timeMs: number;
}

/** What `BpfError` says, the log of the path that led to it, and how far the walk came. */
export class VerifierError extends BpfError {
  readonly log: string;
  /** `undefined` where the program was refused before the walk began: it is malformed. */
  readonly statistics: WalkStatistics | undefined;

  constructor(code: ErrnoName, message: string, log: string, statistics?: WalkStatistics) {
    super(code, message);
    this.log = log;
    this.statistics = statistics;
  }
}

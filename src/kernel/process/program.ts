/**
 * A program as a live process holds it: verified, compiled, and its machine code in place.
 */

import type { AttachType, BpfProg } from '../kernel.js';

export interface LoadedProgram extends BpfProg {
  readonly id: number;
  readonly name: string;
  readonly attachType: AttachType;
  readonly accessedArgs: readonly number[];
  readonly jitedSize: number;
  /** Where its machine code is, in the process. */
  readonly address: bigint;
  /** Caller-saved registers that it changes: a mask of 1 << register number. */
  readonly clobbers: number;
}

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
  /** Where tail calls enter it. */
  readonly tailEntry?: bigint;
  /** Caller-saved registers that it changes: a mask of 1 << register number. */
  readonly clobbers: number;
  /** It reads where the traced function's return address is (bpf_get_stack). */
  readonly needs?: { readonly stack: boolean };
  /** Arguments that its context has in front of the return value, as it was verified; six where left out. */
  readonly nargs?: number;
  /** It reads the traced function's result. */
  readonly readsReturnValue?: boolean;
}

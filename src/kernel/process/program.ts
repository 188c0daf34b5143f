/**
 * A program as a live process holds it: verified, compiled, and its machine code in place.
 */

import type { CallLayout } from '../../process/symbols/call_layout.js';
import type { AttachType, BpfProg } from '../kernel.js';

export interface LoadedProgram extends BpfProg {
  readonly id: number;
  readonly name: string;
  readonly attachType: AttachType;
  readonly accessedArgs: readonly number[];
  /** How its context is laid out, and how far it reads. */
  readonly context: ProgramContext;
  readonly jitedSize: number;
  /** Where its machine code is, in the process. */
  readonly address: bigint;
  /** Where tail calls enter it. */
  readonly tailEntry?: bigint;
  /** Caller-saved registers that it changes: a mask of 1 << register number. */
  readonly clobbers: number;
  /** It reads where the traced function's return address is (bpf_get_stack). */
  readonly needs?: { readonly stack: boolean };
  /** It reads the traced function's result. */
  readonly readsReturnValue?: boolean;
}

/** What a program takes its context for. */
export interface ProgramContext {
  /**
   * `registers`: six integer registers, whatever the function is. `prototype`: what each function's prototype says. `any`:
   * the same, with zeros behind the words that a function has.
   */
  readonly layout: 'registers' | 'prototype' | 'any';
  /** Words in front of the return value, as it was verified. */
  readonly words: number;
  /** Words from the first to the last one that it reads; all that a function has where it reads them by number. */
  readonly read: number | 'all';
  /** By position of the argument, as it was verified. */
  readonly args: CallLayout['args'];
}

/**
 * A program as a live process holds it: verified, compiled, and its machine code in place. It stays while anybody
 * needs it: whoever loaded it, links, program arrays. Then its code is freed behind a grace period.
 */

import type { CallLayout } from '../../process/symbols/call_layout.js';
import { BpfError } from '../errno.js';
import type { AttachType, BpfProg, FunctionPrototype } from '../kernel.js';
import type { CycleScale } from './helpers/time.js';
import { STATISTICS } from './jit/statistics.js';

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
  /** It reads where the traced function's return address is (bpf_get_stack), or its record; both where left out. */
  readonly needs?: { readonly stack: boolean; readonly record: boolean };
  /** It reads the traced function's result. */
  readonly readsReturnValue?: boolean;
  /** What the function takes and returns that it was verified against; `undefined`: an opaque one. */
  readonly prototype?: FunctionPrototype;
  /** Arguments that it takes by their types, and whether it does so with the result. */
  readonly typedArgs?: readonly number[];
  readonly typedResult?: boolean;
  /** One user more, until `release`. */
  hold?(): void;
  release?(): void;
}

/** What a program is made of. */
export type ProgramParts = Omit<LoadedProgram, 'free' | 'hold' | 'release' | 'missed' | 'stats'> & {
  readonly tailEntry: bigint;
};

/** Where its counter of missed runs is, and what takes it out of the process. */
export interface ProgramHome {
  readonly missed: Uint8Array;
  /** Its counters of runs and cycles, and what they are in time; `undefined` where they are not counted. */
  readonly statistics?: { readonly counters: Uint8Array; readonly scale: CycleScale } | undefined;
  /** The last user is gone; `ran`: text or a program array led to it, so that a thread may still be in it. */
  unload(ran: boolean): void;
}

/** Makes a loaded program, which its first user holds. */
export function loadedProgram(parts: ProgramParts, home: ProgramHome): LoadedProgram {
  const counter = new BigUint64Array(home.missed.buffer, home.missed.byteOffset, 1);
  let holders = 1;
  let owned = true;
  let ran = false;
  let missed: bigint | undefined;
  let last: BpfProg['stats'];
  const statistics = (): BpfProg['stats'] => {
    if (home.statistics === undefined) return undefined;
    const { counters, scale } = home.statistics;
    const words = new BigUint64Array(counters.buffer, counters.byteOffset, STATISTICS.size / 8);
    return {
      runCount: Atomics.load(words, STATISTICS.runs / 8),
      runTimeNs: scale.nanoseconds(Atomics.load(words, STATISTICS.cycles / 8)),
    };
  };
  const release = (): void => {
    if (--holders > 0) return;
    missed = Atomics.load(counter, 0);
    last = statistics();
    home.unload(ran);
  };
  return {
    ...parts,
    get missed() {
      return missed ?? Atomics.load(counter, 0);
    },
    get stats() {
      return last ?? statistics();
    },
    hold() {
      if (holders === 0)
        throw new BpfError('EBADF', `program ${parts.name} was freed; load it again to use it`);
      holders++;
      ran = true;
    },
    release,
    free() {
      if (!owned) return;
      owned = false;
      release();
    },
  };
}

/** What a program takes its context for. */
export interface ProgramContext {
  /**
   * `registers`: six integer registers, whatever the function is. `prototype`: what each function's prototype says. `any`:
   * the same, with zeros behind the words that a function has.
   */
  readonly layout: 'registers' | 'prototype' | 'any';
  /** Words in front of the result, as it was verified, and words of the result. */
  readonly words: number;
  readonly results: number;
  /** Words from the first to the last one that it reads; all that a function has where it reads them by number. */
  readonly read: number | 'all';
  /** By position of the argument, as it was verified. */
  readonly args: CallLayout['args'];
}

/**
 * The forms in which a kernel runs a program at a function: what it hands in as context, and which runs of a call the
 * program sees. And what the rewriting of a program (rewrite.ts) takes and gives.
 */

import type { BpfInsn } from '../../../bpf/instruction.js';
import type { Btf } from '../../../btf/btf.js';
import type { AttachType, FuncInfo, FunctionPrototype, LineInfo, ProgLoadAttr } from '../../kernel.js';

export interface ContextForm {
  /**
   * `typed`: the arguments of the function by its types, in words: what an fentry program of one function has.
   * `trampoline`: arguments and result by the helpers `bpf_get_func_arg` and `bpf_get_func_ret` alone: a multi program, or
   * one that is for functions of different prototypes. `pt_regs`: the registers, of a kprobe.
   */
  readonly context: 'typed' | 'trampoline' | 'pt_regs';
  /**
   * `session`: one program for entry and return, told apart by `bpf_session_is_return`. A session program in the form of
   * `entry` or `return` is one half of it: the two share a map.
   */
  readonly runs: 'entry' | 'return' | 'session';
  /** The program is loaded in the forms `entry` and `return`, both, also where it is no session program. */
  readonly halves?: true;
}

/** A program as a loader hands it over (`ProgLoadAttr`). */
export type ContextProgram = Pick<
  ProgLoadAttr,
  'name' | 'attachType' | 'insns' | 'btf' | 'funcInfo' | 'lineInfo' | 'argumentWords'
> & {
  /** What the function takes and returns, where the program is for one prototype. */
  readonly prototype?: FunctionPrototype | undefined;
};

/** What the kernel has. */
export interface ContextKernel {
  /** The number by which instructions call a kernel function, by its name; `undefined` where there is none. */
  kfunc(name: string): number | undefined;
  /** The kernel's own types (vmlinux): pointers to these can be cast to. */
  readonly types?: Btf | undefined;
}

/** The table, an array map, by which something is handed from calls' entries to their returns. */
export interface SavedState {
  /** Bytes. */
  readonly valueSize: number;
  readonly entries: number;
  /** The entry whose first word counts calls that found no other: their return is not seen. */
  readonly lost: number;
}

/** A program as the kernel can load it. Maps are named by id, kernel functions by the numbers of `ContextKernel`. */
export interface RewrittenProgram {
  readonly attachType: AttachType;
  readonly insns: readonly BpfInsn[];
  readonly btf?: Btf | undefined;
  readonly funcInfo: readonly FuncInfo[];
  readonly lineInfo: readonly LineInfo[];
  /** Positions of arguments that the program reads, from 0. */
  readonly accessedArgs: readonly number[];
  /** Those that it loads, by their types; and whether it loads the result. */
  readonly typedArgs: readonly number[];
  readonly typedResult: boolean;
  /** A main program of ours calls it: all its functions must be static for the kernel (`kernelBtf`). */
  readonly wrapped: boolean;
}

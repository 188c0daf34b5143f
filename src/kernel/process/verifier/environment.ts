/**
 * What a program is verified for: where it will be attached, what that takes, and the maps that it names.
 */

import type { Btf } from '../../../btf/btf.js';
import { type CallLayout, callLayout, layoutOfIntegers } from '../../../process/symbols/call_layout.js';
import type { AttachType, FuncInfo, FunctionPrototype, LineInfo } from '../../kernel.js';
import type { Facts } from './facts.js';
import type { State } from './state.js';

export type { AttachType } from '../../kernel.js';

/** What the verifier and the JIT need to know of a map. Sizes in bytes. */
export interface MapSpec {
  readonly id: number;
  /** a number of `MAP_TYPE` */
  readonly type: number;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  /** `BPF_F_…` */
  readonly flags?: number;
  readonly frozen?: boolean;
  /** the shape of the maps in a map of maps */
  readonly innerMap?: MapSpec | undefined;
  readonly btf?: Btf | undefined;
  readonly btfValueTypeId?: number | undefined;
  /** what a frozen array that programs only read holds at a byte of its first value */
  readonly readConstant?: ((offset: number, size: number) => Uint8Array | undefined) | undefined;
}

/** Memory that r1 points to, in place of a traced function's context; r2 is its size. */
export interface MemoryContext {
  readonly kind: 'memory';
  /** bytes */
  readonly size: number;
}

/** For tests: is told what the verifier believes as it walks. */
export interface Observer {
  /** A walk begins: what an earlier one said does not count. */
  begin(): void;
  /** What is known before the instruction, on one path; it changes afterwards. A path that is covered is not told. */
  instruction(index: number, state: State): void;
  /** The program is accepted, with these facts on what of it matters. */
  accepted(facts: Facts): void;
}

export interface VerifierEnv {
  /** `fentry` where left out */
  readonly attachType?: AttachType;
  /** what the traced function takes and returns; opaque where left out */
  readonly prototype?: FunctionPrototype | undefined;
  /** the same without types: words of arguments that the context holds, six where left out */
  readonly nargs?: number;
  /** with `nargs`: there are two words of a result, whatever the function returns */
  readonly anyResult?: boolean;
  readonly context?: MemoryContext;
  /** by the number that `ldMap` was given */
  readonly maps: ReadonlyMap<number, MapSpec>;
  /** the program's own types */
  readonly btf?: Btf | undefined;
  readonly funcInfo?: readonly FuncInfo[] | undefined;
  readonly lineInfo?: readonly LineInfo[] | undefined;
  readonly sleepable?: boolean;
  /** a sum: 1 the path that is refused, 2 every instruction with what it changed, 4 statistics alone */
  readonly logLevel?: number;
  /** for tests: remembers a state wherever paths come together (BPF_F_TEST_STATE_FREQ) */
  readonly rememberOften?: boolean;
  /** for tests: states are compared in every number that is read again, whether it matters or not */
  readonly allPrecise?: boolean;
  readonly observe?: Observer;
}

/** Which words of the context are which argument, and how many the result has. */
export function contextLayout({ prototype, nargs, anyResult }: VerifierEnv): CallLayout {
  if (prototype !== undefined || nargs === undefined) return callLayout(prototype);
  return layoutOfIntegers(nargs, anyResult ? ['rax', 'rdx'] : ['rax']);
}

/** How many words of arguments of the traced function the context holds; its result is behind them. */
export function argumentWords(env: VerifierEnv): number {
  return contextLayout(env).words.length;
}

/** Where the program is attached. */
export function attachTypeOf(env: VerifierEnv): AttachType {
  return env.attachType ?? 'fentry';
}

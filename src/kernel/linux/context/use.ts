/** What a program uses of its context in all: words by run, helpers that are handed it, functions of sessions. */

import { HELPER } from '../../../bpf/helpers.js';
import { CALL, CLASS, JMP } from '../../../bpf/instruction.js';
import { KFUNC } from '../../../bpf/kfuncs.js';
import { callLayout, layoutOfIntegers } from '../../../process/symbols/call_layout.js';
import { BpfError } from '../../errno.js';
import type { ContextProgram } from './form.js';
import { type ContextReads, type Phase, scanContext } from './scan.js';

const CALL_OPCODE = CLASS.JMP | JMP.CALL;
const WORD = 8;

/** Helpers that are handed the context in r1. */
export const CONTEXT_HELPERS: ReadonlySet<number> = new Set([
  HELPER.tail_call,
  HELPER.perf_event_output,
  HELPER.get_stackid,
  HELPER.override_return,
  HELPER.get_stack,
  HELPER.get_func_ip,
  HELPER.get_attach_cookie,
  HELPER.get_func_arg,
  HELPER.get_func_ret,
  HELPER.get_func_arg_cnt,
]);

/** Kernel functions that are handed the context in r1. */
export const SESSION_KFUNCS: ReadonlySet<number> = new Set([
  KFUNC.bpf_session_is_return,
  KFUNC.bpf_session_cookie,
  KFUNC.bpf_session_frame,
]);

/** What one run reads. */
export interface RunReads {
  /** Words of arguments that loads read, lowest first. */
  readonly words: readonly number[];
  /** Those that `bpf_get_func_arg` asks for. */
  readonly asked: readonly number[];
  /** Words of the result, from 0, that loads read. */
  readonly result: readonly number[];
}

export interface ContextUse {
  /** Words of arguments that the context has, and of the result behind them. */
  readonly argumentWords: number;
  readonly resultWords: number;
  /** By run; `undefined` for one that the program does not have. */
  readonly entry: RunReads | undefined;
  readonly return: RunReads | undefined;
  /** Numbers of the helpers, and of our kernel functions, that it calls anywhere. */
  readonly helpers: ReadonlySet<number>;
  readonly kfuncs: ReadonlySet<number>;
  /** Positions of arguments that it reads in any way; and of those that it loads, by their types. */
  readonly accessedArgs: readonly number[];
  readonly typedArgs: readonly number[];
  /** It loads the result. */
  readonly typedResult: boolean;
}

/** Throws EACCES where the program reads what no context has, or writes into it. */
export function contextUse(program: ContextProgram): ContextUse {
  const { attachType, insns, prototype, argumentWords } = program;
  const layout =
    prototype !== undefined || argumentWords === undefined
      ? callLayout(prototype)
      : layoutOfIntegers(argumentWords, ['rax', 'rdx']);
  const words = layout.words.length;
  // A function that returns nothing has a word there all the same.
  const resultWords = layout.result === undefined ? 0 : Math.max(1, layout.result.length);
  const phases: readonly Phase[] =
    attachType === 'fsession' ? ['entry', 'return'] : attachType === 'fexit' ? ['return'] : ['entry'];
  const withResult = attachType === 'fexit' || attachType === 'fsession' || attachType === 'fmod_ret';
  const runs = new Map(
    phases.map(phase => {
      const reads = scanContext(insns, phase);
      return [phase, runReads(reads, words, withResult ? resultWords : 0)] as const;
    }),
  );
  const all = [...runs.values()];
  const positions = (of: (reads: RunReads) => readonly number[]): number[] => {
    const read = new Set(all.flatMap(of));
    return layout.args.flatMap((arg, position) => {
      if (arg === undefined) return [];
      for (let word = arg.first; word < arg.first + arg.count; word++) if (read.has(word)) return [position];
      return [];
    });
  };
  const calls = (kind: number): Set<number> =>
    new Set(insns.flatMap(insn => (insn.opcode === CALL_OPCODE && insn.src === kind ? [insn.imm] : [])));
  return {
    argumentWords: words,
    resultWords,
    entry: runs.get('entry'),
    return: runs.get('return'),
    helpers: calls(CALL.HELPER),
    kfuncs: calls(CALL.KFUNC),
    accessedArgs: positions(({ words: read, asked }) => [...read, ...asked]),
    typedArgs: positions(({ words: read }) => read),
    typedResult: all.some(({ result }) => result.length > 0),
  };
}

function runReads(reads: ContextReads, argumentWords: number, resultWords: number): RunReads {
  const total = argumentWords + resultWords;
  const everything = (): number[] => Array.from({ length: total }, (_, word) => word);
  const read = reads.anyWord ? everything() : [...reads.words].sort((a, b) => a - b);
  const outside = read.find(word => word >= total);
  if (outside !== undefined) {
    const behind = resultWords === 0 ? '' : ', with its result';
    throw new BpfError(
      'EACCES',
      `invalid bpf_context access off=${outside * WORD} size=${WORD}: the traced function has ${total} words${behind}`,
    );
  }
  const asked = reads.anyArgument ? everything() : [...reads.asked].sort((a, b) => a - b);
  return {
    words: read.filter(word => word < argumentWords),
    asked: asked.filter(word => word < argumentWords),
    result: read.filter(word => word >= argumentWords).map(word => word - argumentWords),
  };
}

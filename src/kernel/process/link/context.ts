/**
 * What the context of a target's programs holds: which words, from where, for all programs on it together.
 *
 * A program sees the registers of arguments as they are, or what the function's prototype says, by how it was
 * verified. Both may be on one function where the words that they read are the same.
 */

import { HELPER } from '../../../bpf/helpers.js';
import {
  ARGUMENT_REGISTERS,
  callLayout,
  MOST_ARGUMENT_WORDS,
  OPAQUE_LAYOUT,
  type ResultPlace,
  type WordPlace,
} from '../../../process/symbols/call_layout.js';
import { BpfError } from '../../errno.js';
import type { FunctionPrototype } from '../../kernel.js';
import type { LoadedProgram, ProgramContext } from '../program.js';
import { contextLayout } from '../verifier/environment.js';
import type { VerifiedProgram } from '../verifier/verified.js';

const NOTHING: WordPlace = { in: 'nothing' };

export interface TargetContext {
  /** `nr_args` of the record: the words of arguments that the function has. */
  readonly nrArgs: number;
  /** The words that a trampoline lays out: as far as any program reads, and more where results need room. */
  readonly words: readonly WordPlace[];
  /** Where the words of the result are, as far as programs look for them. */
  readonly result: readonly ResultPlace[];
}

/** The context for these programs on a function; `resultsFor` those that are given room for a result behind their words. */
export function contextOf(
  prototype: FunctionPrototype | undefined,
  programs: readonly LoadedProgram[],
  resultsFor: readonly LoadedProgram[] = [],
): TargetContext {
  const byPrototype = programs.some(({ context }) => context.layout !== 'registers');
  const layout = byPrototype ? callLayout(prototype) : OPAQUE_LAYOUT;
  const nrArgs = layout.words.length;
  const registers = programs.some(
    reads => reads.context.layout === 'registers' && wordsRead(reads, nrArgs) > 0,
  );
  let count = 0;
  for (const program of programs) count = Math.max(count, wordsRead(program, nrArgs));
  for (const { context } of resultsFor) count = Math.max(count, context.words + context.results);
  const words = Array.from({ length: count }, (_, i): WordPlace => {
    if (i < nrArgs) return layout.words[i];
    return registers && i < ARGUMENT_REGISTERS ? { in: 'register', index: i } : NOTHING;
  });
  const any = programs.some(({ context }) => context.layout === 'any');
  const result = layout.result ?? [];
  // A program for any function finds two words, whatever the function returns.
  return { nrArgs, words, result: any ? [result[0] ?? 'nowhere', result[1] ?? 'nowhere'] : result };
}

/** How many of the words of a function that has `nrArgs` a program reads, from the first on. */
export function wordsRead({ context: { read } }: LoadedProgram, nrArgs: number): number {
  return read === 'all' ? Math.max(nrArgs, ARGUMENT_REGISTERS) : read;
}

/** Whether all that the program reads of a call is where it looks for it, beside the programs that are there. */
export function fits(
  program: LoadedProgram,
  prototype: FunctionPrototype | undefined,
  others: readonly LoadedProgram[],
): boolean {
  const layout = program.context.layout === 'registers' ? OPAQUE_LAYOUT : callLayout(prototype);
  if (program.context.layout === 'prototype') {
    // What is read by number is checked when it is read.
    for (const position of program.typedArgs ?? program.accessedArgs) {
      const [wanted, there] = [program.context.args[position], layout.args[position]];
      if (wanted === undefined || there?.first !== wanted.first || there.count !== wanted.count) return false;
    }
  }
  const { attachType, readsReturnValue } = program;
  const result = callLayout(prototype).result;
  // What a modify-return program returns goes to rax.
  if (attachType === 'fmod_ret' && !result?.every(place => place === 'rax')) return false;
  if (readsReturnValue === true && result === undefined && program.context.layout !== 'any') return false;
  return others.every(other => agree(program, other, prototype));
}

/** Whether two programs look for the same words at the same places. */
function agree(a: LoadedProgram, b: LoadedProgram, prototype: FunctionPrototype | undefined): boolean {
  const layouts = [a, b].map(({ context }) => (context.layout === 'registers' ? 'registers' : 'prototype'));
  if (layouts[0] === layouts[1]) return true;
  const typed = callLayout(prototype).words;
  const opaque = layouts[0] === 'registers' ? a : b;
  const other = opaque === a ? b : a;
  const read = Math.min(wordsRead(opaque, ARGUMENT_REGISTERS), ARGUMENT_REGISTERS);
  for (let i = 0; i < read; i++) {
    const place = typed[i];
    if (place === undefined ? wordsRead(other, typed.length) > i : !isRegister(place, i)) return false;
  }
  return true;
}

export function isRegister(place: WordPlace, index: number): boolean {
  return place.in === 'register' && place.index === index;
}

/** What a verified program takes its context for. Throws EINVAL where it asks for more words than there can be. */
export function programContext(verified: VerifiedProgram): ProgramContext {
  const { env, accessedArgs, needs, usedHelpers } = verified;
  const { prototype, nargs } = env;
  const any = prototype === undefined && nargs !== undefined;
  if (any && !(Number.isInteger(nargs) && nargs >= 1 && nargs <= MOST_ARGUMENT_WORDS))
    throw new BpfError(
      'EINVAL',
      `a context has 1 to ${MOST_ARGUMENT_WORDS} words of arguments, not ${nargs}`,
    );
  const { words, args, result } = contextLayout(env);
  let read = 0;
  for (const position of accessedArgs) {
    const there = args[position];
    if (there !== undefined) read = Math.max(read, there.first + there.count);
  }
  // Whom it calls by a tail call may read what any program may.
  const all = needs.tailCalls || usedHelpers.includes(HELPER.get_func_arg);
  return {
    layout: prototype !== undefined ? 'prototype' : any ? 'any' : 'registers',
    words: words.length,
    results: Math.max(1, result?.length ?? 1),
    read: all ? 'all' : read,
    args,
  };
}

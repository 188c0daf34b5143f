/** How a program comes to its context in one form: whether main is needed, what it reads, and what goes from entry to return. */

import { HELPER } from '../../../bpf/helpers.js';
import { KFUNC } from '../../../bpf/kfuncs.js';
import { BpfError } from '../../errno.js';
import type { ContextForm, ContextProgram, SavedState } from './form.js';
import type { ContextUse, RunReads } from './use.js';

/**
 * Main's stack, as offsets from the context that it builds (`context`, an offset from main's frame pointer):
 *
 *     -32 where in the table of calls it looks
 *     -24 the frame of the call
 *     -16 what the kernel handed to main
 *     -8  the session's cookie
 *     0   words of arguments, then of the result
 */
export const PLACE = { index: -32, frame: -24, real: -16, cookie: -8 } as const;
/** An entry of the table: whose it is (0: nobody's), the session's cookie, words of arguments. */
export const ENTRY = { key: 0, cookie: 8, words: 16 } as const;
/** Entries of the table, of which each call can have one of a few; behind them is the one that counts calls without one. */
export const TABLE_BITS = 16;
const TABLE_ENTRIES = 1 << TABLE_BITS;
const WORD = 8;

/** What main fills in for one run. */
export interface RunPlan {
  /** Words of arguments; those that are handed on to the return, too. */
  readonly words: readonly number[];
  /** Words of the result, from 0. */
  readonly result: readonly number[];
  /** The program itself runs. */
  readonly calls: boolean;
}

export interface ContextPlan {
  readonly context: ContextForm['context'];
  readonly runs: ContextForm['runs'];
  /** Without main the program is what the kernel loads, its calls changed. */
  readonly main: boolean;
  /** What the functions of sessions give is made by main. */
  readonly emulated: boolean;
  readonly entry: RunPlan | undefined;
  readonly return: RunPlan | undefined;
  /** A session's cookie is what an earlier call left there, until main writes 0 at the entry. */
  readonly clearsCookie: boolean;
  /** What main keeps of the entry for the return: words of arguments, and the cookie. */
  readonly saved: (SavedState & { readonly words: readonly number[] }) | undefined;
  /** Offset of the built context from main's frame pointer; not above 0. */
  readonly contextAt: number;
  /** Words of the context that main has room for. */
  readonly words: number;
}

/**
 * Throws EOPNOTSUPP where the form can't give what the program reads.
 */
export function planContext(program: ContextProgram, use: ContextUse, form: ContextForm): ContextPlan {
  const { attachType, prototype } = program;
  const { runs } = form;
  const context = form.context === 'typed' && prototype === undefined ? 'trampoline' : form.context;
  checkRuns(program, context, runs);
  const registers = context === 'pt_regs';
  const emulated = attachType === 'fsession' && runs !== 'session';
  const wordsOf = (reads: RunReads | undefined): number[] =>
    reads === undefined ? [] : ascending(registers ? [...reads.words, ...reads.asked] : reads.words);
  // At the return registers have no arguments any more.
  const kept = registers ? wordsOf(use.return) : [];
  if (kept.length > 0 && attachType === 'fexit' && runs === 'return' && form.halves !== true)
    throw new BpfError(
      'EOPNOTSUPP',
      `program ${program.name} reads argument ${kept[0] + 1} at the return of the function, where a kprobe has no arguments any more`,
    );
  const saves = emulated || kept.length > 0;
  const returnAsked = registers && use.helpers.has(HELPER.get_func_ret) ? [0] : [];
  const entry: RunPlan | undefined =
    runs === 'return'
      ? undefined
      : {
          words: ascending([...wordsOf(use.entry), ...kept]),
          result: use.return === undefined ? [] : ascending([...(use.entry?.result ?? []), ...returnAsked]),
          calls: attachType !== 'fexit',
        };
  const back: RunPlan | undefined =
    runs === 'entry' || use.return === undefined
      ? undefined
      : {
          words: wordsOf(use.return),
          result: ascending([...use.return.result, ...returnAsked]),
          calls: true,
        };
  const filled = [entry, back].flatMap(run =>
    run === undefined ? [] : [...run.words, ...run.result.map(word => use.argumentWords + word)],
  );
  const words = Math.max(0, ...filled.map(word => word + 1), ...kept.map(word => word + 1));
  // Where the session is a trampoline's, the kernel clears it.
  const clearsCookie =
    registers &&
    attachType === 'fsession' &&
    runs === 'session' &&
    back !== undefined &&
    use.kfuncs.has(KFUNC.bpf_session_cookie);
  const asksRegisters =
    registers && (use.helpers.has(HELPER.get_func_arg) || use.kfuncs.has(KFUNC.bpf_session_frame));
  return {
    context,
    runs,
    clearsCookie,
    main:
      saves ||
      asksRegisters ||
      clearsCookie ||
      entry?.calls === false ||
      (context !== 'typed' && filled.length > 0),
    emulated,
    entry,
    return: back,
    saved: saves
      ? {
          valueSize: ENTRY.words + WORD * kept.length,
          entries: TABLE_ENTRIES + 1,
          lost: TABLE_ENTRIES,
          words: kept,
        }
      : undefined,
    contextAt: -WORD * words,
    words,
  };
}

function checkRuns(
  program: ContextProgram,
  context: ContextForm['context'],
  runs: ContextForm['runs'],
): void {
  const { attachType, name } = program;
  const fits =
    attachType === 'fsession' ||
    (attachType === 'fexit' ? runs === 'return' || context === 'pt_regs' : runs === 'entry');
  if (!fits)
    throw new BpfError('EINVAL', `program ${name} is ${attachType}, and does not run at the ${runs}`);
  if (attachType === 'fmod_ret' && context === 'pt_regs')
    throw new BpfError('EOPNOTSUPP', `program ${name} is fmod_ret, and a kprobe can't change a result`);
}

function ascending(words: readonly number[]): number[] {
  return [...new Set(words)].sort((a, b) => a - b);
}

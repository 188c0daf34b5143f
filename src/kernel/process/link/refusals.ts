/** Why a function of a live process can't be attached, beyond what its file says: a fixed list, each with its sentence. */

import type { SkipReason } from '../../kernel.js';

/** Reasons that only a live process gives; the others are those of `REFUSALS`. */
export const LIVE_REFUSALS = {
  'text-modified': 'its code in memory is not what the file says: a debugger or another tracer changed it',
  'in-use': 'a thread was inside the bytes to be replaced whenever multitrace looked; try again',
  'used-by-multitrace': 'multitrace uses it, to see libraries as they load or to make system calls',
  'unknown-function': 'no module of the process has a function there',
  duplicate: 'it is in the link already',
  'not-allowed':
    'its result may not be changed: it is not among the functions that were allowed for modify-return',
  'too-many-sessions': 'it has as many session programs as a call has room for',
  arguments:
    'the program reads arguments or a result that it does not have, or not where another program on it looks for them',
  prototype: 'its types are not those that the program was verified for',
} as const;

/** A reason with its sentence, and what there is to say about this function. */
export function live(reason: keyof typeof LIVE_REFUSALS, detail?: string): SkipReason {
  const sentence = LIVE_REFUSALS[reason];
  return { reason, detail: detail === undefined ? sentence : `${sentence}: ${detail}` };
}

/**
 * Which lists of a function's slot its programs go to: in the order of attaching, fentry and fsession at entry,
 * modify-return before the original, fexit and fsession at the return.
 */

import { CALL, CALL_CONTEXT, MOST_SESSIONS } from '../kfunc_md/call_table.js';
import type { ListItem, ProgramLists } from '../kfunc_md/lists.js';
import type { RecordEntry } from '../kfunc_md/record.js';
import type { SlotProgram, SlotWish } from './slots.js';

const WORD = 8;
/** The context of a call has room for six arguments and the return value. */
const MOST_ARGS = (CALL.swapped - CALL_CONTEXT) / WORD - 1;

/** Whether the programs are plain fentry programs, which need no lists. */
export function isPlain({ site, programs }: Pick<SlotWish, 'site' | 'programs'>): boolean {
  const nopSled = site.kind === 'nop-sled';
  return programs.every(
    // The trampoline of a nop sled is the same for all plain programs, and has no more than all need.
    ({ program }) => program.attachType === 'fentry' && !(nopSled && program.needs?.stack === true),
  );
}

/** The programs that a plain trampoline may run, `nothing` where there are none. */
export function plainEntries({ programs }: Pick<SlotWish, 'programs'>, nothing: bigint): RecordEntry[] {
  const entries = programs
    .filter(({ program }) => program.attachType === 'fentry' && program.needs?.stack !== true)
    .map(({ program, cookie }) => ({ bpfFunc: program.address, cookie }));
  return entries.length > 0 ? entries : [{ bpfFunc: nothing, cookie: 0n }];
}

export function listsOf(programs: readonly SlotProgram[]): ProgramLists {
  const at = (...types: string[]): ListItem[] =>
    programs.filter(({ program }) => types.includes(program.attachType)).map(itemOf);
  return {
    serial: programs.at(-1)?.serial ?? 0n,
    entries: at('fentry', 'fsession'),
    modReturns: at('fmod_ret'),
    exits: at('fexit', 'fsession'),
    exitArgs: programs.some(
      ({ program: { attachType, accessedArgs } }) =>
        (attachType === 'fexit' || attachType === 'fsession') && accessedArgs.length > 0,
    ),
  };
}

function itemOf({ program, cookie, serial, session, missed }: SlotProgram): ListItem {
  return {
    bpfFunc: program.address,
    cookie,
    serial,
    session: session === undefined ? 0 : CALL.sessions + session * WORD,
    returnAt: Math.min(program.nargs ?? MOST_ARGS, MOST_ARGS) * WORD,
    missed,
  };
}

/** The first cookie word that none of the programs has; `undefined` where all are taken. */
export function freeSession(programs: readonly SlotProgram[]): number | undefined {
  const taken = new Set(programs.map(p => p.session));
  for (let session = 0; session < MOST_SESSIONS; session++) if (!taken.has(session)) return session;
  return undefined;
}

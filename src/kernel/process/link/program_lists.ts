/**
 * Which lists of a function's slot its programs go to: in the order of attaching, fentry and fsession at entry,
 * modify-return before the original, fexit and fsession at the return.
 */

import type { ResultPlace } from '../../../process/symbols/call_layout.js';
import { CALL, MOST_SESSIONS } from '../kfunc_md/call_table.js';
import type { ListItem, ProgramLists } from '../kfunc_md/lists.js';
import type { RecordEntry } from '../kfunc_md/record.js';
import type { SlotProgram, SlotWish } from './slots.js';

const WORD = 8;

/** Whether the programs are plain fentry programs, which need no lists. */
export function isPlain({ programs }: Pick<SlotWish, 'programs'>): boolean {
  return programs.every(({ program }) => program.attachType === 'fentry');
}

/** Programs that run when the function returns. */
export function runsAtReturn({ program: { attachType } }: SlotProgram): boolean {
  return attachType === 'fexit' || attachType === 'fsession';
}

/**
 * The programs that the trampoline of nop sleds may run, `nothing` where there are none: a thread that came through the
 * sled may find the record of a slot that took its place since, and that trampoline serves plain programs only.
 */
export function plainEntries({ programs }: Pick<SlotWish, 'programs'>, nothing: bigint): RecordEntry[] {
  const entries = programs
    .filter(({ program }) => program.attachType === 'fentry' && program.needs?.stack !== true)
    .map(({ program, cookie }) => ({ bpfFunc: program.address, cookie }));
  return entries.length > 0 ? entries : [{ bpfFunc: nothing, cookie: 0n }];
}

export function listsOf(programs: readonly SlotProgram[], result: readonly ResultPlace[]): ProgramLists {
  const at = (...types: string[]): ListItem[] =>
    programs.filter(({ program }) => types.includes(program.attachType)).map(itemOf);
  return {
    serial: programs.at(-1)?.serial ?? 0n,
    result,
    entries: at('fentry', 'fsession'),
    modReturns: at('fmod_ret'),
    exits: at('fexit', 'fsession'),
  };
}

function itemOf({ program, cookie, serial, session, missed }: SlotProgram): ListItem {
  return {
    bpfFunc: program.address,
    cookie,
    serial,
    session: session === undefined ? 0 : CALL.sessions + session * WORD,
    returnAt: program.context.words * WORD,
    missed,
  };
}

/** The first cookie word that none of the programs has; `undefined` where all are taken. */
export function freeSession(programs: readonly SlotProgram[]): number | undefined {
  const taken = new Set(programs.map(p => p.session));
  for (let session = 0; session < MOST_SESSIONS; session++) if (!taken.has(session)) return session;
  return undefined;
}

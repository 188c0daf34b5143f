/**
 * Program lists: what a record names when a function has more than plain fentry programs. They lie in the slot behind
 * its code; `flags` of the record is their distance from it.
 *
 *      0  u64 serial      of this set of programs: rises with every change of any
 *      8  u64 result      0: in rax; else where its words are, see `resultCode`
 *     16  u64 exits       distance of the programs that run at the return from the lists' start
 *     24  the programs that run at entry, the modify-return programs, those at the return; each ended by a word of zero
 *
 *     item: u64 bpf_func, u64 cookie, u64 serial, u32 session, u32 returnAt, u64 missed
 *
 * The first two words of an item are those of a record's program array, which ctx - 16 promises. `serial` tells when
 * the program joined: a call that was entered before does not run it at its return. `session` is the distance of the
 * program's cookie word from the start of the call's entry, 0 where it has none; `returnAt` that of the return value
 * from the context; `missed` the address of the counter of calls that found no entry.
 */

import type { ResultPlace } from '../../../process/symbols/call_layout.js';

export const LISTS = {
  serial: 0,
  result: 8,
  exits: 16,
  entries: 24,
} as const;

/** Where a word of a result can be, by its number in `result`. */
export const RESULT_PLACES: readonly ResultPlace[] = ['rax', 'rdx', 'xmm0', 'xmm1', 'nowhere'];
/** Bits of `result`: the place of the first word, that of the second, and one that says that there are such. */
export const RESULT = { first: 0, second: 4, mask: 15, special: 256 } as const;

/** How `result` says where the words of a result are. */
export function resultCode(places: readonly ResultPlace[]): number {
  const [first = 'rax', second = 'nowhere'] = places;
  if (first === 'rax' && places.length < 2) return 0;
  const number = (place: ResultPlace): number => RESULT_PLACES.indexOf(place);
  return RESULT.special | (number(first) << RESULT.first) | (number(second) << RESULT.second);
}

export const ITEM = {
  bpfFunc: 0,
  cookie: 8,
  serial: 16,
  session: 24,
  returnAt: 28,
  missed: 32,
  size: 40,
} as const;

/** Bytes of what ends each list. */
export const LIST_END = 8;

/** A program of the lists. */
export interface ListItem {
  readonly bpfFunc: bigint;
  readonly cookie: bigint;
  readonly serial: bigint;
  /** Bytes from the start of a call's entry, 0 for none. */
  readonly session: number;
  readonly returnAt: number;
  readonly missed: bigint;
}

export interface ProgramLists {
  readonly serial: bigint;
  readonly entries: readonly ListItem[];
  readonly modReturns: readonly ListItem[];
  readonly exits: readonly ListItem[];
  /** Where the function's result is. */
  readonly result: readonly ResultPlace[];
}

/** Bytes that the lists take. */
export function listsSize({ entries, modReturns, exits }: ProgramLists): number {
  return LISTS.entries + (entries.length + modReturns.length + exits.length) * ITEM.size + 3 * LIST_END;
}

/** Writes the lists; `bytes` holds `listsSize`. */
export function writeLists(bytes: Uint8Array, lists: ProgramLists): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at: number = LISTS.entries;
  const write = (items: readonly ListItem[]): number => {
    const start = at;
    for (const item of items) {
      view.setBigUint64(at + ITEM.bpfFunc, item.bpfFunc, true);
      view.setBigUint64(at + ITEM.cookie, item.cookie, true);
      view.setBigUint64(at + ITEM.serial, item.serial, true);
      view.setUint32(at + ITEM.session, item.session, true);
      view.setUint32(at + ITEM.returnAt, item.returnAt, true);
      view.setBigUint64(at + ITEM.missed, item.missed, true);
      at += ITEM.size;
    }
    view.setBigUint64(at, 0n, true);
    at += LIST_END;
    return start;
  };
  view.setBigUint64(LISTS.serial, lists.serial, true);
  view.setBigUint64(LISTS.result, BigInt(resultCode(lists.result)), true);
  write(lists.entries);
  write(lists.modReturns);
  view.setBigUint64(LISTS.exits, BigInt(write(lists.exits)), true);
}

/**
 * Program lists: what a record names when a function has more than plain fentry programs. They lie in the slot behind
 * its code; `flags` of the record is their distance from it.
 *
 *      0  u64 serial      of this set of programs: rises with every change of any
 *      8  u64 needs       bits of `NEEDS`: what a call must have for its return
 *     16  u64 exits       distance of the programs that run at the return from the lists' start
 *     24  the programs that run at entry, the modify-return programs, those at the return; each ended by an item
 *         without a bpf_func
 *
 *     item: u64 bpf_func, u64 cookie, u64 serial, u64 session, u64 returnAt, u64 missed
 *
 * The first two words of an item are those of a record's program array, which ctx - 16 promises. `serial` tells when
 * the program joined: a call that was entered before does not run it at its return. `session` is the distance of the
 * program's cookie word from the start of the call's entry, 0 where it has none; `returnAt` that of the return value
 * from the context; `missed` the address of the counter of calls that found no entry.
 */

export const LISTS = {
  serial: 0,
  needs: 8,
  exits: 16,
  entries: 24,
} as const;

/** A call needs an entry in the call table; with its arguments; with session cookies. */
export const NEEDS = { claim: 1, args: 2, sessions: 4 } as const;

export const ITEM = {
  bpfFunc: 0,
  cookie: 8,
  serial: 16,
  session: 24,
  returnAt: 32,
  missed: 40,
  size: 48,
} as const;

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
  /** A program at the return reads arguments. */
  readonly exitArgs: boolean;
}

/** Bytes that the lists take. */
export function listsSize({ entries, modReturns, exits }: ProgramLists): number {
  return LISTS.entries + (entries.length + modReturns.length + exits.length + 3) * ITEM.size;
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
      view.setBigUint64(at + ITEM.session, BigInt(item.session), true);
      view.setBigUint64(at + ITEM.returnAt, BigInt(item.returnAt), true);
      view.setBigUint64(at + ITEM.missed, item.missed, true);
      at += ITEM.size;
    }
    view.setBigUint64(at, 0n, true);
    at += ITEM.size;
    return start;
  };
  view.setBigUint64(LISTS.serial, lists.serial, true);
  const sessions = lists.exits.some(item => item.session !== 0);
  view.setUint32(
    LISTS.needs,
    (lists.exits.length > 0 ? NEEDS.claim : 0) |
      (lists.exitArgs ? NEEDS.args : 0) |
      (sessions ? NEEDS.sessions : 0),
    true,
  );
  write(lists.entries);
  write(lists.modReturns);
  view.setBigUint64(LISTS.exits, BigInt(write(lists.exits)), true);
}

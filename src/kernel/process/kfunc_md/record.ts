/**
 * Function metadata (`kfunc_md`): the record of one target, read by its global trampoline.
 *
 * The layout, declared once for both sides (byte offsets):
 *
 *      0  u64 func        address of the traced function; the key
 *      8  u32 nr_args     how many arguments programs see
 *     12  u32 flags       distance of the program lists from the record (lists.ts); 0: there are none
 *     16  u64 bpf_func    the first fentry program: address of its machine code
 *     24  u64 cookie      and the cookie that it reads at this function
 *     32  u64 more        address of further entries { u64 bpf_func, u64 cookie }, ended by a zero bpf_func; or 0
 *     40  the slot's code, where the target has a slot
 *
 * The first program lies in the record, beside the code that leads to it: the common case, one program, touches
 * one cache line. A record is written by us alone; the process only reads it.
 */

export const RECORD = {
  func: 0,
  nrArgs: 8,
  flags: 12,
  entry: 16,
  bpfFunc: 16,
  cookie: 24,
  more: 32,
  size: 40,
} as const;

/** Size of a program-array entry, and where its parts are. */
export const ENTRY = { bpfFunc: 0, cookie: 8, size: 16 } as const;

/** One program on one target. */
export interface RecordEntry {
  readonly bpfFunc: bigint;
  readonly cookie: bigint;
}

/**
 * Writes a record. `more` is the address of the further entries, 0 where there are none; `lists` the distance of the
 * program lists, 0 where there are none.
 */
export function writeRecord(
  bytes: Uint8Array,
  func: bigint,
  nrArgs: number,
  first: RecordEntry,
  more: bigint,
  lists = 0,
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, RECORD.size);
  view.setBigUint64(RECORD.func, func, true);
  view.setUint32(RECORD.nrArgs, nrArgs, true);
  view.setUint32(RECORD.flags, lists, true);
  view.setBigUint64(RECORD.bpfFunc, first.bpfFunc, true);
  view.setBigUint64(RECORD.cookie, first.cookie, true);
  view.setBigUint64(RECORD.more, more, true);
}

/** Writes a program array into `bytes`: the entries and the zero that ends them. */
export function writeEntries(bytes: Uint8Array, entries: readonly RecordEntry[]): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (const [i, entry] of entries.entries()) {
    view.setBigUint64(i * ENTRY.size + ENTRY.bpfFunc, entry.bpfFunc, true);
    view.setBigUint64(i * ENTRY.size + ENTRY.cookie, entry.cookie, true);
  }
  view.setBigUint64(entries.length * ENTRY.size, 0n, true);
}

/**
 * Changes to the text of a process: prepared while it runs, written in one stop, all or nothing.
 *
 * Each change is one write of the kernel's (8 bytes from where it begins), and all are made one after the other, so
 * that the text is right after every one of them: whoever kills us in the middle leaves some functions patched, and
 * none half patched.
 */

import { pokeWords } from '../../../process/poke.js';
import type { TracedProcess } from '../../../process/process.js';
import { BpfError } from '../../errno.js';

/** A few bytes of text to be replaced. */
export interface TextEdit {
  readonly address: bigint;
  /** What must stand there now. */
  readonly expect: Uint8Array;
  /** What shall; at most as long as `expect`. */
  readonly replace: Uint8Array;
  /** Edits of a lower stage are written first; 0 where left out. */
  readonly stage?: number;
}

const WORD = 8;
const PAGE = 4096n;
/** Sites closer than this are read in one piece: less than a page, so that no unmapped page can lie between. */
const READ_GAP = PAGE;

/** Some text of the process. */
interface Piece {
  readonly start: bigint;
  /** How many bytes of it the process has mapped. */
  readonly mapped: number;
  /** What stands there after the writes so far. */
  readonly next: Buffer;
}

/** A set of edits, checked, with the words that they are written as. */
export class PreparedText {
  /** Address and 8 bytes, alternately, in the order of writing; and what undoes each, in the same order. */
  readonly #writes: BigUint64Array;
  readonly #undo: BigUint64Array;
  /** Edits whose bytes are not what was expected: somebody else changed the text. They are not part of this. */
  readonly modified: readonly TextEdit[];

  private constructor(writes: BigUint64Array, undo: BigUint64Array, modified: TextEdit[]) {
    this.#writes = writes;
    this.#undo = undo;
    this.modified = modified;
  }

  /** Reads what stands at the edits now. Throws EFAULT where text is not mapped. */
  static read(process: TracedProcess, edits: readonly TextEdit[]): PreparedText {
    const sorted = [...edits].sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0));
    const modified: TextEdit[] = [];
    const sound: { edit: TextEdit; piece: Piece; at: number }[] = [];
    for (let first = 0; first < sorted.length; ) {
      let last = first;
      const end = (edit: TextEdit): bigint => edit.address + BigInt(edit.expect.length);
      while (last + 1 < sorted.length && sorted[last + 1].address - end(sorted[last]) < READ_GAP) last++;
      // From the start of the page, which is mapped, to what the last word takes in, which may not be.
      const start = sorted[first].address & -PAGE;
      const now = Buffer.alloc(Number(end(sorted[last]) - start) + WORD);
      const known = process.readMapped(start, now.length);
      now.set(known);
      const piece = { start, mapped: known.length, next: Buffer.from(now) };
      for (const edit of sorted.slice(first, last + 1)) {
        const at = Number(edit.address - start);
        const to = at + edit.expect.length;
        if (to > known.length) throw notMapped(process, edit);
        if (now.compare(edit.expect, 0, edit.expect.length, at, to) !== 0) modified.push(edit);
        else sound.push({ edit, piece, at });
      }
      first = last + 1;
    }
    // Within a stage in order of address: what a word takes in behind its edit is not written yet, and stays.
    if (sound.some(({ edit }) => (edit.stage ?? 0) !== 0))
      sound.sort((a, b) => (a.edit.stage ?? 0) - (b.edit.stage ?? 0));
    const count = sound.reduce((sum, { edit }) => sum + Math.ceil(edit.replace.length / WORD), 0);
    const writes = new BigUint64Array(count * 2);
    const undo = new BigUint64Array(count * 2);
    let i = 0;
    for (const { edit, piece, at } of sound)
      for (let done = 0; done < edit.replace.length; done += WORD) {
        // Not past the end of the mapping.
        const word = Math.min(at + done, piece.mapped - WORD);
        writes[i] = undo[i] = piece.start + BigInt(word);
        undo[i + 1] = piece.next.readBigUInt64LE(word);
        const end = Math.min(done + WORD, edit.replace.length);
        for (let byte = done; byte < end; byte++) piece.next[at + byte] = edit.replace[byte];
        writes[i + 1] = piece.next.readBigUInt64LE(word);
        i += 2;
      }
    return new PreparedText(writes, undo, modified);
  }

  /** Writes all edits while the process stands still; undoes them and throws where the kernel refuses one. */
  write(process: TracedProcess, tid: number): void {
    const count = this.#writes.length / 2;
    const done = pokeWords(tid, this.#writes);
    if (done === count) return;
    for (let i = done - 1; i >= 0; i--) pokeWords(tid, this.#undo.subarray(i * 2, i * 2 + 2));
    // Once more by itself, for its error.
    process.pokeText(tid, this.#writes[done * 2], this.#writes[done * 2 + 1]);
    throw new BpfError('EAGAIN', `writing the text of process ${process.pid} failed for a moment; try again`);
  }
}

function notMapped(process: TracedProcess, { address }: TextEdit): BpfError {
  if (!process.alive()) return process.goneError();
  return new BpfError(
    'EFAULT',
    `could not read the code at 0x${address.toString(16)} of process ${process.pid}: not mapped`,
  );
}

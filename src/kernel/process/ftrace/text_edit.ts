/**
 * Changes to the text of a process: prepared while it runs, written in one stop, word by word, all or nothing.
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
}

const WORD = 8n;
/** Sites closer than this are read in one piece: less than a page, so that no unmapped page can lie between. */
const READ_GAP = 4096n;

interface Word {
  readonly before: bigint;
  after: bigint;
}

/** The words behind a set of edits, with what they hold before and after. */
export class PreparedText {
  /** Address and word, alternately. */
  readonly #before: BigUint64Array;
  readonly #after: BigUint64Array;
  /** Edits whose bytes are not what was expected: somebody else changed the text. They are not part of this. */
  readonly modified: readonly TextEdit[];

  private constructor(words: ReadonlyMap<bigint, Word>, modified: readonly TextEdit[]) {
    this.#before = new BigUint64Array(words.size * 2);
    this.#after = new BigUint64Array(words.size * 2);
    let i = 0;
    for (const [address, { before, after }] of words) {
      this.#before[i] = address;
      this.#after[i++] = address;
      this.#before[i] = before;
      this.#after[i++] = after;
    }
    this.modified = modified;
  }

  /** Reads what stands at the edits now. Throws EFAULT where text is not mapped. */
  static read(process: TracedProcess, edits: readonly TextEdit[]): PreparedText {
    const sorted = [...edits].sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0));
    const words = new Map<bigint, Word>();
    const modified: TextEdit[] = [];
    for (let first = 0; first < sorted.length; ) {
      let last = first;
      const end = (edit: TextEdit): bigint => edit.address + BigInt(edit.expect.length);
      while (last + 1 < sorted.length && sorted[last + 1].address - end(sorted[last]) < READ_GAP) last++;
      const start = sorted[first].address & -WORD;
      const stop = (end(sorted[last]) + WORD - 1n) & -WORD;
      const bytes = process.read(start, Number(stop - start));
      const now = Buffer.from(bytes.buffer);
      const next = Buffer.from(now);
      for (const edit of sorted.slice(first, last + 1)) {
        const at = Number(edit.address - start);
        if (now.compare(edit.expect, 0, edit.expect.length, at, at + edit.expect.length) !== 0) {
          modified.push(edit);
          continue;
        }
        next.set(edit.replace, at);
        for (let w = at & -8; w < at + edit.replace.length; w += 8) {
          const address = start + BigInt(w);
          const known = words.get(address);
          const after = next.readBigUInt64LE(w);
          if (known === undefined) words.set(address, { before: now.readBigUInt64LE(w), after });
          else known.after = after;
        }
      }
      first = last + 1;
    }
    return new PreparedText(words, modified);
  }

  /** Writes all words while the process stands still; undoes them and throws where the kernel refuses one. */
  write(process: TracedProcess, tid: number): void {
    const count = this.#after.length / 2;
    const done = pokeWords(tid, this.#after);
    if (done === count) return;
    pokeWords(tid, this.#before.subarray(0, done * 2));
    // Once more by itself, for its error.
    process.pokeText(tid, this.#after[done * 2], this.#after[done * 2 + 1]);
    throw new BpfError('EAGAIN', `writing the text of process ${process.pid} failed for a moment; try again`);
  }
}

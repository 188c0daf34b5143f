/**
 * The call table from outside, while the process stands still: which calls are under way, and taking programs off them.
 * A call whose function has no programs at its return any more gets its return address back on the stack, however long
 * it will stay in the function.
 */

import { pokeWords } from '../../../process/poke.js';
import type { TracedProcess } from '../../../process/process.js';
import { BpfError } from '../../errno.js';
import { RETURN_STRIDE } from '../trampoline/return.js';
import {
  CALL,
  type CallTablePlace,
  CHUNK,
  callPlaces,
  DEPTH_SHIFT,
  ENDED,
  entriesAddress,
  LIVE,
  MOST_DEPTH,
  STATES,
} from './call_table.js';

const PAGE = 4096;
/** This share of all entries may be kept for words whose calls have ended. */
const CROWDED = 1 / 4;
const WORD_MASK = (1n << BigInt(DEPTH_SHIFT)) - 8n;
const WORDS = CALL.size / 8;
/** Chunks that are read with one call. */
const RUN = 256;

/** One live entry. */
interface Call {
  /** Its address in the process. */
  readonly entry: bigint;
  readonly key: bigint;
  readonly depth: number;
  readonly original: bigint;
  readonly record: bigint;
}

/** What settling found and did. */
export interface Settled {
  /** Calls under way that will run programs at their return. */
  readonly pending: number;
  /** Calls that got their return address back. */
  readonly released: number;
  /** Entries of calls that never returned, freed. */
  readonly freed: number;
}

/**
 * Goes over every call. `recordFor` tells the record that its programs are to be read from, given the one it has:
 * `undefined` takes it off. With `quiet` (no thread is in code of ours) entries that no return address leads to are freed.
 */
export function settleCalls(
  process: TracedProcess,
  tid: number,
  table: CallTablePlace,
  trampoline: bigint,
  recordFor: (record: bigint) => bigint | undefined,
  quiet: boolean,
): Settled {
  const byWord = new Map<bigint, Call[]>();
  const ended: bigint[] = [];
  for (const call of liveCalls(process, table, ended)) {
    const word = call.key & WORD_MASK;
    const others = byWord.get(word);
    if (others === undefined) byWord.set(word, [call]);
    else others.push(call);
  }
  const stack = new StackReader(process);
  const links: bigint[] = [];
  const words: bigint[] = [];
  const dead: bigint[] = [];
  let pending = 0;
  let released = 0;
  let freed = 0;
  const free = (call: Call): void => {
    dead.push(call.entry + BigInt(CALL.key), (call.key & ~BigInt(STATES)) | BigInt(ENDED));
  };
  for (const [word, calls] of byWord) {
    const found = stack.word(word);
    const top = found === undefined ? -1 : Number(found - trampoline) / RETURN_STRIDE;
    const hooked = Number.isInteger(top) && top >= 0 && top < MOST_DEPTH;
    const chain: Call[] = [];
    for (const call of calls) {
      if (hooked && call.depth <= top) chain[call.depth] = theFirst(chain[call.depth], call, table);
      else if (quiet) {
        free(call);
        freed++;
      }
    }
    // A thread is just working on it: another stop finds it whole.
    if (!hooked || chain.filter(call => call !== undefined).length !== top + 1) continue;
    let leadsTo = chain[0].original;
    for (const call of chain) {
      const record = recordFor(call.record);
      if (record === undefined) {
        free(call);
        released++;
        continue;
      }
      pending++;
      if (call.original !== leadsTo) links.push(call.entry + BigInt(CALL.original), leadsTo);
      if (call.record !== record) links.push(call.entry + BigInt(CALL.record), record);
      leadsTo = trampoline + BigInt(call.depth * RETURN_STRIDE);
    }
    if (leadsTo !== found) words.push(word, leadsTo);
  }
  // Few words are left to whom an entry could go: all get theirs anew.
  if (quiet && ended.length > table.entries * CROWDED)
    for (const entry of ended) dead.push(entry + BigInt(CALL.key), 0n);
  // Each step leaves a process that would run on right, should we die behind it.
  for (const pairs of [links, words, dead]) {
    if (pokeWords(tid, BigUint64Array.from(pairs)) === pairs.length / 2) continue;
    throw new BpfError(
      'EFAULT',
      `could not write the stacks of process ${process.pid}: the kernel refused it`,
    );
  }
  return { pending, released, freed };
}

/** Of two entries of one word and depth the one that the process finds: the other was left by a call that never returned. */
function theFirst(a: Call | undefined, b: Call, table: CallTablePlace): Call {
  if (a === undefined) return b;
  for (const place of callPlaces(a.key & WORD_MASK, a.depth, table.entries)) {
    const entry = entriesAddress(table) + BigInt(place * CALL.size);
    if (entry === a.entry) return a;
    if (entry === b.entry) return b;
  }
  return a;
}

/** The calls under way; `ended` gets the entries of the first half that are kept for their words. */
function* liveCalls(process: TracedProcess, table: CallTablePlace, ended: bigint[]): Iterable<Call> {
  const half = entriesAddress(table) + BigInt((table.entries / 2) * CALL.size);
  const touched = process.read(table.address, table.entries / CHUNK);
  const first = entriesAddress(table);
  for (let chunk = touched.indexOf(1); chunk >= 0; chunk = touched.indexOf(1, chunk)) {
    let end = chunk;
    while (end < touched.length && touched[end] === 1 && end - chunk < RUN) end++;
    const at = first + BigInt(chunk * CHUNK * CALL.size);
    const bytes = process.read(at, (end - chunk) * CHUNK * CALL.size);
    const words = new BigUint64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8);
    for (let i = 0; i < words.length; i += WORDS) {
      const key = words[i];
      const entry = at + BigInt(i * 8);
      if ((key & BigInt(LIVE)) === 0n) {
        if (key !== 0n && entry < half) ended.push(entry);
        continue;
      }
      yield {
        entry,
        key,
        depth: Number(key >> BigInt(DEPTH_SHIFT)),
        original: words[i + CALL.original / 8],
        record: words[i + CALL.record / 8],
      };
    }
    chunk = end;
  }
}

/** Words of stacks, read a page at a time. */
class StackReader {
  readonly #process: TracedProcess;
  readonly #pages = new Map<bigint, BigUint64Array | undefined>();

  constructor(process: TracedProcess) {
    this.#process = process;
  }

  word(address: bigint): bigint | undefined {
    const page = address & ~BigInt(PAGE - 1);
    if (!this.#pages.has(page)) {
      const bytes = this.#process.readMapped(page, PAGE);
      this.#pages.set(
        page,
        bytes.length < PAGE ? undefined : new BigUint64Array(bytes.buffer, bytes.byteOffset, PAGE / 8),
      );
    }
    return this.#pages.get(page)?.[Number(address - page) / 8];
  }
}

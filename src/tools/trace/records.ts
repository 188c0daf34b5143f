/**
 * What the programs of `trace` write into the ring buffer, and its reader. The length of a record says what it is: no two
 * kinds have the same. All words are 64 bits.
 *
 *     entered     0 time, ns     8 tgid << 32 | tid     16 frame     24 cookie     32 calls lost so far     40 words of
 *                 arguments, 6 or 12; with text: 12, then four lengths of 16 bits, then four texts
 *     returned    0 time     8 tgid << 32 | tid     16 frame     24 two words of the result     40 calls lost so far; with
 *                 text: 48 its length, 56 the text
 *     unwound     0 time     8 tgid << 32 | tid     16 address: no call whose frame is at or below it goes on
 *
 * A frame is what `bpf_session_frame` gives: it pairs the return with the entry, and tells inner calls from outer ones.
 * Frames in the kernel are read as negative numbers, so that they are exact.
 */

/** Words of arguments that a program writes. */
export const FEW_WORDS = 6;
export const MANY_WORDS = 12;
export const RESULT_WORDS = 2;
/** Bytes of a text that are read, with the zero that ends it; and texts of one call. */
export const TEXT_BYTES = 88;
export const MAX_TEXTS = 4;

export const ENTERED = { time: 0, thread: 8, frame: 16, cookie: 24, lost: 32, words: 40 } as const;
export const enteredSize = (words: number): number => ENTERED.words + 8 * words;
export const ENTERED_TEXT = {
  lengths: enteredSize(MANY_WORDS),
  texts: enteredSize(MANY_WORDS) + 8,
  size: enteredSize(MANY_WORDS) + 8 + MAX_TEXTS * TEXT_BYTES,
} as const;
export const RETURNED = { time: 0, thread: 8, frame: 16, result: 24, lost: 40, size: 48 } as const;
export const RETURNED_TEXT = { length: 48, text: 56, size: 56 + TEXT_BYTES } as const;
export const UNWOUND = { time: 0, thread: 8, address: 16, size: 24 } as const;

/** A cookie: which function, and what to do at it. */
export const COOKIE = {
  /** slot in bits 0 to 31, then for each text the word that points to it, 4 bits */
  texts: 32,
  textBits: 4,
  noText: 15,
  /** the result points to a text */
  resultText: 48,
  /** a tree may begin here */
  root: 49,
} as const;

export interface CookieParts {
  readonly slot: number;
  /** Words that point to text. */
  readonly texts: readonly number[];
  readonly resultText: boolean;
  readonly root: boolean;
}

export function makeCookie({ slot, texts, resultText, root }: CookieParts): bigint {
  let cookie = BigInt(slot);
  for (let i = 0; i < MAX_TEXTS; i++)
    cookie |= BigInt(texts[i] ?? COOKIE.noText) << BigInt(COOKIE.texts + COOKIE.textBits * i);
  if (resultText) cookie |= 1n << BigInt(COOKIE.resultText);
  if (root) cookie |= 1n << BigInt(COOKIE.root);
  return cookie;
}

interface Event {
  /** ns; exact up to 2^53, 104 days of running machine */
  readonly time: number;
  readonly pid: number;
  readonly tid: number;
}

export interface Entered extends Event {
  readonly kind: 'entered';
  readonly frame: number;
  readonly slot: number;
  readonly root: boolean;
  /** Calls that found no room so far, on any thread. */
  readonly lost: number;
  /** Words of the arguments. */
  readonly words: BigUint64Array;
  /** In the order of the cookie's; `undefined` for one that could not be read. */
  readonly texts?: readonly (Uint8Array | undefined)[];
}

export interface Returned extends Event {
  readonly kind: 'returned';
  readonly frame: number;
  /** Words of the result. */
  readonly result: BigUint64Array;
  readonly lost: number;
  readonly text?: Uint8Array;
}

export interface Unwound extends Event {
  readonly kind: 'unwound';
  readonly address: number;
}

export type TraceEvent = Entered | Returned | Unwound;

/** A record as an event with bytes of its own; `undefined` for one that no program of ours wrote. */
export function decodeRecord(bytes: Uint8Array): TraceEvent | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const number = (at: number): number => view.getUint32(at, true) + view.getInt32(at + 4, true) * 2 ** 32;
  const words = (at: number, count: number): BigUint64Array => {
    const found = new BigUint64Array(count);
    for (let i = 0; i < count; i++) found[i] = view.getBigUint64(at + 8 * i, true);
    return found;
  };
  switch (bytes.length) {
    case enteredSize(FEW_WORDS):
    case enteredSize(MANY_WORDS):
    case ENTERED_TEXT.size: {
      const high = view.getUint32(ENTERED.cookie + 4, true);
      const event: Entered = {
        kind: 'entered',
        time: number(ENTERED.time),
        pid: view.getUint32(ENTERED.thread + 4, true),
        tid: view.getUint32(ENTERED.thread, true),
        frame: number(ENTERED.frame),
        slot: view.getUint32(ENTERED.cookie, true),
        root: ((high >>> (COOKIE.root - 32)) & 1) === 1,
        lost: number(ENTERED.lost),
        words: words(ENTERED.words, bytes.length === enteredSize(FEW_WORDS) ? FEW_WORDS : MANY_WORDS),
      };
      if (bytes.length !== ENTERED_TEXT.size) return event;
      const texts: (Uint8Array | undefined)[] = [];
      for (let i = 0; i < MAX_TEXTS; i++) {
        if (((high >>> (COOKIE.textBits * i)) & COOKIE.noText) === COOKIE.noText) break;
        const length = view.getUint16(ENTERED_TEXT.lengths + 2 * i, true);
        texts.push(textOf(bytes, ENTERED_TEXT.texts + TEXT_BYTES * i, length));
      }
      return { ...event, texts };
    }
    case RETURNED.size:
    case RETURNED_TEXT.size: {
      const event: Returned = {
        kind: 'returned',
        time: number(RETURNED.time),
        pid: view.getUint32(RETURNED.thread + 4, true),
        tid: view.getUint32(RETURNED.thread, true),
        frame: number(RETURNED.frame),
        result: words(RETURNED.result, RESULT_WORDS),
        lost: number(RETURNED.lost),
      };
      if (bytes.length === RETURNED.size) return event;
      const text = textOf(bytes, RETURNED_TEXT.text, view.getUint16(RETURNED_TEXT.length, true));
      return text === undefined ? event : { ...event, text };
    }
    case UNWOUND.size:
      return {
        kind: 'unwound',
        time: number(UNWOUND.time),
        pid: view.getUint32(UNWOUND.thread + 4, true),
        tid: view.getUint32(UNWOUND.thread, true),
        address: number(UNWOUND.address),
      };
    default:
      return undefined;
  }
}

/** `length` counts the zero, as `bpf_probe_read_user_str` does; 0 where nothing could be read. */
function textOf(bytes: Uint8Array, at: number, length: number): Uint8Array | undefined {
  if (length === 0 || length > TEXT_BYTES) return undefined;
  return bytes.slice(at, at + length - 1);
}

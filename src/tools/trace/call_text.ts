/** A call's arguments and result as text, by the function's signature; and durations. */

import { constants } from 'node:os';
import {
  formatOpaque,
  formatPointer,
  formatWords,
  resultAs,
  resultSize,
  type Signature,
} from '../signature.js';
import type { Call } from './call_tree.js';
import { FEW_WORDS, TEXT_BYTES } from './records.js';

/** Characters of a text that are shown. */
const SHOWN_TEXT = 60;

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** Text as it was in the process; `undefined` for bytes that are no text. */
export function textOf(bytes: Uint8Array): string | undefined {
  // One that was cut may end within a character.
  const cut = bytes.length === TEXT_BYTES - 1;
  for (let dropped = 0; dropped <= (cut ? 3 : 0); dropped++) {
    try {
      return utf8.decode(bytes.subarray(0, bytes.length - dropped));
    } catch {
      // Not this one.
    }
  }
  return undefined;
}

/** In quotes, with escapes as in C, and cut to what fits on a line. */
export function quoted(bytes: Uint8Array): string {
  const text = textOf(bytes) ?? Buffer.from(bytes).toString('latin1');
  const cut = bytes.length === TEXT_BYTES - 1 || text.length > SHOWN_TEXT;
  const shown = text.slice(0, SHOWN_TEXT);
  const escaped = shown.replace(/["\\]|[^\p{L}\p{M}\p{N}\p{P}\p{S}\p{Zs}]/gu, escapeOf);
  return `"${escaped}"${cut ? '…' : ''}`;
}

const ESCAPES: Readonly<Record<string, string>> = { '\n': '\\n', '\t': '\\t', '\r': '\\r' };

function escapeOf(char: string): string {
  if (char === '"' || char === '\\') return `\\${char}`;
  const code = char.codePointAt(0) as number;
  return (
    ESCAPES[char] ?? (code < 256 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`)
  );
}

/** One argument of a call: its name, and its value where a program saw it. */
export interface ArgumentValue {
  readonly name: string;
  readonly type: number;
  readonly words: BigUint64Array | undefined;
  readonly text: Uint8Array | undefined;
}

/** The arguments that the signature names; none without one. */
export function argumentsOf({ fn, words, texts }: Call): ArgumentValue[] {
  return (fn.signature?.args ?? []).map(({ name, type, words: own }) => {
    const at = own === undefined ? -1 : fn.texts.indexOf(own.first);
    const there = own !== undefined && own.first + own.count <= words.length;
    return {
      name,
      type,
      words: there ? words.subarray(own.first, own.first + own.count) : undefined,
      text: at < 0 ? undefined : texts[at],
    };
  });
}

/**
 * `fd=3, path="/etc/passwd", flags=0`; `…` where nothing is known of the function, or with `raw` what is in the registers.
 */
export function argumentText(call: Call, raw: boolean): string {
  const { signature } = call.fn;
  if (signature === undefined)
    return raw ? [...call.words.subarray(0, FEW_WORDS)].map(formatOpaque).join(', ') : '…';
  const parts = argumentsOf(call).map(({ name, type, words, text }) => {
    const value =
      words === undefined ? '?' : text === undefined ? formatWords(signature.btf, type, words) : quoted(text);
    return name === '' ? value : `${name}=${value}`;
  });
  if (signature.variadic) parts.push('…');
  return parts.join(', ');
}

/** The result of a call that returned: empty where the function has none, `?` where no program sees it. */
export function resultText(call: Call): string {
  const { signature } = call.fn;
  const [first] = call.result;
  if (signature === undefined) return formatOpaque(first);
  if (signature.returns === 0) return '';
  if (!signature.seesResult) return '?';
  if (call.resultText !== undefined && first !== 0n) return quoted(call.resultText);
  const text = signature.returnsText
    ? formatPointer(first)
    : formatWords(signature.btf, signature.returns, call.result);
  const error = call.fn.ofKernel ? errorName(signature, first) : undefined;
  return error === undefined ? text : `${text} (${error})`;
}

/** Errors are below this (MAX_ERRNO of the kernel), negative, as pointers too. */
const MOST_ERROR = 4095n;
const errorNames = new Map<bigint, string>(
  Object.entries(constants.errno)
    .map(([name, number]): [bigint, string] => [BigInt(number), name])
    .reverse(),
);

/** `ENOENT` for -2. */
function errorName(signature: Signature, word: bigint): string | undefined {
  const size = resultSize(signature);
  if (size === undefined || size.bytes < 4) return undefined;
  // Of 8 bytes without a sign are pointers, and addresses as numbers.
  if (!size.signed && size.bytes < 8) return undefined;
  const value = resultAs(word, { ...size, signed: true });
  return value < 0n && value >= -MOST_ERROR ? errorNames.get(-value) : undefined;
}

const UNITS: readonly (readonly [ns: number, name: string])[] = [
  [1e9, 's'],
  [1e6, 'ms'],
  [1e3, 'us'],
];

/** `412 ns`, `12.3 us`: three digits at least that mean something. */
export function durationText(ns: number): string {
  for (const [size, name] of UNITS) {
    if (ns < size) continue;
    const value = ns / size;
    return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${name}`;
  }
  return `${Math.round(ns)} ns`;
}

/** Calls as lines of JSON (docs/json.md), each when it is closed. */

import type { Btf } from '../../btf/btf.js';
import { type BtfValue, decodeValue } from '../../btf/value.js';
import { bytesOf, formatPointer, opaqueResult } from '../signature.js';
import { argumentsOf, textOf } from './call_text.js';
import type { Call, Outcome, Tree } from './call_tree.js';
import { FEW_WORDS } from './records.js';
import type { Block, TraceSink } from './selection.js';

/** A value as JSON has it; 64-bit integers are bigints, to be written with all their digits. */
export type JsonValue =
  | string
  | number
  | bigint
  | boolean
  | null
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue };

/** How a call ended, in the words of the JSON. */
const ENDS: Readonly<Record<Outcome, string>> = {
  open: 'open',
  returned: 'returned',
  left: 'left',
  ended: 'thread-ended',
  untraced: 'tracing-ended',
  lost: 'lost',
};

export class JsonCalls implements TraceSink {
  readonly #threadName: (pid: number, tid: number) => string;
  readonly #write: (call: JsonValue) => void;

  constructor(threadName: (pid: number, tid: number) => string, write: (call: JsonValue) => void) {
    this.#threadName = threadName;
    this.#write = write;
  }

  block({ tree, steps }: Block): void {
    for (const { call, closed } of steps) if (closed) this.#write(this.#call(tree, call));
  }

  #call(tree: Tree, call: Call): JsonValue {
    const { fn, id, parent, depth, start, end, outcome } = call;
    const { signature } = fn;
    const returned = outcome === 'returned';
    return {
      command: 'trace',
      type: 'call',
      id,
      parent: parent?.id ?? null,
      tree: tree.id,
      depth,
      pid: tree.pid,
      tid: tree.tid,
      thread: this.#threadName(tree.pid, tree.tid),
      module: fn.module,
      function: fn.name,
      // Without types there are only registers.
      ...(signature === undefined
        ? { registers: [...call.words.subarray(0, FEW_WORDS)].map(word => `0x${word.toString(16)}`) }
        : {
            args: argumentsOf(call).map(({ name, type, words, text }) => ({
              name,
              value: words === undefined ? null : valueIn(signature.btf, type, words),
              ...(text === undefined ? {} : { text: textOf(text) ?? Buffer.from(text).toString('latin1') }),
            })),
          }),
      startNs: start,
      durationNs: returned ? end - start : null,
      end: ENDS[outcome],
      result: returned ? resultOf(call) : null,
      ...(call.resultText === undefined || call.result[0] === 0n
        ? {}
        : { resultText: textOf(call.resultText) ?? Buffer.from(call.resultText).toString('latin1') }),
    };
  }
}

function resultOf({ fn: { signature }, result }: Call): JsonValue {
  if (signature === undefined) {
    const value = opaqueResult(result[0]);
    return value > -(2n ** 31n) && value < 2n ** 31n ? Number(value) : formatPointer(result[0]);
  }
  return signature.seesResult ? valueIn(signature.btf, signature.returns, result) : null;
}

function valueIn(btf: Btf, type: number, words: BigUint64Array): JsonValue {
  const { kind } = btf.type(btf.resolve(type));
  if (kind === 'ptr') return words[0] === 0n ? null : formatPointer(words[0]);
  return asJson(decodeValue(btf, type, bytesOf(words)));
}

function asJson(value: BtfValue): JsonValue {
  if (value instanceof Uint8Array) return [...value];
  if (Array.isArray(value)) return value.map(asJson);
  if (value !== null && typeof value === 'object')
    return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, asJson(member)]));
  return value;
}

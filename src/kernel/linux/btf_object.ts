/**
 * Types of a program or a map as the kernel takes them (`BPF_BTF_LOAD`): the object's own, with what it does not take
 * changed, and the texts of line information, which stand among the names.
 */

import type { Btf } from '../../btf/btf.js';
import { BTF_MAGIC, BTF_VERSION, HEADER_SIZE, KIND, kindOfInfo } from '../../btf/types.js';
import type { LineInfo } from '../kernel.js';
import { Attr, bpf, Fd, refusedBy } from './bpf.js';

const STATIC = 0;
const EXTERN = 2;
/** Of a variable: global, with a place. */
const ALLOCATED = 1;
const LINKAGE_MASK = 0xffff;
const LINE_BYTES = 16;
const FUNC_BYTES = 8;
/** Words before a type's own: name, info, size or type. */
const TYPE_WORDS = 3;
const PARAM_WORDS = 2;
const SECTION_ENTRY_WORDS = 3;
const COUNT_MASK = 0xffff;
const KSYMS = '.ksyms';

export interface KernelBtf {
  readonly bytes: Uint8Array;
  /** `struct bpf_line_info` for each line. */
  readonly lines: Uint8Array;
}

export interface BtfOptions {
  /** Every function is static: none is verified by itself. */
  readonly staticFunctions?: boolean;
}

/** The types' bytes for the kernel, and line information that refers to them. */
export function kernelBtf(btf: Btf, lines: readonly LineInfo[], options: BtfOptions = {}): KernelBtf {
  const { words: source, starts, strings } = btf.raw;
  const words = Uint32Array.from(source);
  const names: Uint8Array[] = [strings];
  let namesEnd = strings.length;
  const offsets = new Map<string, number>();
  const nameOf = (text: string): number => {
    if (text === '') return 0;
    let offset = offsets.get(text);
    if (offset === undefined) {
      offset = namesEnd;
      const bytes = Buffer.from(`${text}\0`);
      names.push(bytes);
      namesEnd += bytes.length;
      offsets.set(text, offset);
    }
    return offset;
  };
  const someInt = starts.findIndex(start => kindOfInfo(words[start + 1]) === KIND.INT) + 1;
  const removed: (readonly [from: number, to: number])[] = [];
  for (const start of starts) {
    const kind = kindOfInfo(words[start + 1]);
    if (kind === KIND.VAR) {
      // Variables of a kernel, such as its settings, are ours here: they have a place in a map.
      if (words[start + TYPE_WORDS] === EXTERN) words[start + TYPE_WORDS] = ALLOCATED;
      // Some are of no type: only their address is meant.
      if (btf.type(btf.resolve(words[start + 2])).kind === 'void') words[start + 2] = someInt;
    }
    // Addresses of a kernel are in no section of ours.
    if (kind === KIND.DATASEC && btf.nameAt(words[start]) === KSYMS) {
      const count = words[start + 1] & COUNT_MASK;
      words[start + 1] -= count;
      words[start + 2] = 1;
      removed.push([start + TYPE_WORDS, start + TYPE_WORDS + count * SECTION_ENTRY_WORDS]);
    }
    if (kind !== KIND.FUNC) continue;
    const linkage = words[start + 1] & LINKAGE_MASK;
    if (linkage === EXTERN) {
      nameParams(words, starts[words[start + 2] - 1], () => nameOf('arg'));
      // A kernel function or a variable's stand-in: the kernel knows no functions that are not there.
      words[start + 1] = (words[start + 1] & ~LINKAGE_MASK) | STATIC;
    } else if (options.staticFunctions) words[start + 1] = (words[start + 1] & ~LINKAGE_MASK) | STATIC;
  }
  const info = new Uint8Array(lines.length * LINE_BYTES);
  const view = new DataView(info.buffer);
  for (const [i, { slot, file, text, line, column }] of lines.entries())
    [slot, nameOf(file), nameOf(text), ((line << 10) | Math.min(column, 1023)) >>> 0].forEach((word, at) => {
      view.setUint32(i * LINE_BYTES + at * 4, word, true);
    });
  const types = without(words, removed);
  const header = Buffer.alloc(HEADER_SIZE);
  header.writeUInt16LE(BTF_MAGIC, 0);
  header.writeUInt8(BTF_VERSION, 2);
  header.writeUInt32LE(HEADER_SIZE, 4);
  header.writeUInt32LE(types.length, 12);
  header.writeUInt32LE(types.length, 16);
  header.writeUInt32LE(namesEnd, 20);
  return {
    bytes: Buffer.concat([header, types, ...names]),
    lines: info,
  };
}

/** The bytes of words without some of them. */
function without(words: Uint32Array, removed: readonly (readonly [from: number, to: number])[]): Uint8Array {
  const parts: Uint8Array[] = [];
  let from = 0;
  for (const [start, end] of [...removed, [words.length, words.length] as const]) {
    parts.push(new Uint8Array(words.buffer, from * 4, (start - from) * 4));
    from = end;
  }
  return Buffer.concat(parts);
}

/** A prototype's parameters without a name get one: the kernel wants functions' to have them. */
function nameParams(words: Uint32Array, start: number | undefined, name: () => number): void {
  if (start === undefined || kindOfInfo(words[start + 1]) !== KIND.FUNC_PROTO) return;
  const count = words[start + 1] & 0xffff;
  for (let i = 0; i < count; i++) {
    const at = start + TYPE_WORDS + i * PARAM_WORDS;
    if (words[at] === 0 && words[at + 1] !== 0) words[at] = name();
  }
}

/** `struct bpf_func_info` for each function. */
export function funcInfoBytes(
  functions: readonly { readonly slot: number; readonly typeId: number }[],
): Uint8Array {
  const bytes = new Uint8Array(functions.length * FUNC_BYTES);
  const view = new DataView(bytes.buffer);
  for (const [i, { slot, typeId }] of functions.entries()) {
    view.setUint32(i * FUNC_BYTES, slot, true);
    view.setUint32(i * FUNC_BYTES + 4, typeId, true);
  }
  return bytes;
}

/** Bytes of a record of each kind. */
export const INFO_BYTES = { func: FUNC_BYTES, line: LINE_BYTES } as const;

const LOG_BYTES = 1 << 16;
const LOAD = { btf: 0, log: 8, size: 16, logSize: 20, logLevel: 24 } as const;

/** Hands types to the kernel. Throws with the last line of its log. */
export function loadBtf(bytes: Uint8Array, what: string): Fd {
  const attr = new Attr().pointer(LOAD.btf, bytes).u32(LOAD.size, bytes.length);
  try {
    return new Fd(bpf('BTF_LOAD', attr));
  } catch (first) {
    const log = Buffer.alloc(LOG_BYTES);
    attr.pointer(LOAD.log, log).u32(LOAD.logSize, LOG_BYTES).u32(LOAD.logLevel, 1);
    try {
      return new Fd(bpf('BTF_LOAD', attr));
    } catch {
      const end = log.indexOf(0);
      const lines = log.toString('latin1', 0, Math.max(end, 0)).trim().split('\n');
      const why = lines.at(-1) === '' ? '' : `: ${lines.slice(-2).join(' ')}`;
      throw refusedBy(first, `the types of ${what}${why}`);
    }
  }
}

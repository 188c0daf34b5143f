/**
 * The sections of BTF data as words and bytes: reads the header, checks the sections and finds where each type begins.
 * What the types say is checked in validate.ts.
 */

import { BpfError } from '../kernel/errno.js';
import {
  BTF_MAGIC,
  BTF_VERSION,
  HEADER_SIZE,
  INFO_MASK,
  kindOfInfo,
  MAX_NAME_OFFSET,
  MAX_TYPE_ID,
  wordsOfType,
} from './types.js';

/** Types and names of one piece of BTF data, without those of its base. */
export interface RawBtf {
  /** The types section, in the byte order of this machine (little-endian). */
  readonly words: Uint32Array;
  /** Word at which each type begins; the first type of this piece is at index 0. */
  readonly starts: Uint32Array;
  readonly strings: Uint8Array;
  /** The first id and the first name offset of this piece: 1 and 0 without a base. */
  readonly firstId: number;
  readonly firstName: number;
  /** Named in errors. */
  readonly label: string;
}

/** A BpfError that says what is wrong with BTF data. */
export function damagedBtf(label: string, what: string): BpfError {
  return new BpfError('EINVAL', `${label}: ${what}; compile the file again, or it is damaged`);
}

/** Reads the header and the two sections. Throws EINVAL. */
export function readRawBtf(bytes: Uint8Array, label: string, firstId: number, firstName: number): RawBtf {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const fail = (what: string): never => {
    throw damagedBtf(label, what);
  };
  if (bytes.length < HEADER_SIZE)
    fail(`it has ${bytes.length} bytes, and its header alone has ${HEADER_SIZE}`);
  const magic = view.getUint16(0, true);
  if (magic === 0x9feb)
    throw new BpfError(
      'EINVAL',
      `${label} is BTF of a big-endian machine; compile for little-endian (clang -target bpfel)`,
    );
  if (magic !== BTF_MAGIC) fail(`it begins with 0x${magic.toString(16)} and not with BTF's 0xeb9f`);
  if (view.getUint8(2) !== BTF_VERSION) fail(`its version is ${view.getUint8(2)}, only 1 is known`);
  if (view.getUint8(3) !== 0) fail(`its header has flags 0x${view.getUint8(3).toString(16)}, none are known`);
  const headerSize = view.getUint32(4, true);
  if (headerSize < HEADER_SIZE || headerSize > bytes.length)
    fail(`its header's length is ${headerSize}, of ${bytes.length} bytes in all`);
  for (let at = HEADER_SIZE; at < headerSize; at++)
    if (bytes[at] !== 0) fail(`its header is longer than is known, and not zero there`);
  const body = bytes.length - headerSize;
  const [typeOffset, typeLength, stringOffset, stringLength] = [8, 12, 16, 20].map(at =>
    view.getUint32(at, true),
  );
  if (typeOffset % 4 !== 0 || typeLength % 4 !== 0) fail('its types do not lie on a multiple of four bytes');
  checkSections(fail, body, [typeOffset, typeLength], [stringOffset, stringLength]);
  const strings = bytes.subarray(headerSize + stringOffset, headerSize + stringOffset + stringLength);
  checkStrings(fail, strings, firstName);
  const words = wordsOf(bytes, headerSize + typeOffset, typeLength);
  return { words, starts: startsOf(fail, words, firstId), strings, firstId, firstName, label };
}

type Range = readonly [offset: number, length: number];
type Fail = (what: string) => never;

/** The two sections must fill what is behind the header exactly, each once. */
function checkSections(fail: Fail, body: number, types: Range, strings: Range): void {
  for (const [what, [offset, length]] of [['types', types] as const, ['names', strings] as const])
    if (offset + length > body)
      fail(
        `its ${what} are at ${offset}, ${length} bytes long, and there are only ${body} bytes behind its header`,
      );
  const [first, second] = types[0] <= strings[0] ? [types, strings] : [strings, types];
  if (first[0] !== 0 || first[0] + first[1] > second[0])
    fail(`its types and names overlap, or do not begin behind its header`);
  if (first[0] + first[1] < second[0]) fail('there is something between its types and its names');
  if (second[0] + second[1] < body) fail('there is something behind its types and names');
}

function checkStrings(fail: Fail, strings: Uint8Array, firstName: number): void {
  if (strings.length === 0) {
    if (firstName === 0) fail('it has no names');
    return;
  }
  if (strings.length - 1 > MAX_NAME_OFFSET)
    fail(`its names are ${strings.length} bytes long, which is too long`);
  if (strings[strings.length - 1] !== 0) fail('its last name does not end');
  if (firstName === 0 && strings[0] !== 0) fail('its first name is not the empty one');
}

/** A view where the bytes are aligned, else a copy. */
function wordsOf(bytes: Uint8Array, at: number, length: number): Uint32Array {
  const start = bytes.byteOffset + at;
  if (start % 4 === 0) return new Uint32Array(bytes.buffer, start, length / 4);
  return new Uint32Array(bytes.slice(at, at + length).buffer, 0, length / 4);
}

/** By the upper byte of a type's info: words that a type of the kind has (0: not known), and those for each part. */
const WORDS = Uint8Array.from({ length: 256 }, (_, byte) => Math.max(0, wordsOfType(byte << 24)));
const WORDS_EACH = WORDS.map((fixed, byte) => (fixed === 0 ? 0 : wordsOfType((byte << 24) | 1) - fixed));

function startsOf(fail: Fail, words: Uint32Array, firstId: number): Uint32Array {
  // A type takes three words at least: that bounds the table by the input.
  const starts = new Uint32Array(Math.floor(words.length / 3));
  const end = words.length;
  let count = 0;
  for (let at = 0; at < end; ) {
    if (at + 3 > end) fail(`type ${firstId + count} is cut short`);
    const info = words[at + 1];
    const size = WORDS[info >>> 24] + WORDS_EACH[info >>> 24] * (info & 0xffff);
    if ((info & ~INFO_MASK) !== 0)
      fail(`type ${firstId + count} has 0x${info.toString(16)} where its kind should be`);
    if (size === 0) fail(`type ${firstId + count} is of kind ${kindOfInfo(info)}, which is not known`);
    if (at + size > end) fail(`type ${firstId + count} is cut short`);
    if (firstId + count > MAX_TYPE_ID) fail(`it has more than ${MAX_TYPE_ID} types`);
    starts[count++] = at;
    at += size;
  }
  return starts.length === count ? starts : starts.slice(0, count);
}

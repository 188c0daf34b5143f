/**
 * Notes of an ELF file (gABI chapter 5, "Note Section"): the build-id, which is the same in a program and in
 * its separate debug file.
 *
 * A note: | name size u32 | descriptor size u32 | type u32 | name, padded | descriptor, padded |
 */

import { NT_GNU_BUILD_ID } from './format.js';

const HEADER = 12;
/** The longest build-id believed, in bytes; linkers write 8, 16 or 20. */
const MAX_BUILD_ID = 64;

/** The build-id in these notes as hexadecimal digits; `undefined` where there is none. */
export function buildIdInNotes(bytes: Buffer, alignment: number): string | undefined {
  const pad = alignment === 8 ? 8 : 4;
  let at = 0;
  while (at + HEADER <= bytes.length) {
    const nameSize = bytes.readUInt32LE(at);
    const size = bytes.readUInt32LE(at + 4);
    const type = bytes.readUInt32LE(at + 8);
    const name = at + HEADER;
    const descriptor = roundUp(name + nameSize, pad);
    const end = descriptor + size;
    if (end > bytes.length) return undefined;
    if (type === NT_GNU_BUILD_ID && nameSize === 4 && bytes.toString('latin1', name, name + 4) === 'GNU\0')
      return size > 0 && size <= MAX_BUILD_ID ? bytes.toString('hex', descriptor, end) : undefined;
    at = roundUp(end, pad);
  }
  return undefined;
}

function roundUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

/**
 * Reads the jump tables of a function in position-independent code: where a `switch` may go. Compilers emit
 * `lea table(%rip), %r; movslq (%r,%i,4), %i; add %r, %i; jmp *%i`, and a table holds 4-byte distances from itself. No
 * instruction is decoded: every address that a `lea` in the function could name is taken for a table, so that none
 * is missed. Tables of absolute addresses are not read here: relocations name their entries (`ModuleCode.pointers`),
 * or, at a fixed address, a scan of the data finds them.
 */

import type { CodeMap } from './code_map.js';
import type { CodeSection } from './patch_site.js';

/** More entries than this one table does not have. */
const MAX_ENTRIES = 4096;
const ENTRY = 4;
/** Bytes read at once. */
const CHUNK = 64 * ENTRY;

/** Calls `visit` for each code address in the jump tables of the function in [start, end), some more than once. */
export function forEachTableTarget(
  map: CodeMap,
  section: CodeSection,
  start: number,
  end: number,
  visit: (target: number) => void,
): void {
  const { bytes, address } = section;
  const { readBytes } = map.module;
  const named = new Set<number>();
  for (let o = start - address; o + 6 <= end - address; o++) {
    if (bytes[o] === 0x8d && (bytes[o + 1] & 0xc7) === 0x05) named.add(address + o + 6 + int32(bytes, o + 2));
  }
  // A table ends where another thing begins that the function names.
  const tables = Float64Array.from(named).sort();
  tables.forEach((table, i) => {
    const limit = Math.min(table + MAX_ENTRIES * ENTRY, tables[i + 1] ?? Number.POSITIVE_INFINITY);
    for (let at = table; at + ENTRY <= limit; ) {
      const chunk = readBytes(at, Math.min(CHUNK, limit - at)) ?? readBytes(at, ENTRY);
      if (!chunk || chunk.length < ENTRY) return;
      for (let o = 0; o + ENTRY <= chunk.length; o += ENTRY, at += ENTRY) {
        const target = table + int32(chunk, o);
        // A case of a hot function may lie in its cold part: anywhere in the code.
        if (map.section(target) === undefined) return;
        visit(target);
      }
    }
  });
}

function int32(bytes: Uint8Array, o: number): number {
  return bytes[o] | (bytes[o + 1] << 8) | (bytes[o + 2] << 16) | (bytes[o + 3] << 24);
}

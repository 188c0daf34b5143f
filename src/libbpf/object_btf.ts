/**
 * BTF as clang leaves it in an object file, made whole: offsets of variables are relocations still, sizes of sections
 * are zero, and externs have no place. libbpf does the same before it hands types to the kernel.
 */

import { Btf } from '../btf/btf.js';
import { KIND, kindOfInfo, wordsOfType } from '../btf/types.js';
import { R_BPF_64_ABS32, R_BPF_64_NODYLD32 } from '../elf/format.js';
import type { ObjectRelocation } from '../elf/object_relocations.js';
import { BpfError } from '../kernel/errno.js';
import type { ObjectSections } from './sections.js';

/** Sections of externs, which the file does not have: their variables are laid out here. */
const EXTERN_SECTIONS = new Set(['.kconfig', '.ksyms']);

/** Bytes of a variable's entry in a DATASEC: type, offset, size. */
const ENTRY_BYTES = 12;

/** The object's types; `undefined` where it has none. Throws EINVAL where they are damaged. */
export function objectBtf(sections: ObjectSections): Btf | undefined {
  const { btf: bytes, elf, path } = sections;
  if (bytes === undefined) return undefined;
  const name = `the BTF of ${path}`;
  const index = elf.sections.findIndex(section => section.name === '.BTF');
  return Btf.parse(wholeBtf(bytes, sections, sections.relocations.get(index) ?? [], name), { name });
}

function wholeBtf(
  source: Uint8Array,
  { elf }: ObjectSections,
  relocations: readonly ObjectRelocation[],
  label: string,
): Uint8Array {
  const bytes = Uint8Array.from(source);
  const view = new DataView(bytes.buffer);
  for (const { offset, type, symbol } of relocations) {
    if ((type !== R_BPF_64_NODYLD32 && type !== R_BPF_64_ABS32) || offset + 4 > bytes.length)
      throw new BpfError(
        'EINVAL',
        `${label}: a relocation of type ${type} can't be applied; compile it again`,
      );
    view.setUint32(offset, view.getUint32(offset, true) + symbol.value, true);
  }
  // What is not as it should be here is told by the parser.
  if (bytes.length < 24) return bytes;
  const header = view.getUint32(4, true);
  const types = header + view.getUint32(8, true);
  const typesEnd = types + view.getUint32(12, true);
  const strings = header + view.getUint32(16, true);
  if (typesEnd > bytes.length || types % 4 !== 0) return bytes;
  const nameAt = (offset: number): string => {
    const end = bytes.indexOf(0, strings + offset);
    return end < 0 ? '' : Buffer.from(bytes.subarray(strings + offset, end)).toString('utf8');
  };
  /** Kind of each type and where it begins, by id. */
  const starts: number[] = [-1];
  for (let at = types; at + 12 <= typesEnd; ) {
    const words = wordsOfType(view.getUint32(at + 4, true));
    if (words < 0 || at + words * 4 > typesEnd) return bytes;
    starts.push(at);
    at += words * 4;
  }
  const sizes = new Map(elf.sections.map(section => [section.name, section.size]));
  const removed: (readonly [from: number, to: number])[] = [];
  for (const at of starts) {
    if (at < 0 || kindOfInfo(view.getUint32(at + 4, true)) !== KIND.DATASEC) continue;
    const name = nameAt(view.getUint32(at, true));
    const count = view.getUint32(at + 4, true) & 0xffff;
    const entries = readEntries(view, at, count);
    if (!EXTERN_SECTIONS.has(name)) {
      if (view.getUint32(at + 8, true) === 0) view.setUint32(at + 8, sizes.get(name) ?? 0, true);
      entries.sort((a, b) => a.offset - b.offset);
      writeEntries(view, at, entries);
      continue;
    }
    // Kernel functions are found by their relocations; a DATASEC of types has variables only.
    const variables = entries.filter(({ type }) => {
      const start = starts[type] ?? -1;
      return start >= 0 && kindOfInfo(view.getUint32(start + 4, true)) === KIND.VAR;
    });
    let end = 0;
    const placed = variables.map(({ type, size }) => {
      const offset = Math.ceil(end / 8) * 8;
      end = offset + Math.max(size, 1);
      return { type, offset, size: Math.max(size, 1) };
    });
    view.setUint32(at + 8, Math.max(end, 1), true);
    writeEntries(view, at, placed);
    view.setUint32(at + 4, (view.getUint32(at + 4, true) & ~0xffff) | placed.length, true);
    if (placed.length < count)
      removed.push([at + 12 + placed.length * ENTRY_BYTES, at + 12 + count * ENTRY_BYTES]);
  }
  return withoutTypeBytes(bytes, removed);
}

interface Entry {
  readonly type: number;
  readonly offset: number;
  readonly size: number;
}

function readEntries(view: DataView, at: number, count: number): Entry[] {
  return Array.from({ length: count }, (_, i) => {
    const entry = at + 12 + i * ENTRY_BYTES;
    return {
      type: view.getUint32(entry, true),
      offset: view.getUint32(entry + 4, true),
      size: view.getUint32(entry + 8, true),
    };
  });
}

function writeEntries(view: DataView, at: number, entries: readonly Entry[]): void {
  for (const [i, { type, offset, size }] of entries.entries()) {
    const entry = at + 12 + i * ENTRY_BYTES;
    view.setUint32(entry, type, true);
    view.setUint32(entry + 4, offset, true);
    view.setUint32(entry + 8, size, true);
  }
}

/** Cuts ranges out of the types section, which the names follow as clang writes it. */
function withoutTypeBytes(
  bytes: Uint8Array,
  removed: readonly (readonly [from: number, to: number])[],
): Uint8Array {
  if (removed.length === 0) return bytes;
  const parts: Uint8Array[] = [];
  let from = 0;
  for (const [start, end] of removed) {
    parts.push(bytes.subarray(from, start));
    from = end;
  }
  parts.push(bytes.subarray(from));
  const result = Uint8Array.from(Buffer.concat(parts));
  const view = new DataView(result.buffer);
  const cut = bytes.length - result.length;
  view.setUint32(12, view.getUint32(12, true) - cut, true);
  if (view.getUint32(16, true) > view.getUint32(8, true))
    view.setUint32(16, view.getUint32(16, true) - cut, true);
  return result;
}

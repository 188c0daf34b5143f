/**
 * The sections of a BPF object file, by what they are to a loader: code, maps, global data, types, licence. Names are
 * libbpf's. Read as untrusted input: nothing is taken that the file's size does not justify.
 */

import { ElfFile, type Section } from '../elf/file.js';
import { damaged, EM_BPF, SHF_EXECINSTR, SHT_NOBITS, SHT_PROGBITS, SHT_SYMTAB } from '../elf/format.js';
import { type ObjectRelocation, objectRelocations } from '../elf/object_relocations.js';
import type { ElfSymbol } from '../elf/symbol_table.js';
import { BpfError } from '../kernel/errno.js';

/** All global data of one object, bytes: more than any program has, and little enough to hold. */
export const MAX_DATA = 64 << 20;

/** How a section of global data may be used. */
export type DataKind = 'data' | 'bss' | 'rodata';

/** A section that becomes a map of one entry. */
export interface DataSection {
  readonly index: number;
  readonly name: string;
  readonly kind: DataKind;
  readonly bytes: Uint8Array;
}

/** A section of instructions. */
export interface CodeSection {
  readonly index: number;
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** What a loader takes from the file. */
export interface ObjectSections {
  readonly path: string;
  readonly elf: ElfFile;
  readonly symbols: readonly ElfSymbol[];
  readonly code: readonly CodeSection[];
  readonly data: readonly DataSection[];
  /** Index of `.maps`, where there is one. */
  readonly maps: number | undefined;
  readonly btf: Uint8Array | undefined;
  readonly btfExt: Uint8Array | undefined;
  readonly license: string;
  readonly version: number | undefined;
  /** By the index of the section that they change. */
  readonly relocations: ReadonlyMap<number, readonly ObjectRelocation[]>;
}

/** Reads an object file. Throws ENOEXEC for what is none, or is damaged, ENOENT and the like as the system says. */
export function readSections(source: string | Uint8Array, name: string): ObjectSections {
  const elf = typeof source === 'string' ? ElfFile.open(source, EM_BPF) : ElfFile.parse(source, name, EM_BPF);
  try {
    return classify(elf);
  } finally {
    elf.close();
  }
}

function classify(elf: ElfFile): ObjectSections {
  if (elf.type !== 'REL')
    throw new BpfError(
      'ENOEXEC',
      `${elf.path} is no object file; compile it with clang -O2 -g -target bpf -c`,
    );
  if (!elf.sections.some(section => section.type === SHT_SYMTAB))
    throw new BpfError('ENOEXEC', `${elf.path} has no symbols (stripped?); compile it again`);
  const symbols = elf.symbols();
  let read = 0;
  const bytesOf = (section: Section): Uint8Array => {
    const bytes = elf.sectionBytes(section);
    read += bytes.length;
    // Sections that overlap could make a small file stand for any amount of code.
    if (read > elf.size) throw damaged(elf.path, 'its sections overlap');
    return bytes;
  };
  const code: CodeSection[] = [];
  const data: DataSection[] = [];
  let dataBytes = 0;
  let maps: number | undefined;
  let btf: Uint8Array | undefined;
  let btfExt: Uint8Array | undefined;
  let license = '';
  let version: number | undefined;
  const used = new Set<Section>();
  for (const [index, section] of elf.sections.entries()) {
    const { name, type, flags, size } = section;
    if (type !== SHT_PROGBITS && type !== SHT_NOBITS) continue;
    if (size === 0) continue;
    const kind = dataKind(name);
    if (type === SHT_PROGBITS && flags & SHF_EXECINSTR) {
      code.push({ index, name, bytes: bytesOf(section) });
      used.add(section);
    } else if (kind !== undefined) {
      dataBytes += size;
      if (dataBytes > MAX_DATA)
        throw new BpfError(
          'E2BIG',
          `${elf.path} has ${dataBytes} bytes of global data and more; at most ${MAX_DATA} are taken: use a map`,
        );
      // A copy: it is set before loading.
      const bytes = type === SHT_NOBITS ? new Uint8Array(size) : Uint8Array.from(bytesOf(section));
      data.push({ index, name, kind, bytes });
      used.add(section);
    } else if (name === '.maps') {
      if (maps !== undefined) throw damaged(elf.path, 'it has two sections .maps');
      maps = index;
      used.add(section);
    } else if (name === 'maps' || name.startsWith('maps/'))
      throw new BpfError(
        'EOPNOTSUPP',
        `${elf.path} has maps in the old form (struct bpf_map_def in SEC("maps")); define them in SEC(".maps") with __uint and __type`,
      );
    else if (name === '.BTF') {
      btf = Uint8Array.from(bytesOf(section));
      used.add(section);
    } else if (name === '.BTF.ext') btfExt = bytesOf(section);
    else if (name === 'license') license = text(bytesOf(section));
    else if (name === 'version' && size === 4) version = Buffer.from(bytesOf(section)).readUInt32LE(0);
  }
  const relocations = objectRelocations(elf, symbols, section => used.has(section));
  return { path: elf.path, elf, symbols, code, data, maps, btf, btfExt, license, version, relocations };
}

function dataKind(name: string): DataKind | undefined {
  const match = /^\.(data|bss|rodata)(\..*)?$/s.exec(name);
  return match === null ? undefined : (match[1] as DataKind);
}

function text(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString('utf8');
}

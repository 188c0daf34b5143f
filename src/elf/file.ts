/**
 * An ELF file of x86-64 Linux (or a BPF object), read lazily: headers when it is opened, everything else when asked for. A file
 * is not trusted: every offset, size and count in it is checked, and what contradicts itself is refused with
 * ENOEXEC. Nothing here knows about processes; addresses are the file's own virtual addresses.
 *
 * Format: System V ABI chapters 4 and 5; numbers in format.ts.
 */

import { BpfError } from '../kernel/errno.js';
import { DynamicTable } from './dynamic.js';
import { FileBytes } from './file_bytes.js';
import {
  DF_TEXTREL,
  DT_FLAGS,
  DT_GNU_HASH,
  DT_HASH,
  DT_SONAME,
  DT_STRSZ,
  DT_STRTAB,
  DT_SYMTAB,
  DT_TEXTREL,
  DT_VERSYM,
  damaged,
  EHDR_SIZE,
  EI_CLASS,
  EI_DATA,
  ELFCLASS32,
  ELFCLASS64,
  ELFDATA2LSB,
  ELFDATA2MSB,
  EM_BPF,
  EM_X86_64,
  PF_X,
  PHDR_SIZE,
  PN_XNUM,
  PT_DYNAMIC,
  PT_INTERP,
  PT_LOAD,
  PT_NOTE,
  readU64,
  SHDR_SIZE,
  SHF_ALLOC,
  SHF_EXECINSTR,
  SHN_XINDEX,
  SHT_DYNSYM,
  SHT_NOBITS,
  SHT_NOTE,
  SHT_PROGBITS,
  SHT_SYMTAB,
  SYM_SIZE,
} from './format.js';
import { machineName } from './machine_names.js';
import { buildIdInNotes } from './notes.js';
import { lastStartingAtOrBefore } from './ranges.js';
import { type Relocation, relocationsOf } from './relocations.js';
import { StringTable } from './string_table.js';
import {
  countByGnuHash,
  decodeSymbols,
  type ElfSymbol,
  type SymbolTable,
  type SymbolType,
} from './symbol_table.js';

export type { Relocation } from './relocations.js';
export type { ElfSymbol, SymbolBind, SymbolType } from './symbol_table.js';

/** `DYN` is a library or a position-independent program. */
export type ElfType = 'REL' | 'EXEC' | 'DYN' | 'CORE';

/** A PT_LOAD segment: sizes in bytes, `flags` of PF_R, PF_W, PF_X. */
export interface Segment {
  readonly vaddr: number;
  readonly offset: number;
  readonly filesz: number;
  readonly memsz: number;
  readonly flags: number;
}

/** A section header; its bytes come from `ElfFile.sectionBytes`. */
export interface Section {
  readonly name: string;
  /** SHT_…. */
  readonly type: number;
  readonly address: number;
  readonly offset: number;
  readonly size: number;
  /** SHF_…. */
  readonly flags: number;
  readonly link: number;
  readonly info: number;
  readonly align: number;
  readonly entsize: number;
}

/** Code of the file: a view that must not be written to. */
export interface ExecutableSection {
  readonly name: string;
  readonly address: number;
  readonly bytes: Buffer;
}

/** A program header of any type. */
export interface ProgramHeader extends Segment {
  /** PT_…. */
  readonly type: number;
  readonly align: number;
}

const TYPES: Record<number, ElfType> = { 1: 'REL', 2: 'EXEC', 3: 'DYN', 4: 'CORE' };

/** User space of x86-64 with four-level tables ends here; an address above belongs to a kernel. */
const USER_SPACE_END = 2 ** 47;

/** More sections than this are damage: programs have tens, and even object files seldom 65,280. */
const MAX_SECTIONS = 2 ** 17;

/** How many notes sections are searched for the build-id, and how many bytes of each; real ones are tiny. */
const MAX_NOTES = 64;
const MAX_NOTE_BYTES = 65536;

/** The longest path of an interpreter (PATH_MAX), in bytes. */
const MAX_INTERPRETER = 4096;

/** An open ELF file. `close()` lets go of the descriptor; a file that is dropped is closed by itself later. */
export class ElfFile {
  readonly path: string;
  readonly type: ElfType;
  /** e_machine: EM_X86_64 (62), or EM_BPF (247) where that was asked for. */
  readonly machine: number;
  /** Entry point; 0 where there is none. */
  readonly entry: number;
  /** PT_LOAD segments, lowest address first. */
  readonly segments: readonly Segment[];
  readonly programHeaders: readonly ProgramHeader[];
  /** Sections, with the empty one at index 0; no element when the file has no section headers. */
  readonly sections: readonly Section[];
  /**
   * The file holds symbols and debug information for another file and none of its code
   * (`objcopy --only-keep-debug`).
   */
  readonly isDebugFile: boolean;
  readonly #file: FileBytes;
  #dynamic: DynamicTable | null | undefined;
  #dynamicStrings: StringTable | null | undefined;

  /**
   * Opens a file. Throws `BpfError`: ENOENT, EACCES, EISDIR… as the system says; ENOEXEC when it is not an
   * ELF file, is of another processor than `machine` (EM_…), or is damaged.
   */
  static open(path: string, machine = EM_X86_64): ElfFile {
    const file = FileBytes.open(path);
    try {
      return new ElfFile(file, machine);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** Reads an ELF image that is in memory, such as the vDSO; `path` names it in errors. Throws ENOEXEC. */
  static parse(bytes: Uint8Array, path: string, machine = EM_X86_64): ElfFile {
    return new ElfFile(FileBytes.of(bytes, path), machine);
  }

  private constructor(file: FileBytes, machine: number) {
    this.#file = file;
    this.path = file.path;
    const header = readHeader(file, machine);
    this.machine = machine;
    const type = TYPES[header.readUInt16LE(16)];
    if (!type) throw damaged(file.path, `its type is ${header.readUInt16LE(16)}, which no ELF file has`);
    this.type = type;
    this.entry = readU64(header, 24);
    const first = readSectionHeader(file, header);
    this.sections = readSections(file, header, first);
    this.programHeaders = readProgramHeaders(file, header, first);
    this.segments = this.programHeaders
      .filter(segment => segment.type === PT_LOAD)
      .sort((a, b) => a.vaddr - b.vaddr);
    for (const segment of this.segments)
      if (segment.vaddr + segment.memsz > USER_SPACE_END)
        throw new BpfError(
          'ENOEXEC',
          `${file.path} is loaded at addresses that no Linux program has (a kernel image or a damaged file); give a program or a library`,
        );
    this.isDebugFile = this.sections.some(
      section => section.type === SHT_NOBITS && section.flags & SHF_EXECINSTR && section.size > 0,
    );
  }

  /** Closes the file; what was read so far stays usable, further reading fails with EBADF. */
  close(): void {
    this.#file.close();
  }

  /** Size of the file in bytes. */
  get size(): number {
    return this.#file.size;
  }

  /** The dynamic linker that a program asks for; `undefined` for libraries and static programs. */
  get interpreter(): string | undefined {
    const header = this.programHeaders.find(segment => segment.type === PT_INTERP);
    if (!header || this.isDebugFile) return undefined;
    const bytes =
      header.filesz <= MAX_INTERPRETER ? this.#file.view(header.offset, header.filesz) : undefined;
    if (!bytes) throw damaged(this.path, 'the name of its dynamic linker lies outside the file');
    const end = bytes.indexOf(0);
    return bytes.toString('utf8', 0, end < 0 ? bytes.length : end);
  }

  /** The build-id as hexadecimal digits, the same in a program and its separate debug file. */
  get buildId(): string | undefined {
    for (const { bytes, align } of this.#notes()) {
      const id = buildIdInNotes(bytes.subarray(0, MAX_NOTE_BYTES), align);
      if (id !== undefined) return id;
    }
    return undefined;
  }

  #notes(): { bytes: Buffer; align: number }[] {
    if (this.sections.length > 0) {
      const sections = this.sections.filter(section => section.type === SHT_NOTE).slice(0, MAX_NOTES);
      return sections.map(section => ({ bytes: this.sectionBytes(section), align: section.align }));
    }
    const segments = this.programHeaders.filter(segment => segment.type === PT_NOTE).slice(0, MAX_NOTES);
    return segments.map(segment => ({
      bytes: this.#segmentBytes(segment, 0, segment.filesz),
      align: segment.align,
    }));
  }

  /**
   * .gnu_debuglink: the base name of the separate debug file and the CRC-32 of its contents. The section holds
   * the name with a zero byte, padded to four bytes, then the CRC.
   */
  get debugLink(): { name: string; crc: number } | undefined {
    const section = this.section('.gnu_debuglink');
    if (!section) return undefined;
    const bytes = this.sectionBytes(section);
    const end = bytes.indexOf(0);
    const crcAt = Math.ceil((end + 1) / 4) * 4;
    if (end <= 0 || crcAt + 4 > bytes.length) throw damaged(this.path, '.gnu_debuglink is cut short');
    return { name: bytes.toString('utf8', 0, end), crc: bytes.readUInt32LE(crcAt) };
  }

  /** DT_SONAME: the name that a library goes by. */
  get soname(): string | undefined {
    const offset = this.dynamic?.get(DT_SONAME);
    return offset === undefined ? undefined : this.dynamicStrings?.at(offset);
  }

  /** DT_NEEDED: the libraries that the dynamic linker loads with this file. */
  get needed(): string[] {
    const names = this.dynamicStrings;
    return names ? (this.dynamic?.needed ?? []).map(offset => names.at(offset)) : [];
  }

  /** The dynamic linker writes to the text of this file at start (DT_TEXTREL, DF_TEXTREL). */
  get hasTextRelocations(): boolean {
    const flags = this.dynamic?.get(DT_FLAGS) ?? 0;
    return this.dynamic?.get(DT_TEXTREL) !== undefined || Math.floor(flags / DF_TEXTREL) % 2 === 1;
  }

  /** The first section of a name. */
  section(name: string): Section | undefined {
    return this.sections.find(section => section.name === name);
  }

  /** The bytes of a section in the file, none for NOBITS. Throws ENOEXEC when they are outside the file. */
  sectionBytes(section: Section): Buffer {
    const bytes = this.#file.view(section.offset, section.type === SHT_NOBITS ? 0 : section.size);
    if (bytes) return bytes;
    if (section.type === SHT_NOBITS) return Buffer.alloc(0);
    throw damaged(this.path, `section ${section.name} lies outside the file`);
  }

  /**
   * The file's bytes behind an address: a view that must not be written to. `undefined` where the file has
   * none: outside the segments, or in the zero-filled part of one. Throws ENOEXEC when the file is cut short.
   */
  bytesAt(vaddr: number, length: number): Buffer | undefined {
    const segment = this.#segmentAt(vaddr);
    if (!segment || length < 0 || vaddr + length > segment.vaddr + segment.filesz) return undefined;
    return this.#segmentBytes(segment, vaddr - segment.vaddr, length);
  }

  /** Bytes from an address to the end of its segment's file content; `undefined` as in `bytesAt`. */
  bytesFrom(vaddr: number): Buffer | undefined {
    const segment = this.#segmentAt(vaddr);
    return segment && this.bytesAt(vaddr, segment.vaddr + segment.filesz - vaddr);
  }

  #segmentAt(vaddr: number): Segment | undefined {
    if (this.isDebugFile) return undefined;
    const index = lastStartingAtOrBefore(this.segments, vaddr, ({ vaddr }) => vaddr);
    const segment = this.segments[index];
    return segment && vaddr < segment.vaddr + segment.filesz ? segment : undefined;
  }

  #segmentBytes(segment: Segment, from: number, length: number): Buffer {
    const bytes = this.#file.view(segment.offset + from, length);
    if (!bytes) throw damaged(this.path, 'a segment lies outside the file');
    return bytes;
  }

  /**
   * Everything executable: the sections with code, or, when there are no section headers, the executable
   * segments (which may hold more than code). Nothing for a separate debug file.
   */
  executableSections(): ExecutableSection[] {
    if (this.isDebugFile) return [];
    const code = this.sections.filter(isCode);
    const found =
      code.length > 0
        ? code.map(section => ({
            name: section.name,
            address: section.address,
            bytes: this.sectionBytes(section),
          }))
        : this.segments
            .filter(segment => segment.flags & PF_X && segment.filesz > 0)
            .map(segment => ({
              name: 'LOAD',
              address: segment.vaddr,
              bytes: this.#segmentBytes(segment, 0, segment.filesz),
            }));
    // Sections that overlap could make a small file stand for any amount of code.
    if (found.reduce((sum, { bytes }) => sum + bytes.length, 0) > this.size)
      throw damaged(this.path, 'its executable sections overlap');
    return found.sort((a, b) => a.address - b.address);
  }

  /**
   * The symbols of .symtab, then those of .dynsym, each table without its empty first one; `types` leaves out
   * all others, which saves decoding their names. Decoded anew on each call. Throws ENOEXEC.
   */
  symbols(types?: ReadonlySet<SymbolType>): ElfSymbol[] {
    const tables = [this.#symbolTable('symtab'), this.#symbolTable('dynsym') ?? this.#unlistedDynsym()];
    return tables.flatMap(table => (table ? decodeSymbols(table, this.path, types) : []));
  }

  /** A file has at most one table of each kind: reading more would only multiply the work. */
  #symbolTable(from: 'symtab' | 'dynsym'): SymbolTable | undefined {
    const type = from === 'symtab' ? SHT_SYMTAB : SHT_DYNSYM;
    const table = this.sections.find(section => section.type === type);
    if (!table) return undefined;
    const strings = this.sections[table.link];
    if (!strings) throw damaged(this.path, `section ${table.name} names no string table`);
    const bytes = this.sectionBytes(table);
    const names = new StringTable(this.sectionBytes(strings), this.path);
    return { bytes, names, from, versions: from === 'dynsym' ? this.#versions(bytes) : undefined };
  }

  /** .dynsym of a file without section headers. */
  #unlistedDynsym(): SymbolTable | undefined {
    const bytes = this.sections.length === 0 ? this.#dynamicSymbolBytes() : undefined;
    const names = this.dynamicStrings;
    return bytes && names && { bytes, names, from: 'dynsym', versions: this.#versions(bytes) };
  }

  /** Versions of the dynamic symbols: a u16 for each. */
  #versions(symbols: Buffer): Buffer | undefined {
    const address = this.dynamic?.get(DT_VERSYM);
    return address === undefined
      ? undefined
      : this.bytesAt(address, Math.floor(symbols.length / SYM_SIZE) * 2);
  }

  /** .dynsym found as the dynamic linker finds it; how long it is only its hash table says. */
  #dynamicSymbolBytes(): Buffer | undefined {
    const address = this.dynamic?.get(DT_SYMTAB);
    if (address === undefined) return undefined;
    const count = this.#countDynamicSymbols();
    if (count === undefined) return undefined;
    const bytes = this.bytesAt(address, count * SYM_SIZE);
    if (!bytes) throw damaged(this.path, 'its dynamic symbols lie outside the file');
    return bytes;
  }

  #countDynamicSymbols(): number | undefined {
    const hash = this.dynamic?.get(DT_HASH);
    // DT_HASH starts with | buckets u32 | chains u32 |, and has one chain word for each symbol.
    if (hash !== undefined) return this.bytesAt(hash, 8)?.readUInt32LE(4);
    const gnuHash = this.dynamic?.get(DT_GNU_HASH);
    const table = gnuHash === undefined ? undefined : this.bytesFrom(gnuHash);
    if (!table) return undefined;
    return countByGnuHash(at => (at + 4 <= table.length ? table.readUInt32LE(at) : undefined));
  }

  /** Relocations that the dynamic linker applies, only of the given types when told so. Throws ENOEXEC. */
  relocations(types?: ReadonlySet<number>): Generator<Relocation> {
    return relocationsOf(this, types);
  }

  /** The dynamic table; `undefined` for static programs and debug files. Throws ENOEXEC. */
  get dynamic(): DynamicTable | undefined {
    if (this.#dynamic === undefined) this.#dynamic = this.#readDynamic() ?? null;
    return this.#dynamic ?? undefined;
  }

  #readDynamic(): DynamicTable | undefined {
    const header = this.programHeaders.find(segment => segment.type === PT_DYNAMIC);
    if (!header || this.isDebugFile) return undefined;
    const bytes = this.#file.view(header.offset, header.filesz);
    if (!bytes) throw damaged(this.path, 'its dynamic table lies outside the file');
    return new DynamicTable(bytes);
  }

  /** The names that the dynamic table and .dynsym refer to. Throws ENOEXEC. */
  get dynamicStrings(): StringTable | undefined {
    if (this.#dynamicStrings === undefined) this.#dynamicStrings = this.#readDynamicStrings() ?? null;
    return this.#dynamicStrings ?? undefined;
  }

  #readDynamicStrings(): StringTable | undefined {
    const address = this.dynamic?.get(DT_STRTAB);
    if (address === undefined) return undefined;
    const bytes = this.bytesAt(address, this.dynamic?.get(DT_STRSZ) ?? 0);
    if (!bytes) throw damaged(this.path, 'its dynamic string table lies outside the file');
    return new StringTable(bytes, this.path);
  }
}

function isCode(section: Section): boolean {
  const wanted = SHF_ALLOC | SHF_EXECINSTR;
  return section.type === SHT_PROGBITS && (section.flags & wanted) === wanted && section.size > 0;
}

const MAGIC = Buffer.from('\x7fELF', 'latin1');
/** e_ident, e_type and e_machine: the same place in files of every class. */
const IDENT_AND_MACHINE = 20;

function readHeader(file: FileBytes, wanted: number): Buffer {
  const start = file.view(0, Math.min(file.size, EHDR_SIZE))!;
  if (!start.subarray(0, MAGIC.length).equals(MAGIC)) throw notElf(file.path, start, wanted);
  if (start.length < IDENT_AND_MACHINE) throw damaged(file.path, 'it ends in the middle of its header');
  const elfClass = start[EI_CLASS];
  const order = start[EI_DATA];
  if (
    (elfClass !== ELFCLASS32 && elfClass !== ELFCLASS64) ||
    (order !== ELFDATA2LSB && order !== ELFDATA2MSB)
  )
    throw damaged(file.path, 'its header says neither 32 nor 64 bits, or no byte order');
  const machine = order === ELFDATA2LSB ? start.readUInt16LE(18) : start.readUInt16BE(18);
  if (elfClass !== ELFCLASS64 || order !== ELFDATA2LSB || machine !== wanted) {
    const bits = elfClass === ELFCLASS64 ? '64-bit' : '32-bit';
    const what = `${bits} ${order === ELFDATA2MSB ? 'big-endian ' : ''}${machineName(machine)}`;
    if (wanted === EM_BPF)
      throw new BpfError(
        'ENOEXEC',
        `${file.path} is a ${what} file, not a BPF object; compile it with clang -O2 -g -target bpf -c`,
      );
    throw new BpfError(
      'ENOEXEC',
      `${file.path} is a ${what} program; multitrace traces x86-64 Linux programs only`,
    );
  }
  if (start.length < EHDR_SIZE) throw damaged(file.path, 'it ends in the middle of its header');
  return start;
}

function notElf(path: string, start: Buffer, machine: number): BpfError {
  if (machine === EM_BPF)
    return new BpfError(
      'ENOEXEC',
      `${path} is not an ELF file, so no BPF object; make one with clang -O2 -g -target bpf -c`,
    );
  if (start.length === 0) return new BpfError('ENOEXEC', `${path} is empty, so not a program`);
  if (start.toString('latin1', 0, 2) === '#!')
    return new BpfError('ENOEXEC', `${path} is a script; give the program that runs it`);
  return new BpfError('ENOEXEC', `${path} is not an ELF file; give a program or a library of x86-64 Linux`);
}

/** Header of section 0, which holds the counts that do not fit into the file's header. */
function readSectionHeader(file: FileBytes, header: Buffer): Buffer | undefined {
  const offset = readU64(header, 40);
  if (offset === 0) return undefined;
  if (header.readUInt16LE(58) !== SHDR_SIZE) {
    if (header.readUInt16LE(60) === 0) return undefined;
    throw damaged(file.path, 'its section headers have a wrong size');
  }
  const first = file.view(offset, SHDR_SIZE);
  if (!first) throw damaged(file.path, 'its section headers lie outside the file');
  return first;
}

function readSections(file: FileBytes, header: Buffer, first: Buffer | undefined): Section[] {
  if (!first) return [];
  const offset = readU64(header, 40);
  const count = header.readUInt16LE(60) || readU64(first, 32);
  if (count > MAX_SECTIONS) throw damaged(file.path, `it claims to have ${count} sections`);
  const table = file.view(offset, count * SHDR_SIZE);
  if (!table) throw damaged(file.path, 'its section headers lie outside the file');
  const index = header.readUInt16LE(62);
  const names = readSectionNames(file, table, index === SHN_XINDEX ? first.readUInt32LE(40) : index);
  return Array.from({ length: count }, (_, i) => {
    const at = i * SHDR_SIZE;
    return {
      name: names?.at(table.readUInt32LE(at)) ?? '',
      type: table.readUInt32LE(at + 4),
      // Processor-specific flags are above 32 bits of no section; the low word holds all that are defined.
      flags: table.readUInt32LE(at + 8),
      address: readU64(table, at + 16),
      offset: readU64(table, at + 24),
      size: readU64(table, at + 32),
      link: table.readUInt32LE(at + 40),
      info: table.readUInt32LE(at + 44),
      align: readU64(table, at + 48),
      entsize: readU64(table, at + 56),
    };
  });
}

function readSectionNames(file: FileBytes, table: Buffer, index: number): StringTable | undefined {
  if (index === 0) return undefined;
  const at = index * SHDR_SIZE;
  if (at + SHDR_SIZE > table.length) throw damaged(file.path, 'its section names are in no section');
  const bytes = file.view(readU64(table, at + 24), readU64(table, at + 32));
  if (!bytes) throw damaged(file.path, 'its section names lie outside the file');
  return new StringTable(bytes, file.path);
}

function readProgramHeaders(file: FileBytes, header: Buffer, first: Buffer | undefined): ProgramHeader[] {
  const offset = readU64(header, 32);
  const written = header.readUInt16LE(56);
  const count = written === PN_XNUM && first ? first.readUInt32LE(44) : written;
  if (offset === 0 || count === 0) return [];
  if (header.readUInt16LE(54) !== PHDR_SIZE)
    throw damaged(file.path, 'its program headers have a wrong size');
  if (count > PN_XNUM) throw damaged(file.path, `it claims to have ${count} segments`);
  const table = file.view(offset, count * PHDR_SIZE);
  if (!table) throw damaged(file.path, 'its program headers lie outside the file');
  return Array.from({ length: count }, (_, i) => {
    const at = i * PHDR_SIZE;
    return {
      type: table.readUInt32LE(at),
      flags: table.readUInt32LE(at + 4),
      offset: readU64(table, at + 8),
      vaddr: readU64(table, at + 16),
      filesz: readU64(table, at + 32),
      memsz: readU64(table, at + 40),
      align: readU64(table, at + 48),
    };
  });
}

/**
 * Numbers of the ELF-64 format, from the System V ABI (gABI chapters 4 and 5), its x86-64 supplement and
 * GNU's additions as elf.h names them. Only numbers and how a 64-bit field is read; nothing is decoded here.
 */

import { BpfError } from '../kernel/errno.js';

/** e_ident: four magic bytes, then the class, the byte order. */
export const EI_CLASS = 4;
export const EI_DATA = 5;
export const ELFCLASS32 = 1;
export const ELFCLASS64 = 2;
export const ELFDATA2LSB = 1;
export const ELFDATA2MSB = 2;

/** Sizes in bytes of the records of an ELF-64 file. */
export const EHDR_SIZE = 64;
export const PHDR_SIZE = 56;
export const SHDR_SIZE = 64;
export const SYM_SIZE = 24;
export const RELA_SIZE = 24;
export const REL_SIZE = 16;
export const RELR_SIZE = 8;
export const DYN_SIZE = 16;

export const EM_X86_64 = 62;
export const EM_BPF = 247;

/** Program header types. */
export const PT_LOAD = 1;
export const PT_DYNAMIC = 2;
export const PT_INTERP = 3;
export const PT_NOTE = 4;
export const PT_GNU_EH_FRAME = 0x6474e550;
/** e_phnum that says: the real count is in sh_info of section 0. */
export const PN_XNUM = 0xffff;

/** Program header flags. */
export const PF_X = 1;
export const PF_W = 2;
export const PF_R = 4;

/** Section types. */
export const SHT_PROGBITS = 1;
export const SHT_SYMTAB = 2;
export const SHT_RELA = 4;
export const SHT_NOTE = 7;
export const SHT_NOBITS = 8;
export const SHT_REL = 9;
export const SHT_DYNSYM = 11;

/** Section flags. */
export const SHF_ALLOC = 2;
export const SHF_EXECINSTR = 4;

/** Section indices that name no section. */
export const SHN_UNDEF = 0;
export const SHN_LORESERVE = 0xff00;
export const SHN_XINDEX = 0xffff;

/** Tags of the dynamic table. */
export const DT_NULL = 0;
export const DT_NEEDED = 1;
export const DT_PLTRELSZ = 2;
export const DT_HASH = 4;
export const DT_STRTAB = 5;
export const DT_SYMTAB = 6;
export const DT_RELA = 7;
export const DT_RELASZ = 8;
export const DT_STRSZ = 10;
export const DT_SONAME = 14;
export const DT_TEXTREL = 22;
export const DT_JMPREL = 23;
export const DT_FLAGS = 30;
export const DT_RELRSZ = 35;
export const DT_RELR = 36;
export const DT_GNU_HASH = 0x6ffffef5;
export const DT_VERSYM = 0x6ffffff0;
/** Bit of a DT_VERSYM entry: not the version that new programs link to. */
export const VERSYM_HIDDEN = 0x8000;
/** Bit of DT_FLAGS: relocations may write to text. */
export const DF_TEXTREL = 4;

/** Relocation types of x86-64. */
export const R_X86_64_64 = 1;
export const R_X86_64_GLOB_DAT = 6;
export const R_X86_64_JUMP_SLOT = 7;
export const R_X86_64_RELATIVE = 8;
export const R_X86_64_IRELATIVE = 37;

/** Relocation types of BPF objects (LLVM's BPFRelocs; Linux documentation, "BPF LLVM Relocations"). */
export const R_BPF_64_64 = 1;
export const R_BPF_64_ABS64 = 2;
export const R_BPF_64_ABS32 = 3;
export const R_BPF_64_NODYLD32 = 4;
export const R_BPF_64_32 = 10;

/** The note, named "GNU", that holds the build-id. */
export const NT_GNU_BUILD_ID = 3;

const TWO_32 = 2 ** 32;

/**
 * A 64-bit unsigned field. Above 2^53 it is rounded, which every caller can afford: such a value lies outside
 * any file and any user address space, and is refused or left out for that.
 */
export function readU64(bytes: Buffer, offset: number): number {
  return bytes.readUInt32LE(offset) + bytes.readUInt32LE(offset + 4) * TWO_32;
}

/** A 64-bit signed field; rounded beyond ±2^53, see `readU64`. */
export function readS64(bytes: Buffer, offset: number): number {
  return bytes.readUInt32LE(offset) + bytes.readInt32LE(offset + 4) * TWO_32;
}

/** The longest explanation of damage, in characters: names in it come from the damaged file. */
const MAX_EXPLANATION = 200;

/** The error for a file that contradicts itself; `what` completes the sentence "PATH is damaged: …". */
export function damaged(path: string, what: string): BpfError {
  const printable = what.replace(/[^\x20-\x7e]/g, '?').slice(0, MAX_EXPLANATION);
  return new BpfError('ENOEXEC', `${path} is a damaged ELF file: ${printable}; install or build it again`);
}

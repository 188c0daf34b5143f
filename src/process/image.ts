/**
 * The program that a process runs: its modules (the files mapped as code) and where each lies. Not their functions'
 * patch sites, which are the machine's business.
 */

import { statSync } from 'node:fs';
import { basename } from 'node:path';
import { ElfFile } from '../elf/file.js';
import { PF_X } from '../elf/format.js';
import { BpfError } from '../kernel/errno.js';
import { type Mapping, readMappings } from './mappings.js';
import type { SelectableModule } from './symbols/selector.js';

/** One file mapped as code into a process. */
export interface Module extends SelectableModule {
  /** The path that the process mapped it by. */
  readonly path: string;
  /** The file's name. */
  readonly name: string;
  /** The program itself, not a library. */
  readonly isMain: boolean;
  readonly elf: ElfFile;
  /** What is added to a file virtual address to get the address in the process. */
  readonly bias: bigint;
  /** The lowest and one past the highest address of its mappings. */
  readonly start: bigint;
  readonly end: bigint;
  /** Its executable mappings. */
  readonly text: readonly { readonly start: bigint; readonly end: bigint }[];
}

/** A file that is mapped as code but can't be read as a module, and why. */
export interface UnreadableModule {
  readonly path: string;
  readonly why: string;
}

const PAGE_MASK = 4095;

/** Files stay open and parsed: a process execs the same programs again, and the same libraries are in each. */
const parsed = new Map<string, ElfFile>();

function loadFile(pid: number, mapping: Mapping): ElfFile {
  const candidates = [`/proc/${pid}/root${mapping.path}`, mapping.path, `/proc/${pid}/exe`];
  for (const path of candidates) {
    let status: ReturnType<typeof statSync>;
    try {
      status = statSync(path);
    } catch {
      continue;
    }
    if (status.ino !== mapping.inode) continue;
    const key = `${status.dev}:${status.ino}:${status.mtimeMs}:${status.size}`;
    let elf = parsed.get(key);
    if (elf === undefined) {
      elf = ElfFile.open(path);
      parsed.set(key, elf);
    }
    return elf;
  }
  throw new BpfError('ENOENT', `${mapping.path} was removed or replaced since process ${pid} mapped it`);
}

/** The modules of process `pid`, in order of address, and the files that could not be read. */
export function readModules(
  pid: number,
  mappings: readonly Mapping[] = readMappings(pid),
): { modules: Module[]; unreadable: UnreadableModule[] } {
  let mainInode = -1;
  try {
    mainInode = statSync(`/proc/${pid}/exe`).ino;
  } catch {
    // Not ours to see: no module is the main one then.
  }
  const modules: Module[] = [];
  const unreadable: UnreadableModule[] = [];
  const failed = new Set<string>();
  const byBias = new Map<string, Module & { end: bigint; text: { start: bigint; end: bigint }[] }>();
  for (const mapping of mappings) {
    if (!mapping.executable || mapping.shared || !mapping.path.startsWith('/') || failed.has(mapping.path))
      continue;
    let elf: ElfFile;
    try {
      elf = loadFile(pid, mapping);
    } catch (cause) {
      if (!(cause instanceof BpfError)) throw cause;
      failed.add(mapping.path);
      unreadable.push({ path: mapping.path, why: cause.message });
      continue;
    }
    const segment = elf.segments.find(
      s =>
        (s.flags & PF_X) !== 0 &&
        mapping.offset >= (s.offset & ~PAGE_MASK) &&
        mapping.offset < s.offset + s.filesz,
    );
    if (segment === undefined) continue;
    const bias = mapping.start - BigInt(segment.vaddr + mapping.offset - segment.offset);
    const key = `${mapping.inode}:${bias}`;
    const known = byBias.get(key);
    if (known !== undefined) {
      known.text.push({ start: mapping.start, end: mapping.end });
      continue;
    }
    const loads = elf.segments.filter(s => s.memsz > 0);
    const low = Math.min(...loads.map(s => s.vaddr));
    const high = Math.max(...loads.map(s => s.vaddr + s.memsz));
    const module = {
      path: mapping.path,
      name: basename(mapping.path),
      isMain: mapping.inode === mainInode,
      elf,
      bias,
      start: bias + BigInt(low & ~PAGE_MASK),
      end: bias + BigInt((high + PAGE_MASK) & ~PAGE_MASK),
      text: [{ start: mapping.start, end: mapping.end }],
    };
    byBias.set(key, module);
    modules.push(module);
  }
  return { modules, unreadable };
}

/**
 * Finds the separate debug file of a program or library, where one is installed: by build-id, then by
 * .gnu_debuglink, in the places where distributions put them (GDB manual, "Debugging Information in Separate
 * Files"). Nothing is fetched from anywhere.
 */

import { closeSync, openSync, readSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { BpfError } from '../kernel/errno.js';
import { ElfFile } from './file.js';

const DEBUG_ROOT = '/usr/lib/debug';

/** Where to look; everything is for files of another mount namespace, reached through /proc/PID/root. */
export interface DebugFileOptions {
  /** Put in front of /usr/lib/debug, and taken off the file's own path: '/proc/PID/root', say. */
  readonly root?: string;
}

/**
 * The open debug file of `elf`, or `null`: none is installed, or what is there belongs to another build or is
 * damaged. The caller closes it.
 */
export function findDebugFile(elf: ElfFile, options: DebugFileOptions = {}): ElfFile | null {
  const root = options.root ?? '';
  try {
    return byBuildId(elf, root) ?? byDebugLink(elf, root);
  } catch (error) {
    // Debug files are a bonus: one that can't be used is as good as none.
    if (error instanceof BpfError) return null;
    throw error;
  }
}

function byBuildId(elf: ElfFile, root: string): ElfFile | null {
  const id = elf.buildId;
  if (id === undefined || id.length < 4) return null;
  const path = join(root, DEBUG_ROOT, '.build-id', id.slice(0, 2), `${id.slice(2)}.debug`);
  return openIfSameBuild(path, elf);
}

function byDebugLink(elf: ElfFile, root: string): ElfFile | null {
  const link = elf.debugLink;
  // The name comes from the file: only a plain name may choose what we open.
  if (!link || basename(link.name) !== link.name || link.name === '..') return null;
  for (const directory of directoriesOf(elf.path)) {
    const inside = root !== '' && directory.startsWith(`${root}/`) ? directory.slice(root.length) : directory;
    const candidates = [
      join(directory, link.name),
      join(directory, '.debug', link.name),
      join(root, DEBUG_ROOT, inside, link.name),
    ];
    for (const path of candidates) {
      if (checksumOf(path) !== link.crc) continue;
      const found = openIfSameBuild(path, elf);
      if (found) return found;
    }
  }
  return null;
}

/** The directory that a file was named in, and the one that it really is in. */
function directoriesOf(path: string): Set<string> {
  const directories = new Set([dirname(path)]);
  try {
    directories.add(dirname(realpathSync(path)));
  } catch {
    // The path may be gone by now (an upgraded library); the first directory is all there is.
  }
  return directories;
}

function openIfSameBuild(path: string, elf: ElfFile): ElfFile | null {
  let found: ElfFile;
  try {
    found = ElfFile.open(path);
  } catch (error) {
    if (error instanceof BpfError) return null;
    throw error;
  }
  let same = false;
  try {
    same = found.buildId === elf.buildId;
  } catch (error) {
    if (!(error instanceof BpfError)) throw error;
  }
  if (same) return found;
  found.close();
  return null;
}

/** CRC-32 of a file's contents, `undefined` when it can't be read. */
function checksumOf(path: string): number | undefined {
  try {
    if (!statSync(path).isFile()) return undefined;
    const fd = openSync(path, 'r');
    try {
      return checksumOfDescriptor(fd);
    } finally {
      closeSync(fd);
    }
  } catch {
    return undefined;
  }
}

function checksumOfDescriptor(fd: number): number {
  const chunk = Buffer.allocUnsafe(1024 * 1024);
  let crc = 0;
  for (;;) {
    const count = readSync(fd, chunk, 0, chunk.length, null);
    if (count === 0) return crc;
    crc = crc32(chunk.subarray(0, count), crc);
  }
}

/** The reversed polynomial of CRC-32 (ISO 3309), the one that .gnu_debuglink uses. */
const POLYNOMIAL = 0xedb88320;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
  return crc;
});

/** CRC-32 of bytes, continuing from the CRC of what came before them. */
export function crc32(bytes: Uint8Array, before = 0): number {
  let crc = ~before;
  for (let i = 0; i < bytes.length; i++) crc = TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

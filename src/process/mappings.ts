/**
 * The memory map of a process, from /proc/PID/maps (proc_pid_maps(5)), and free room in it.
 */

import { readFileSync } from 'node:fs';
import { BpfError } from '../kernel/errno.js';

/** Memory that multitrace maps into processes is memfds of this name and its pid: who finds one knows whose it is. */
export const REGION_NAME = 'multitrace';

export interface Mapping {
  readonly start: bigint;
  /** One past the last byte. */
  readonly end: bigint;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly executable: boolean;
  readonly shared: boolean;
  /** Offset in the file, bytes. */
  readonly offset: number;
  readonly inode: number;
  /** A file's path, `[heap]`, `[vdso]`, … or the empty string; without the kernel's ` (deleted)`. */
  readonly path: string;
  /** The file was unlinked, or replaced, after it was mapped. */
  readonly deleted: boolean;
}

const LINE = /^([0-9a-f]+)-([0-9a-f]+) (.)(.)(.)(.) ([0-9a-f]+) \S+ (\d+) *(.*)$/;
const DELETED = ' (deleted)';

/** Parses the text of a maps file. Lines that are not of its form are left out. */
export function parseMappings(text: string): Mapping[] {
  const mappings: Mapping[] = [];
  for (const line of text.split('\n')) {
    const m = LINE.exec(line);
    if (m === null) continue;
    const deleted = m[9].endsWith(DELETED);
    mappings.push({
      start: BigInt(`0x${m[1]}`),
      end: BigInt(`0x${m[2]}`),
      readable: m[3] === 'r',
      writable: m[4] === 'w',
      executable: m[5] === 'x',
      shared: m[6] === 's',
      offset: Number.parseInt(m[7], 16),
      inode: Number(m[8]),
      path: deleted ? m[9].slice(0, -DELETED.length) : m[9],
      deleted,
    });
  }
  return mappings;
}

/** The mappings of process `pid`, in order of address. Throws ESRCH where the process is gone. */
export function readMappings(pid: number): Mapping[] {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/maps`, 'latin1');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'EACCES' || code === 'EPERM')
      throw new BpfError(
        'EPERM',
        `may not read the memory map of process ${pid}: it belongs to another user; run as that user or as root`,
        { cause },
      );
    throw new BpfError('ESRCH', `process ${pid} is gone`, { cause });
  }
  return parseMappings(text);
}

/** The lowest address that a process may map by default (vm.mmap_min_addr), with room to spare. */
const LOWEST = 0x10000n;
/** One past the highest user address with four-level page tables, less the guard page. */
const HIGHEST = 0x7fff_ffff_f000n;
/** The stack and the heap grow: room that stays free next to them. */
const GROWTH_ROOM = 0x800_0000n;

/**
 * A free range of `size` bytes (a multiple of the page size) that lies wholly within `reach` bytes of every byte of
 * [`low`, `high`); `undefined` where there is none. Takes the closest below `low`, else the closest above `high`,
 * and leaves room below the stack and above the heap, which grow.
 */
export function findFreeRange(
  mappings: readonly Mapping[],
  size: number,
  low: bigint,
  high: bigint,
  reach: bigint,
): bigint | undefined {
  const bytes = BigInt(size);
  const from = high - reach > LOWEST ? high - reach : LOWEST;
  const to = low + reach < HIGHEST ? low + reach : HIGHEST;
  let below: bigint | undefined;
  let above: bigint | undefined;
  let previousEnd = LOWEST;
  const consider = (start: bigint, end: bigint): void => {
    const a = start > from ? start : from;
    const b = end < to ? end : to;
    const belowEnd = b < low ? b : low;
    const aboveStart = a > high ? a : high;
    if (belowEnd - a >= bytes) below = belowEnd - bytes;
    if (b - aboveStart >= bytes) above ??= aboveStart;
  };
  for (const mapping of mappings) {
    const gapEnd = mapping.path === '[stack]' ? mapping.start - GROWTH_ROOM : mapping.start;
    consider(previousEnd, gapEnd);
    previousEnd = mapping.path === '[heap]' ? mapping.end + GROWTH_ROOM : mapping.end;
  }
  consider(previousEnd, HIGHEST);
  return below ?? above;
}

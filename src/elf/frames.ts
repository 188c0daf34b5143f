/**
 * Where functions begin and end, as .eh_frame says: unwinding needs it, so it survives `strip`, and compilers
 * write it for C too. One range is one FDE; a function that was split into a hot and a cold part has two.
 */

import { frameEntries } from './eh_frame.js';
import type { ElfFile } from './file.js';
import { PF_X } from './format.js';
import { lastStartingAtOrBefore } from './ranges.js';

/** One range of code that belongs to one function; addresses of the file, sizes in bytes. */
export interface FrameRange {
  readonly start: number;
  readonly size: number;
  /** Returned to by the kernel from a signal handler, not called; it starts a byte before its symbol. */
  readonly signalFrame: boolean;
}

/**
 * The ranges, sorted by start, each once. What can't be read is left out: a file without .eh_frame or with a
 * damaged one gives fewer ranges or none. Throws ENOEXEC only when the section lies outside the file.
 */
export function frameRanges(elf: ElfFile): FrameRange[] {
  const code = executableRanges(elf);
  const ranges: FrameRange[] = [];
  for (const { start, size, cie } of frameEntries(elf)) {
    const range = { start, size, signalFrame: cie.signalFrame };
    if (size > 0 && isInside(code, range)) ranges.push(range);
  }
  ranges.sort((a, b) => a.start - b.start || a.size - b.size);
  return ranges.filter((range, i) => {
    const previous = ranges[i - 1];
    return i === 0 || range.start !== previous.start || range.size !== previous.size;
  });
}

interface Range {
  readonly start: number;
  end: number;
}

/** Executable segments, sorted, adjoining ones as one. */
function executableRanges(elf: ElfFile): Range[] {
  const ranges: Range[] = [];
  for (const segment of elf.segments) {
    if (!(segment.flags & PF_X)) continue;
    const end = segment.vaddr + segment.memsz;
    const last = ranges.at(-1);
    if (last && segment.vaddr <= last.end) last.end = Math.max(last.end, end);
    else ranges.push({ start: segment.vaddr, end });
  }
  return ranges;
}

function isInside(code: readonly Range[], { start, size }: FrameRange): boolean {
  const range = code[lastStartingAtOrBefore(code, start, ({ start }) => start)];
  return range !== undefined && start + size <= range.end;
}

/**
 * The functions of a program that was stripped of every symbol: the frames of its unwind table that something calls.
 *
 * A frame alone is not enough: the parts that compilers move out of the way have frames too, are jumped to from the
 * middle of their function, and may find data below the stack pointer. What a direct call or a code address in data
 * leads to is a function.
 */

import type { ElfFile } from '../../elf/file.js';
import { R_X86_64_RELATIVE } from '../../elf/format.js';
import { type FrameRange, frameRanges } from '../../elf/frames.js';

const CALL = 0xe8;
const CALL_LENGTH = 5;
const POINTERS: ReadonlySet<number> = new Set([R_X86_64_RELATIVE]);

/** A name that says where the function is, for want of a better one. */
export function nameOfStripped(address: number): string {
  return `sub_${address.toString(16)}`;
}

/** The frames that are functions, by address. */
export function strippedFunctions(elf: ElfFile): FrameRange[] {
  const frames = new Map<number, FrameRange>();
  for (const frame of frameRanges(elf)) if (!frame.signalFrame) frames.set(frame.start, frame);
  const called = new Set<number>();
  for (const { addend } of elf.relocations(POINTERS)) if (frames.has(addend)) called.add(addend);
  for (const { address, bytes } of elf.executableSections()) {
    for (
      let at = bytes.indexOf(CALL);
      at >= 0 && at + CALL_LENGTH <= bytes.length;
      at = bytes.indexOf(CALL, at + 1)
    ) {
      const target = address + at + CALL_LENGTH + bytes.readInt32LE(at + 1);
      if (frames.has(target)) called.add(target);
    }
  }
  return [...called].sort((a, b) => a - b).map(start => frames.get(start)!);
}

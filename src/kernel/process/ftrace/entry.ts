/**
 * Looks at one function's first instructions: can they be replaced, as far as they themselves tell? Who else
 * branches to them is not asked here (branches.ts). The kernel's counterpart is `ftrace_location` with its check
 * of the instruction that it finds there.
 */

import { ARITHMETIC_FLAGS, type CodeDecoder, ENDBR64_LENGTH, Flow, isEndbr64 } from '../../../x86/decoder.js';
import { type DisplacedCode, type RelocationFailure, Relocator } from '../../../x86/relocator.js';
import type { CodeMap } from './code_map.js';
import { fillerLength } from './filler.js';
import {
  type CodeSection,
  PATCH_SIZE,
  type PatchSite,
  type Refusal,
  type RefusalReason,
  type TracedFunction,
} from './patch_site.js';

/** mov $15 (rt_sigreturn), %rax or %eax; syscall. libgcc and gdb compare these bytes with the code at a return address. */
const SIGNAL_RETURNS = [
  [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05],
  [0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05],
];
/** How many instructions from the site are searched for a read of flags before they are written. */
const FLAG_WINDOW = 8;
/** Compilers and linkers align functions to this, and fill with nops or int3. */
const FUNCTION_ALIGNMENT = 16;

const FAILURES: Record<RelocationFailure, RefusalReason> = {
  trap: 'trap',
  'far-transfer': 'far-transfer',
  transaction: 'transaction',
  unrelocatable: 'unrelocatable',
};

function startsWith(bytes: Uint8Array, offset: number, pattern: readonly number[]): boolean {
  for (let i = 0; i < pattern.length; i++) if (bytes[offset + i] !== pattern[i]) return false;
  return true;
}

/** Follows which arithmetic flags are still the caller's, from instruction to instruction. */
class FlagsLeft {
  #callers: number = ARITHMETIC_FLAGS;
  #budget = FLAG_WINDOW;

  /** True while there is something to find and the search is not over. */
  get open(): boolean {
    return this.#callers !== 0 && this.#budget > 0;
  }

  /** Takes in the decoder's instruction; true where it reads a flag of the caller. */
  reads(decoder: CodeDecoder): boolean {
    if (!this.open) return false;
    this.#budget--;
    if ((decoder.flagsRead & this.#callers) !== 0) return true;
    this.#callers &= ~decoder.flagsWritten;
    return false;
  }
}

/** One for all: a site takes a few bytes of it at a time. */
const relocator = new Relocator(0);

/**
 * The site of `fn` or the first reason against it, from its own bytes alone. `patch`: bytes to be replaced at least;
 * fewer than 5 where an island will be looked for.
 */
export function examineEntry(map: CodeMap, fn: TracedFunction, patch = PATCH_SIZE): PatchSite | Refusal {
  const refuse = (reason: RefusalReason, detail?: string): Refusal =>
    detail === undefined ? { function: fn.address, reason } : { function: fn.address, reason, detail };
  const section = map.section(fn.address);
  if (!section) return refuse('outside-code');
  const { bytes } = section;
  const hasEndbr = isEndbr64(bytes, fn.address - section.address);
  const site = fn.address + (hasEndbr ? ENDBR64_LENGTH : 0);
  const offset = site - section.address;
  if (startsWith(bytes, offset, SIGNAL_RETURNS[0]) || startsWith(bytes, offset, SIGNAL_RETURNS[1]))
    return refuse('signal-return');

  const frame = map.frame(fn.address);
  let end = fn.size > 0 ? fn.address + fn.size : map.endOf(fn.address);
  // An assembler symbol without a proper size: the unwind table knows better.
  if (frame && frame.start === fn.address) end = Math.max(end, frame.start + frame.size);
  end = Math.min(end, section.address + bytes.length);
  const nextStart = map.startAbove(fn.address);

  const decoder = map.decoder(section);
  const flags = new FlagsLeft();
  relocator.restart(site);
  let nops = true;
  let length = 0;
  while (length < patch && !relocator.ended) {
    const address = site + length;
    if (address >= end) break;
    const flow = decoder.decode(address);
    if (flow === Flow.invalid) return refuse('undecodable');
    if (decoder.end > end) return refuse('undecodable', 'an instruction crosses its end');
    // endbr64 further in says that somebody jumps there.
    if (isEndbr64(bytes, address - section.address))
      return refuse('branch-into-entry', 'an endbr64 stands inside');
    nops &&= decoder.isNop;
    if (flags.reads(decoder)) return refuse('reads-flags');
    if ((flow === Flow.call || flow === Flow.callIndirect) && decoder.end < site + patch) {
      return refuse('call-returns-inside');
    }
    const failure = relocator.append(decoder);
    if (failure !== undefined) return refuse(FAILURES[failure]);
    length = decoder.end - site;
  }

  if (length < patch) {
    // Control left for good, so what follows is not executed from here: it may be replaced where it is the
    // function's own (nobody branches to it: branches.ts) or padding.
    if (!relocator.ended) return refuse('too-short');
    if (end < site + patch && !isPadding(map, section, end, site + patch, nextStart)) {
      return refuse('too-short');
    }
    length = patch;
  }
  if (nextStart < site + length) return refuse('overlaps-function', `at 0x${nextStart.toString(16)}`);

  if (!relocator.ended) {
    let address = site + length;
    while (flags.open && address < end) {
      const flow = decoder.decode(address);
      if (flow === Flow.invalid) break;
      if (flags.reads(decoder)) return refuse('reads-flags');
      if (flow !== Flow.next) break;
      address = decoder.end;
    }
  }

  const sled = nops && patch === PATCH_SIZE;
  return {
    kind: sled ? 'nop-sled' : 'moved',
    function: fn.address,
    address: site,
    length,
    original: copy(bytes, offset, length),
    displaced: sled ? emptySled() : relocator.finish(),
    loopsToEntry: false,
  };
}

/** A copy of a few bytes: `slice` of a Buffer is a view, and slow. */
function copy(bytes: Uint8Array, offset: number, length: number): Uint8Array {
  const into = new Uint8Array(length);
  for (let i = 0; i < length; i++) into[i] = bytes[offset + i];
  return into;
}

/** A thread inside the nops goes on behind them. */
function emptySled(): DisplacedCode {
  const { boundaries, resumeAt } = relocator.finish();
  return {
    bytes: new Uint8Array(0),
    fixups: [],
    absolutes: [],
    boundaries: boundaries.map(({ from }) => ({ from, to: 0 })),
    resumes: true,
    resumeAt,
  };
}

/**
 * True where the bytes from `from` (a function's end) to `needed` are filler between functions: nops and int3 only,
 * up to the next known start, the next aligned address or the section's end, whichever comes first, and that not
 * before `needed`.
 */
function isPadding(
  map: CodeMap,
  section: CodeSection,
  from: number,
  needed: number,
  nextStart: number,
): boolean {
  const sectionEnd = section.address + section.bytes.length;
  const aligned = Math.ceil(needed / FUNCTION_ALIGNMENT) * FUNCTION_ALIGNMENT;
  const to = Math.min(nextStart, aligned, sectionEnd);
  if (to < needed || map.frame(from) !== undefined) return false;
  for (let address = from; address < to; ) {
    const length = fillerLength(section.bytes, address - section.address);
    if (length === 0 || address + length > to) return false;
    address += length;
  }
  return true;
}

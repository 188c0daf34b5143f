/**
 * Which function, unwind-table entry and section an address of a module belongs to. Built once for a module; a
 * look-up is a binary search. It knows nothing of instructions except that each section gets one decoder.
 */

import { CodeDecoder } from '../../../x86/decoder.js';
import type { CodeSection, ModuleCode, TracedFunction } from './patch_site.js';

/** The index of the last value of ascending `values` that is `<= value`, or -1. */
export function lastAtOrBelow(values: ArrayLike<number>, value: number): number {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

export class CodeMap {
  readonly module: ModuleCode;
  /** Every place where a function, unwind-table entry or section starts: ascending, each once. */
  readonly starts: Float64Array;
  readonly #frameStarts: Float64Array;
  readonly #decoders = new Map<CodeSection, CodeDecoder>();
  #lastSection: CodeSection | undefined;

  constructor(module: ModuleCode, functions: readonly TracedFunction[]) {
    this.module = module;
    const { functionStarts, frames, sections } = module;
    this.#frameStarts = new Float64Array(frames.length);
    const all = new Float64Array(functionStarts.length + frames.length + functions.length + sections.length);
    let n = 0;
    for (let i = 0; i < functionStarts.length; i++) all[n++] = functionStarts[i];
    for (let i = 0; i < frames.length; i++) all[n++] = this.#frameStarts[i] = frames[i].start;
    for (const { address } of functions) all[n++] = address;
    for (const { address } of sections) all[n++] = address;
    all.sort();
    let unique = 0;
    for (let i = 0; i < n; i++) if (unique === 0 || all[i] !== all[unique - 1]) all[unique++] = all[i];
    this.starts = all.subarray(0, unique);
  }

  /** The executable section that holds `address`. */
  section(address: number): CodeSection | undefined {
    const last = this.#lastSection;
    if (last && address >= last.address && address < last.address + last.bytes.length) return last;
    for (const section of this.module.sections) {
      if (address >= section.address && address < section.address + section.bytes.length) {
        this.#lastSection = section;
        return section;
      }
    }
    return undefined;
  }

  /** The decoder of a section: one for each, made when first asked for. */
  decoder(section: CodeSection): CodeDecoder {
    let decoder = this.#decoders.get(section);
    if (!decoder) {
      decoder = new CodeDecoder(section.bytes, section.address);
      this.#decoders.set(section, decoder);
    }
    return decoder;
  }

  /** The unwind-table entry that covers `address`. */
  frame(address: number): { readonly start: number; readonly size: number } | undefined {
    const frame = this.module.frames[lastAtOrBelow(this.#frameStarts, address)];
    return frame && address < frame.start + frame.size ? frame : undefined;
  }

  /** The last start at or below `address`. */
  startBelow(address: number): number {
    return this.starts[lastAtOrBelow(this.starts, address)] ?? -1;
  }

  /** The first start above `address`; Infinity where there is none. */
  startAbove(address: number): number {
    return this.starts[lastAtOrBelow(this.starts, address) + 1] ?? Number.POSITIVE_INFINITY;
  }

  /** Where the code that starts at `start` ends: its unwind-table entry's end, else the next start. */
  endOf(start: number): number {
    const next = this.startAbove(start);
    const frame = this.frame(start);
    const section = this.section(start);
    const end = frame ? Math.min(next, frame.start + frame.size) : next;
    return section ? Math.min(end, section.address + section.bytes.length) : end;
  }

  /** Frees the decoders. */
  free(): void {
    for (const decoder of this.#decoders.values()) decoder.free();
    this.#decoders.clear();
  }
}

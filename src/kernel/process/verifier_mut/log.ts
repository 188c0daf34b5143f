/**
 * The verifier's log, as the kernel writes it: level 1 tells the path that was refused, level 2 every instruction that
 * was walked, with the registers that it changed and the source line that it came from.
 */

import { disassembleInstruction } from '../../../bpf/disassemble.js';
import { type BpfInsn, FRAME_POINTER } from '../../../bpf/instruction.js';
import type { LineInfo } from '../../kernel.js';
import type { State } from './state.js';
import { describeValue, type Value } from './value.js';

/** Lines that a log may have. */
const MOST_LINES = 400_000;

/** Lines of a path that level 1 keeps: its end is what matters. */
const PATH_LINES = 20_000;

/** An instruction that was walked: written out only when the log is read. */
interface Walked {
  readonly insn: BpfInsn;
  readonly slot: number;
  readonly changed: readonly (readonly [number, Value])[];
}

export class Log {
  readonly level: number;
  private lines: (string | Walked)[] = [];
  private readonly sources = new Map<number, LineInfo>();
  private readonly sourceSlots: number[];
  private shownSource: LineInfo | undefined;
  private known: readonly Value[] = [];
  private at: { readonly insn: BpfInsn; readonly slot: number } | undefined;

  constructor(level: number, lineInfo: readonly LineInfo[] | undefined) {
    this.level = level;
    for (const info of lineInfo ?? []) this.sources.set(info.slot, info);
    this.sourceSlots = [...this.sources.keys()].sort((a, b) => a - b);
  }

  line(text: string): void {
    this.add(text);
  }

  private add(line: string | Walked): void {
    if (this.level === 0) return;
    // A path that goes round and round: its beginning is let go of.
    if (this.level === 1 && this.lines.length > 2 * PATH_LINES) this.lines = this.lines.slice(-PATH_LINES);
    if (this.level > 1 && this.lines.length > MOST_LINES) return;
    this.lines.push(line);
  }

  text(): string {
    const cut = this.lines.length > MOST_LINES ? '\n(the log is cut off here)' : '';
    return this.lines.map(line => (typeof line === 'string' ? line : walkedText(line))).join('\n') + cut;
  }

  /** Where the log stands now; level 1 goes back there when a path turned out well. */
  mark(): number {
    return this.lines.length;
  }

  rewind(mark: number): void {
    if (this.level !== 1) return;
    this.lines.length = Math.min(this.lines.length, mark);
    this.shownSource = undefined;
  }

  /** A path goes on at `slot`, having jumped from `from`. */
  branch(from: number, slot: number, state: State): void {
    if (this.level === 0) return;
    this.line('');
    this.line(`from ${from} to ${slot}: ${registersText(state)}`);
    this.known = state.frame.registers.slice();
    this.shownSource = undefined;
  }

  /** An instruction is about to be checked. */
  instruction(insn: BpfInsn, slot: number, state: State): void {
    if (this.level === 0) return;
    const source = this.infoOf(slot);
    if (source !== undefined && source !== this.shownSource) {
      this.line(`; ${source.text.trim()} @ ${baseName(source.file)}:${source.line}`);
      this.shownSource = source;
    }
    this.at = { insn, slot };
    this.known = state.frame.registers.slice();
  }

  /** It was checked, or refused: what it changed goes behind it. */
  changed(state: State): void {
    if (this.level === 0 || this.at === undefined) return;
    const now = state.frame.registers;
    const changed: (readonly [number, Value])[] = [];
    for (let r = 0; r < FRAME_POINTER; r++) {
      const value = now[r] as Value;
      if (value !== this.known[r] && value.kind !== 'not_init') changed.push([r, value]);
    }
    this.add({ ...this.at, changed });
    this.at = undefined;
  }

  /** The source line of a slot, for a message; `undefined` where nothing says it. */
  sourceOf(slot: number): string | undefined {
    const info = this.infoOf(slot);
    return info === undefined ? undefined : `${baseName(info.file)}:${info.line}: ${info.text.trim()}`;
  }

  private infoOf(slot: number): LineInfo | undefined {
    let low = 0;
    let high = this.sourceSlots.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.sourceSlots[middle] as number) <= slot) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? undefined : this.sources.get(this.sourceSlots[low - 1] as number);
  }
}

function walkedText({ insn, slot, changed }: Walked): string {
  const text = `${slot}: ${disassembleInstruction(insn, slot)}`;
  if (changed.length === 0) return text;
  return `${text.padEnd(40)} ; ${changed.map(([r, value]) => `R${r}=${describeValue(value)}`).join(' ')}`;
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** All registers that hold something. */
export function registersText(state: State): string {
  const { registers } = state.frame;
  return registers
    .map((value, r) => (value.kind === 'not_init' ? '' : `R${r}=${describeValue(value)}`))
    .filter(text => text !== '')
    .join(' ');
}

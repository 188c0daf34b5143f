/**
 * The verifier's log, as the kernel writes it: level 1 tells the path that was refused, level 2 every instruction that
 * was walked, with the registers and stack slots that it changed and the source line that it came from, level 4 the
 * statistics alone, which every level ends with. Levels add up.
 */

import { disassembleInstruction } from '../../../bpf/disassemble.js';
import { type BpfInsn, FRAME_POINTER } from '../../../bpf/instruction.js';
import type { LineInfo } from '../../kernel.js';
import { describeSlot, STACK_SLOT, type StackSlot } from './stack.js';
import type { State } from './state.js';
import { describeValue, type Value } from './value.js';

/** Bits of the level (BPF_LOG_LEVEL1, BPF_LOG_LEVEL2). */
const PATH = 1;
const EVERY = 2;

/** Lines that a log may have. */
const MOST_LINES = 400_000;

/** Lines of a path that level 1 keeps: its end is what matters. */
const PATH_LINES = 20_000;

/** An instruction that was walked: written out only when the log is read. */
interface Walked {
  readonly insn: BpfInsn;
  readonly slot: number;
  readonly frame: number;
  readonly changed: readonly (readonly [number, Value])[];
  readonly slots: readonly (readonly [number, StackSlot])[];
}

export class Log {
  /** whether instructions are told, not statistics alone */
  readonly tells: boolean;
  private readonly level: number;
  private lines: (string | Walked)[] = [];
  private readonly sources = new Map<number, LineInfo>();
  private readonly sourceSlots: number[];
  private shownSource: LineInfo | undefined;
  private known: readonly Value[] = [];
  private knownStack: readonly StackSlot[] = [];
  private frame = 0;
  private at: { readonly insn: BpfInsn; readonly slot: number } | undefined;

  constructor(level: number, lineInfo: readonly LineInfo[] | undefined) {
    this.level = level;
    this.tells = (level & (PATH | EVERY)) !== 0;
    for (const info of lineInfo ?? []) this.sources.set(info.slot, info);
    this.sourceSlots = [...this.sources.keys()].sort((a, b) => a - b);
  }

  line(text: string): void {
    this.add(text);
  }

  private get every(): boolean {
    return (this.level & EVERY) !== 0;
  }

  private add(line: string | Walked): void {
    if (this.level === 0) return;
    // A path that goes round and round: its beginning is let go of.
    if (!this.every && this.lines.length > 2 * PATH_LINES) this.lines = this.lines.slice(-PATH_LINES);
    if (this.every && this.lines.length > MOST_LINES) return;
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
    if (this.every || !this.tells) return;
    this.lines.length = Math.min(this.lines.length, mark);
    this.shownSource = undefined;
  }

  /** A path goes on at `slot`, having jumped from `from`. */
  branch(from: number, slot: number, state: State): void {
    if (!this.tells) return;
    this.line('');
    this.line(`from ${from} to ${slot}: ${registersText(state)}`);
    this.know(state);
    this.shownSource = undefined;
  }

  /** An instruction is about to be checked. */
  instruction(insn: BpfInsn, slot: number, state: State): void {
    if (!this.tells) return;
    const source = this.infoOf(slot);
    if (source !== undefined && source !== this.shownSource) {
      this.line(`; ${source.text.trim()} @ ${baseName(source.file)}:${source.line}`);
      this.shownSource = source;
    }
    this.at = { insn, slot };
    this.know(state);
  }

  private know({ frame, frames }: State): void {
    this.known = frame.registers.slice();
    this.knownStack = frame.stack.slice();
    this.frame = frames.length - 1;
  }

  /** It was checked, or refused: what it changed goes behind it. */
  changed(state: State): void {
    if (!this.tells || this.at === undefined) return;
    const { registers, stack } = state.frame;
    const changed: (readonly [number, Value])[] = [];
    for (let r = 0; r < FRAME_POINTER; r++) {
      const value = registers[r] as Value;
      if (value !== this.known[r] && value.kind !== 'not_init') changed.push([r, value]);
    }
    // Of another frame everything is new: its slots are told where they change.
    const here = state.frames.length - 1 === this.frame;
    const slots = stack.flatMap((slot, s) =>
      here && slot !== this.knownStack[s] ? [[s, slot] as const] : [],
    );
    this.add({ ...this.at, frame: state.frames.length - 1, changed, slots });
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

function walkedText({ insn, slot, frame, changed, slots }: Walked): string {
  const text = `${slot}: ${disassembleInstruction(insn, slot)}`;
  if (changed.length === 0 && slots.length === 0) return text;
  const held = [
    ...changed.map(([r, value]) => `R${r}=${describeValue(value)}`),
    ...slots.map(([s, of]) => slotText(s, of)),
  ];
  return `${text.padEnd(40)} ; ${frame === 0 ? '' : `frame${frame}: `}${held.join(' ')}`;
}

function slotText(index: number, slot: StackSlot): string {
  return `fp-${STACK_SLOT * (index + 1)}=${describeSlot(slot)}`;
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** All registers and stack slots that hold something. */
export function registersText({ frame, frames }: State): string {
  const held = [
    ...frame.registers.map((value, r) => (value.kind === 'not_init' ? '' : `R${r}=${describeValue(value)}`)),
    ...frame.stack.map((slot, s) => (slot.written === 0 ? '' : slotText(s, slot))),
  ];
  const where = frames.length === 1 ? '' : `frame${frames.length - 1}: `;
  return where + held.filter(text => text !== '').join(' ');
}

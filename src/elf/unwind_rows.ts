/**
 * Unwinding tables made from .eh_frame: for each stretch of code, how the caller's stack pointer, frame pointer and
 * return address are found. As the kernel's ORC: a sorted list of addresses and one small rule for each, so that
 * machine code can walk a stack without interpreting DWARF. Only rsp, rbp and the return address are followed, which
 * is all that compilers' code needs; what needs more is UNKNOWN there.
 *
 *   rule, 32 bits
 *   +-----------------+--------------------+--------+
 *   | rbp saved at:14 | CFA offset / 8 :16 | kind:2 |      CFA: the stack pointer in the caller, after the call
 *   +-----------------+--------------------+--------+
 *    31             18 17                 2 1      0
 *   rbp is unchanged (0), or saved at CFA - 8 * n
 */

import { type Cie, type FrameEntry, frameEntries, Reader } from './eh_frame.js';
import type { ElfFile } from './file.js';

/** How the CFA is found: kind of a rule. */
export const CFA = { special: 0, rsp: 1, rbp: 2 } as const;

/** Rules of kind special, whole. */
export const RULE = {
  /** Nothing is known: a frame pointer may help. */
  unknown: 0 << 2,
  /** The outermost frame: nobody called it. */
  end: 1 << 2,
  /** A PLT entry: one more word is pushed from its 11th byte on. */
  plt: 2 << 2,
  /** A signal handler returns here: the interrupted registers are in the ucontext at rsp. */
  signal: 3 << 2,
} as const;

const OFFSET_BITS = 16;
const SAVED_SHIFT = 18;
const SAVED_LIMIT = 1 << 14;
const WORD = 8;

/** Rules of a file: the rule of `rules[i]` is for addresses (of the file, from `base`) from `pcs[i]` to `pcs[i + 1]`. */
export interface UnwindRows {
  readonly base: number;
  readonly pcs: Uint32Array;
  readonly rules: Uint32Array;
}

/** DWARF register numbers. */
const RBP = 6;
const RSP = 7;

/** Call frame instructions (DWARF 5, section 7.24; DW_CFA_GNU_args_size from the LSB). */
const DW_CFA = {
  set_loc: 0x01,
  advance_loc1: 0x02,
  advance_loc2: 0x03,
  advance_loc4: 0x04,
  offset_extended: 0x05,
  restore_extended: 0x06,
  undefined: 0x07,
  same_value: 0x08,
  register: 0x09,
  remember_state: 0x0a,
  restore_state: 0x0b,
  def_cfa: 0x0c,
  def_cfa_register: 0x0d,
  def_cfa_offset: 0x0e,
  def_cfa_expression: 0x0f,
  expression: 0x10,
  offset_extended_sf: 0x11,
  def_cfa_sf: 0x12,
  def_cfa_offset_sf: 0x13,
  val_offset: 0x14,
  val_offset_sf: 0x15,
  val_expression: 0x16,
  GNU_args_size: 0x2e,
} as const;

/** The expression of a PLT's CFA: rsp + 8 + ((rip & 15) >= 11 ? 8 : 0); its last bytes tell it from others. */
const PLT_EXPRESSION_LENGTH = 11;
/** Nested remember_state that are believed. */
const DEEPEST = 16;

/** Where a register of the caller is: unchanged, saved at CFA + offset, or lost. */
type Saved = 'same' | 'lost' | number;

interface FrameState {
  cfa: 'rsp' | 'rbp' | 'plt' | 'lost';
  offset: number;
  rbp: Saved;
  ra: Saved | 'undefined';
}

/** The rows of a file; empty without .eh_frame. */
export function unwindRows(elf: ElfFile): UnwindRows {
  const entries = [...frameEntries(elf)].filter(entry => entry.size > 0);
  entries.sort((a, b) => a.start - b.start);
  const base = entries[0]?.start ?? 0;
  const rows = new RowList(base);
  for (const entry of entries) {
    // What overlaps the one before is damaged; what lies 4 GiB further is no code of this file.
    if (entry.start < rows.end || entry.start + entry.size - base > 0xffff_ffff) continue;
    if (entry.start > rows.end) rows.add(rows.end, RULE.unknown);
    addEntry(rows, entry);
  }
  rows.add(rows.end, RULE.unknown);
  return rows.finish();
}

class RowList {
  readonly #base: number;
  readonly #pcs: number[] = [];
  readonly #rules: number[] = [];
  /** One past the code that has rows. */
  end: number;

  constructor(base: number) {
    this.#base = base;
    this.end = base;
  }

  add(address: number, rule: number): void {
    const pc = address - this.#base;
    if (this.#pcs.at(-1) === pc) {
      this.#pcs.pop();
      this.#rules.pop();
    }
    if (this.#rules.at(-1) === rule) return;
    this.#pcs.push(pc);
    this.#rules.push(rule);
  }

  finish(): UnwindRows {
    return { base: this.#base, pcs: Uint32Array.from(this.#pcs), rules: Uint32Array.from(this.#rules) };
  }
}

function ruleOf(state: FrameState, cie: Cie): number {
  if (cie.signalFrame) return RULE.signal;
  if (state.ra === 'undefined') return RULE.end;
  if (state.cfa === 'plt') return RULE.plt;
  if (state.cfa === 'lost' || state.ra !== -WORD) return RULE.unknown;
  const { offset } = state;
  if (offset < 0 || offset % WORD !== 0 || offset / WORD >= 1 << OFFSET_BITS) return RULE.unknown;
  let saved = 0;
  if (typeof state.rbp === 'number') {
    saved = -state.rbp / WORD;
    if (saved < 1 || saved >= SAVED_LIMIT || !Number.isInteger(saved)) return RULE.unknown;
  } else if (state.rbp === 'lost') return RULE.unknown;
  return ((saved << SAVED_SHIFT) | ((offset / WORD) << 2) | CFA[state.cfa]) >>> 0;
}

function addEntry(rows: RowList, entry: FrameEntry): void {
  const { cie, bytes, start, size } = entry;
  const end = start + size;
  const state: FrameState = { cfa: 'lost', offset: 0, rbp: 'same', ra: 'lost' };
  run(new Reader(bytes, 0, cie.from, cie.to), cie, state, undefined, start, () => {});
  const initial = { ...state };
  let at = start;
  const ok = run(new Reader(bytes, 0, entry.from, entry.to), cie, state, initial, start, next => {
    if (next > at && next < end) {
      rows.add(at, ruleOf(state, cie));
      at = next;
    }
  });
  rows.add(at, ok ? ruleOf(state, cie) : RULE.unknown);
  rows.end = end;
}

/**
 * Runs call frame instructions on `state`. `advance` is told each new address before what follows it changes the
 * state. False where something could not be read.
 */
function run(
  reader: Reader,
  cie: Cie,
  state: FrameState,
  initial: FrameState | undefined,
  start: number,
  advance: (address: number) => void,
): boolean {
  const remembered: FrameState[] = [];
  let address = start;
  const move = (delta: number): void => {
    address += delta * cie.codeAlignment;
    advance(address);
  };
  const save = (register: number, saved: Saved | 'undefined'): void => {
    if (register === RBP) state.rbp = saved === 'undefined' ? 'lost' : saved;
    else if (register === cie.returnRegister) state.ra = saved;
  };
  const restore = (register: number): void => {
    if (initial === undefined) return;
    if (register === RBP) state.rbp = initial.rbp;
    else if (register === cie.returnRegister) state.ra = initial.ra;
  };
  const defineCfa = (register: number, offset: number): void => {
    state.cfa = register === RSP ? 'rsp' : register === RBP ? 'rbp' : 'lost';
    state.offset = offset;
  };
  while (!reader.done) {
    const op = reader.u8()!;
    const low = op & 0x3f;
    switch (op >> 6) {
      case 1:
        move(low);
        continue;
      case 2:
        save(low, (reader.uleb() ?? 0) * cie.dataAlignment);
        continue;
      case 3:
        restore(low);
        continue;
      default:
    }
    switch (op) {
      case 0:
        break;
      case DW_CFA.advance_loc1:
        move(reader.unsigned(1) ?? 0);
        break;
      case DW_CFA.advance_loc2:
        move(reader.unsigned(2) ?? 0);
        break;
      case DW_CFA.advance_loc4:
        move(reader.unsigned(4) ?? 0);
        break;
      case DW_CFA.offset_extended:
        save(reader.uleb() ?? 0, (reader.uleb() ?? 0) * cie.dataAlignment);
        break;
      case DW_CFA.offset_extended_sf:
        save(reader.uleb() ?? 0, (reader.sleb() ?? 0) * cie.dataAlignment);
        break;
      case DW_CFA.restore_extended:
        restore(reader.uleb() ?? 0);
        break;
      case DW_CFA.undefined:
        save(reader.uleb() ?? 0, 'undefined');
        break;
      case DW_CFA.same_value:
        save(reader.uleb() ?? 0, 'same');
        break;
      case DW_CFA.register:
        save(reader.uleb() ?? 0, 'lost');
        reader.uleb();
        break;
      case DW_CFA.remember_state:
        if (remembered.length === DEEPEST) return false;
        remembered.push({ ...state });
        break;
      case DW_CFA.restore_state: {
        const before = remembered.pop();
        if (before === undefined) return false;
        Object.assign(state, before);
        break;
      }
      case DW_CFA.def_cfa:
        defineCfa(reader.uleb() ?? 0, reader.uleb() ?? 0);
        break;
      case DW_CFA.def_cfa_sf:
        defineCfa(reader.uleb() ?? 0, (reader.sleb() ?? 0) * cie.dataAlignment);
        break;
      case DW_CFA.def_cfa_register:
        defineCfa(reader.uleb() ?? 0, state.offset);
        break;
      case DW_CFA.def_cfa_offset:
        state.offset = reader.uleb() ?? 0;
        break;
      case DW_CFA.def_cfa_offset_sf:
        state.offset = (reader.sleb() ?? 0) * cie.dataAlignment;
        break;
      case DW_CFA.def_cfa_expression: {
        const from = reader.at;
        const to = reader.pastBlock() ?? from;
        // One length byte, then the linker's own expression for its PLT.
        state.cfa = to - from - 1 === PLT_EXPRESSION_LENGTH ? 'plt' : 'lost';
        break;
      }
      case DW_CFA.expression:
      case DW_CFA.val_expression:
        save(reader.uleb() ?? 0, 'lost');
        reader.pastBlock();
        break;
      case DW_CFA.val_offset:
      case DW_CFA.val_offset_sf:
        save(reader.uleb() ?? 0, 'lost');
        reader.uleb();
        break;
      case DW_CFA.GNU_args_size:
        reader.uleb();
        break;
      default:
        return false;
    }
  }
  return !reader.failed;
}

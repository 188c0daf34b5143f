/**
 * What is known before one instruction on one path (the kernel's `bpf_verifier_state`): registers and stack.
 */

import { FIRST_ARGUMENT, FRAME_POINTER, REGISTERS, STACK_SIZE } from '../../../bpf/instruction.js';
import type { RegisterSet } from '../../../bpf/liveness.js';
import { UNKNOWN } from './scalar.js';
import { CONTEXT, covers, NOT_INIT, type Value, ZERO } from './value.js';

/** Bytes of a stack slot: the unit that a register is spilled to. */
export const STACK_SLOT = 8;
const ALL_BYTES = 0xff;

/** Eight aligned bytes of the stack. */
interface StackSlot {
  /** bit n: byte n was written */
  readonly written: number;
  /** what an 8-byte store put there, if the last store was one */
  readonly value: Value | undefined;
}

const EMPTY: StackSlot = { written: 0, value: undefined };

/** The slot that the byte at `offset` below the frame pointer is in: 0 is the one at -8. */
function slotAt(offset: number): number {
  return Math.floor((-offset - 1) / STACK_SLOT);
}

function bytesMask(offset: number, size: number): number {
  const first = (STACK_SIZE + offset) % STACK_SLOT;
  return ((1 << size) - 1) << first;
}

export class State {
  private readonly registers: Value[];
  private readonly stack: StackSlot[];

  private constructor(registers: Value[], stack: StackSlot[]) {
    this.registers = registers;
    this.stack = stack;
  }

  /** At the program's first instruction: r1 is the context, r10 the frame. */
  static atEntry(): State {
    const registers: Value[] = new Array<Value>(REGISTERS).fill(NOT_INIT);
    registers[FIRST_ARGUMENT] = CONTEXT;
    registers[FRAME_POINTER] = { kind: 'fp', offset: 0 };
    return new State(registers, []);
  }

  copy(): State {
    return new State([...this.registers], [...this.stack]);
  }

  get(register: number): Value {
    return this.registers[register] as Value;
  }

  set(register: number, value: Value): void {
    this.registers[register] = value;
  }

  /** Forgets every register but those in `live` and the frame pointer. */
  keep(live: RegisterSet): void {
    for (let register = 0; register < FRAME_POINTER; register++) {
      if ((live & (1 << register)) === 0) this.registers[register] = NOT_INIT;
    }
  }

  /** Replaces every copy of the lookup result `id`, in registers and on the stack. */
  replaceLookup(id: number, value: Value): void {
    const replaced = (old: Value): Value => (old.kind === 'map_value_or_null' && old.id === id ? value : old);
    for (let i = 0; i < this.registers.length; i++) this.registers[i] = replaced(this.registers[i] as Value);
    for (let i = 0; i < this.stack.length; i++) {
      const slot = this.stack[i];
      if (slot?.value !== undefined) this.stack[i] = { ...slot, value: replaced(slot.value) };
    }
  }

  /** Whether each of the `size` bytes at `offset` was written. */
  isWritten(offset: number, size: number): boolean {
    for (let byte = offset; byte < offset + size; byte++) {
      const slot = this.stack[slotAt(byte)];
      if (slot === undefined || (slot.written & bytesMask(byte, 1)) === 0) return false;
    }
    return true;
  }

  /** What was last stored as eight bytes in the slot that `offset` is in, if nothing overwrote part of it. */
  spilled(offset: number): Value | undefined {
    return this.stack[slotAt(offset)]?.value;
  }

  /** The offset of a pointer spilled within the `size` bytes at `offset`; `undefined` if there is none. */
  pointerWithin(offset: number, size: number): number | undefined {
    for (let byte = offset; byte < offset + size; byte++) {
      const value = this.stack[slotAt(byte)]?.value;
      if (value !== undefined && value.kind !== 'scalar') return byte;
    }
    return undefined;
  }

  /** Stores `value` in the whole slot at `offset`. */
  spill(offset: number, value: Value): void {
    this.grow(offset);
    this.stack[slotAt(offset)] = { written: ALL_BYTES, value };
  }

  /** Notes that the `size` bytes at `offset`, which lie in one slot, hold some number. */
  overwrite(offset: number, size: number): void {
    this.grow(offset);
    const index = slotAt(offset);
    const written = (this.stack[index] as StackSlot).written | bytesMask(offset, size);
    this.stack[index] = { written, value: size === STACK_SLOT ? UNKNOWN : undefined };
  }

  /** Notes that the `size` bytes at `offset` hold zero, where that is worth knowing: a whole slot. */
  clear(offset: number, size: number): void {
    if (size === STACK_SLOT) this.spill(offset, ZERO);
    else this.overwrite(offset, size);
  }

  private grow(offset: number): void {
    const index = slotAt(offset);
    while (this.stack.length <= index) this.stack.push(EMPTY);
  }

  /** Whether every content that `other` allows is allowed by this state (the kernel's `states_equal`). */
  coversState(other: State): boolean {
    const ids = new Map<number, number>();
    for (let i = 0; i < REGISTERS; i++) if (!covers(this.get(i), other.get(i), ids)) return false;
    for (let i = 0; i < this.stack.length; i++) {
      const mine = this.stack[i] as StackSlot;
      const theirs = other.stack[i] ?? EMPTY;
      if ((mine.written & ~theirs.written) !== 0) return false;
      // Bytes that are some number here may be a number there, but not a pointer.
      if (mine.value === undefined) {
        if (mine.written !== 0 && theirs.value !== undefined && theirs.value.kind !== 'scalar') return false;
      } else if (theirs.value === undefined) {
        if (mine.value !== UNKNOWN) return false;
      } else if (!covers(mine.value, theirs.value, ids)) {
        return false;
      }
    }
    return true;
  }
}

/**
 * What is known before one instruction on one path (the kernel's `bpf_verifier_state`): the frames of the calls that led
 * there, each with registers and stack, what was acquired and not given back, and the lock that is held.
 */

import { FRAME_POINTER, REGISTERS } from '../../../bpf/instruction.js';
import { EMPTY, type StackSlot } from './stack.js';
import { NOT_INIT, stackPointer, type Value } from './value.js';

/** Why a frame exists that no instruction called: a helper calls the subprogram back. */
export interface Callback {
  /** the helper's number */
  readonly helper: number;
  /** what was acquired before; the same must be there when the callback returns */
  readonly references: readonly Reference[];
}

/** A call in progress, or the main program. */
export class Frame {
  /** index of the subprogram */
  readonly subprogram: number;
  /** index of the call's instruction; -1 for the outermost frame */
  readonly callsite: number;
  readonly callback: Callback | undefined;
  readonly registers: Value[];
  readonly stack: StackSlot[];
  /** which run of the function it is: a later call of the same one is another */
  readonly instance: number;
  /** how often a `may_goto` of this run went on */
  mayGotos = 0;
  /** which call of a helper that calls back is in progress here, and how often it called back; 0: none */
  call = 0;
  unrolled = 0;

  constructor(
    subprogram: number,
    callsite: number,
    callback: Callback | undefined,
    registers: Value[],
    stack: StackSlot[],
    instance: number,
  ) {
    this.subprogram = subprogram;
    this.callsite = callsite;
    this.callback = callback;
    this.registers = registers;
    this.stack = stack;
    this.instance = instance;
  }

  /** A frame whose registers hold nothing but the frame pointer; it will be number `number`. */
  static enter(
    subprogram: number,
    callsite: number,
    number: number,
    instance: number,
    callback?: Callback,
  ): Frame {
    const registers: Value[] = new Array<Value>(REGISTERS).fill(NOT_INIT);
    registers[FRAME_POINTER] = stackPointer(number);
    return new Frame(subprogram, callsite, callback, registers, [], instance);
  }

  copy(): Frame {
    const copy = new Frame(
      this.subprogram,
      this.callsite,
      this.callback,
      this.registers.slice(),
      this.stack.slice(),
      this.instance,
    );
    copy.mayGotos = this.mayGotos;
    copy.call = this.call;
    copy.unrolled = this.unrolled;
    return copy;
  }

  slot(index: number): StackSlot {
    return this.stack[index] ?? EMPTY;
  }

  setSlot(index: number, slot: StackSlot): void {
    while (this.stack.length < index) this.stack.push(EMPTY);
    this.stack[index] = slot;
  }
}

/** Something acquired that must be given back. */
export interface Reference {
  readonly id: number;
  /** slot of the instruction that acquired it */
  readonly at: number;
}

/** The spin lock that is held. */
export interface HeldLock {
  /** the map value that it is in */
  readonly id: number;
  readonly map: number;
}

export class State {
  readonly frames: Frame[];
  references: readonly Reference[];
  lock: HeldLock | undefined;

  constructor(
    frames: Frame[],
    references: readonly Reference[] = [],
    lock: HeldLock | undefined = undefined,
  ) {
    this.frames = frames;
    this.references = references;
    this.lock = lock;
  }

  copy(): State {
    const frames = new Array<Frame>(this.frames.length);
    for (let i = 0; i < frames.length; i++) frames[i] = (this.frames[i] as Frame).copy();
    return new State(frames, this.references, this.lock);
  }

  /** The frame that runs. */
  get frame(): Frame {
    return this.frames[this.frames.length - 1] as Frame;
  }

  get(register: number): Value {
    return this.frame.registers[register] as Value;
  }

  set(register: number, value: Value): void {
    this.frame.registers[register] = value;
  }

  /** Replaces each value in registers and on stacks for which `replaced` gives another. */
  replace(replaced: (old: Value) => Value): void {
    for (const { registers, stack } of this.frames) {
      for (let i = 0; i < FRAME_POINTER; i++) {
        const old = registers[i] as Value;
        const now = replaced(old);
        if (now !== old) registers[i] = now;
      }
      for (let i = 0; i < stack.length; i++) {
        const slot = stack[i] as StackSlot;
        if (slot.value === undefined) continue;
        const now = replaced(slot.value);
        if (now !== slot.value) stack[i] = { ...slot, value: now };
      }
    }
  }

  acquire(id: number, at: number): void {
    this.references = [...this.references, { id, at }];
  }

  /** False where nothing with that id was acquired. */
  release(id: number): boolean {
    const left = this.references.filter(reference => reference.id !== id);
    const found = left.length < this.references.length;
    this.references = left;
    return found;
  }
}

/**
 * What later instructions need to know of registers and stack: which are read again (live), and of which the number
 * itself matters for safety (precise): because it becomes an offset, a size, or decided where a jump goes. States are
 * compared by these alone, so that a path that differs in nothing that matters ends where an earlier one went on.
 *
 * The kernel finds precision by walking back along each path. Here the walk reports where a number mattered (a seed),
 * and the facts follow from the seeds over all the ways of the program's text: less exact, and simple to believe. A
 * seed that comes after a path was ended for lack of it makes the walk begin again, with all the seeds so far.
 */

import type { BpfInsn } from '../../../bpf/instruction.js';
import { CLASS, FRAME_POINTER } from '../../../bpf/instruction.js';
import type { Operation } from '../../../bpf/operation.js';
import { fallsThrough } from './control_flow.js';
import type { Program } from './program.js';
import { readAgain } from './read_again.js';

/** Registers that a call does not keep: r0 to r5. */
const LOST_IN_CALL = 0x3f;
const ARGUMENTS = 0x3e;
const CALLER_KEEPS = 0x3c0;

/** A slot of another frame: of the frame that is in the middle of the call at `callsite`. */
interface OuterAccess {
  readonly callsite: number;
  readonly slot: number;
}

export class Facts {
  /** by instruction, before it: registers that are read again */
  readonly live: Uint16Array;
  /** registers whose number matters */
  readonly precise: Uint16Array;
  /** stack slots 0 to 31, and 32 to 63, that are read again, and whose number matters */
  readonly liveLow: Int32Array;
  readonly liveHigh: Int32Array;
  readonly preciseLow: Int32Array;
  readonly preciseHigh: Int32Array;
  /** 1 where a path was ended for what was known then */
  readonly relied: Uint8Array;
  /** every number is taken to matter */
  readonly allPrecise: boolean;
  /** whether something was found to matter that a path was ended without */
  stale = false;

  private readonly program: Program;
  private readonly seeds: Uint16Array;
  private readonly seedLow: Int32Array;
  private readonly seedHigh: Int32Array;
  private readonly readLow: Int32Array;
  private readonly readHigh: Int32Array;
  /** stack slots that a load, store or atomic was seen to use */
  private readonly usedLow: Int32Array;
  private readonly usedHigh: Int32Array;
  /** 1: overwrites one whole slot and nothing else */
  private readonly kills: Uint8Array;
  /** registers refined together with those that a jump compares */
  private readonly linked: Uint16Array;
  private readonly outer = new Map<number, OuterAccess[]>();
  private readonly readersOfOuter = new Map<number, Set<number>>();
  private readonly callers = new Map<number, number[]>();
  private readonly exits = new Map<number, number[]>();
  private readonly jumpsTo = new Map<number, number[]>();
  private readonly queue: number[] = [];
  private readonly queued: Uint8Array;

  constructor(program: Program) {
    const { insns, operations, flow, subprograms } = program;
    const n = insns.length;
    this.program = program;
    this.allPrecise = program.env.allPrecise === true;
    this.live = readAgain(program);
    this.precise = new Uint16Array(n);
    this.liveLow = new Int32Array(n);
    this.liveHigh = new Int32Array(n);
    this.preciseLow = new Int32Array(n);
    this.preciseHigh = new Int32Array(n);
    this.relied = new Uint8Array(n + 1);
    this.seeds = new Uint16Array(n);
    this.seedLow = new Int32Array(n);
    this.seedHigh = new Int32Array(n);
    this.readLow = new Int32Array(n);
    this.readHigh = new Int32Array(n);
    this.usedLow = new Int32Array(n);
    this.usedHigh = new Int32Array(n);
    this.kills = new Uint8Array(n);
    this.linked = new Uint16Array(n);
    this.queued = new Uint8Array(n);
    for (let index = 0; index < n; index++) {
      const target = flow.targets[index] as number;
      if (target >= 0) push(this.jumpsTo, target, index);
      const operation = operations[index] as Operation;
      if (operation.kind === 'call' && operation.target === 'subprogram') {
        push(this.callers, subprograms.named[index] as number, index);
      }
      if (operation.kind === 'exit') push(this.exits, subprograms.of[index] as number, index);
    }
  }

  /** The number in register `register` matters at `index`. */
  needRegister(index: number, register: number): void {
    const bit = 1 << register;
    if (register === FRAME_POINTER || ((this.seeds[index] as number) & bit) !== 0) return;
    this.seeds[index] = (this.seeds[index] as number) | bit;
    this.enqueue(index);
    this.settle();
  }

  /** The number in a stack slot of the frame that runs `index` matters there. */
  needSlot(index: number, slot: number): void {
    if (setBit(this.seedLow, this.seedHigh, index, slot)) {
      this.enqueue(index);
      this.settle();
    }
  }

  /** A slot is read at `index`, by something other than a load. */
  readSlot(index: number, slot: number): void {
    if (setBit(this.readLow, this.readHigh, index, slot)) {
      this.enqueue(index);
      this.settle();
    }
  }

  /** The load, store or atomic at `index` uses `slot` of its own frame; `whole`: a store that overwrites all of it. */
  useSlot(index: number, slot: number, whole: boolean): void {
    const first = this.usedLow[index] === 0 && this.usedHigh[index] === 0;
    if (!setBit(this.usedLow, this.usedHigh, index, slot) && (whole || this.kills[index] === 0)) return;
    this.kills[index] = first && whole && !this.outer.has(index) ? 1 : 0;
    this.enqueue(index);
    this.settle();
  }

  /** It uses a slot of another frame, of the one that is in the call at `callsite`. */
  useOuterSlot(index: number, callsite: number, slot: number, reads: boolean): void {
    const list = this.outer.get(index) ?? [];
    if (!list.some(access => access.callsite === callsite && access.slot === slot)) {
      list.push({ callsite, slot });
      this.outer.set(index, list);
      this.kills[index] = 0;
      const readers = this.readersOfOuter.get(callsite) ?? new Set<number>();
      readers.add(index);
      this.readersOfOuter.set(callsite, readers);
      if (callsite + 1 < this.program.insns.length) {
        const after = this.readersOfOuter.get(callsite + 1) ?? new Set<number>();
        after.add(index);
        this.readersOfOuter.set(callsite + 1, after);
      }
      this.enqueue(index);
    }
    if (reads && setBit(this.readLow, this.readHigh, callsite, slot)) this.enqueue(callsite);
    this.settle();
  }

  /** The jump at `index` also refined these registers, which are the same numbers as those that it compares. */
  link(index: number, registers: number): void {
    const now = (this.linked[index] as number) | registers;
    if (now === this.linked[index]) return;
    this.linked[index] = now;
    this.enqueue(index);
    this.settle();
  }

  /** Whether slot `slot` is read again, from before `index` on. */
  isLive(index: number, slot: number): boolean {
    return hasBit(this.liveLow, this.liveHigh, index, slot);
  }

  /** Registers whose number matters before `index`. */
  preciseRegisters(index: number): number {
    return this.allPrecise ? 0xffff : (this.precise[index] as number);
  }

  isPrecise(index: number, slot: number): boolean {
    return this.allPrecise || hasBit(this.preciseLow, this.preciseHigh, index, slot);
  }

  private enqueue(index: number): void {
    if (this.queued[index] === 1) return;
    this.queued[index] = 1;
    this.queue.push(index);
  }

  private settle(): void {
    for (let index = this.queue.pop(); index !== undefined; index = this.queue.pop()) {
      this.queued[index] = 0;
      if (this.update(index)) this.spread(index);
    }
  }

  /** Works the facts before `index` out again; whether there are more. */
  private update(index: number): boolean {
    const { operations, flow, subprograms } = this.program;
    const insn = this.program.insns[index] as BpfInsn;
    const operation = operations[index] as Operation;
    const target = flow.targets[index] as number;
    let registers = 0;
    let low = 0;
    let high = 0;
    let liveLow = 0;
    let liveHigh = 0;
    if (fallsThrough(operation)) {
      registers = this.precise[index + 1] as number;
      low = this.preciseLow[index + 1] as number;
      high = this.preciseHigh[index + 1] as number;
      liveLow = this.liveLow[index + 1] as number;
      liveHigh = this.liveHigh[index + 1] as number;
    }
    if (target >= 0) {
      registers |= this.precise[target] as number;
      low |= this.preciseLow[target] as number;
      high |= this.preciseHigh[target] as number;
      liveLow |= this.liveLow[target] as number;
      liveHigh |= this.liveHigh[target] as number;
    }
    const usedLow = this.usedLow[index] as number;
    const usedHigh = this.usedHigh[index] as number;
    const dst = 1 << insn.dst;
    const src = 1 << insn.src;
    switch (operation.kind) {
      case 'mov':
      case 'movsx':
        if ((registers & dst) !== 0) {
          registers &= ~dst;
          if (operation.kind === 'movsx' || !operation.immediate) registers |= src;
        }
        break;
      case 'alu':
        if ((registers & dst) !== 0 && !operation.immediate) registers |= src;
        break;
      case 'loadImmediate':
        registers &= ~dst;
        break;
      case 'load':
        if ((registers & dst) !== 0) {
          registers &= ~dst;
          low |= usedLow;
          high |= usedHigh;
          for (const { callsite, slot } of this.outer.get(index) ?? []) this.seedOuter(callsite, slot);
        }
        liveLow |= usedLow;
        liveHigh |= usedHigh;
        break;
      case 'store': {
        const matters = (low & usedLow) !== 0 || (high & usedHigh) !== 0 || this.outerMatters(index);
        if (this.kills[index] === 1) {
          low &= ~usedLow;
          high &= ~usedHigh;
          liveLow &= ~usedLow;
          liveHigh &= ~usedHigh;
        }
        if (matters && (insn.opcode & 7) === CLASS.STX) registers |= src;
        break;
      }
      case 'atomic': {
        if ((low & usedLow) !== 0 || (high & usedHigh) !== 0 || this.outerMatters(index))
          registers |= src | 1;
        const fetched = operation.name === 'cmpxchg' ? 1 : src;
        if (operation.fetch && (registers & fetched) !== 0) {
          low |= usedLow;
          high |= usedHigh;
          for (const { callsite, slot } of this.outer.get(index) ?? []) this.seedOuter(callsite, slot);
        }
        liveLow |= usedLow;
        liveHigh |= usedHigh;
        break;
      }
      case 'branch': {
        const compared = operation.immediate ? dst : dst | src;
        if ((registers & (compared | (this.linked[index] as number))) !== 0) registers |= compared;
        break;
      }
      case 'call':
        registers &= ~LOST_IN_CALL;
        if (operation.target === 'subprogram') {
          const entry = subprograms.list[subprograms.named[index] as number]?.start ?? 0;
          registers |= (this.precise[entry] as number) & ARGUMENTS;
        }
        break;
      case 'exit': {
        registers = 0;
        const mine = this.callers.get(subprograms.of[index] as number) ?? [];
        if (mine.some(call => ((this.precise[call + 1] as number) & 1) !== 0)) registers = 1;
        break;
      }
      default:
    }
    registers |= this.seeds[index] as number;
    low |= this.seedLow[index] as number;
    high |= this.seedHigh[index] as number;
    liveLow |= (this.readLow[index] as number) | low;
    liveHigh |= (this.readHigh[index] as number) | high;
    return this.grow(index, registers, low, high, liveLow, liveHigh);
  }

  private grow(
    index: number,
    registers: number,
    low: number,
    high: number,
    liveLow: number,
    liveHigh: number,
  ): boolean {
    const grew =
      (registers & ~(this.precise[index] as number)) !== 0 ||
      (low & ~(this.preciseLow[index] as number)) !== 0 ||
      (high & ~(this.preciseHigh[index] as number)) !== 0 ||
      (liveLow & ~(this.liveLow[index] as number)) !== 0 ||
      (liveHigh & ~(this.liveHigh[index] as number)) !== 0;
    if (!grew) return false;
    this.precise[index] = (this.precise[index] as number) | registers;
    this.preciseLow[index] = (this.preciseLow[index] as number) | low;
    this.preciseHigh[index] = (this.preciseHigh[index] as number) | high;
    this.liveLow[index] = (this.liveLow[index] as number) | liveLow;
    this.liveHigh[index] = (this.liveHigh[index] as number) | liveHigh;
    if (this.relied[index] === 1) this.stale = true;
    return true;
  }

  /** The slot's number matters somewhere in the call at `callsite`. */
  private seedOuter(callsite: number, slot: number): void {
    if (setBit(this.seedLow, this.seedHigh, callsite, slot)) this.enqueue(callsite);
  }

  /** Whether the number in a slot of another frame that `index` writes matters, in that frame's call or after it. */
  private outerMatters(index: number): boolean {
    for (const { callsite, slot } of this.outer.get(index) ?? []) {
      if (this.isPrecise(callsite, slot) || this.isPrecise(callsite + 1, slot)) return true;
    }
    return false;
  }

  /** What the facts before `index` are used for. */
  private spread(index: number): void {
    const { operations, subprograms } = this.program;
    if (index > 0 && fallsThrough(operations[index - 1] as Operation)) {
      this.enqueue(index - 1);
      const before = operations[index - 1] as Operation;
      if (before.kind === 'call' && before.target === 'subprogram') {
        for (const exit of this.exits.get(subprograms.named[index - 1] as number) ?? []) this.enqueue(exit);
      }
    }
    for (const from of this.jumpsTo.get(index) ?? []) this.enqueue(from);
    for (const reader of this.readersOfOuter.get(index) ?? []) this.enqueue(reader);
    const number = subprograms.of[index] as number;
    if (subprograms.list[number]?.start === index) {
      for (const call of this.callers.get(number) ?? []) this.enqueue(call);
    }
  }
}

/** Registers of a frame in the middle of a call that are read after it. */
export function keptInCall(registers: number): number {
  return registers & CALLER_KEEPS;
}

function push(map: Map<number, number[]>, key: number, value: number): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}

function setBit(low: Int32Array, high: Int32Array, index: number, slot: number): boolean {
  const words = slot < 32 ? low : high;
  const now = (words[index] as number) | (1 << (slot & 31));
  if (now === words[index]) return false;
  words[index] = now;
  return true;
}

function hasBit(low: Int32Array, high: Int32Array, index: number, slot: number): boolean {
  return (((slot < 32 ? low : high)[index] ?? 0) & (1 << (slot & 31))) !== 0;
}

/**
 * Random programs for tests, from a seed: every instruction, subprograms, callbacks and loops. They touch only their
 * stack, their context's arguments and the value that r9 points to, and read no register that holds nothing.
 * Not part of the package.
 */

import {
  ProgramBuilder,
  type ProgramLabel,
  R0,
  R1,
  R2,
  R3,
  R4,
  R5,
  R6,
  R7,
  R8,
  R9,
  R10,
  type Register,
} from './builder.js';
import { HELPER } from './helpers.js';
import type { BpfInsn } from './instruction.js';
import { KFUNC } from './kfuncs.js';
import type { AccessSize, Condition } from './operation.js';

/** A small generator with a seed (mulberry32). */
export class Random {
  private state: number;
  constructor(seed: number) {
    this.state = seed | 0;
  }
  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  }
  below(n: number): number {
    return this.next() % n;
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  /** A 32-bit immediate, often one of those that matter. */
  imm(): number {
    return this.chance(60) ? this.pick(IMMEDIATES) : this.next() | 0;
  }
  u64(): bigint {
    if (this.chance(50)) return this.pick(NUMBERS);
    return (BigInt(this.next()) << 32n) | BigInt(this.next());
  }
}

const IMMEDIATES = [
  ...[0, 1, -1, 2, 3, 7, 8, 63, 64, 127, 128, 255, 256, -128, 0x7fffffff, -0x80000000, -2, 10],
] as const;
const NUMBERS = [
  ...[0n, 1n, 2n, 10n, 63n, 0x7fffffffn, 0x80000000n, 0xffffffffn, 0x100000000n, 0x7fffffffffffffffn],
  ...[0x8000000000000000n, 0xffffffffffffffffn, 0xfffffffffffffffen, 0xffffffff80000000n],
] as const;

/** Registers that hold numbers; r6 is the context, r9 the value, r10 the stack. */
const SCALARS = [R0, R1, R2, R3, R4, R5, R7, R8] as const;
const LOST_AT_CALLS = [R1, R2, R3, R4, R5] as const;
const BINARY = [
  ...(['add', 'sub', 'mul', 'div', 'sdiv', 'mod', 'smod', 'or', 'and', 'xor', 'lsh', 'rsh', 'arsh'] as const),
] as const;
const CONDITIONS: readonly Condition[] = [
  ...(['eq', 'ne', 'gt', 'ge', 'lt', 'le', 'sgt', 'sge', 'slt', 'sle', 'set'] as const),
];
const ATOMICS = [
  ...(['atomicAdd', 'atomicOr', 'atomicAnd', 'atomicXor', 'atomicFetchAdd', 'atomicFetchOr'] as const),
  ...(['atomicFetchAnd', 'atomicFetchXor', 'atomicXchg', 'atomicCmpxchg'] as const),
] as const;

/** Eight-byte slots of the stack, and of the value, that programs use. */
export const SLOTS = 8;

/** What programs are made of. */
export interface RandomProgramOptions {
  /** arguments in the context */
  readonly nargs: number;
  /** gives r9 the address of the value; goes to `out` where there is none */
  readonly value: (p: ProgramBuilder, out: ProgramLabel) => void;
  /** calls helpers; r1 to r5 get new values afterwards */
  readonly call?: (p: ProgramBuilder, random: Random) => void;
  /** subprograms, callbacks, iterators, may_goto */
  readonly functions: boolean;
  /** instructions at most, of the main program */
  readonly length?: number;
}

/** A random program. */
export function randomProgram(random: Random, options: RandomProgramOptions): BpfInsn[] {
  return new Writer(random, options).write();
}

class Writer {
  private readonly p = new ProgramBuilder();
  private readonly random: Random;
  private readonly options: RandomProgramOptions;
  private readonly functions: { label: ProgramLabel; callback: boolean }[] = [];

  constructor(random: Random, options: RandomProgramOptions) {
    this.random = random;
    this.options = options;
  }

  write(): BpfInsn[] {
    const { p, random, options } = this;
    const out = p.label();
    p.mov(R6, R1);
    this.clearStack();
    options.value(p, out);
    for (const register of SCALARS) this.fill(register, true);
    this.body(1 + random.below(options.length ?? 25), options.functions);
    // Everything that can be seen goes into the result, or into memory.
    for (const register of SCALARS.slice(1)) if (random.chance(80)) p.mul(R0, 31).add(R0, register);
    for (let slot = 1; slot <= SLOTS; slot++)
      p.load(8, R1, R10, -8 * slot)
        .mul(R0, 33)
        .xor(R0, R1);
    p.exit();
    p.bind(out).mov(R0, 1).exit();
    for (const { label, callback } of this.functions) this.writeFunction(label, callback);
    return p.build();
  }

  private clearStack(): void {
    for (let slot = 1; slot <= SLOTS; slot++) this.p.store(8, R10, -8 * slot, this.random.imm());
  }

  /** Gives `register` a number: an argument, if `context` says that r6 is one, or any. */
  private fill(register: Register, context: boolean): void {
    const { p, random, options } = this;
    if (context && random.chance(50)) p.load(8, register, R6, 8 * random.below(options.nargs));
    else p.ldImm64(register, random.u64());
  }

  /** A function of two numbers, or a callback of bpf_loop. */
  private writeFunction(label: ProgramLabel, callback: boolean): void {
    const { p, random, options } = this;
    const out = p.label();
    p.bind(label)
      .mov(R7, R1)
      .mov(R8, callback ? 3 : R2);
    this.clearStack();
    // A callback's second argument is its context: the caller's stack.
    if (callback) p.load(8, R8, R2).add(R8, 1).store(8, R2, 0, R8);
    options.value(p, out);
    for (const register of [R0, ...LOST_AT_CALLS]) this.fill(register, false);
    this.body(1 + random.below(8), false);
    if (callback) p.mov(R0, random.chance(20) ? 1 : 0).exit();
    else {
      for (const register of SCALARS.slice(1)) p.mul(R0, 31).add(R0, register);
      p.exit();
    }
    return void p.bind(out).mov(R0, 1).exit();
  }

  /** Pieces one behind the other, with jumps forward among them. */
  private body(length: number, functions: boolean): void {
    const { p, random } = this;
    const waiting: { at: number; label: ProgramLabel }[] = [];
    for (let i = 0; i < length; i++) {
      for (const jump of waiting.filter(w => w.at === i)) p.bind(jump.label);
      const kind = random.below(100);
      if (kind < 48) this.arithmetic();
      else if (kind < 68) this.memory();
      else if (kind < 79) this.other();
      else if (kind < 85) this.call(functions);
      else {
        const label = p.label();
        waiting.push({ at: i + 1 + random.below(6), label });
        this.jump(label, functions);
      }
    }
    for (const jump of waiting.filter(w => w.at >= length)) p.bind(jump.label);
  }

  private jump(label: ProgramLabel, functions: boolean): void {
    const { p, random } = this;
    const operand = random.chance(50) ? random.pick(SCALARS) : random.imm();
    const condition = random.pick(CONDITIONS);
    const dst = random.pick(SCALARS);
    const kind = random.below(20);
    if (functions && kind === 0) p.mayGoto(label);
    else if (kind === 1) {
      // A long jump over one that is taken sometimes.
      const [over, here] = [p.label(), p.label()];
      p.jump(condition, dst, operand, over).gotol(here);
      p.bind(over).jump32(condition, dst, operand, label).bind(here);
    } else if (kind < 11) p.jump(condition, dst, operand, label);
    else p.jump32(condition, dst, operand, label);
  }

  private arithmetic(): void {
    const { p, random } = this;
    const name = random.pick(BINARY);
    const narrow = random.chance(50);
    const dst = random.pick(SCALARS);
    const method = (narrow ? `${name}32` : name) as `${typeof name}32`;
    if (random.chance(50)) {
      p[method](dst, random.pick(SCALARS));
      return;
    }
    let imm = random.imm();
    if (name === 'lsh' || name === 'rsh' || name === 'arsh') imm = random.below(narrow ? 32 : 64);
    if (/div|mod/.test(name) && imm === 0) imm = 3;
    p[method](dst, imm);
  }

  private memory(): void {
    const { p, random } = this;
    const size = random.pick<AccessSize>([1, 2, 4, 8]);
    const stack = random.chance(50);
    const base = stack ? R10 : R9;
    const slot = random.below(SLOTS) * 8 + random.below(8 / size) * size;
    const offset = stack ? slot - SLOTS * 8 : slot;
    const register = random.pick(SCALARS);
    switch (random.below(6)) {
      case 0:
        p.load(size, register, base, offset);
        return;
      case 1:
        if (size !== 8) p.loadSigned(size, register, base, offset);
        return;
      case 2:
        p.store(size, base, offset, register);
        return;
      case 3:
        p.store(size, base, offset, random.imm());
        return;
      case 4:
        if (random.chance(50)) p.loadAcquire(size, register, base, offset);
        else p.storeRelease(size, base, offset, register);
        return;
      default: {
        if (size !== 4 && size !== 8) return;
        // Half of the compare-and-exchanges should succeed, with ones in the half that 32 bits do not compare too.
        const name = random.pick(ATOMICS);
        if (name === 'atomicCmpxchg' && random.chance(50)) {
          p.load(size, R0, base, offset);
          if (size === 4) p.ldImm64(register, random.u64() << 32n).or(R0, register);
        }
        p[name](size, base, offset, register);
      }
    }
  }

  private other(): void {
    const { p, random } = this;
    const dst = random.pick(SCALARS);
    const src = random.pick(SCALARS);
    switch (random.below(11)) {
      case 0:
        p.mov(dst, src);
        return;
      case 1:
        p.mov32(dst, src);
        return;
      case 2:
        p.mov(dst, random.imm());
        return;
      case 3:
        p.mov32(dst, random.imm());
        return;
      case 4:
        p.ldImm64(dst, random.u64());
        return;
      case 5:
        p.movsx(random.pick([8, 16, 32] as const), dst, src);
        return;
      case 6:
        p.movsx32(random.pick([8, 16] as const), dst, src);
        return;
      case 7:
        if (random.chance(50)) p.neg(dst);
        else p.neg32(dst);
        return;
      case 8:
        p.bswap(random.pick([16, 32, 64] as const), dst);
        return;
      case 9:
        p.be(random.pick([16, 32, 64] as const), dst);
        return;
      default:
        p.le(random.pick([16, 32, 64] as const), dst);
    }
  }

  private call(functions: boolean): void {
    const { p, random, options } = this;
    if (functions && random.chance(50)) this.callFunction();
    else if (options.call !== undefined && functions === options.functions) options.call(p, random);
    else return;
    for (const register of LOST_AT_CALLS) this.fill(register, functions === options.functions);
  }

  private function(callback: boolean): ProgramLabel {
    const label = this.p.label();
    this.functions.push({ label, callback });
    return label;
  }

  private callFunction(): void {
    const { p, random } = this;
    const slot = -8 * (1 + random.below(SLOTS));
    switch (random.below(4)) {
      case 0: {
        const again = p.label();
        const out = p.label();
        // Below the slots that the rest of the program uses.
        const iterator = -8 * (SLOTS + 2);
        p.mov(R1, R10)
          .add(R1, iterator)
          .mov(R2, random.below(4))
          .mov(R3, 3 + random.below(4));
        p.callKfunc(KFUNC.bpf_iter_num_new);
        p.bind(again).mov(R1, R10).add(R1, iterator).callKfunc(KFUNC.bpf_iter_num_next);
        p.jump('eq', R0, 0, out).load(4, R1, R0).mul(R7, 3).add(R7, R1).goto(again);
        p.bind(out).mov(R1, R10).add(R1, iterator).callKfunc(KFUNC.bpf_iter_num_destroy);
        p.mov(R0, R7);
        return;
      }
      case 1:
        p.mov(R1, random.below(5)).ldFunction(R2, this.function(true)).mov(R3, R10).add(R3, slot).mov(R4, 0);
        p.call(HELPER.loop);
        return;
      default:
        p.mov(R1, random.pick([R7, R8]))
          .mov(R2, random.imm())
          .callSubprogram(this.function(false));
    }
  }
}

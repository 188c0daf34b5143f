/**
 * Random programs that look as if somebody had meant them: what every statement needs. A function's numbers are in r7,
 * r8 and slots of its stack, what it may index is in r9, the context in r6; r0 to r5 belong to the statement.
 */

import {
  ProgramBuilder,
  type ProgramLabel,
  R0,
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
} from '../../src/bpf/builder.js';
import type { AccessSize, Condition } from '../../src/bpf/operation.js';
import type { Random } from './random.js';

/** Offsets of the slots that hold numbers; with what is between them they are what is indexed on the stack. */
export const SLOTS = [-16, -24, -32, -40, -48, -56] as const;
export const AREA = { low: -56, size: 48 } as const;
export const KEY = -8;
/** Where pointers are put aside, and objects live, by how deep in statements they are. */
export const ASIDE = [-64, -72, -80, -88] as const;
export const OBJECTS = [-104, -120, -136, -152] as const;

export const ARGUMENTS = 3;
/** How deep statements stand in statements. */
export const DEEPEST = 3;
const CONDITIONS: readonly Condition[] = [
  ...(['eq', 'ne', 'gt', 'ge', 'lt', 'le', 'sgt', 'sge', 'slt', 'sle', 'set'] as const),
];
const CONSTANTS = [
  ...[0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 23, 24, 31, 32, 47, 63, 64, 127, 128, 255, 256, 4095, 65535, 65536],
  ...[-1, -2, -3, -8, -16, -128, -32768, 0x7fffffff, 0x7ffffffe, -0x80000000, -0x7fffffff],
];
const WIDE = [
  ...[0x8000_0000n, 0xffff_ffffn, 0x1_0000_0000n, 0x7fff_ffff_ffff_ffffn, 0x8000_0000_0000_0000n],
  ...[0xffff_ffff_0000_0000n, 0x1234_5678_9abc_def0n, 0xffff_ffff_8000_0000n, 0x1_0000_0007n],
];

/** What r9 points to. */
export interface Region {
  readonly size: number;
  /** it may be written, and read */
  readonly writable: boolean;
  /** on the stack, where accesses at a known offset are aligned */
  readonly stack: boolean;
  /** a map's value: atomics and dynptrs are for those */
  readonly map: boolean;
}

/** The numbers on the stack. */
export const STACK_AREA: Region = { size: AREA.size, writable: true, stack: true, map: false };

export class Writer {
  readonly p = new ProgramBuilder();
  readonly random: Random;
  /** functions still to be written, with what they are handed */
  readonly functions: (() => void)[] = [];
  region: Region | undefined;
  hasContext = true;
  /** registers that statements may change */
  free: Register[] = [R7, R8];
  depth = 0;
  /** statements that may still be written */
  budget: number;
  /** something is reserved or locked: nobody leaves */
  held = 0;
  calls = 0;
  /** the end of the function, for those who give up */
  end: ProgramLabel;

  readonly #statement: (w: Writer) => void;

  /** `statement` writes one of any kind. */
  constructor(random: Random, budget: number, statement: (w: Writer) => void) {
    this.random = random;
    this.#statement = statement;
    this.budget = budget;
    this.end = this.p.label();
  }

  constant(): number {
    const { random } = this;
    const constant = random.pick(CONSTANTS);
    return random.once(6) ? (constant + random.below(3) - 1) | 0 : constant;
  }

  /** One of the function's numbers, unchanged. */
  numbered(): Register {
    return this.random.pick([R7, R8]);
  }

  /** Puts a number into `to`, from wherever numbers come from. */
  number(to: Register): void {
    const { p, random } = this;
    const size = random.pick<AccessSize>([1, 2, 4, 8]);
    switch (random.below(this.hasContext ? 9 : 7)) {
      case 0:
      case 1:
        p.mov(to, this.numbered());
        return;
      case 2:
        p.mov32(to, this.numbered());
        return;
      case 3: {
        const offset = random.pick(SLOTS) + size * random.below(8 / size);
        if (size !== 8 && random.once(3)) p.loadSigned(size, to, R10, offset);
        else p.load(size, to, R10, offset);
        return;
      }
      case 4:
        if (this.region === undefined) p.mov(to, this.constant());
        else this.load(to, size, size * random.below(Math.max(1, this.region.size / size)));
        return;
      case 5:
        if (random.once(3)) p.ldImm64(to, random.pick(WIDE));
        else p.mov(to, this.constant());
        return;
      case 6:
        p.movsx(random.pick([8, 16, 32] as const), to, this.numbered());
        return;
      default:
        p.load(8, to, R6, 8 * random.below(ARGUMENTS));
    }
  }

  private load(to: Register, size: AccessSize, offset: number): void {
    if (size !== 8 && this.random.once(3)) this.p.loadSigned(size, to, R9, offset);
    else this.p.load(size, to, R9, offset);
  }

  /** Any arithmetic on the number in `to`. */
  compute(to: Register): void {
    const { p, random } = this;
    const name = random.pick([
      'add',
      'sub',
      'mul',
      'div',
      'sdiv',
      'mod',
      'smod',
      'or',
      'and',
      'xor',
      'add',
      'sub',
      'and',
    ] as const);
    const narrow = random.once(3);
    switch (random.below(12)) {
      case 0: {
        const shift = random.pick(['lsh', 'rsh', 'arsh'] as const);
        const count = random.once(4) ? this.numbered() : random.below(narrow ? 32 : 64);
        if (narrow) p[`${shift}32`](to, count);
        else p[shift](to, count);
        return;
      }
      case 1:
        if (narrow) p.neg32(to);
        else p.neg(to);
        return;
      case 2:
        if (random.once(2)) p.bswap(random.pick([16, 32, 64] as const), to);
        else if (random.below(2) === 0) p.le(random.pick([16, 32, 64] as const), to);
        else p.be(random.pick([16, 32, 64] as const), to);
        return;
      case 3:
        if (narrow) p.movsx32(random.pick([8, 16] as const), to, to);
        else p.movsx(random.pick([8, 16, 32] as const), to, to);
        return;
      case 4:
        p.mov32(to, to);
        return;
      default: {
        let operand: Register | number = random.once(3) ? this.numbered() : this.constant();
        const divides = name === 'div' || name === 'sdiv' || name === 'mod' || name === 'smod';
        if (divides && operand === 0) operand = -1;
        if (narrow) p[`${name}32`](to, operand);
        else p[name](to, operand);
      }
    }
  }

  /** A jump to `label`, or not, by anything that may be compared. */
  condition(label: ProgramLabel): void {
    const { p, random } = this;
    const left = random.once(3) ? R3 : this.numbered();
    if (left === R3) this.number(R3);
    let right: Register | number = this.constant();
    if (random.once(3)) {
      right = random.once(2) ? this.numbered() : R4;
      if (right === R4) this.number(R4);
    }
    if (random.once(3)) p.jump32(random.pick(CONDITIONS), left, right, label);
    else p.jump(random.pick(CONDITIONS), left, right, label);
  }

  /** Brings the number in `x` between 0 and `most`, on the way that goes on; the others go to `out`. */
  bound(x: Register, most: number, out: ProgramLabel): void {
    const { p, random } = this;
    const ones = 2 ** (32 - Math.clz32(most)) - 1;
    const whole = ones === most;
    switch (random.below(12)) {
      case 0:
        p.jump('gt', x, most, out);
        return;
      case 1:
        p.jump('ge', x, most + 1, out);
        return;
      case 2:
        p.jump('sgt', x, most, out).jump('slt', x, 0, out);
        return;
      case 3:
        p.mov32(x, x).jump32('gt', x, most, out);
        return;
      case 4:
        p.jump32('sgt', x, most, out).jump32('slt', x, 0, out).mov32(x, x);
        return;
      case 5:
        if (whole) p.and(x, most);
        else p.and(x, ones).jump('gt', x, most, out);
        return;
      case 6:
        p.mod(x, most + 1);
        return;
      case 7:
        p.mov(R4, x).jump('gt', R4, most, out);
        return;
      case 8:
        this.number(R4);
        p.and(R4, whole ? most : ones >> 1).jump(random.pick(['gt', 'ge'] as const), x, R4, out);
        return;
      case 9: {
        const slot = random.pick(SLOTS);
        p.store(8, R10, slot, x).jump('gt', x, most, out).load(8, x, R10, slot);
        return;
      }
      case 10:
        if (whole) p.jump('set', x, ~most, out);
        else p.rsh(x, 64 - (31 - Math.clz32(most + 1)));
        return;
      default: {
        const inside = p.label();
        p.jump('le', x, most, inside).goto(out).bind(inside);
      }
    }
  }

  /** Reads or writes `size` bytes that begin `x`, at most `most`, behind `base` + `from`, within `room` bytes. */
  indexed(base: Register, from: number, room: number, region: Region): void {
    const { p, random } = this;
    const size = random.pick<AccessSize>(region.stack ? [1, 1, 1, 1, 1, 2, 4, 8] : [1, 1, 2, 4, 8]);
    const out = p.label();
    const most = random.pick(
      [1, 3, 7, 15, room - size, room - size - 1].filter(n => n >= 0 && n <= room - size),
    );
    const x = random.once(2) && this.free.length > 0 ? random.pick(this.free) : R3;
    if (x === R3) this.number(R3);
    if (random.once(3)) this.compute(x);
    this.bound(x, most, out);
    // The last byte that may be touched, the first one, or one in between; seldom one beside.
    let start = random.pick([0, room - size - most, random.below(room - size - most + 1)]);
    if (random.once(24)) start += random.pick([-1, 1]);
    let index: Register = x;
    switch (random.below(6)) {
      case 0:
        p.mov(R5, base)
          .add(R5, from + start + most)
          .sub(R5, index);
        break;
      case 1:
        p.mov(R5, index).add(R5, base);
        if (from + start !== 0) p.add(R5, from + start);
        break;
      case 2:
        // A number and its copy.
        p.mov(R2, index);
        index = R2;
        p.mov(R5, base)
          .add(R5, index)
          .add(R5, from + start);
        break;
      default:
        p.mov(R5, base)
          .add(R5, from + start)
          .add(R5, index);
    }
    const writes = region.writable && random.once(3);
    if (writes) p.store(size, R5, 0, random.once(2) ? this.numbered() : this.constant());
    else if (size !== 8 && random.once(3)) p.loadSigned(size, R4, R5, 0);
    else p.load(size, R4, R5, 0);
    if (!writes && this.free.length > 0 && random.once(2)) p.mov(random.pick(this.free), R4);
    p.bind(out);
  }

  /** Some statements, as the body of another; what they change of r9 is put back by those who change it. */
  body(most = 3): void {
    this.depth++;
    for (let n = this.depth > DEEPEST ? 1 : 1 + this.random.below(most); n > 0; n--) {
      if (this.depth > DEEPEST) this.arithmetic();
      else this.#statement(this);
    }
    this.depth--;
  }

  /** All that the budget has. */
  statements(): void {
    while (this.budget > 0) this.#statement(this);
  }

  /** Changes one of the function's numbers. */
  arithmetic(): void {
    const { random } = this;
    if (this.free.length === 0) return;
    const to = random.pick(this.free);
    if (random.once(3)) this.number(to);
    for (let n = 1 + random.below(3); n > 0; n--) this.compute(to);
  }

  /** Ends the function that is being written. */
  finish(result: () => void): void {
    const { p } = this;
    p.bind(this.end);
    result();
    p.exit();
  }

  /** Begins another function, whose context and registers are its own. */
  begin(region: Region | undefined): void {
    this.region = region;
    this.hasContext = false;
    this.free = [R7, R8];
    this.held = 0;
    this.depth = 0;
    this.end = this.p.label();
    for (const slot of SLOTS) this.p.store(8, R10, slot, this.random.pick([R7, R8, 0, 1]));
    this.p.mov(R0, 0);
  }
}

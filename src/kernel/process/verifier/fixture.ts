/**
 * For tests: what the verifier believed before each instruction, over all paths that it walked, to be compared with
 * what registers hold when the program runs.
 */

import { FRAME_POINTER, STACK_SIZE } from '../../../bpf/instruction.js';
import type { Observer } from './environment.js';
import type { Facts } from './facts.js';
import type { Scalar } from './scalar.js';
import type { State } from './state.js';
import { describeValue, type Pointer, type Value } from './value.js';

/** Whether an address is one that a pointer other than to the stack may be. */
export type Admits = (pointer: Exclude<Pointer, { kind: 'fp' }>, address: bigint) => boolean;

interface Belief {
  readonly frames: number;
  readonly registers: readonly Value[];
}

/** The walk went on for longer than a test has time for. */
export class TooLong extends Error {}

export class Beliefs implements Observer {
  private readonly at = new Map<number, Belief[]>();
  private readonly limit: number;
  private told = 0;
  private facts: Facts | undefined;

  constructor(limit = Number.POSITIVE_INFINITY) {
    this.limit = limit;
  }

  begin(): void {
    this.at.clear();
  }

  instruction(index: number, { frames, frame }: State): void {
    if (++this.told > this.limit) throw new TooLong();
    const belief = { frames: frames.length, registers: frame.registers.slice() };
    const list = this.at.get(index);
    if (list === undefined) this.at.set(index, [belief]);
    else list.push(belief);
  }

  accepted(facts: Facts): void {
    this.facts = facts;
  }

  /**
   * Throws RangeError where no state that was believed allows all that the registers hold. What is not read again is not
   * compared, nor numbers that decide nothing: paths end for states that differ in them.
   */
  check(index: number, registers: BigUint64Array, admits: Admits): void {
    const live = this.facts?.live[index] ?? 0;
    const precise = this.facts?.preciseRegisters(index) ?? 0;
    const beliefs = this.at.get(index) ?? [];
    const wrong = (belief: Belief): number => {
      for (let r = 0; r < FRAME_POINTER; r++) {
        if ((live & (1 << r)) === 0) continue;
        const value = belief.registers[r] as Value;
        const held = registers[r] as bigint;
        if (value.kind === 'not_init') continue;
        if (value.kind === 'scalar') {
          if ((precise & (1 << r)) !== 0 && !allows(value, held)) return r;
        } else if (value.kind === 'fp') {
          const below = BigInt(STACK_SIZE * (belief.frames - 1 - value.frame) + value.offset);
          const base = (registers[FRAME_POINTER] as bigint) + below;
          if (!allows(value.variable, BigInt.asUintN(64, held - base))) return r;
        } else if (!admits(value, held)) return r;
      }
      return -1;
    };
    if (beliefs.some(belief => wrong(belief) < 0)) return;
    const believed = beliefs.slice(0, 4).map(belief => {
      const r = wrong(belief);
      return `R${r}=${describeValue(belief.registers[r] as Value)}, not 0x${(registers[r] as bigint).toString(16)}`;
    });
    throw new RangeError(`before instruction ${index}, none of ${beliefs.length}: ${believed.join('; ')}`);
  }
}

/** Whether the number is within all that is known of it. */
export function allows(known: Scalar, held: bigint): boolean {
  const signed = BigInt.asIntN(64, held);
  const low = Number(held & 0xffff_ffffn);
  const signedLow = low | 0;
  return (
    held >= known.min &&
    held <= known.max &&
    signed >= known.smin &&
    signed <= known.smax &&
    low >= known.min32 &&
    low <= known.max32 &&
    signedLow >= known.smin32 &&
    signedLow <= known.smax32 &&
    (held & ~known.mask & 0xffff_ffff_ffff_ffffn) === known.value
  );
}

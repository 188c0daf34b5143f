/**
 * One instruction of one path, being checked: the state that it changes, the words for refusing it, and what
 * the whole program was found to use.
 */

import { disassembleInstruction } from '../../../bpf/disassemble.js';
import type { BpfInsn } from '../../../bpf/instruction.js';
import { BpfError, type ErrnoName } from '../../errno.js';
import type { MapSpec, VerifierEnv } from './environment.js';
import type { Scalar } from './scalar.js';
import type { State } from './state.js';
import { describeValue, type Value } from './value.js';

/** What the paths walked so far use; it grows as they are walked. */
export class Findings {
  readonly accessedArgs = new Set<number>();
  /** whether the traced function's return value is read */
  readsReturnValue = false;
  /** bytes of stack used */
  stackDepth = 0;
  readonly usedHelpers = new Set<number>();
  readonly usedMaps = new Map<number, MapSpec>();
  /** the map that each call of a map helper is for, by index of instruction */
  readonly callMaps = new Map<number, MapSpec>();
  /** where the key of each map helper's call is, below the frame pointer; `undefined` where that varies */
  readonly keyOffsets = new Map<number, number | undefined>();
  /** the operand of each atomic; `undefined` where that varies */
  readonly atomicOperands = new Map<number, bigint | undefined>();
  private lookups = 0;

  /** A number for a lookup result that is no other's copy. */
  newLookup(): number {
    return this.lookups++;
  }

  useStack(offset: number): void {
    this.stackDepth = Math.max(this.stackDepth, -offset);
  }
}

/** Notes what instruction `index` was found to have on one path, beside what it had on others. */
export function note<T>(facts: Map<number, T | undefined>, index: number, found: T | undefined): void {
  const same = !facts.has(index) || facts.get(index) === found;
  facts.set(index, same ? found : undefined);
}

/** The facts that hold on every path. */
export function certain<T>(facts: ReadonlyMap<number, T | undefined>): ReadonlyMap<number, T> {
  const sure = new Map<number, T>();
  for (const [index, fact] of facts) if (fact !== undefined) sure.set(index, fact);
  return sure;
}

/** An instruction on a path. */
export class Step {
  readonly insn: BpfInsn;
  readonly index: number;
  readonly slot: number;
  readonly state: State;
  readonly env: VerifierEnv;
  readonly findings: Findings;

  constructor(
    insn: BpfInsn,
    index: number,
    slot: number,
    state: State,
    env: VerifierEnv,
    findings: Findings,
  ) {
    this.insn = insn;
    this.index = index;
    this.slot = slot;
    this.state = state;
    this.env = env;
    this.findings = findings;
  }

  /** Refuses the program; the message ends with what the `registers` named held. */
  fail(code: ErrnoName, reason: string, ...registers: number[]): never {
    const held = [...new Set(registers)].map(r => `R${r}=${describeValue(this.state.get(r))}`);
    const tail = held.length > 0 ? ` (${held.join(' ')})` : '';
    const text = disassembleInstruction(this.insn, this.slot);
    throw new BpfError(code, `insn ${this.slot}: ${text}: ${reason}${tail}`);
  }

  /** The content of a register that is read. */
  read(register: number): Value {
    const value = this.state.get(register);
    if (value.kind === 'not_init') this.fail('EACCES', `R${register} !read_ok`);
    return value;
  }

  /** The content of a register that must be a number: `otherwise` says why a pointer can't be. */
  readScalar(register: number, otherwise: string): Scalar {
    const value = this.read(register);
    if (value.kind !== 'scalar') this.fail('EACCES', otherwise, register);
    return value;
  }
}

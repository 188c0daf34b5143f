/**
 * One instruction of one path, being checked: the state that it changes, the words for refusing it, and what
 * the whole program was found to use.
 */

import { disassembleInstruction } from '../../../bpf/disassemble.js';
import type { BpfInsn } from '../../../bpf/instruction.js';
import type { ErrnoName } from '../../errno.js';
import { VerifierError } from '../../verifier_error.js';
import type { MapSpec, VerifierEnv } from './environment.js';
import type { Facts } from './facts.js';
import type { Log } from './log.js';
import type { Program } from './program.js';
import type { Scalar } from './scalar.js';
import type { State } from './state.js';
import { describeValue, type Value } from './value.js';

/** What the paths walked so far use; it grows as they are walked. */
export class Findings {
  readonly accessedArgs = new Set<number>();
  /** whether the traced function's return value is read */
  readsReturnValue = false;
  /** those of both that are taken from the context, by their types; helpers give numbers */
  readonly typedArgs = new Set<number>();
  typedResult = false;
  /** whether stack is read that was not written before: code clears its frames then */
  readsUnwritten = false;
  /** bytes of stack used, by subprogram */
  readonly stackDepth: number[] = [];
  readonly usedHelpers = new Set<number>();
  readonly usedKfuncs = new Set<number>();
  readonly usedMaps = new Map<number, MapSpec>();
  /** the map that each call of a map helper is for, by index of instruction */
  readonly callMaps = new Map<number, MapSpec>();
  /** calls of map helpers for which the map is known at run time only, by index of instruction */
  readonly dynamicMaps = new Set<number>();
  /** where the key of each map helper's call is, below the frame pointer; `undefined` where that varies */
  readonly keyOffsets = new Map<number, number | undefined>();
  /** the operand of each atomic; `undefined` where that varies */
  readonly atomicOperands = new Map<number, bigint | undefined>();
  /** whether each atomic is on a value of a per-CPU array, the thread's own */
  readonly ownAtomics = new Map<number, boolean | undefined>();
  /** whether values of per-CPU maps are written by anything but atomics */
  storesPerCpu = false;
  /** by index of instruction: 1 a load through a pointer that may be bad, 2 through one that is good */
  readonly loads: Uint8Array;
  /** the subprogram that each call of a callback helper calls, by index of instruction */
  readonly callbacks = new Map<number, number>();
  private ids = 0;

  constructor(length: number) {
    this.loads = new Uint8Array(length);
  }

  /** A number that no other result has. */
  newId(): number {
    return ++this.ids;
  }

  useStack(subprogram: number, offset: number): void {
    this.stackDepth[subprogram] = Math.max(this.stackDepth[subprogram] ?? 0, -offset);
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

/** What every instruction of one walk is checked with. */
export interface Analysis {
  readonly program: Program;
  readonly env: VerifierEnv;
  readonly facts: Facts;
  readonly findings: Findings;
  readonly log: Log;
  /** Puts a state aside that goes on at `index`, to be walked later. */
  pend(index: number, state: State): void;
}

/** An instruction on a path. The walk moves one of these along. */
export class Step {
  insn: BpfInsn;
  index = 0;
  slot = 0;
  state: State;
  readonly analysis: Analysis;
  readonly env: VerifierEnv;
  readonly findings: Findings;
  readonly facts: Facts;

  constructor(analysis: Analysis, state: State) {
    this.analysis = analysis;
    this.env = analysis.env;
    this.findings = analysis.findings;
    this.facts = analysis.facts;
    this.insn = analysis.program.insns[0] as BpfInsn;
    this.state = state;
  }

  moveTo(index: number): void {
    this.index = index;
    this.insn = this.analysis.program.insns[index] as BpfInsn;
    this.slot = this.analysis.program.layout.slotOf[index] as number;
  }

  /** Refuses the program; the message ends with what the `registers` named held. */
  fail(code: ErrnoName, reason: string, ...registers: number[]): never {
    const held = [...new Set(registers)].map(r => `R${r}=${describeValue(this.state.get(r))}`);
    const tail = held.length > 0 ? ` (${held.join(' ')})` : '';
    const text = disassembleInstruction(this.insn, this.slot);
    const { log } = this.analysis;
    const source = log.sourceOf(this.slot);
    const where = source === undefined ? '' : `; ${source}`;
    const message = `insn ${this.slot}: ${text}: ${reason}${tail}${where}`;
    log.changed(this.state);
    log.line(reason);
    throw new VerifierError(code, message, log.text());
  }

  /** The content of a register that is read. */
  read(register: number): Value {
    const value = this.state.get(register);
    if (value.kind === 'not_init') {
      const why = value.released ? ': what it pointed to was given back' : '';
      this.fail('EACCES', `R${register} !read_ok${why}`);
    }
    return value;
  }

  /** The content of a register that must be a number: `otherwise` says why a pointer can't be. */
  readScalar(register: number, otherwise: string): Scalar {
    const value = this.read(register);
    if (value.kind !== 'scalar') this.fail('EACCES', otherwise, register);
    return value;
  }

  /** The number in `register` decides whether the program is safe. */
  matters(register: number): void {
    this.facts.needRegister(this.index, register);
  }
}

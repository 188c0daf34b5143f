/**
 * Which registers an instruction reads and writes, and which are live before each instruction of a program:
 * those that some path reads before it writes them.
 */

import { type BpfInsn, FIRST_ARGUMENT, LAST_ARGUMENT, RESULT } from './instruction.js';
import type { Operation } from './operation.js';

/** A set of registers: bit n is register n. */
export type RegisterSet = number;

/** r1 to r5. */
export const ARGUMENTS: RegisterSet = (1 << (LAST_ARGUMENT + 1)) - (1 << FIRST_ARGUMENT);

/** The registers that an instruction reads; for a call all that it could: r1 to r5. */
export function registersRead(insn: BpfInsn, operation: Operation): RegisterSet {
  const dst = 1 << insn.dst;
  const src = 1 << insn.src;
  switch (operation.kind) {
    case 'alu':
    case 'branch':
      return operation.immediate ? dst : dst | src;
    case 'mov':
      return operation.immediate ? 0 : src;
    case 'movsx':
    case 'load':
      return src;
    case 'neg':
    case 'swap':
      return dst;
    case 'store':
      return operation.immediate ? dst : dst | src;
    case 'atomic':
      return dst | src | (operation.name === 'cmpxchg' ? 1 << RESULT : 0);
    case 'packet':
      return operation.indexed ? src : 0;
    case 'call':
      return ARGUMENTS;
    case 'exit':
      return 1 << RESULT;
    default:
      return 0;
  }
}

/** The registers that an instruction gives a new value, or, for a call, makes unreadable. */
export function registersWritten(insn: BpfInsn, operation: Operation): RegisterSet {
  switch (operation.kind) {
    case 'alu':
    case 'mov':
    case 'movsx':
    case 'neg':
    case 'swap':
    case 'load':
    case 'loadImmediate':
      return 1 << insn.dst;
    case 'atomic':
      if (operation.name === 'cmpxchg') return 1 << RESULT;
      return operation.fetch ? 1 << insn.src : 0;
    case 'packet':
      return 1 << RESULT;
    case 'call':
      return (1 << RESULT) | ARGUMENTS;
    default:
      return 0;
  }
}

/** What liveness is computed over: the successors of each instruction, and what each reads and writes. */
export interface LivenessInput {
  readonly length: number;
  /** the instruction that `index` can jump to, or -1 */
  readonly targets: Int32Array;
  /** whether `index` can continue at `index + 1` */
  fallsThrough(index: number): boolean;
  reads(index: number): RegisterSet;
  writes(index: number): RegisterSet;
  /** whether `index` does nothing but give a register a value: then it reads only if that value is live */
  onlyWrites?(index: number): boolean;
}

/** The registers live before and after each instruction. */
export interface Liveness {
  readonly before: Uint16Array;
  readonly after: Uint16Array;
}

/** Which registers are live where. */
export function liveRegisters(program: LivenessInput): Liveness {
  const before = new Uint16Array(program.length);
  const after = new Uint16Array(program.length);
  // Jumps may go backwards in the text, so this repeats until nothing changes; most programs need two rounds.
  for (let changed = true; changed; ) {
    changed = false;
    for (let index = program.length - 1; index >= 0; index--) {
      const target = program.targets[index] as number;
      const out =
        (target >= 0 ? (before[target] as number) : 0) |
        (program.fallsThrough(index) ? (before[index + 1] as number) : 0);
      const writes = program.writes(index);
      const idle = (out & writes) === 0 && program.onlyWrites?.(index) === true;
      const into = idle ? out : (out & ~writes) | program.reads(index);
      after[index] = out;
      if (into !== before[index]) {
        before[index] = into;
        changed = true;
      }
    }
  }
  return { before, after };
}

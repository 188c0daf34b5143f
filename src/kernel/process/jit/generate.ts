/** The code of a program from the facts about it: its entry, and one function behind the other. */

import type { FaultFixup } from '../faults/fixup.js';
import { Emitter } from './emitter.js';
import { emitEntry } from './entry.js';
import type { JitEnv } from './environment.js';
import type { ProgramFacts } from './facts.js';
import { emitPrologue } from './functions.js';
import { emitInstruction } from './instructions.js';
import { planProgram } from './plan.js';
import type { RegisterMask } from './register_map.js';

/** Machine code of a program. */
export interface JitCode {
  /** bytes */
  readonly size: number;
  /** the caller-saved registers that the program changes: bit n is the register with hardware number n */
  readonly clobbers: RegisterMask;
  /** where the code of each instruction begins, in bytes, by index of instruction */
  readonly offsets: Int32Array;
  /** where tail calls enter, in bytes */
  readonly tailEntry: number;
  /** the loads in it that may fault; offsets in bytes */
  readonly faults: readonly FaultFixup[];
  /** the code as it must stand at `address` */
  place(address: bigint): Uint8Array;
}

/** Writes the code. Wrong facts make wrong code: for `compileProgram`, and tests. */
export function generate(program: ProgramFacts, env: JitEnv): JitCode {
  const plan = planProgram(program, env);
  const e = new Emitter(program, plan, env);
  const offsets = new Int32Array(program.insns.length);
  const tailEntry = emitEntry(e);
  for (const fn of plan.functions) {
    e.fn = fn;
    if (fn.start !== 0) e.a.bind(e.entryOf(fn.start));
    emitPrologue(e);
    let index = fn.start;
    while (index < fn.end) {
      e.begin(index);
      const from = e.a.length;
      const written = emitInstruction(e, index);
      for (let i = index; i < index + written; i++) {
        offsets[i] = from;
        if (i > index) e.begin(i);
      }
      index += written;
    }
  }
  e.finish();
  return {
    size: e.a.length,
    clobbers: e.clobbers,
    offsets,
    tailEntry: e.a.offsetOf(tailEntry),
    faults: e.fixups.finish(e.a),
    place: address => e.a.finish(address),
  };
}

/**
 * Which registers are read again (the kernel's `compute_live_registers`), through calls of the program's own functions too:
 * what is not read again need not be compared.
 */

import { type BpfInsn, FIRST_ARGUMENT } from '../../../bpf/instruction.js';
import { ARGUMENTS, liveRegisters, registersRead, registersWritten } from '../../../bpf/liveness.js';
import type { Operation } from '../../../bpf/operation.js';
import { fallsThrough } from './control_flow.js';
import type { Program } from './program.js';
import { argumentCountOf } from './prototypes.js';

/** Registers that are read again, by instruction, before it. */
export function readAgain({ insns, operations, flow, subprograms }: Program): Uint16Array {
  const reads = new Uint16Array(insns.length);
  const writes = new Uint16Array(insns.length);
  for (let i = 0; i < insns.length; i++) {
    reads[i] = readBy(insns[i] as BpfInsn, operations[i] as Operation);
    writes[i] = registersWritten(insns[i] as BpfInsn, operations[i] as Operation);
  }
  for (;;) {
    const { before } = liveRegisters({
      length: insns.length,
      targets: flow.targets,
      fallsThrough: index => fallsThrough(operations[index] as Operation),
      reads: index => reads[index] as number,
      writes: index => writes[index] as number,
    });
    // A call reads what the function does that it calls, which may call others.
    let more = false;
    for (const [number, { start }] of subprograms.list.entries()) {
      const wanted = (before[start] as number) & ARGUMENTS;
      for (let i = 0; wanted !== 0 && i < insns.length; i++) {
        if (subprograms.named[i] !== number || operations[i]?.kind !== 'call') continue;
        if ((wanted & ~(reads[i] as number)) === 0) continue;
        reads[i] = (reads[i] as number) | wanted;
        more = true;
      }
    }
    if (!more) return before;
  }
}

/** The registers that an instruction reads; of a call of the program's own functions none yet. */
function readBy(insn: BpfInsn, operation: Operation): number {
  if (operation.kind !== 'call') return registersRead(insn, operation);
  if (operation.target === 'subprogram') return 0;
  const args = operation.target === 'helper' ? argumentCountOf(insn.imm) : undefined;
  return args === undefined ? ARGUMENTS : ((1 << args) - 1) << FIRST_ARGUMENT;
}

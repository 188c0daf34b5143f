/**
 * A program as the verifier works on it: instructions and what they mean, where they stand, the jumps and functions.
 */

import type { BpfInsn } from '../../../bpf/instruction.js';
import { type Layout, layoutOf } from '../../../bpf/layout.js';
import { type Operation, operationOf } from '../../../bpf/operation.js';
import { BpfError } from '../../errno.js';
import { type ControlFlow, checkControlFlow } from './control_flow.js';
import type { VerifierEnv } from './environment.js';
import { findSubprograms, type Subprograms } from './subprograms.js';

/** Slots of the longest program (BPF_COMPLEXITY_LIMIT_INSNS, as in the kernel). */
const LONGEST_PROGRAM = 1_000_000;
/** Functions of one program (BPF_MAX_SUBPROGS). */
const MOST_SUBPROGRAMS = 256;

export interface Program {
  readonly insns: readonly BpfInsn[];
  readonly operations: readonly Operation[];
  readonly layout: Layout;
  readonly flow: ControlFlow;
  readonly subprograms: Subprograms;
  readonly env: VerifierEnv;
}

/** Reads the instructions and checks their shape. Throws `BpfError` EINVAL or E2BIG. */
export function readProgram(insns: readonly BpfInsn[], env: VerifierEnv): Program {
  const layout = layoutOf(insns);
  if (insns.length === 0 || layout.slots > LONGEST_PROGRAM) {
    throw new BpfError('E2BIG', `a program has 1 to ${LONGEST_PROGRAM} instructions, not ${layout.slots}`);
  }
  const operations = insns.map((insn, i) => operationOf(insn, layout.slotOf[i] as number));
  refuseKinds(operations, layout);
  const subprograms = findSubprograms(insns, operations, layout, env);
  if (subprograms.list.length > MOST_SUBPROGRAMS) {
    throw new BpfError(
      'E2BIG',
      `too many subprograms: ${subprograms.list.length}, and at most ${MOST_SUBPROGRAMS}`,
    );
  }
  const flow = checkControlFlow(insns, operations, layout, subprograms);
  return { insns, operations, layout, flow, subprograms, env };
}

/** Instructions that exist and that programs here can't have, whatever leads to them. */
function refuseKinds(operations: readonly Operation[], layout: Layout): void {
  operations.forEach((operation, index) => {
    const at = layout.slotOf[index];
    if (operation.kind === 'packet') {
      throw new BpfError(
        'EINVAL',
        `insn ${at}: BPF_LD_[ABS|IND] instructions not allowed for this program type`,
      );
    }
  });
}

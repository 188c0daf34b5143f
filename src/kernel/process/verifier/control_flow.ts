/**
 * The shape of a program, before anything is known of its registers (the kernel's `check_cfg`): where jumps
 * go, that every instruction can be reached, that no function runs off its end or jumps into another.
 */

import type { BpfInsn } from '../../../bpf/instruction.js';
import type { Layout } from '../../../bpf/layout.js';
import type { Operation } from '../../../bpf/operation.js';
import { BpfError } from '../../errno.js';
import type { Subprograms } from './subprograms.js';

/** The jumps of a program, by index of instruction. */
export interface ControlFlow {
  /** where an instruction can jump to, or -1 */
  readonly targets: Int32Array;
  /** 1 where some jump goes to */
  readonly isTarget: Uint8Array;
}

/** Whether `operation` can continue with the instruction behind it. */
export function fallsThrough(operation: Operation): boolean {
  return operation.kind !== 'exit' && operation.kind !== 'goto';
}

/** Finds the jumps of a program. Throws `BpfError` EINVAL for one that leaves its function or splits an instruction. */
function findJumps(
  insns: readonly BpfInsn[],
  operations: readonly Operation[],
  layout: Layout,
  subprograms: Subprograms,
): ControlFlow {
  const targets = new Int32Array(insns.length).fill(-1);
  const isTarget = new Uint8Array(insns.length);
  operations.forEach((operation, index) => {
    let distance: number;
    if (operation.kind === 'branch' || operation.kind === 'mayGoto')
      distance = (insns[index] as BpfInsn).offset;
    else if (operation.kind === 'goto') distance = operation.distance;
    else return;
    const from = layout.slotOf[index] as number;
    const to = from + 1 + distance;
    const target = to < 0 || to >= layout.slots ? undefined : (layout.indexAt[to] as number);
    if (target === undefined || (target >= 0 && subprograms.of[target] !== subprograms.of[index])) {
      throw new BpfError('EINVAL', `insn ${from}: jump out of range from insn ${from} to ${to}`);
    }
    if (target < 0) {
      throw new BpfError('EINVAL', `insn ${from}: jump into the middle of ldimm64 insn ${to - 1}`);
    }
    targets[index] = target;
    isTarget[target] = 1;
  });
  return { targets, isTarget };
}

/**
 * The jumps of a program whose shape is right. Throws `BpfError` EINVAL for a jump that leaves its function, an
 * instruction that is never reached, a function whose end is not an exit or a jump. Loops are the walk's to bound.
 */
export function checkControlFlow(
  insns: readonly BpfInsn[],
  operations: readonly Operation[],
  layout: Layout,
  subprograms: Subprograms,
): ControlFlow {
  const flow = findJumps(insns, operations, layout, subprograms);
  for (const { end } of subprograms.list) {
    if (fallsThrough(operations[end - 1] as Operation)) {
      throw new BpfError('EINVAL', `insn ${layout.slotOf[end - 1]}: last insn is not an exit or jmp`);
    }
  }
  const seen = new Uint8Array(insns.length);
  const waiting: number[] = [];
  const visit = (index: number): void => {
    if (index < 0 || seen[index] === 1) return;
    seen[index] = 1;
    waiting.push(index);
  };
  visit(0);
  // Functions that anybody may call are there for the caller that a later object brings.
  for (const { start, isGlobal } of subprograms.list) if (isGlobal) visit(start);
  for (let index = waiting.pop(); index !== undefined; index = waiting.pop()) {
    if (fallsThrough(operations[index] as Operation)) visit(index + 1);
    visit(flow.targets[index] as number);
    const named = subprograms.named[index] as number;
    if (named >= 0) visit(subprograms.list[named]?.start ?? -1);
  }
  const unreached = seen.indexOf(0);
  if (unreached >= 0) {
    const at = layout.slotOf[unreached];
    throw new BpfError('EINVAL', `insn ${at}: unreachable insn ${at}`);
  }
  return flow;
}

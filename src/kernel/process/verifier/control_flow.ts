/**
 * The shape of a program, before anything is known of its registers (the kernel's `check_cfg`): where jumps
 * go, that every instruction can be reached, that no path comes back to itself or runs off the end.
 */

import type { BpfInsn } from '../../../bpf/instruction.js';
import type { Layout } from '../../../bpf/layout.js';
import type { Operation } from '../../../bpf/operation.js';
import { BpfError } from '../../errno.js';

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

/** Finds the jumps of a program. Throws `BpfError` EINVAL for one that leaves it or splits an instruction. */
function findJumps(insns: readonly BpfInsn[], operations: readonly Operation[], layout: Layout): ControlFlow {
  const targets = new Int32Array(insns.length).fill(-1);
  const isTarget = new Uint8Array(insns.length);
  operations.forEach((operation, index) => {
    let distance: number;
    if (operation.kind === 'branch') distance = (insns[index] as BpfInsn).offset;
    else if (operation.kind === 'goto') distance = operation.distance;
    else return;
    const from = layout.slotOf[index] as number;
    const to = from + 1 + distance;
    if (to < 0 || to >= layout.slots) {
      throw new BpfError('EINVAL', `insn ${from}: jump out of range from insn ${from} to ${to}`);
    }
    const target = layout.indexAt[to] as number;
    if (target < 0) {
      throw new BpfError('EINVAL', `insn ${from}: jump into the middle of ldimm64 insn ${to - 1}`);
    }
    targets[index] = target;
    isTarget[target] = 1;
  });
  return { targets, isTarget };
}

/**
 * The jumps of a program whose shape is right. Throws `BpfError` EINVAL for a jump that leaves the program, a
 * way that comes back to itself, an instruction that is never reached, an end that is not an exit or a jump.
 */
export function checkControlFlow(
  insns: readonly BpfInsn[],
  operations: readonly Operation[],
  layout: Layout,
): ControlFlow {
  const flow = findJumps(insns, operations, layout);
  const last = insns.length - 1;
  if (fallsThrough(operations[last] as Operation)) {
    throw new BpfError('EINVAL', `insn ${layout.slotOf[last]}: last insn is not an exit or jmp`);
  }

  const NEW = 0;
  const ON_PATH = 1;
  const DONE = 2;
  const color = new Uint8Array(insns.length);
  // Depth first; an entry is an instruction and how many of its two ways were taken.
  const path: number[] = [0];
  const ways: number[] = [0];
  color[0] = ON_PATH;
  while (path.length > 0) {
    const top = path.length - 1;
    const index = path[top] as number;
    const way = ways[top] as number;
    ways[top] = way + 1;
    if (way > 1) {
      color[index] = DONE;
      path.pop();
      ways.pop();
      continue;
    }
    const falls = fallsThrough(operations[index] as Operation);
    const next = way === 0 ? (falls ? index + 1 : -1) : (flow.targets[index] as number);
    if (next < 0) continue;
    if (color[next] === ON_PATH) {
      const from = layout.slotOf[index];
      throw new BpfError('EINVAL', `insn ${from}: back-edge from insn ${from} to ${layout.slotOf[next]}`);
    }
    if (color[next] === NEW) {
      color[next] = ON_PATH;
      path.push(next);
      ways.push(0);
    }
  }
  const unreached = color.indexOf(NEW);
  if (unreached >= 0) {
    const at = layout.slotOf[unreached];
    throw new BpfError('EINVAL', `insn ${at}: unreachable insn ${at}`);
  }
  return flow;
}

/** How much stack calls can use together (the kernel's `check_max_stack_depth`), and that none comes back to itself. */

import { STACK_SIZE } from '../../../bpf/instruction.js';
import type { Operation } from '../../../bpf/operation.js';
import { BpfError } from '../../errno.js';
import { DEEPEST_CALL } from './callback.js';
import type { Program } from './program.js';

/** A frame takes at least this much. */
const GRANULE = 32;

/** Throws `BpfError` EACCES where a chain of calls uses more than 512 bytes, E2BIG where it is too deep. */
export function checkStackDepth(program: Program, depths: readonly number[]): void {
  const { list, of, named } = program.subprograms;
  const calls: Set<number>[] = list.map(() => new Set<number>());
  named.forEach((callee, index) => {
    if (callee < 0) return;
    const operation = program.operations[index] as Operation;
    if (operation.kind === 'call' || operation.kind === 'loadImmediate')
      calls[of[index] as number]?.add(callee);
  });
  const path: number[] = [];
  const sizes = list.map((_, i) => Math.max(GRANULE, Math.ceil((depths[i] ?? 0) / GRANULE) * GRANULE));
  // A single function may use all of it, however small the granules are.
  const worst = new Map<number, number>();
  const visit = (number: number): number => {
    if (path.includes(number)) {
      throw new BpfError(
        'EINVAL',
        `recursive call of ${list[number]?.name ?? `function ${number}`}: programs do not recurse`,
      );
    }
    if (path.length >= DEEPEST_CALL) {
      throw new BpfError('E2BIG', `the call stack of ${path.length + 1} frames is too deep`);
    }
    const known = worst.get(number);
    if (known !== undefined) return known;
    path.push(number);
    let below = 0;
    for (const callee of calls[number] ?? []) below = Math.max(below, visit(callee));
    path.pop();
    const total = (sizes[number] as number) + below;
    worst.set(number, total);
    return total;
  };
  list.forEach((subprogram, number) => {
    if (number !== 0 && !subprogram.isGlobal) return;
    const total = visit(number);
    if (total > STACK_SIZE) {
      throw new BpfError(
        'EACCES',
        `combined stack size of calls is ${total}. Too large: at most ${STACK_SIZE} bytes`,
      );
    }
  });
}

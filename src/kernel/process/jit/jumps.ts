/** Jumps: comparisons and what follows from them. */

import type { Condition, Operation } from '../../../bpf/operation.js';
import type { Cond } from '../../../x86/assembler.js';
import { bytesOf, type Emitter } from './emitter.js';

const CONDITIONS: Readonly<Record<Condition, Cond>> = {
  eq: 'e',
  ne: 'ne',
  gt: 'a',
  ge: 'ae',
  lt: 'b',
  le: 'be',
  sgt: 'g',
  sge: 'ge',
  slt: 'l',
  sle: 'le',
  set: 'ne',
};

/** Goes to instruction `to`, which is a jump only where it is not `next`, the one that follows. */
export function emitGoto(e: Emitter, to: number, next: number): void {
  if (to !== next) e.a.jmp(e.labelOf(to));
}

export function emitBranch(e: Emitter, index: number, operation: Operation & { kind: 'branch' }): void {
  const target = e.program.flow.targets[index] as number;
  if (target === index + 1) return;
  const { dst, src, imm } = e.insnAt(index);
  const size = bytesOf(operation.width);
  const { condition, immediate } = operation;
  const left = e.source(dst);
  const right = immediate ? imm : e.source(src);
  if (condition === 'set') e.a.test(left, right, size);
  else if (immediate && imm === 0 && (condition === 'eq' || condition === 'ne')) e.a.test(left, left, size);
  else e.a.cmp(left, right, size);
  e.a.jcc(CONDITIONS[condition], e.labelOf(target));
}

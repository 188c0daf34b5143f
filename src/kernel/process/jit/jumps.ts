/** Jumps: comparisons and what follows from them. */

import type { Condition, Operation } from '../../../bpf/operation.js';
import type { Cond } from '../../../x86/assembler.js';
import { bytesOf, type Emitter } from './emitter.js';
import { homeOf } from './register_map.js';

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
  // The verifier lets r10 be compared with zero only: it never is.
  const left = e.source(dst);
  if (condition === 'set') e.a.test(left, immediate ? imm : homeOf(src), size);
  else if (immediate && imm === 0 && (condition === 'eq' || condition === 'ne')) e.a.test(left, left, size);
  else e.a.cmp(left, immediate ? imm : homeOf(src), size);
  e.a.jcc(CONDITIONS[condition], e.labelOf(target));
}

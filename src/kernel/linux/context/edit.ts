/**
 * Puts instructions into a finished program: before an instruction, or in its place. Jumps, calls of subprograms, addresses
 * of callbacks, func_info and line_info are mended; a jump to an instruction goes to what stands before it now.
 */

import {
  type BpfInsn,
  CALL,
  CLASS,
  CLASS_MASK,
  LD_IMM64,
  loadImmediate64,
  PSEUDO,
  slotsOf,
} from '../../../bpf/instruction.js';
import { layoutOf } from '../../../bpf/layout.js';
import { operationOf } from '../../../bpf/operation.js';
import { BpfError } from '../../errno.js';

/** What is done to one instruction. Jumps inside `before` are its own: they stay within it, or go to its end. */
export interface Edit {
  readonly before: readonly BpfInsn[];
  /** The instruction itself goes. */
  readonly drop?: true;
}

/** A program whose instructions moved. */
export interface Edited {
  readonly insns: readonly BpfInsn[];
  /** Where what stood at a slot is now; a slot behind the end of the old program is behind the end of the new one. */
  slot(old: number): number;
}

/** Distances of the short jumps. */
const SHORT = { min: -0x8000, max: 0x7fff } as const;

/** Applies edits, by index of the instruction. Throws E2BIG where a jump would become too long for its instruction. */
export function editProgram(insns: readonly BpfInsn[], edits: ReadonlyMap<number, Edit>): Edited {
  if (edits.size === 0) return { insns, slot: old => old };
  const { slotOf, indexAt, slots } = layoutOf(insns);
  // Where each instruction, with what is put before it, begins; and where it stands itself.
  const begins = new Int32Array(insns.length + 1);
  const stands = new Int32Array(insns.length);
  let at = 0;
  for (const [index, insn] of insns.entries()) {
    begins[index] = at;
    const edit = edits.get(index);
    for (const added of edit?.before ?? []) at += slotsOf(added);
    stands[index] = at;
    if (edit?.drop !== true) at += slotsOf(insn);
  }
  begins[insns.length] = at;
  const slot = (old: number): number => {
    if (old >= slots) return at + old - slots;
    const index = indexAt[old];
    // The second slot of a 16-byte load.
    return index < 0 ? stands[indexAt[old - 1]] + 1 : begins[index];
  };

  const result: BpfInsn[] = [];
  for (const [index, insn] of insns.entries()) {
    const edit = edits.get(index);
    if (edit !== undefined) result.push(...edit.before);
    if (edit?.drop === true) continue;
    result.push(moved(insn, slotOf[index], stands[index], slot));
  }
  return { insns: result, slot };
}

/** An instruction with its distances as they are at its new place. */
function moved(insn: BpfInsn, from: number, to: number, slot: (old: number) => number): BpfInsn {
  if (insn.opcode === LD_IMM64) {
    if (insn.src !== PSEUDO.FUNC) return insn;
    const distance = slot(from + 1 + insn.imm) - (to + 1);
    return loadImmediate64(insn.dst, PSEUDO.FUNC, BigInt.asUintN(32, BigInt(distance)));
  }
  const cls = insn.opcode & CLASS_MASK;
  if (cls !== CLASS.JMP && cls !== CLASS.JMP32) return insn;
  const operation = operationOf(insn, from);
  const distance = (old: number): number => slot(from + 1 + old) - (to + 1);
  switch (operation.kind) {
    case 'call':
      return insn.src === CALL.SUBPROGRAM ? { ...insn, imm: distance(insn.imm) } : insn;
    case 'goto':
      if (operation.long) return { ...insn, imm: distance(insn.imm) };
      return { ...insn, offset: short(distance(insn.offset), from) };
    case 'branch':
    case 'mayGoto':
      return { ...insn, offset: short(distance(insn.offset), from) };
    default:
      return insn;
  }
}

function short(distance: number, slot: number): number {
  if (distance >= SHORT.min && distance <= SHORT.max) return distance;
  throw new BpfError(
    'E2BIG',
    `the jump of instruction ${slot} is ${distance} instructions long once the context is read for the program, and ${SHORT.max} is the most: make the function that it is in shorter`,
  );
}

/**
 * Where each instruction of a program stands, in slots of 8 bytes: jumps count slots, a 16-byte load takes two.
 * Messages name slots too, as the kernel's do.
 */

import { type BpfInsn, slotsOf } from './instruction.js';

/** The slots of a program. */
export interface Layout {
  /** how many slots the program takes */
  readonly slots: number;
  /** for each instruction, its first slot */
  readonly slotOf: Int32Array;
  /** for each slot, the instruction that begins there, or -1 in the middle of a 16-byte load */
  readonly indexAt: Int32Array;
}

/** Lays out `insns`. */
export function layoutOf(insns: readonly BpfInsn[]): Layout {
  const slotOf = new Int32Array(insns.length);
  let slots = 0;
  for (let i = 0; i < insns.length; i++) {
    slotOf[i] = slots;
    slots += slotsOf(insns[i] as BpfInsn);
  }
  const indexAt = new Int32Array(slots).fill(-1);
  for (let i = 0; i < insns.length; i++) indexAt[slotOf[i] as number] = i;
  return { slots, slotOf, indexAt };
}

/** What a CO-RE relocation comes to, put into an instruction; and what an instruction becomes whose field is not there. */

import {
  type BpfInsn,
  CALL,
  CLASS,
  CLASS_MASK,
  JMP,
  LD_IMM64,
  loadImmediate64,
  PSEUDO,
  SIZE,
  SIZE_MASK,
  SOURCE,
} from '../bpf/instruction.js';
import { BpfError } from '../kernel/errno.js';
import type { Btf } from './btf.js';

/** A helper that does not exist: what a poisoned instruction calls, recognizable in a log. */
export const POISON_CALL = 0xbad2310;

export interface CoreValue {
  readonly kind: 'value';
  readonly poison?: undefined;
  readonly value: bigint;
  /** What the compiler put in, where the relocation says what that must be. */
  readonly expected?: bigint;
  /** Bytes of the field as the program knows it and as it is: a load or store is made to fit. */
  readonly size?: { readonly local: number; readonly target: number };
  /** The sizes differ, and the field is neither pointer nor unsigned integer on both sides: it can't be loaded so. */
  readonly misfit?: boolean;
  /** The types that it was found in; a type id is one of these. */
  readonly target?: Btf;
}

export interface CorePoison {
  readonly kind: 'poison';
  readonly poison: true;
  /** What is not there. */
  readonly reason: string;
}

export type CoreResult = CoreValue | CorePoison;

/** Where a relocation is, for errors: a slot of the program. */
function badInsn(slot: number, what: string): BpfError {
  return new BpfError(
    'EINVAL',
    `the CO-RE relocation of instruction ${slot} ${what}; compile the program again`,
  );
}

/**
 * The instruction with the result put in: an immediate, the offset of a load or store (whose size changes with the
 * field's), or a 16-byte load. It takes as many slots as before. Throws EINVAL where it is not what the compiler said.
 */
export function applyCoreRelo(insn: BpfInsn, result: CoreResult, slot: number): BpfInsn {
  if (result.kind === 'poison') return poison(insn);
  const { value, expected } = result;
  switch (insn.opcode & CLASS_MASK) {
    case CLASS.ALU:
    case CLASS.ALU64: {
      if ((insn.opcode & SOURCE.X) !== 0) throw badInsn(slot, 'is of an operation between registers');
      if (expected !== undefined && BigInt.asIntN(32, expected) !== BigInt(insn.imm))
        throw badInsn(slot, `expects ${expected} there, and finds ${insn.imm}`);
      if (BigInt.asIntN(32, value) !== value && BigInt.asUintN(32, value) !== value)
        throw badInsn(slot, `puts in ${value}, which its 32 bits can't hold`);
      return { ...insn, imm: Number(BigInt.asIntN(32, value)) };
    }
    case CLASS.LDX:
    case CLASS.ST:
    case CLASS.STX:
      return relocateAccess(insn, result, slot);
    case CLASS.LD: {
      if (insn.opcode !== LD_IMM64 || insn.src !== PSEUDO.IMM)
        throw badInsn(slot, 'is of a load that has no number');
      if (expected !== undefined && insn.imm64 !== BigInt.asUintN(64, expected))
        throw badInsn(slot, `expects ${expected} there, and finds ${insn.imm64}`);
      return loadImmediate64(insn.dst, PSEUDO.IMM, value);
    }
    default:
      throw badInsn(
        slot,
        `is of an instruction (opcode 0x${insn.opcode.toString(16)}) that has nothing to change`,
      );
  }
}

const MAX_OFFSET = 0x7fff;
const SIZES = new Map<number, number>([
  [1, SIZE.B],
  [2, SIZE.H],
  [4, SIZE.W],
  [8, SIZE.DW],
]);

function relocateAccess(insn: BpfInsn, { value, expected, size, misfit }: CoreValue, slot: number): BpfInsn {
  if (expected !== undefined && BigInt(insn.offset) !== expected)
    throw badInsn(slot, `expects offset ${expected} there, and finds ${insn.offset}`);
  if (value > MAX_OFFSET) throw badInsn(slot, `puts in offset ${value}, which its 16 bits can't hold`);
  // A signed integer of another size would lose its sign: nothing that is loaded so is right.
  if (misfit) return poison(insn);
  const moved = { ...insn, offset: Number(value) };
  if (!size) return moved;
  const own = [...SIZES].find(([, code]) => code === (insn.opcode & SIZE_MASK))?.[0];
  if (own !== size.local)
    throw badInsn(slot, `is of a field of ${size.local} bytes, and ${own} are accessed`);
  const code = SIZES.get(size.target);
  if (code === undefined)
    throw badInsn(slot, `is of a field of ${size.target} bytes, which no instruction accesses`);
  return { ...moved, opcode: (insn.opcode & ~SIZE_MASK) | code };
}

/**
 * A call of a helper that there is not. A 16-byte load keeps its two slots: it becomes the address of a kernel variable
 * that there is not. Both are refused by the verifier where the program can come to them, and only there.
 */
function poison(insn: BpfInsn): BpfInsn {
  if (insn.opcode === LD_IMM64) return loadImmediate64(insn.dst, PSEUDO.BTF_ID, BigInt(POISON_CALL));
  return { opcode: CLASS.JMP | JMP.CALL, dst: 0, src: CALL.HELPER, offset: 0, imm: POISON_CALL };
}

/** Whether an instruction was poisoned: the verifier's sentence can say so. */
export function isPoisoned({ opcode, src, imm }: BpfInsn): boolean {
  if (imm !== POISON_CALL) return false;
  return opcode === LD_IMM64
    ? src === PSEUDO.BTF_ID
    : opcode === (CLASS.JMP | JMP.CALL) && src === CALL.HELPER;
}

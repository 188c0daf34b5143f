/**
 * Writes BPF programs: what the tools behind the commands are made with. Methods carry the names that the
 * instructions have in the field; operands are in the order destination, source. It checks only that what is
 * written can be encoded: whether a program is safe is the verifier's to say.
 */

import { BpfError } from '../kernel/errno.js';
import { encodeProgram } from './encoding.js';
import {
  ALU,
  ATOMIC,
  type BpfInsn,
  CALL,
  CLASS,
  JCOND,
  JMP,
  loadImmediate64,
  MODE,
  PSEUDO,
  type RegisterNumber,
  SIZE,
  SOURCE,
  slotsOf,
} from './instruction.js';
import type { AccessSize, Condition } from './operation.js';

/** A register as an operand: a class, so that no number is taken for one. */
export class Register {
  readonly number: RegisterNumber;

  constructor(number: RegisterNumber) {
    this.number = number;
  }
}

/** The result of calls and of the program. */
export const R0 = new Register(0);
/** Arguments of calls; r1 is the program's context. Lost at a call. */
export const R1 = new Register(1);
export const R2 = new Register(2);
export const R3 = new Register(3);
export const R4 = new Register(4);
export const R5 = new Register(5);
/** Kept across calls. */
export const R6 = new Register(6);
export const R7 = new Register(7);
export const R8 = new Register(8);
export const R9 = new Register(9);
/** The frame pointer: the stack is the 512 bytes below it. Read only. */
export const R10 = new Register(10);

/** The second operand: a register, or a number of 32 bits, which a 64-bit instruction sign-extends. */
export type Operand = Register | number;

/** A place in a program that jumps go to. */
export class ProgramLabel {
  /** the slot that it is bound to, or -1 */
  slot = -1;
}

const SIZES: Readonly<Record<AccessSize, number>> = { 1: SIZE.B, 2: SIZE.H, 4: SIZE.W, 8: SIZE.DW };

const JUMPS: Readonly<Record<Condition, number>> = {
  eq: JMP.JEQ,
  ne: JMP.JNE,
  gt: JMP.JGT,
  ge: JMP.JGE,
  lt: JMP.JLT,
  le: JMP.JLE,
  sgt: JMP.JSGT,
  sge: JMP.JSGE,
  slt: JMP.JSLT,
  sle: JMP.JSLE,
  set: JMP.JSET,
};

/** `offset` of DIV and MOD that makes them signed. */
const SIGNED = 1;

interface PendingJump {
  readonly index: number;
  readonly slot: number;
  readonly label: ProgramLabel;
  /** where the distance goes */
  readonly field: 'offset' | 'imm' | 'imm64';
}

/** Collects instructions; every method returns the builder. */
export class ProgramBuilder {
  private readonly insns: BpfInsn[] = [];
  private readonly jumps: PendingJump[] = [];
  private slots = 0;

  /** Appends an instruction made elsewhere. */
  emit(insn: BpfInsn): this {
    this.insns.push(insn);
    this.slots += slotsOf(insn);
    return this;
  }

  // Moves

  mov(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.MOV, dst, src);
  }

  /** Moves the low 32 bits; the upper half becomes zero. */
  mov32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.MOV, dst, src);
  }

  /** Sign-extends the low `bits` of `src` to 64 bits. */
  movsx(bits: 8 | 16 | 32, dst: Register, src: Register): this {
    return this.alu(CLASS.ALU64, ALU.MOV, dst, src, bits);
  }

  /** Sign-extends the low `bits` of `src` to 32 bits; the upper half becomes zero. */
  movsx32(bits: 8 | 16, dst: Register, src: Register): this {
    return this.alu(CLASS.ALU, ALU.MOV, dst, src, bits);
  }

  /** Loads a 64-bit number, modulo 2^64. */
  ldImm64(dst: Register, value: bigint): this {
    return this.emit(loadImmediate64(dst.number, PSEUDO.IMM, value));
  }

  /** Loads a pointer to a map, for a helper's map argument. */
  ldMap(dst: Register, map: { readonly id: number }): this {
    return this.emit(loadImmediate64(dst.number, PSEUDO.MAP_FD, BigInt(map.id)));
  }

  /** Loads the address of byte `offset` of the one value of an array map. */
  ldMapValue(dst: Register, map: { readonly id: number }, offset = 0): this {
    return this.emit(loadImmediate64(dst.number, PSEUDO.MAP_VALUE, (BigInt(offset) << 32n) | BigInt(map.id)));
  }

  // Arithmetic: 64 bits, and with the suffix 32 bits, which clears the upper half

  add(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.ADD, dst, src);
  }
  add32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.ADD, dst, src);
  }
  sub(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.SUB, dst, src);
  }
  sub32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.SUB, dst, src);
  }
  mul(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.MUL, dst, src);
  }
  mul32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.MUL, dst, src);
  }
  /** Unsigned; by zero gives zero. */
  div(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.DIV, dst, src);
  }
  div32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.DIV, dst, src);
  }
  sdiv(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.DIV, dst, src, SIGNED);
  }
  sdiv32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.DIV, dst, src, SIGNED);
  }
  /** Unsigned; by zero leaves `dst`. */
  mod(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.MOD, dst, src);
  }
  mod32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.MOD, dst, src);
  }
  smod(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.MOD, dst, src, SIGNED);
  }
  smod32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.MOD, dst, src, SIGNED);
  }
  or(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.OR, dst, src);
  }
  or32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.OR, dst, src);
  }
  and(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.AND, dst, src);
  }
  and32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.AND, dst, src);
  }
  xor(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.XOR, dst, src);
  }
  xor32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.XOR, dst, src);
  }
  lsh(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.LSH, dst, src);
  }
  lsh32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.LSH, dst, src);
  }
  rsh(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.RSH, dst, src);
  }
  rsh32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.RSH, dst, src);
  }
  arsh(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU64, ALU.ARSH, dst, src);
  }
  arsh32(dst: Register, src: Operand): this {
    return this.alu(CLASS.ALU, ALU.ARSH, dst, src);
  }
  neg(dst: Register): this {
    return this.alu(CLASS.ALU64, ALU.NEG, dst, 0);
  }
  neg32(dst: Register): this {
    return this.alu(CLASS.ALU, ALU.NEG, dst, 0);
  }
  /** Reverses the low `bits`; the rest becomes zero. */
  bswap(bits: 16 | 32 | 64, dst: Register): this {
    return this.alu(CLASS.ALU64, ALU.END, dst, bits);
  }
  /** Converts the low `bits` between the host's byte order and big-endian; the rest becomes zero. */
  be(bits: 16 | 32 | 64, dst: Register): this {
    return this.emit(this.insn(CLASS.ALU | ALU.END | SOURCE.X, dst.number, 0, 0, bits));
  }
  /** Converts the low `bits` between the host's byte order and little-endian; the rest becomes zero. */
  le(bits: 16 | 32 | 64, dst: Register): this {
    return this.alu(CLASS.ALU, ALU.END, dst, bits);
  }

  // Memory; sizes in bytes

  /** `dst = *(size *)(src + offset)`, zero-extended. */
  load(size: AccessSize, dst: Register, src: Register, offset = 0): this {
    return this.emit(this.insn(CLASS.LDX | MODE.MEM | SIZES[size], dst.number, src.number, offset, 0));
  }

  /** `dst = *(size *)(src + offset)`, sign-extended. */
  loadSigned(size: 1 | 2 | 4, dst: Register, src: Register, offset = 0): this {
    return this.emit(this.insn(CLASS.LDX | MODE.MEMSX | SIZES[size], dst.number, src.number, offset, 0));
  }

  /** `*(size *)(dst + offset) = src`. */
  store(size: AccessSize, dst: Register, offset: number, src: Operand): this {
    const mode = MODE.MEM | SIZES[size];
    return typeof src === 'number'
      ? this.emit(this.insn(CLASS.ST | mode, dst.number, 0, offset, src))
      : this.emit(this.insn(CLASS.STX | mode, dst.number, src.number, offset, 0));
  }

  /** `lock *(size *)(dst + offset) += src`; the others likewise. */
  atomicAdd(size: 4 | 8, dst: Register, offset: number, src: Register): this {
    return this.atomic(size, ALU.ADD, dst, offset, src);
  }
  atomicOr(size: 4 | 8, dst: Register, offset: number, src: Register): this {
    return this.atomic(size, ALU.OR, dst, offset, src);
  }
  atomicAnd(size: 4 | 8, dst: Register, offset: number, src: Register): this {
    return this.atomic(size, ALU.AND, dst, offset, src);
  }
  atomicXor(size: 4 | 8, dst: Register, offset: number, src: Register): this {
    return this.atomic(size, ALU.XOR, dst, offset, src);
  }
  /** The same, and `src` becomes what was in memory before. */
  atomicFetchAdd(size: 4 | 8, dst: Register, offset: number, src: Register): this {
    return this.atomic(size, ALU.ADD | ATOMIC.FETCH, dst, offset, src);
  }
  atomicFetchOr(size: 4 | 8, dst: Register, offset: number, src: Register): this {
    return this.atomic(size, ALU.OR | ATOMIC.FETCH, dst, offset, src);
  }
  atomicFetchAnd(size: 4 | 8, dst: Register, offset: number, src: Register): this {
    return this.atomic(size, ALU.AND | ATOMIC.FETCH, dst, offset, src);
  }
  atomicFetchXor(size: 4 | 8, dst: Register, offset: number, src: Register): this {
    return this.atomic(size, ALU.XOR | ATOMIC.FETCH, dst, offset, src);
  }
  /** `dst = *(size *)(src + offset)`, before every later access. */
  loadAcquire(size: AccessSize, dst: Register, src: Register, offset = 0): this {
    return this.ordered(size, ATOMIC.LOAD_ACQ, dst, offset, src);
  }
  /** `*(size *)(dst + offset) = src`, after every earlier access. */
  storeRelease(size: AccessSize, dst: Register, offset: number, src: Register): this {
    return this.ordered(size, ATOMIC.STORE_REL, dst, offset, src);
  }
  /** Swaps `src` with memory. */
  atomicXchg(size: 4 | 8, dst: Register, offset: number, src: Register): this {
    return this.atomic(size, ATOMIC.XCHG, dst, offset, src);
  }
  /** Stores `src` if memory equals r0; r0 becomes what was in memory before. */
  atomicCmpxchg(size: 4 | 8, dst: Register, offset: number, src: Register): this {
    return this.atomic(size, ATOMIC.CMPXCHG, dst, offset, src);
  }

  // Control flow

  /** A new label, to be bound later. */
  label(): ProgramLabel {
    return new ProgramLabel();
  }

  /** Fixes `label` at the next instruction. */
  bind(label: ProgramLabel): this {
    if (label.slot >= 0) throw new RangeError('a label of a BPF program was bound twice');
    label.slot = this.slots;
    return this;
  }

  /** Goes to `label` where `dst CONDITION src` holds, compared at 64 bits. */
  jump(condition: Condition, dst: Register, src: Operand, label: ProgramLabel): this {
    return this.branch(CLASS.JMP, condition, dst, src, label);
  }

  /** Goes to `label` where the low halves compare so. */
  jump32(condition: Condition, dst: Register, src: Operand, label: ProgramLabel): this {
    return this.branch(CLASS.JMP32, condition, dst, src, label);
  }

  goto(label: ProgramLabel): this {
    this.pend(label, 'offset');
    return this.emit(this.insn(CLASS.JMP | JMP.JA, 0, 0, 0, 0));
  }

  /** The same, with a distance of 32 bits. */
  gotol(label: ProgramLabel): this {
    this.pend(label, 'imm');
    return this.emit(this.insn(CLASS.JMP32 | JMP.JA, 0, 0, 0, 0));
  }

  /** Goes on, or to `label` once it went on often enough. */
  mayGoto(label: ProgramLabel): this {
    this.pend(label, 'offset');
    return this.emit(this.insn(CLASS.JMP | JMP.JCOND, 0, JCOND.MAY_GOTO, 0, 0));
  }

  /** Calls the subprogram that begins at `label`. */
  callSubprogram(label: ProgramLabel): this {
    this.pend(label, 'imm');
    return this.emit(this.insn(CLASS.JMP | JMP.CALL, 0, CALL.SUBPROGRAM, 0, 0));
  }

  /** Calls kernel function `id`. */
  callKfunc(id: number): this {
    return this.emit(this.insn(CLASS.JMP | JMP.CALL, 0, CALL.KFUNC, 0, id));
  }

  /** Loads the address of the subprogram that begins at `label`, for a helper that calls it back. */
  ldFunction(dst: Register, label: ProgramLabel): this {
    this.pend(label, 'imm64');
    return this.emit(loadImmediate64(dst.number, PSEUDO.FUNC, 0n));
  }

  /** Calls a helper by number. */
  call(helper: number): this {
    return this.emit(this.insn(CLASS.JMP | JMP.CALL, 0, CALL.HELPER, 0, helper));
  }

  exit(): this {
    return this.emit(this.insn(CLASS.JMP | JMP.EXIT, 0, 0, 0, 0));
  }

  /**
   * The program. Throws `BpfError` EINVAL where a number does not fit its field, and `RangeError` for a label
   * that was never bound.
   */
  build(): BpfInsn[] {
    const insns = [...this.insns];
    for (const { index, slot, label, field } of this.jumps) {
      if (label.slot < 0) throw new RangeError('a BPF program jumps to a label that was never bound');
      const insn = insns[index] as BpfInsn;
      const distance = label.slot - slot - 1;
      // The high half of a function's address is no part of the distance.
      insns[index] =
        field === 'imm64'
          ? loadImmediate64(insn.dst, insn.src, BigInt.asUintN(32, BigInt(distance)))
          : { ...insn, [field]: distance };
    }
    if (insns.length === 0) throw new BpfError('EINVAL', 'a BPF program needs at least one instruction');
    encodeProgram(insns);
    return insns;
  }

  private insn(opcode: number, dst: RegisterNumber, src: number, offset: number, imm: number): BpfInsn {
    return { opcode, dst, src, offset, imm };
  }

  private alu(cls: number, code: number, dst: Register, src: Operand, offset = 0): this {
    return typeof src === 'number'
      ? this.emit(this.insn(cls | code | SOURCE.K, dst.number, 0, offset, src))
      : this.emit(this.insn(cls | code | SOURCE.X, dst.number, src.number, offset, 0));
  }

  private ordered(size: AccessSize, code: number, dst: Register, offset: number, src: Register): this {
    return this.emit(this.insn(CLASS.STX | MODE.ATOMIC | SIZES[size], dst.number, src.number, offset, code));
  }

  private atomic(size: 4 | 8, code: number, dst: Register, offset: number, src: Register): this {
    return this.emit(this.insn(CLASS.STX | MODE.ATOMIC | SIZES[size], dst.number, src.number, offset, code));
  }

  private branch(cls: number, condition: Condition, dst: Register, src: Operand, label: ProgramLabel): this {
    this.pend(label, 'offset');
    return this.alu(cls, JUMPS[condition], dst, src);
  }

  private pend(label: ProgramLabel, field: PendingJump['field']): void {
    this.jumps.push({ index: this.insns.length, slot: this.slots, label, field });
  }
}

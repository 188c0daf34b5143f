/**
 * The BPF instruction as programs, verifier, JIT and disassembler hold it, and the numbers of its encoding
 * (RFC 9669, "BPF Instruction Set Architecture", sections 3 to 5). What an instruction means is operation.ts;
 * its eight-byte form is encoding.ts.
 *
 * ```
 *   opcode of ALU, ALU64, JMP, JMP32      opcode of LD, LDX, ST, STX
 *   +----------+--------+-------+         +-------+------+-------+
 *   | code (4) | src(1) | class |         | mode  | size | class |
 *   +----------+--------+-------+         +-------+------+-------+
 *    7        4    3     2     0           7     5 4    3 2     0
 * ```
 */

/** Instruction classes: the low three bits of an opcode. */
export const CLASS = { LD: 0, LDX: 1, ST: 2, STX: 3, ALU: 4, JMP: 5, JMP32: 6, ALU64: 7 } as const;
export const CLASS_MASK = 0x07;

/** The source bit: the second operand is `imm` (K) or the register `src` (X). */
export const SOURCE = { K: 0x00, X: 0x08 } as const;

/** Operation codes of ALU and ALU64. DIV and MOD are signed, MOV sign-extends, where `offset` says so. */
export const ALU = {
  ADD: 0x00,
  SUB: 0x10,
  MUL: 0x20,
  DIV: 0x30,
  OR: 0x40,
  AND: 0x50,
  LSH: 0x60,
  RSH: 0x70,
  NEG: 0x80,
  MOD: 0x90,
  XOR: 0xa0,
  MOV: 0xb0,
  ARSH: 0xc0,
  END: 0xd0,
} as const;

/** Operation codes of JMP and JMP32. */
export const JMP = {
  JA: 0x00,
  JEQ: 0x10,
  JGT: 0x20,
  JGE: 0x30,
  JSET: 0x40,
  JNE: 0x50,
  JSGT: 0x60,
  JSGE: 0x70,
  CALL: 0x80,
  EXIT: 0x90,
  JLT: 0xa0,
  JLE: 0xb0,
  JSLT: 0xc0,
  JSLE: 0xd0,
  /** goes on or jumps as a bound that the program can't see allows; `src` says which kind (`JCOND`) */
  JCOND: 0xe0,
} as const;
export const CODE_MASK = 0xf0;

/** Access sizes of LD, LDX, ST, STX: 4, 2, 1 and 8 bytes. */
export const SIZE = { W: 0x00, H: 0x08, B: 0x10, DW: 0x18 } as const;
export const SIZE_MASK = 0x18;

/** Modes of LD, LDX, ST, STX. ABS and IND are the packet access of classic BPF. */
export const MODE = { IMM: 0x00, ABS: 0x20, IND: 0x40, MEM: 0x60, MEMSX: 0x80, ATOMIC: 0xc0 } as const;
export const MODE_MASK = 0xe0;

/** What `imm` of an atomic instruction holds, besides an ALU code. */
export const ATOMIC = {
  FETCH: 0x01,
  XCHG: 0xe1,
  CMPXCHG: 0xf1,
  /** a load that later accesses do not overtake, and a store that does not overtake earlier ones */
  LOAD_ACQ: 0x100,
  STORE_REL: 0x110,
} as const;

/** `src` of a conditional pseudo jump (linux/bpf.h). */
export const JCOND = { MAY_GOTO: 0 } as const;

/** `offset` of a 64-bit register move that casts between address spaces: of arenas, which a process has none of. */
export const ADDRESS_SPACE_CAST = 1;

/** How often `may_goto` goes on in one frame before it jumps, and how far a numbers iterator goes (BPF_MAX_LOOPS). */
export const MAX_LOOPS = 8 * 1024 * 1024;

/** `src` of the 16-byte load (linux/bpf.h): what its 64-bit immediate stands for. */
export const PSEUDO = {
  /** a number */
  IMM: 0,
  /** a map, by file descriptor or, after loading, by id */
  MAP_FD: 1,
  /** an address inside the value of an array map: the map in the low half, the offset in the high half */
  MAP_VALUE: 2,
  /** a kernel variable, by BTF id */
  BTF_ID: 3,
  /** a subprogram's address, by instructions to skip */
  FUNC: 4,
  /** a map, by index in the array of file descriptors given at load */
  MAP_IDX: 5,
  MAP_IDX_VALUE: 6,
} as const;

/** `src` of a call (linux/bpf.h): what `imm` is. */
export const CALL = {
  /** a helper, by number */
  HELPER: 0,
  /** a subprogram of this program, by instructions to skip */
  SUBPROGRAM: 1,
  /** a kernel function, by BTF id */
  KFUNC: 2,
} as const;

/** A register number: r0 the result, r1 to r5 arguments, r6 to r9 kept across calls, r10 the frame pointer. */
export type RegisterNumber = number;

/** What r0 and r10 are for. */
export const RESULT: RegisterNumber = 0;
export const FRAME_POINTER: RegisterNumber = 10;

/** Arguments of a call are in r1 to r5; a program's context is in r1. */
export const FIRST_ARGUMENT: RegisterNumber = 1;
export const LAST_ARGUMENT: RegisterNumber = 5;

/** How many registers a program has. */
export const REGISTERS = 11;

/** Bytes below the frame pointer that a program may use (MAX_BPF_STACK). */
export const STACK_SIZE = 512;

/** Frames that calls of subprograms may make, the main program's included (MAX_CALL_FRAMES). */
export const CALL_FRAMES = 8;

/** Tail calls that follow one another at most (MAX_TAIL_CALL_CNT); a further one is not made. */
export const TAIL_CALLS = 33;

/** One instruction. The 16-byte load of a 64-bit immediate is one of these too; it takes two slots. */
export interface BpfInsn {
  readonly opcode: number;
  readonly dst: RegisterNumber;
  readonly src: RegisterNumber;
  /** signed 16 bit; a jump's offset counts slots of 8 bytes from the next instruction */
  readonly offset: number;
  /** signed 32 bit; of a 16-byte load: the low half of `imm64` */
  readonly imm: number;
  /** only, and always, on a 16-byte load; unsigned 64 bit */
  readonly imm64?: bigint;
}

/** The opcode of the 16-byte load (BPF_LD | BPF_IMM | BPF_DW). */
export const LD_IMM64 = CLASS.LD | MODE.IMM | SIZE.DW;

/** How many 8-byte slots an instruction takes. */
export function slotsOf(insn: BpfInsn): 1 | 2 {
  return insn.opcode === LD_IMM64 ? 2 : 1;
}

/** The 16-byte load's fields from its value. */
export function loadImmediate64(dst: RegisterNumber, src: number, imm64: bigint): BpfInsn {
  const value = BigInt.asUintN(64, imm64);
  return { opcode: LD_IMM64, dst, src, offset: 0, imm: Number(BigInt.asIntN(32, value)), imm64: value };
}

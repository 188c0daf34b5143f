/**
 * The x86-64 assembler that the JIT, the BPF helpers and the trampolines write machine code with. It encodes
 * exactly the instruction asked for (in its shortest form), knows labels, and places the code at an address at
 * the end. It is not for reading or moving existing code: that is decoding and relocation, beside this file.
 *
 * Registers are objects and numbers are immediates, so `mov(rax, r8)` and `mov(rax, 8)` can't be confused.
 * Encodings: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2.
 */

import { BpfError } from '../kernel/errno.js';

/** A 64-bit general register; the operand size of an instruction decides how many of its bits are used. */
export class Reg {
  /** The hardware number, 0..15. */
  readonly code: number;
  readonly name: string;

  constructor(code: number, name: string) {
    this.code = code;
    this.name = name;
  }
}

export const rax = new Reg(0, 'rax');
export const rcx = new Reg(1, 'rcx');
export const rdx = new Reg(2, 'rdx');
export const rbx = new Reg(3, 'rbx');
export const rsp = new Reg(4, 'rsp');
export const rbp = new Reg(5, 'rbp');
export const rsi = new Reg(6, 'rsi');
export const rdi = new Reg(7, 'rdi');
export const r8 = new Reg(8, 'r8');
export const r9 = new Reg(9, 'r9');
export const r10 = new Reg(10, 'r10');
export const r11 = new Reg(11, 'r11');
export const r12 = new Reg(12, 'r12');
export const r13 = new Reg(13, 'r13');
export const r14 = new Reg(14, 'r14');
export const r15 = new Reg(15, 'r15');

/** The general registers by hardware number. */
export const registers: readonly Reg[] = [
  ...[rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi],
  ...[r8, r9, r10, r11, r12, r13, r14, r15],
];

/** Operand size in bytes. */
export type Size = 1 | 2 | 4 | 8;

export type Scale = 1 | 2 | 4 | 8;

const CONDITIONS = {
  o: 0x0,
  no: 0x1,
  b: 0x2,
  ae: 0x3,
  e: 0x4,
  ne: 0x5,
  be: 0x6,
  a: 0x7,
  s: 0x8,
  ns: 0x9,
  p: 0xa,
  np: 0xb,
  l: 0xc,
  ge: 0xd,
  le: 0xe,
  g: 0xf,
} as const;

/** A condition of jcc, setcc and cmovcc, in the manual's letters. */
export type Cond = keyof typeof CONDITIONS;

/** A place in the code of one assembler: made by `label()`, fixed by `bind()`, used before or after. */
export class Label {
  /** Offset in the code, or -1 while not bound. */
  position = -1;
  /** Offsets of rel32 fields that wait for this label; the field holds what is to be added to the distance. */
  readonly waiting: number[] = [];
}

const SEGMENT_FS = 0x64;
const SEGMENT_GS = 0x65;

/** A memory operand. Made by `mem`, `memIndex`, `ripLabel`, `fs` and `gs`. */
export class Mem {
  readonly base: Reg | undefined;
  readonly index: Reg | undefined;
  readonly scale: Scale;
  readonly disp: number;
  readonly segment: number;
  readonly label: Label | undefined;

  constructor(
    base: Reg | undefined,
    index: Reg | undefined,
    scale: Scale,
    disp: number,
    segment: number,
    label: Label | undefined,
  ) {
    if (!isInt32(disp)) throw new RangeError(`displacement ${disp} does not fit in 32 bits`);
    if (index === rsp) throw new RangeError('rsp can not be an index register');
    this.base = base;
    this.index = index;
    this.scale = scale;
    this.disp = disp;
    this.segment = segment;
    this.label = label;
  }
}

/** `[base + disp]`, or `[base + index * scale + disp]`. */
export function mem(base: Reg, disp = 0, index?: Reg, scale: Scale = 1): Mem {
  return new Mem(base, index, scale, disp, 0, undefined);
}

/** `[index * scale + disp]`, without a base register. */
export function memIndex(index: Reg, scale: Scale, disp: number): Mem {
  return new Mem(undefined, index, scale, disp, 0, undefined);
}

/** `[rip + …]`: the memory `addend` bytes after a label of the same code. */
export function ripLabel(label: Label, addend = 0): Mem {
  return new Mem(undefined, undefined, 1, addend, 0, label);
}

/** `gs:[disp]`. */
export function gs(disp: number): Mem {
  return new Mem(undefined, undefined, 1, disp, SEGMENT_GS, undefined);
}

/** `fs:[disp]`. */
export function fs(disp: number): Mem {
  return new Mem(undefined, undefined, 1, disp, SEGMENT_FS, undefined);
}

/** An instruction that `lock` can make atomic. */
export type LockedOperation = 'add' | 'or' | 'and' | 'xor' | 'sub' | 'inc' | 'dec';

/** The /digit of the two-operand instructions that share one encoding (manual, table A-6, group 1). */
const ALU = { add: 0, or: 1, adc: 2, sbb: 3, and: 4, sub: 5, xor: 6, cmp: 7 } as const;

/** The /digit of shifts and rotates (group 2) and of one-operand arithmetic (group 3). */
const SHIFT = { rol: 0, ror: 1, shl: 4, shr: 5, sar: 7 } as const;
const UNARY = { not: 2, neg: 3, mul: 4, imul: 5, div: 6, idiv: 7 } as const;

const OPERAND_SIZE_PREFIX = 0x66;
const LOCK_PREFIX = 0xf0;
const REP_PREFIX = 0xf3;
const ESCAPE = 0x0f00;

/** The recommended multi-byte no-operations (manual, NOP), by length. */
const NOPS: readonly (readonly number[])[] = [
  [],
  [0x90],
  [0x66, 0x90],
  [0x0f, 0x1f, 0x00],
  [0x0f, 0x1f, 0x40, 0x00],
  [0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
  [0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
  [0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

const LONGEST_INSTRUCTION = 15;

/**
 * Writes machine code. Operands are in Intel order, destination first; the last optional parameter is the
 * operand size in bytes, 8 unless said. An operand that no encoding exists for is a `RangeError`: a mistake of
 * the caller's, not of a user.
 */
export class Assembler {
  private buffer: Uint8Array;
  private at = 0;
  private readonly open = new Set<Label>();
  private readonly farSites: number[] = [];
  private readonly farTargets: bigint[] = [];
  private readonly absoluteSites: number[] = [];
  private readonly absoluteLabels: Label[] = [];

  /** `capacity` is the number of bytes expected; the buffer grows by itself. */
  constructor(capacity = 1024) {
    this.buffer = new Uint8Array(Math.max(capacity, 64));
  }

  /** Bytes emitted so far. */
  get length(): number {
    return this.at;
  }

  // Labels

  /** A new label, to be bound later. */
  label(): Label {
    return new Label();
  }

  /** Fixes `label` at the end of the code so far. */
  bind(label: Label): void {
    if (label.position >= 0) throw new RangeError('a label was bound twice');
    label.position = this.at;
    for (const site of label.waiting) this.patch32(site, this.read32(site) + this.at - site);
    label.waiting.length = 0;
    this.open.delete(label);
  }

  /** A new label, bound here. */
  here(): Label {
    const label = new Label();
    label.position = this.at;
    return label;
  }

  /** Where a bound label stands, in bytes from the start of the code. */
  offsetOf(label: Label): number {
    if (label.position < 0) throw new RangeError('the offset of a label that is not bound was asked for');
    return label.position;
  }

  // Moves

  mov(dst: Reg | Mem, src: Reg | Mem | number, size: Size = 8): void {
    if (typeof src !== 'number') {
      this.twoOperand(0x88, dst, src, size);
    } else if (dst instanceof Reg && size >= 4) {
      const value = immediate(src, size);
      if (size === 8 && value < 0) {
        this.instruction(0xc7, 0, dst, 8, 4);
        this.put32(value);
      } else {
        this.movImm32(dst, value);
      }
    } else {
      this.instruction(size === 1 ? 0xc6 : 0xc7, 0, dst, size, size === 8 ? 4 : size);
      this.putImmediate(immediate(src, size), size);
    }
  }

  /** Loads a constant, taken modulo 2^64, in the shortest form that leaves the flags alone. */
  movImm64(dst: Reg, value: bigint): void {
    const unsigned = BigInt.asUintN(64, value);
    const signed = BigInt.asIntN(64, value);
    if (unsigned <= 0xffffffffn) {
      this.movImm32(dst, Number(unsigned));
    } else if (signed >= -0x80000000n && signed < 0n) {
      this.mov(dst, Number(signed));
    } else {
      this.reserve();
      this.put8(0x48 | (dst.code >> 3));
      this.put8(0xb8 | (dst.code & 7));
      this.u64(unsigned);
    }
  }

  /** Zero-extends a byte or a 16-bit word to 64 bits. */
  movzx(dst: Reg, src: Reg | Mem, fromSize: 1 | 2): void {
    this.extension(ESCAPE | (fromSize === 1 ? 0xb6 : 0xb7), dst, src, fromSize, 4);
  }

  /** Sign-extends to `toSize` bytes. */
  movsx(dst: Reg, src: Reg | Mem, fromSize: 1 | 2 | 4, toSize: 4 | 8 = 8): void {
    if (fromSize !== 4) this.extension(ESCAPE | (fromSize === 1 ? 0xbe : 0xbf), dst, src, fromSize, toSize);
    else if (toSize === 8) this.extension(0x63, dst, src, 4, 8);
    else this.mov(dst, src, 4);
  }

  lea(dst: Reg, src: Mem, size: Size = 8): void {
    this.instruction(0x8d, dst.code, src, notByte(size, 'lea'), 0);
  }

  xchg(dst: Reg | Mem, src: Reg, size: Size = 8): void {
    this.instruction(size === 1 ? 0x86 : 0x87, src.code, dst, size, 0, src);
  }

  cmov(cond: Cond, dst: Reg, src: Reg | Mem, size: Size = 8): void {
    this.instruction(ESCAPE | 0x40 | CONDITIONS[cond], dst.code, src, notByte(size, 'cmov'), 0);
  }

  /** Stores 1 or 0 in a byte. */
  setcc(cond: Cond, dst: Reg | Mem): void {
    this.instruction(ESCAPE | 0x90 | CONDITIONS[cond], 0, dst, 1, 0);
  }

  push(src: Reg | Mem | number): void {
    if (src instanceof Mem) {
      this.instruction(0xff, 6, src, 4, 0);
    } else if (src instanceof Reg) {
      this.registerOpcode(0x50, src, 4);
    } else {
      const value = immediate(src, 8);
      this.reserve();
      this.put8(isInt8(value) ? 0x6a : 0x68);
      if (isInt8(value)) this.put8(value);
      else this.put32(value);
    }
  }

  pop(dst: Reg | Mem): void {
    if (dst instanceof Mem) this.instruction(0x8f, 0, dst, 4, 0);
    else this.registerOpcode(0x58, dst, 4);
  }

  // Arithmetic

  add(dst: Reg | Mem, src: Reg | Mem | number, size: Size = 8): void {
    this.alu(ALU.add, dst, src, size);
  }

  or(dst: Reg | Mem, src: Reg | Mem | number, size: Size = 8): void {
    this.alu(ALU.or, dst, src, size);
  }

  adc(dst: Reg | Mem, src: Reg | Mem | number, size: Size = 8): void {
    this.alu(ALU.adc, dst, src, size);
  }

  sbb(dst: Reg | Mem, src: Reg | Mem | number, size: Size = 8): void {
    this.alu(ALU.sbb, dst, src, size);
  }

  and(dst: Reg | Mem, src: Reg | Mem | number, size: Size = 8): void {
    this.alu(ALU.and, dst, src, size);
  }

  sub(dst: Reg | Mem, src: Reg | Mem | number, size: Size = 8): void {
    this.alu(ALU.sub, dst, src, size);
  }

  xor(dst: Reg | Mem, src: Reg | Mem | number, size: Size = 8): void {
    this.alu(ALU.xor, dst, src, size);
  }

  cmp(dst: Reg | Mem, src: Reg | Mem | number, size: Size = 8): void {
    this.alu(ALU.cmp, dst, src, size);
  }

  test(dst: Reg | Mem, src: Reg | Mem | number, size: Size = 8): void {
    if (typeof src === 'number') {
      this.instruction(size === 1 ? 0xf6 : 0xf7, 0, dst, size, size === 8 ? 4 : size);
      this.putImmediate(immediate(src, size), size);
    } else if (src instanceof Reg) {
      this.instruction(size === 1 ? 0x84 : 0x85, src.code, dst, size, 0, src);
    } else {
      // There is one form only, and the operation is symmetric.
      this.test(src, registerOnly(dst), size);
    }
  }

  imul(dst: Reg, src: Reg | Mem, size: Size = 8): void {
    this.instruction(ESCAPE | 0xaf, dst.code, src, notByte(size, 'imul'), 0);
  }

  /** `dst = src * imm`. */
  imul3(dst: Reg, src: Reg | Mem, imm: number, size: Size = 8): void {
    const value = immediate(imm, notByte(size, 'imul'));
    const short = isInt8(value);
    this.instruction(short ? 0x6b : 0x69, dst.code, src, size, short ? 1 : Math.min(size, 4));
    if (short) this.put8(value);
    else this.putImmediate(value, size);
  }

  shl(dst: Reg | Mem, count: number | 'cl', size: Size = 8): void {
    this.shift(SHIFT.shl, dst, count, size);
  }

  shr(dst: Reg | Mem, count: number | 'cl', size: Size = 8): void {
    this.shift(SHIFT.shr, dst, count, size);
  }

  sar(dst: Reg | Mem, count: number | 'cl', size: Size = 8): void {
    this.shift(SHIFT.sar, dst, count, size);
  }

  rol(dst: Reg | Mem, count: number | 'cl', size: Size = 8): void {
    this.shift(SHIFT.rol, dst, count, size);
  }

  ror(dst: Reg | Mem, count: number | 'cl', size: Size = 8): void {
    this.shift(SHIFT.ror, dst, count, size);
  }

  neg(dst: Reg | Mem, size: Size = 8): void {
    this.instruction(size === 1 ? 0xf6 : 0xf7, UNARY.neg, dst, size, 0);
  }

  not(dst: Reg | Mem, size: Size = 8): void {
    this.instruction(size === 1 ? 0xf6 : 0xf7, UNARY.not, dst, size, 0);
  }

  inc(dst: Reg | Mem, size: Size = 8): void {
    this.instruction(size === 1 ? 0xfe : 0xff, 0, dst, size, 0);
  }

  dec(dst: Reg | Mem, size: Size = 8): void {
    this.instruction(size === 1 ? 0xfe : 0xff, 1, dst, size, 0);
  }

  /** `rdx:rax = rax * src`, unsigned. */
  mul(src: Reg | Mem, size: Size = 8): void {
    this.instruction(size === 1 ? 0xf6 : 0xf7, UNARY.mul, src, size, 0);
  }

  /** `rdx:rax = rax * src`, signed. */
  imul1(src: Reg | Mem, size: Size = 8): void {
    this.instruction(size === 1 ? 0xf6 : 0xf7, UNARY.imul, src, size, 0);
  }

  /** `rax, rdx = rdx:rax / src, remainder`, unsigned. */
  div(src: Reg | Mem, size: Size = 8): void {
    this.instruction(size === 1 ? 0xf6 : 0xf7, UNARY.div, src, size, 0);
  }

  /** `rax, rdx = rdx:rax / src, remainder`, signed. */
  idiv(src: Reg | Mem, size: Size = 8): void {
    this.instruction(size === 1 ? 0xf6 : 0xf7, UNARY.idiv, src, size, 0);
  }

  /** Sign-extends rax into rdx:rax. */
  cqo(): void {
    this.byte(0x48, 0x99);
  }

  /** Sign-extends eax into edx:eax. */
  cdq(): void {
    this.byte(0x99);
  }

  /** Reverses the bytes of a register. */
  bswap(dst: Reg, size: 4 | 8): void {
    this.registerOpcode(ESCAPE | 0xc8, dst, size);
  }

  bsr(dst: Reg, src: Reg | Mem, size: Size = 8): void {
    this.instruction(ESCAPE | 0xbd, dst.code, src, notByte(size, 'bsr'), 0);
  }

  bsf(dst: Reg, src: Reg | Mem, size: Size = 8): void {
    this.instruction(ESCAPE | 0xbc, dst.code, src, notByte(size, 'bsf'), 0);
  }

  popcnt(dst: Reg, src: Reg | Mem, size: Size = 8): void {
    this.instruction(ESCAPE | 0xb8, dst.code, src, notByte(size, 'popcnt'), 0, undefined, REP_PREFIX);
  }

  // Atomic operations

  /** If rax equals `m`, stores `src` there and sets ZF; else loads `m` into rax. */
  lockCmpxchg(m: Mem, src: Reg, size: Size = 8): void {
    this.instruction(ESCAPE | (size === 1 ? 0xb0 : 0xb1), src.code, m, size, 0, src, LOCK_PREFIX);
  }

  /** Adds `src` to `m` and loads what `m` held before into `src`. */
  lockXadd(m: Mem, src: Reg, size: Size = 8): void {
    this.instruction(ESCAPE | (size === 1 ? 0xc0 : 0xc1), src.code, m, size, 0, src, LOCK_PREFIX);
  }

  /** An operation on memory made atomic; `src` is left out for `inc` and `dec`, and given for the others. */
  lock(operation: LockedOperation, m: Mem, src?: Reg | number, size: Size = 8): void {
    if (operation === 'inc' || operation === 'dec') {
      const digit = operation === 'inc' ? 0 : 1;
      this.instruction(size === 1 ? 0xfe : 0xff, digit, m, size, 0, undefined, LOCK_PREFIX);
    } else {
      if (src === undefined) throw new RangeError(`lock ${operation} needs a source operand`);
      this.alu(ALU[operation], m, src, size, LOCK_PREFIX);
    }
  }

  // Control flow

  jmp(target: Label): void {
    this.branch(0xeb, 0xe9, target);
  }

  jcc(cond: Cond, target: Label): void {
    this.branch(0x70 | CONDITIONS[cond], ESCAPE | 0x80 | CONDITIONS[cond], target);
  }

  call(target: Label): void {
    this.branch(undefined, 0xe8, target);
  }

  /** A jump to an absolute address, which must be within 2 GiB of where the code ends up. */
  jmpTo(address: bigint): void {
    this.farBranch(0xe9, address);
  }

  callTo(address: bigint): void {
    this.farBranch(0xe8, address);
  }

  jccTo(cond: Cond, address: bigint): void {
    this.farBranch(ESCAPE | 0x80 | CONDITIONS[cond], address);
  }

  /** An indirect jump, to the address in a register or in memory. */
  jmpReg(target: Reg | Mem): void {
    this.instruction(0xff, 4, target, 4, 0);
  }

  /** An indirect call, to the address in a register or in memory. */
  callReg(target: Reg | Mem): void {
    this.instruction(0xff, 2, target, 4, 0);
  }

  ret(): void {
    this.byte(0xc3);
  }

  int3(): void {
    this.byte(0xcc);
  }

  ud2(): void {
    this.byte(0x0f, 0x0b);
  }

  syscall(): void {
    this.byte(0x0f, 0x05);
  }

  pause(): void {
    this.byte(0xf3, 0x90);
  }

  mfence(): void {
    this.byte(0x0f, 0xae, 0xf0);
  }

  rdtsc(): void {
    this.byte(0x0f, 0x31);
  }

  cpuid(): void {
    this.byte(0x0f, 0xa2);
  }

  pushfq(): void {
    this.byte(0x9c);
  }

  popfq(): void {
    this.byte(0x9d);
  }

  /** The mark of a valid target of an indirect branch, where the processor checks that (IBT). */
  endbr64(): void {
    this.byte(0xf3, 0x0f, 0x1e, 0xfa);
  }

  /** `n` bytes of no-operation, in as few instructions as possible. */
  nop(n = 1): void {
    for (let left = n; left > 0; left -= Math.min(left, NOPS.length - 1)) {
      this.byte(...NOPS[Math.min(left, NOPS.length - 1)]!);
    }
  }

  // Data

  byte(...values: number[]): void {
    for (const value of values) {
      this.reserve();
      this.put8(value);
    }
  }

  u32(value: number): void {
    this.reserve();
    this.put32(value);
  }

  u64(value: bigint): void {
    this.reserve();
    this.put32(Number(BigInt.asIntN(32, value)));
    this.put32(Number(BigInt.asIntN(32, value >> 32n)));
  }

  bytes(values: Uint8Array): void {
    this.reserve(values.length);
    this.buffer.set(values, this.at);
    this.at += values.length;
  }

  /** Fills with `fill` up to a multiple of `n` bytes from the start of the code. */
  align(n: number, fill = 0xcc): void {
    const end = Math.ceil(this.at / n) * n;
    this.reserve(end - this.at);
    this.buffer.fill(fill, this.at, end);
    this.at = end;
  }

  /** The 8-byte absolute address of a label, known once the code is placed. */
  absolute(label: Label): void {
    this.absoluteSites.push(this.at);
    this.absoluteLabels.push(label);
    this.u64(0n);
  }

  // Placing

  /**
   * The code as it must stand at `address`: a copy, so that the same code can be placed more than once.
   * Throws `BpfError` ERANGE where a `…To` target is more than 2 GiB away.
   */
  finish(address: bigint): Uint8Array {
    if (this.open.size > 0) throw new RangeError(`${this.open.size} labels are used and not bound`);
    const code = this.buffer.slice(0, this.at);
    const view = new DataView(code.buffer);
    for (let i = 0; i < this.farSites.length; i++) {
      const site = this.farSites[i]!;
      const target = this.farTargets[i]!;
      const distance = BigInt.asIntN(64, target - (address + BigInt(site + 4)));
      if (distance < -0x80000000n || distance > 0x7fffffffn) {
        throw new BpfError(
          'ERANGE',
          `Code at 0x${(address + BigInt(site)).toString(16)} can not branch to 0x${target.toString(16)}, ` +
            'which is more than 2 GiB away; place the code nearer to its target.',
        );
      }
      view.setInt32(site, Number(distance), true);
    }
    for (let i = 0; i < this.absoluteSites.length; i++) {
      const target = address + BigInt(this.offsetOf(this.absoluteLabels[i]!));
      view.setBigUint64(this.absoluteSites[i]!, BigInt.asUintN(64, target), true);
    }
    return code;
  }

  // Encoding

  private alu(digit: number, dst: Reg | Mem, src: Reg | Mem | number, size: Size, prefix = 0): void {
    if (typeof src !== 'number') {
      this.twoOperand(digit << 3, dst, src, size, prefix);
      return;
    }
    const value = immediate(src, size);
    if (size === 1) {
      this.instruction(0x80, digit, dst, 1, 1, undefined, prefix);
      this.put8(value);
    } else if (isInt8(value)) {
      this.instruction(0x83, digit, dst, size, 1, undefined, prefix);
      this.put8(value);
    } else {
      this.instruction(0x81, digit, dst, size, Math.min(size, 4), undefined, prefix);
      this.putImmediate(value, size);
    }
  }

  /** Instructions whose opcode says size (bit 0) and direction (bit 1): `mov` and the ALU. */
  private twoOperand(opcode: number, dst: Reg | Mem, src: Reg | Mem, size: Size, prefix = 0): void {
    const wide = size === 1 ? 0 : 1;
    if (src instanceof Reg) {
      this.instruction(opcode | wide, src.code, dst, size, 0, src, prefix);
    } else {
      const register = registerOnly(dst);
      this.instruction(opcode | 2 | wide, register.code, src, size, 0, register, prefix);
    }
  }

  /** movzx and movsx: the sizes of source and destination differ, and only the source can be a byte. */
  private extension(opcode: number, dst: Reg, src: Reg | Mem, fromSize: Size, toSize: 4 | 8): void {
    const lowByte = fromSize === 1 && src instanceof Reg ? src : undefined;
    this.instruction(opcode, dst.code, src, toSize, 0, undefined, 0, lowByte);
  }

  private shift(digit: number, dst: Reg | Mem, count: number | 'cl', size: Size): void {
    const wide = size === 1 ? 0 : 1;
    if (count === 'cl') {
      this.instruction(0xd2 | wide, digit, dst, size, 0);
    } else if (!Number.isInteger(count) || count < 0 || count > 63) {
      throw new RangeError(`a shift by ${count} can not be encoded`);
    } else if (count === 1) {
      this.instruction(0xd0 | wide, digit, dst, size, 0);
    } else {
      this.instruction(0xc0 | wide, digit, dst, size, 1);
      this.put8(count);
    }
  }

  private movImm32(dst: Reg, value: number): void {
    this.registerOpcode(0xb8, dst, 4);
    this.put32(value);
  }

  /** An instruction whose register is in the low three bits of the opcode. */
  private registerOpcode(opcode: number, register: Reg, size: 4 | 8): void {
    this.reserve();
    const rex = (size === 8 ? 0x08 : 0) | (register.code >> 3);
    if (rex !== 0) this.put8(0x40 | rex);
    if (opcode > 0xff) this.put8(opcode >> 8);
    this.put8(opcode | (register.code & 7));
  }

  /**
   * One instruction with a ModRM byte, up to its immediate of `immediateSize` bytes, which the caller appends
   * (its size matters here because a rip-relative displacement counts from the instruction's end).
   * `reg` is the register number or the opcode's /digit. `register` is the register behind `reg` where that
   * can be a byte register, `lowByte` one behind `rm` that is a byte although `size` is not 1: without a REX
   * prefix, byte registers 4 to 7 would be ah, ch, dh and bh.
   */
  private instruction(
    opcode: number,
    reg: number,
    rm: Reg | Mem,
    size: Size,
    immediateSize: number,
    register?: Reg,
    prefix = 0,
    lowByte?: Reg,
  ): void {
    this.reserve();
    const isMem = rm instanceof Mem;
    if (isMem && rm.segment !== 0) this.put8(rm.segment);
    if (prefix !== 0) this.put8(prefix);
    if (size === 2) this.put8(OPERAND_SIZE_PREFIX);

    let rex = (size === 8 ? 0x48 : 0) | (reg > 7 ? 0x44 : 0);
    if (isMem) {
      if (rm.base !== undefined && rm.base.code > 7) rex |= 0x41;
      if (rm.index !== undefined && rm.index.code > 7) rex |= 0x42;
    } else {
      if (rm.code > 7) rex |= 0x41;
      if (size === 1 && rm.code >= 4) rex |= 0x40;
    }
    if (size === 1 && register !== undefined && register.code >= 4) rex |= 0x40;
    if (lowByte !== undefined && lowByte.code >= 4) rex |= 0x40;
    if (rex !== 0) this.put8(rex);

    if (opcode > 0xff) this.put8(opcode >> 8);
    this.put8(opcode);
    if (isMem) this.memory((reg & 7) << 3, rm, immediateSize);
    else this.put8(0xc0 | ((reg & 7) << 3) | (rm.code & 7));
  }

  /** ModRM, SIB and displacement of a memory operand (manual, tables 2-2 and 2-3). */
  private memory(reg: number, m: Mem, immediateSize: number): void {
    const { base, index, disp } = m;
    if (m.label !== undefined) {
      this.put8(reg | 5);
      this.relative(m.label, disp - 4 - immediateSize);
      return;
    }
    if (base === undefined) {
      // ModRM's "no base, disp32" means rip-relative in 64-bit mode; SIB's does not.
      this.put8(reg | 4);
      this.put8(index === undefined ? 0x25 : scaleBits(m.scale) | ((index.code & 7) << 3) | 5);
      this.put32(disp);
      return;
    }
    const low = base.code & 7;
    // rbp and r13 without displacement are the encodings of "no base".
    const mod = disp === 0 && low !== 5 ? 0x00 : isInt8(disp) ? 0x40 : 0x80;
    if (index !== undefined || low === 4) {
      this.put8(mod | reg | 4);
      this.put8((index === undefined ? 0x20 : scaleBits(m.scale) | ((index.code & 7) << 3)) | low);
    } else {
      this.put8(mod | reg | low);
    }
    if (mod === 0x40) this.put8(disp);
    else if (mod === 0x80) this.put32(disp);
  }

  private branch(shortOpcode: number | undefined, nearOpcode: number, target: Label): void {
    this.reserve();
    const distance = target.position - (this.at + 2);
    if (shortOpcode !== undefined && target.position >= 0 && isInt8(distance)) {
      this.put8(shortOpcode);
      this.put8(distance);
      return;
    }
    if (nearOpcode > 0xff) this.put8(nearOpcode >> 8);
    this.put8(nearOpcode);
    this.relative(target, -4);
  }

  private farBranch(opcode: number, target: bigint): void {
    this.reserve();
    if (opcode > 0xff) this.put8(opcode >> 8);
    this.put8(opcode);
    this.farSites.push(this.at);
    this.farTargets.push(BigInt.asUintN(64, target));
    this.put32(0);
  }

  /** A 32-bit field that holds the distance from itself to `target`, plus `bias`. */
  private relative(target: Label, bias: number): void {
    if (target.position >= 0) {
      this.put32(target.position - this.at + bias);
    } else {
      target.waiting.push(this.at);
      this.open.add(target);
      this.put32(bias);
    }
  }

  /** Makes room for `size` more bytes; every emitter asks once, so that `put8` need not check. */
  private reserve(size = LONGEST_INSTRUCTION): void {
    if (this.at + size <= this.buffer.length) return;
    const grown = new Uint8Array(Math.max(this.buffer.length * 2, this.at + size));
    grown.set(this.buffer);
    this.buffer = grown;
  }

  private put8(value: number): void {
    this.buffer[this.at++] = value;
  }

  private put32(value: number): void {
    this.patch32(this.at, value);
    this.at += 4;
  }

  private putImmediate(value: number, size: Size): void {
    if (size === 1) {
      this.put8(value);
    } else if (size === 2) {
      this.put8(value);
      this.put8(value >> 8);
    } else {
      this.put32(value);
    }
  }

  private patch32(at: number, value: number): void {
    this.buffer[at] = value;
    this.buffer[at + 1] = value >> 8;
    this.buffer[at + 2] = value >> 16;
    this.buffer[at + 3] = value >> 24;
  }

  private read32(at: number): number {
    const b = this.buffer;
    return b[at]! | (b[at + 1]! << 8) | (b[at + 2]! << 16) | (b[at + 3]! << 24);
  }
}

function scaleBits(scale: Scale): number {
  return (scale === 8 ? 3 : scale >> 1) << 6;
}

function isInt8(value: number): boolean {
  return value >= -128 && value <= 127;
}

function isInt32(value: number): boolean {
  return (value | 0) === value;
}

/** The immediate as the processor will see it, sign-extended; signed and unsigned spellings are both taken. */
function immediate(value: number, size: Size): number {
  const bits = size * 8;
  const fits =
    Number.isInteger(value) &&
    (size === 8 ? isInt32(value) : value >= -(2 ** (bits - 1)) && value < 2 ** bits);
  if (!fits) throw new RangeError(`immediate ${value} does not fit an operand of ${size} bytes`);
  return size >= 4 ? value | 0 : (value << (32 - bits)) >> (32 - bits);
}

function notByte(size: Size, name: string): Size {
  if (size === 1) throw new RangeError(`${name} has no form for bytes`);
  return size;
}

function registerOnly(operand: Reg | Mem): Reg {
  if (operand instanceof Mem) throw new RangeError('an instruction can have only one memory operand');
  return operand;
}

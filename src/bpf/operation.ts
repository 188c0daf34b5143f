/**
 * What an instruction means: the opcode, and the fields that select within it, read once into a word that the
 * verifier, the JIT, the interpreter and the disassembler switch over (RFC 9669, sections 4 and 5). It also is
 * the check that an instruction exists and that the fields it does not use are zero.
 */

import { BpfError } from '../kernel/errno.js';
import {
  ADDRESS_SPACE_CAST,
  ALU,
  ATOMIC,
  type BpfInsn,
  CALL,
  CLASS,
  CLASS_MASK,
  CODE_MASK,
  JCOND,
  JMP,
  LD_IMM64,
  MODE,
  MODE_MASK,
  PSEUDO,
  REGISTERS,
  SIZE,
  SIZE_MASK,
  SOURCE,
} from './instruction.js';

/** Two-operand arithmetic: `dst = dst NAME src`. */
export type BinaryName =
  | 'add'
  | 'sub'
  | 'mul'
  | 'div'
  | 'sdiv'
  | 'mod'
  | 'smod'
  | 'or'
  | 'and'
  | 'xor'
  | 'lsh'
  | 'rsh'
  | 'arsh';

/** `bswap` swaps always, `le` and `be` convert between the host's order and the one named. */
export type SwapName = 'bswap' | 'le' | 'be';

/** Conditions of jumps; those with `s` compare signed, `set` is "any bit of the mask is set". */
export type Condition = 'eq' | 'ne' | 'gt' | 'ge' | 'lt' | 'le' | 'sgt' | 'sge' | 'slt' | 'sle' | 'set';

export type Width = 32 | 64;
/** Bytes of a memory access. */
export type AccessSize = 1 | 2 | 4 | 8;
export type AtomicName = 'add' | 'or' | 'and' | 'xor' | 'xchg' | 'cmpxchg';

export type Operation =
  | { readonly kind: 'alu'; readonly name: BinaryName; readonly width: Width; readonly immediate: boolean }
  | { readonly kind: 'mov'; readonly width: Width; readonly immediate: boolean }
  | { readonly kind: 'movsx'; readonly width: Width; readonly bits: 8 | 16 | 32 }
  | { readonly kind: 'neg'; readonly width: Width }
  | { readonly kind: 'swap'; readonly name: SwapName; readonly bits: 16 | 32 | 64 }
  /** `ordered`: with acquire semantics */
  | {
      readonly kind: 'load';
      readonly size: AccessSize;
      readonly signed: boolean;
      readonly ordered?: true;
    }
  /** `ordered`: with release semantics */
  | {
      readonly kind: 'store';
      readonly size: AccessSize;
      readonly immediate: boolean;
      readonly ordered?: true;
    }
  /** xchg and cmpxchg always fetch */
  | { readonly kind: 'atomic'; readonly name: AtomicName; readonly size: 4 | 8; readonly fetch: boolean }
  | { readonly kind: 'loadImmediate' }
  /** the packet access of classic BPF: indexed by a register or not */
  | { readonly kind: 'packet'; readonly size: 1 | 2 | 4; readonly indexed: boolean }
  | {
      readonly kind: 'branch';
      readonly condition: Condition;
      readonly width: Width;
      readonly immediate: boolean;
    }
  /** goes on, or jumps to `offset` once it went on `MAX_LOOPS` times: no loop around it is endless */
  | { readonly kind: 'mayGoto' }
  /** `distance`: slots from the next instruction; from `offset`, or from `imm` in the long form */
  | { readonly kind: 'goto'; readonly distance: number; readonly long: boolean }
  | { readonly kind: 'call'; readonly target: 'helper' | 'subprogram' | 'kfunc' }
  | { readonly kind: 'exit' };

const BINARY: Readonly<Record<number, BinaryName>> = {
  [ALU.ADD]: 'add',
  [ALU.SUB]: 'sub',
  [ALU.MUL]: 'mul',
  [ALU.DIV]: 'div',
  [ALU.OR]: 'or',
  [ALU.AND]: 'and',
  [ALU.LSH]: 'lsh',
  [ALU.RSH]: 'rsh',
  [ALU.MOD]: 'mod',
  [ALU.XOR]: 'xor',
  [ALU.ARSH]: 'arsh',
};

const CONDITIONS: Readonly<Record<number, Condition>> = {
  [JMP.JEQ]: 'eq',
  [JMP.JGT]: 'gt',
  [JMP.JGE]: 'ge',
  [JMP.JSET]: 'set',
  [JMP.JNE]: 'ne',
  [JMP.JSGT]: 'sgt',
  [JMP.JSGE]: 'sge',
  [JMP.JLT]: 'lt',
  [JMP.JLE]: 'le',
  [JMP.JSLT]: 'slt',
  [JMP.JSLE]: 'sle',
};

const ATOMICS: Readonly<Record<number, AtomicName>> = {
  [ALU.ADD]: 'add',
  [ALU.OR]: 'or',
  [ALU.AND]: 'and',
  [ALU.XOR]: 'xor',
};

const ACCESS: Readonly<Record<number, AccessSize>> = { [SIZE.W]: 4, [SIZE.H]: 2, [SIZE.B]: 1, [SIZE.DW]: 8 };

/** Which fields an instruction may use; the others must be zero. */
interface Fields {
  readonly dst?: boolean;
  readonly src?: boolean;
  readonly offset?: boolean;
  readonly imm?: boolean;
}

function unknown(insn: BpfInsn): string {
  return `unknown opcode ${insn.opcode.toString(16).padStart(2, '0')}`;
}

function unusedAreZero(insn: BpfInsn, name: string, used: Fields): string | undefined {
  const zero =
    (used.dst || insn.dst === 0) &&
    (used.src || insn.src === 0) &&
    (used.offset || insn.offset === 0) &&
    (used.imm || insn.imm === 0);
  return zero ? undefined : `${name} uses reserved fields`;
}

/** `operation`, unless a field that it does not use is not zero: then what is wrong. */
function withFields<T extends Operation>(
  insn: BpfInsn,
  name: string,
  used: Fields,
  operation: T,
): T | string {
  return unusedAreZero(insn, name, used) ?? operation;
}

function readAlu(insn: BpfInsn, width: Width): Operation | string {
  const code = insn.opcode & CODE_MASK;
  const immediate = (insn.opcode & SOURCE.X) === 0;
  if (code === ALU.END) {
    const bits = insn.imm;
    if (bits !== 16 && bits !== 32 && bits !== 64)
      return `byte swap of ${bits} bits: only 16, 32 and 64 exist`;
    if (width === 64 && !immediate) return unknown(insn);
    const name = width === 64 ? 'bswap' : immediate ? 'le' : 'be';
    return withFields(insn, 'BPF_END', { dst: true, imm: true }, { kind: 'swap', name, bits });
  }
  if (code === ALU.NEG) {
    if (!immediate) return unknown(insn);
    return withFields(insn, 'BPF_NEG', { dst: true }, { kind: 'neg', width });
  }
  const fields = { dst: true, src: !immediate, imm: immediate };
  if (code === ALU.MOV) {
    if (!immediate && (insn.offset === 8 || insn.offset === 16 || (insn.offset === 32 && width === 64))) {
      return withFields(
        insn,
        'BPF_MOV',
        { ...fields, offset: true },
        { kind: 'movsx', width, bits: insn.offset },
      );
    }
    if (!immediate && width === 64 && insn.offset === ADDRESS_SPACE_CAST) {
      return 'addr_space_cast is for arenas, and a process has none';
    }
    return withFields(insn, 'BPF_MOV', fields, { kind: 'mov', width, immediate });
  }
  let name = BINARY[code];
  if (name === undefined) return unknown(insn);
  if ((name === 'div' || name === 'mod') && insn.offset === 1) {
    name = name === 'div' ? 'sdiv' : 'smod';
    return withFields(insn, 'BPF_ALU', { ...fields, offset: true }, { kind: 'alu', name, width, immediate });
  }
  return withFields(insn, 'BPF_ALU', fields, { kind: 'alu', name, width, immediate });
}

function readJump(insn: BpfInsn, width: Width): Operation | string {
  const code = insn.opcode & CODE_MASK;
  const immediate = (insn.opcode & SOURCE.X) === 0;
  switch (code) {
    case JMP.JA: {
      if (!immediate) return unknown(insn);
      const long = width === 32;
      const distance = long ? insn.imm : insn.offset;
      return withFields(insn, 'BPF_JA', { offset: !long, imm: long }, { kind: 'goto', distance, long });
    }
    case JMP.CALL: {
      if (!immediate || width === 32) return unknown(insn);
      const target =
        insn.src === CALL.HELPER
          ? 'helper'
          : insn.src === CALL.SUBPROGRAM
            ? 'subprogram'
            : insn.src === CALL.KFUNC
              ? 'kfunc'
              : undefined;
      if (target === undefined) return 'BPF_CALL uses reserved fields';
      const fields = { src: true, imm: true, offset: target === 'kfunc' };
      return withFields(insn, 'BPF_CALL', fields, { kind: 'call', target });
    }
    case JMP.JCOND:
      if (!immediate || width === 32) return unknown(insn);
      if (insn.src !== JCOND.MAY_GOTO) return 'BPF_JCOND uses reserved fields';
      return withFields(insn, 'BPF_JCOND', { offset: true }, { kind: 'mayGoto' });
    case JMP.EXIT:
      if (!immediate || width === 32) return unknown(insn);
      return withFields(insn, 'BPF_EXIT', {}, { kind: 'exit' });
    default: {
      const condition = CONDITIONS[code];
      if (condition === undefined) return unknown(insn);
      const fields = { dst: true, src: !immediate, imm: immediate, offset: true };
      return withFields(insn, 'BPF_JMP', fields, { kind: 'branch', condition, width, immediate });
    }
  }
}

function readAtomic(insn: BpfInsn, size: AccessSize): Operation | string {
  if (insn.imm === ATOMIC.LOAD_ACQ) return { kind: 'load', size, signed: false, ordered: true };
  if (insn.imm === ATOMIC.STORE_REL) return { kind: 'store', size, immediate: false, ordered: true };
  if (size !== 4 && size !== 8) return unknown(insn);
  const used = { dst: true, src: true, offset: true, imm: true };
  if (insn.imm === ATOMIC.XCHG) {
    return withFields(insn, 'BPF_ATOMIC', used, { kind: 'atomic', name: 'xchg', size, fetch: true });
  }
  if (insn.imm === ATOMIC.CMPXCHG) {
    return withFields(insn, 'BPF_ATOMIC', used, { kind: 'atomic', name: 'cmpxchg', size, fetch: true });
  }
  const fetch = (insn.imm & ATOMIC.FETCH) !== 0;
  const name = ATOMICS[insn.imm & ~ATOMIC.FETCH];
  if (name === undefined) return `BPF_ATOMIC uses invalid atomic opcode ${(insn.imm >>> 0).toString(16)}`;
  return withFields(insn, 'BPF_ATOMIC', used, { kind: 'atomic', name, size, fetch });
}

function readMemory(insn: BpfInsn): Operation | string {
  const mode = insn.opcode & MODE_MASK;
  const size = ACCESS[insn.opcode & SIZE_MASK] as AccessSize;
  switch (insn.opcode & CLASS_MASK) {
    case CLASS.LD: {
      if (insn.opcode === LD_IMM64) {
        const { imm64 } = insn;
        if (imm64 === undefined || BigInt.asUintN(64, imm64) !== imm64) {
          return 'invalid BPF_LD_IMM insn: it has no 64-bit immediate';
        }
        if (BigInt.asIntN(32, imm64) !== BigInt(insn.imm))
          return 'invalid BPF_LD_IMM insn: its halves disagree';
        if (insn.src > PSEUDO.MAP_IDX_VALUE) return 'unrecognized bpf_ld_imm64 insn';
        return withFields(
          insn,
          'BPF_LD_IMM64',
          { dst: true, src: true, imm: true },
          { kind: 'loadImmediate' },
        );
      }
      const indexed = mode === MODE.IND;
      if ((!indexed && mode !== MODE.ABS) || size === 8) return unknown(insn);
      const fields = { src: indexed, imm: true };
      return withFields(insn, 'BPF_LD_[ABS|IND]', fields, { kind: 'packet', size, indexed });
    }
    case CLASS.LDX: {
      const signed = mode === MODE.MEMSX;
      if ((!signed && mode !== MODE.MEM) || (signed && size === 8)) return unknown(insn);
      const fields = { dst: true, src: true, offset: true };
      return withFields(insn, 'BPF_LDX', fields, { kind: 'load', size, signed });
    }
    case CLASS.ST: {
      if (mode !== MODE.MEM) return unknown(insn);
      const fields = { dst: true, offset: true, imm: true };
      return withFields(insn, 'BPF_ST', fields, { kind: 'store', size, immediate: true });
    }
    default: {
      if (mode === MODE.ATOMIC) return readAtomic(insn, size);
      if (mode !== MODE.MEM) return unknown(insn);
      const fields = { dst: true, src: true, offset: true };
      return withFields(insn, 'BPF_STX', fields, { kind: 'store', size, immediate: false });
    }
  }
}

function isUnsigned8(value: number): boolean {
  return (value & 0xff) === value;
}

function isSigned16(value: number): boolean {
  return (value << 16) >> 16 === value;
}

function isSigned32(value: number): boolean {
  return (value | 0) === value;
}

function read(insn: BpfInsn): Operation | string {
  const { dst, src, offset, imm, imm64 } = insn;
  if (!isUnsigned8(insn.opcode)) return `opcode ${insn.opcode} does not fit 8 bits`;
  if (!isUnsigned8(dst) || dst >= REGISTERS) return `R${dst} is invalid`;
  if (!isUnsigned8(src) || src >= REGISTERS) return `R${src} is invalid`;
  if (!isSigned16(offset)) return `offset ${offset} does not fit 16 bits`;
  if (!isSigned32(imm)) return `immediate ${imm} does not fit 32 bits`;
  if (imm64 !== undefined && insn.opcode !== LD_IMM64) return 'only the 16-byte load has a 64-bit immediate';
  const known = BY_OPCODE[insn.opcode];
  // A field that the opcode does not use says something else, or is an error.
  if (
    known !== undefined &&
    (known.src || src === 0) &&
    (known.offset || offset === 0) &&
    (known.imm || imm === 0)
  )
    return known.operation;
  const operation = readWhole(insn);
  if (typeof operation !== 'string') remember(insn, operation);
  return operation;
}

/** Operations that the opcode alone tells, once they were met, and the fields that they use besides `dst`. */
const BY_OPCODE: (
  | { readonly operation: Operation; readonly src: boolean; readonly offset: boolean; readonly imm: boolean }
  | undefined
)[] = new Array(256).fill(undefined);

function remember(insn: BpfInsn, operation: Operation): void {
  const { opcode } = insn;
  switch (operation.kind) {
    case 'alu':
    case 'mov':
    case 'branch': {
      const { immediate, kind } = operation;
      if (kind !== 'branch' && insn.offset !== 0) return;
      BY_OPCODE[opcode] = { operation, src: !immediate, offset: kind === 'branch', imm: immediate };
      return;
    }
    case 'load':
      if (!operation.ordered) BY_OPCODE[opcode] = { operation, src: true, offset: true, imm: false };
      return;
    case 'store': {
      const { immediate, ordered } = operation;
      if (!ordered) BY_OPCODE[opcode] = { operation, src: !immediate, offset: true, imm: immediate };
      return;
    }
    default:
  }
}

function readWhole(insn: BpfInsn): Operation | string {
  const cls = insn.opcode & CLASS_MASK;
  switch (cls) {
    case CLASS.ALU:
      return readAlu(insn, 32);
    case CLASS.ALU64:
      return readAlu(insn, 64);
    case CLASS.JMP:
      return readJump(insn, 64);
    case CLASS.JMP32:
      return readJump(insn, 32);
    default:
      return readMemory(insn);
  }
}

/**
 * The meaning of `insn`. Throws `BpfError` EINVAL where there is no such instruction, a number does not fit its
 * field, or a field that it does not use is not zero; `at` is the slot that the message names.
 */
export function operationOf(insn: BpfInsn, at: number): Operation {
  const operation = read(insn);
  if (typeof operation === 'string') throw new BpfError('EINVAL', `insn ${at}: ${operation}`);
  return operation;
}

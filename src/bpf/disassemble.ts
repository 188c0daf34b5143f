/**
 * Instructions as text, in the kernel's words: what `bpftool prog dump xlated` and the verifier's log print
 * (`r1 = *(u64 *)(r1 +0)`, `if r0 == 0x0 goto pc+3`), which clang's assembler reads too but for jumps and
 * atomics with a result.
 */

import { helperName } from './helpers.js';
import { type BpfInsn, PSEUDO } from './instruction.js';
import { layoutOf } from './layout.js';
import {
  type AccessSize,
  type AtomicName,
  type BinaryName,
  type Condition,
  type Operation,
  operationOf,
} from './operation.js';

const BINARY_SIGN: Readonly<Record<BinaryName, string>> = {
  add: '+=',
  sub: '-=',
  mul: '*=',
  div: '/=',
  sdiv: 's/=',
  mod: '%=',
  smod: 's%=',
  or: '|=',
  and: '&=',
  xor: '^=',
  lsh: '<<=',
  rsh: '>>=',
  arsh: 's>>=',
};

const CONDITION_SIGN: Readonly<Record<Condition, string>> = {
  eq: '==',
  ne: '!=',
  gt: '>',
  ge: '>=',
  lt: '<',
  le: '<=',
  sgt: 's>',
  sge: 's>=',
  slt: 's<',
  sle: 's<=',
  set: '&',
};

function register(number: number, width: 32 | 64 = 64): string {
  return `${width === 64 ? 'r' : 'w'}${number}`;
}

function signed(value: number | bigint): string {
  return value < 0 ? `${value}` : `+${value}`;
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

function place(base: number, offset: number, size: AccessSize, sign = 'u'): string {
  return `(${sign}${size * 8} *)(${register(base)} ${signed(offset)})`;
}

function atomicText(insn: BpfInsn, name: AtomicName, size: 4 | 8, fetch: boolean): string {
  const where = place(insn.dst, insn.offset, size);
  const width = size === 8 ? 64 : 32;
  const src = register(insn.src, width);
  const prefix = size === 8 ? 'atomic64' : 'atomic';
  if (name === 'cmpxchg') {
    return `${register(0, width)} = ${prefix}_cmpxchg(${where}, ${register(0, width)}, ${src})`;
  }
  if (name === 'xchg') return `${src} = ${prefix}_xchg(${where}, ${src})`;
  if (fetch) return `${src} = ${prefix}_fetch_${name}(${where}, ${src})`;
  return `lock *${where} ${BINARY_SIGN[name]} ${register(insn.src)}`;
}

function constantText(insn: BpfInsn): string {
  const value = insn.imm64 as bigint;
  const low = Number(value & 0xffffffffn);
  const high = Number(value >> 32n);
  switch (insn.src) {
    case PSEUDO.MAP_FD:
      return `map[id:${low}]`;
    case PSEUDO.MAP_VALUE:
      return `map[id:${low}][0]+${high}`;
    case PSEUDO.MAP_IDX:
      return `map[idx:${low}]`;
    case PSEUDO.MAP_IDX_VALUE:
      return `map[idx:${low}]+${high}`;
    case PSEUDO.FUNC:
      return `subprog[${signed(insn.imm)}]`;
    default:
      return hex(value);
  }
}

function callText(insn: BpfInsn, target: 'helper' | 'subprogram' | 'kfunc'): string {
  switch (target) {
    case 'helper':
      return `call ${helperName(insn.imm) ?? 'unknown'}#${insn.imm}`;
    case 'subprogram':
      return `call pc${signed(insn.imm)}`;
    case 'kfunc':
      return `call kernel-function#${insn.imm}`;
  }
}

function text(insn: BpfInsn, operation: Operation): string {
  const dst = register(insn.dst);
  switch (operation.kind) {
    case 'alu':
    case 'mov': {
      const { width, immediate } = operation;
      const sign = operation.kind === 'mov' ? '=' : BINARY_SIGN[operation.name];
      return `${register(insn.dst, width)} ${sign} ${immediate ? insn.imm : register(insn.src, width)}`;
    }
    case 'movsx':
      return `${register(insn.dst, operation.width)} = (s${operation.bits})${register(insn.src, operation.width)}`;
    case 'neg':
      return `${register(insn.dst, operation.width)} = -${register(insn.dst, operation.width)}`;
    case 'swap':
      return `${dst} = ${operation.name}${operation.bits} ${dst}`;
    case 'load':
      return `${dst} = *${place(insn.src, insn.offset, operation.size, operation.signed ? 's' : 'u')}`;
    case 'store':
      return `*${place(insn.dst, insn.offset, operation.size)} = ${operation.immediate ? insn.imm : register(insn.src)}`;
    case 'atomic':
      return atomicText(insn, operation.name, operation.size, operation.fetch);
    case 'loadImmediate':
      return `${dst} = ${constantText(insn)}`;
    case 'packet': {
      const where = operation.indexed ? `${register(insn.src)} + ${insn.imm}` : `${insn.imm}`;
      return `r0 = *(u${operation.size * 8} *)skb[${where}]`;
    }
    case 'branch': {
      const { condition, width, immediate } = operation;
      const operand = immediate ? hex(insn.imm >>> 0) : register(insn.src, width);
      const left = register(insn.dst, width);
      return `if ${left} ${CONDITION_SIGN[condition]} ${operand} goto pc${signed(insn.offset)}`;
    }
    case 'goto':
      return `${operation.long ? 'gotol' : 'goto'} pc${signed(operation.distance)}`;
    case 'call':
      return callText(insn, operation.target);
    case 'exit':
      return 'exit';
  }
}

/** One instruction as text. Throws `BpfError` EINVAL where there is no such instruction; `at` is its slot. */
export function disassembleInstruction(insn: BpfInsn, at = 0): string {
  return text(insn, operationOf(insn, at));
}

/** A program as text, a line for each instruction: its slot, a colon, the instruction. */
export function disassemble(insns: readonly BpfInsn[]): string[] {
  const { slotOf } = layoutOf(insns);
  return insns.map((insn, i) => {
    const slot = slotOf[i] as number;
    return `${String(slot).padStart(4)}: ${disassembleInstruction(insn, slot)}`;
  });
}

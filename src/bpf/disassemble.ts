/**
 * Instructions as text, in two syntaxes that differ in how they write numbers, jumps and atomics:
 *
 *   kernel   what `bpftool prog dump xlated` and the verifier's log print (`r1 = *(u64 *)(r1 +8)`,
 *            `if r0 == 0x0 goto pc+3`, `call bpf_map_lookup_elem#1`)
 *   clang    what `llvm-objdump -d` prints and clang's assembler reads (`r1 = *(u64 *)(r1 + 0x8)`,
 *            `if r0 == 0x0 goto +0x3`, `call 0x1`)
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

export type Syntax = 'kernel' | 'clang';

/** How to print: in the kernel's syntax where nothing is said. */
export interface DisassembleOptions {
  readonly syntax?: Syntax;
  /** the name of the map that a program knows by `id`, in the kernel's syntax */
  readonly mapName?: (id: number) => string | undefined;
  /** the name of the subprogram that begins at `slot`, in the kernel's syntax */
  readonly subprogramName?: (slot: number) => string | undefined;
  /** the name of kernel function `id`, in the kernel's syntax */
  readonly kfuncName?: (id: number) => string | undefined;
}

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

/** The words of one syntax. */
interface Words {
  /** a displacement behind its base register */
  displacement(offset: number): string;
  immediate(value: number): string;
  /** what a conditional jump compares with */
  compared(value: number): string;
  distance(slots: number): string;
  constant(value: bigint): string;
  /** an atomic that has a result */
  fetching(name: AtomicName, size: 4 | 8, base: string, offset: number, src: string): string;
  packet(base: string | undefined, imm: number): string;
  /** whether an atomic of 32 bits that has no result names a half register */
  readonly wordAtomics: boolean;
}

function register(number: number, width: 32 | 64 = 64): string {
  return `${width === 64 ? 'r' : 'w'}${number}`;
}

function signed(value: number | bigint): string {
  return value < 0 ? `${value}` : `+${value}`;
}

function hex(value: number | bigint): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}

const KERNEL: Words = {
  displacement: offset => ` ${signed(offset)}`,
  immediate: value => `${value}`,
  compared: value => hex(value >>> 0),
  distance: slots => `pc${signed(slots)}`,
  constant: hex,
  fetching(name, size, base, offset, src) {
    const where = `(u${size * 8} *)(${base} ${signed(offset)})`;
    const prefix = size === 8 ? 'atomic64' : 'atomic';
    if (name === 'cmpxchg') {
      const r0 = register(0, size === 8 ? 64 : 32);
      return `${r0} = ${prefix}_cmpxchg(${where}, ${r0}, ${src})`;
    }
    return `${src} = ${prefix}_${name === 'xchg' ? '' : 'fetch_'}${name}(${where}, ${src})`;
  },
  packet: (base, imm) => (base === undefined ? `${imm}` : `${base} + ${imm}`),
  wordAtomics: false,
};

const CLANG: Words = {
  displacement: offset => ` ${offset < 0 ? '-' : '+'} ${hex(Math.abs(offset))}`,
  immediate: hex,
  compared: hex,
  distance: slots => (slots < 0 ? hex(slots) : `+${hex(slots)}`),
  constant: value => `${hex(BigInt.asIntN(64, value))} ll`,
  fetching(name, size, base, offset, src) {
    const where = `${base}${CLANG.displacement(offset)}`;
    const r0 = register(0, size === 8 ? 64 : 32);
    const suffix = size === 8 ? '_64' : '32_32';
    if (name === 'cmpxchg') return `${r0} = cmpxchg${suffix}(${where}, ${r0}, ${src})`;
    if (name === 'xchg') return `${src} = xchg${suffix}(${where}, ${src})`;
    return `${src} = atomic_fetch_${name}((u${size * 8} *)(${where}), ${src})`;
  },
  packet: (base, imm) => base ?? hex(imm),
  wordAtomics: true,
};

/** One instruction being printed. */
class Printer {
  private readonly insn: BpfInsn;
  private readonly slot: number;
  private readonly options: DisassembleOptions;
  private readonly words: Words;

  constructor(insn: BpfInsn, slot: number, options: DisassembleOptions) {
    this.insn = insn;
    this.slot = slot;
    this.options = options;
    this.words = options.syntax === 'clang' ? CLANG : KERNEL;
  }

  private place(base: number, size: AccessSize, sign = 'u'): string {
    return `(${sign}${size * 8} *)(${register(base)}${this.words.displacement(this.insn.offset)})`;
  }

  private atomic(operation: Operation & { kind: 'atomic' }): string {
    const { dst, src, offset } = this.insn;
    const { name, size, fetch } = operation;
    if (fetch) {
      const operand = register(src, size === 8 ? 64 : 32);
      return this.words.fetching(name, size, register(dst), offset, operand);
    }
    const operand = register(src, this.words.wordAtomics && size === 4 ? 32 : 64);
    return `lock *${this.place(dst, size)} ${BINARY_SIGN[name as BinaryName]} ${operand}`;
  }

  private constant(): string {
    const value = this.insn.imm64 as bigint;
    if (this.words === CLANG) return this.words.constant(value);
    const low = Number(value & 0xffffffffn);
    const high = Number(value >> 32n);
    const map = this.options.mapName?.(low) ?? `id:${low}`;
    switch (this.insn.src) {
      case PSEUDO.MAP_FD:
        return `map[${map}]`;
      case PSEUDO.MAP_VALUE:
        return `map[${map}][0]+${high}`;
      case PSEUDO.MAP_IDX:
        return `map[idx:${low}]`;
      case PSEUDO.MAP_IDX_VALUE:
        return `map[idx:${low}]+${high}`;
      case PSEUDO.FUNC:
        return `subprog[${signed(this.insn.imm)}]${this.subprogram(this.insn.imm)}`;
      default:
        return this.words.constant(value);
    }
  }

  /** The name of the subprogram `distance` slots on from the next instruction, as it stands behind its distance. */
  private subprogram(distance: number): string {
    const name = this.options.subprogramName?.(this.slot + 1 + distance);
    return name === undefined ? '' : `#${name}`;
  }

  private call(target: 'helper' | 'subprogram' | 'kfunc'): string {
    const { imm } = this.insn;
    if (this.words === CLANG) return `call ${hex(imm)}`;
    switch (target) {
      case 'helper':
        return `call ${helperName(imm) ?? 'unknown'}#${imm}`;
      case 'subprogram':
        return `call pc${signed(imm)}${this.subprogram(imm)}`;
      case 'kfunc':
        return `call ${this.options.kfuncName?.(imm) ?? 'kernel-function'}#${imm}`;
    }
  }

  /** Acquire and release, in the one syntax that both know. */
  private ordered(operation: Operation & { kind: 'load' | 'store' }): string {
    const { dst, src } = this.insn;
    return operation.kind === 'load'
      ? `${register(dst)} = load_acquire(${this.place(src, operation.size)})`
      : `store_release(${this.place(dst, operation.size)}, ${register(src)})`;
  }

  text(operation: Operation): string {
    const { insn, words } = this;
    const dst = register(insn.dst);
    switch (operation.kind) {
      case 'alu':
      case 'mov': {
        const { width, immediate } = operation;
        const sign = operation.kind === 'mov' ? '=' : BINARY_SIGN[operation.name];
        const operand = immediate ? words.immediate(insn.imm) : register(insn.src, width);
        return `${register(insn.dst, width)} ${sign} ${operand}`;
      }
      case 'movsx':
        return `${register(insn.dst, operation.width)} = (s${operation.bits})${register(insn.src, operation.width)}`;
      case 'neg':
        return `${register(insn.dst, operation.width)} = -${register(insn.dst, operation.width)}`;
      case 'swap':
        return `${dst} = ${operation.name}${operation.bits} ${dst}`;
      case 'load':
        if (operation.ordered) return this.ordered(operation);
        return `${dst} = *${this.place(insn.src, operation.size, operation.signed ? 's' : 'u')}`;
      case 'store': {
        if (operation.ordered) return this.ordered(operation);
        const operand = operation.immediate ? words.immediate(insn.imm) : register(insn.src);
        return `*${this.place(insn.dst, operation.size)} = ${operand}`;
      }
      case 'atomic':
        return this.atomic(operation);
      case 'loadImmediate':
        return `${dst} = ${this.constant()}`;
      case 'packet': {
        const base = operation.indexed ? register(insn.src) : undefined;
        return `r0 = *(u${operation.size * 8} *)skb[${words.packet(base, insn.imm)}]`;
      }
      case 'branch': {
        const { condition, width, immediate } = operation;
        const operand = immediate ? words.compared(insn.imm) : register(insn.src, width);
        const left = register(insn.dst, width);
        return `if ${left} ${CONDITION_SIGN[condition]} ${operand} goto ${words.distance(insn.offset)}`;
      }
      case 'mayGoto':
        return `may_goto ${words.distance(insn.offset)}`;
      case 'goto':
        return `${operation.long ? 'gotol' : 'goto'} ${words.distance(operation.distance)}`;
      case 'call':
        return this.call(operation.target);
      case 'exit':
        return 'exit';
    }
  }
}

/** One instruction as text. Throws `BpfError` EINVAL where there is no such instruction; `at` is its slot. */
export function disassembleInstruction(insn: BpfInsn, at = 0, options: DisassembleOptions = {}): string {
  return new Printer(insn, at, options).text(operationOf(insn, at));
}

/** A program as text, a line for each instruction: its slot, a colon, the instruction. */
export function disassemble(insns: readonly BpfInsn[], options: DisassembleOptions = {}): string[] {
  const { slotOf } = layoutOf(insns);
  return insns.map((insn, i) => {
    const slot = slotOf[i] as number;
    return `${String(slot).padStart(4)}: ${disassembleInstruction(insn, slot, options)}`;
  });
}

/**
 * Runs a BPF program by walking its instructions: the meaning of the instruction set written down once, exact
 * and slow. Tests compare the JIT with it, and the verifier's predictions. It checks nothing: a program that
 * was not verified does here what it would do there, within the memory that it is given.
 */

import { BpfError } from '../kernel/errno.js';
import { atomicResult, compute, holds, immediateOperand, signExtend, swapBytes } from './arithmetic.js';
import {
  type BpfInsn,
  FIRST_ARGUMENT,
  FRAME_POINTER,
  LAST_ARGUMENT,
  REGISTERS,
  RESULT,
} from './instruction.js';
import { layoutOf } from './layout.js';
import { type AccessSize, type Operation, operationOf } from './operation.js';

/** The memory that a program sees, by address. Values are unsigned, little-endian. */
export interface BpfMemory {
  /** Throws where `address` may not be read. */
  load(address: bigint, size: AccessSize): bigint;
  /** Throws where `address` may not be written; takes the low bytes of `value`. */
  store(address: bigint, size: AccessSize, value: bigint): void;
}

/** What a program runs in. */
export interface InterpreterEnv {
  readonly memory: BpfMemory;
  /** r1 at the start */
  readonly context: bigint;
  /** r10: the address just above the stack */
  readonly framePointer: bigint;
  /** runs helper `id`, gets r1 to r5, returns r0 */
  readonly call?: (id: number, args: readonly bigint[]) => bigint;
  /** the value that a 16-byte load gives its register; the immediate itself where this is left out */
  readonly resolve?: (insn: BpfInsn) => bigint;
  /** told the index of each instruction before it runs, and what the registers hold */
  readonly visit?: (index: number, registers: BigUint64Array) => void;
  /** instructions to run at most, 1,000,000 if left out */
  readonly limit?: number;
}

const DEFAULT_LIMIT = 1_000_000;

/**
 * Runs `insns` to their exit and returns r0. Throws `BpfError` EFAULT where the program leaves itself, ELOOP
 * past the limit, EINVAL for an instruction that this machine does not have.
 */
export function interpret(insns: readonly BpfInsn[], env: InterpreterEnv): bigint {
  const layout = layoutOf(insns);
  const operations = insns.map((insn, i) => operationOf(insn, layout.slotOf[i] as number));
  const registers = new BigUint64Array(REGISTERS);
  registers[FIRST_ARGUMENT] = env.context;
  registers[FRAME_POINTER] = env.framePointer;
  const limit = env.limit ?? DEFAULT_LIMIT;

  let index = 0;
  for (let steps = 0; steps < limit; steps++) {
    const insn = insns[index];
    const operation = operations[index];
    if (insn === undefined || operation === undefined) {
      throw new BpfError('EFAULT', `the program ran to instruction ${index}, which it does not have`);
    }
    env.visit?.(index, registers);
    if (operation.kind === 'exit') return registers[RESULT] as bigint;
    const distance = step(insn, operation, registers, env);
    index =
      distance === 0
        ? index + 1
        : (layout.indexAt[(layout.slotOf[index] as number) + 1 + distance] ?? insns.length);
  }
  throw new BpfError('ELOOP', `the program did not end within ${limit} instructions`);
}

/** Runs one instruction; returns how many slots to jump over. */
function step(insn: BpfInsn, operation: Operation, registers: BigUint64Array, env: InterpreterEnv): number {
  const dst = registers[insn.dst] as bigint;
  const operand = (immediate: boolean): bigint =>
    immediate ? immediateOperand(insn.imm) : (registers[insn.src] as bigint);
  const address = (base: bigint): bigint => BigInt.asUintN(64, base + BigInt(insn.offset));

  switch (operation.kind) {
    case 'alu':
      registers[insn.dst] = compute(operation.name, operation.width, dst, operand(operation.immediate));
      return 0;
    case 'mov':
      registers[insn.dst] = BigInt.asUintN(operation.width, operand(operation.immediate));
      return 0;
    case 'movsx':
      registers[insn.dst] = signExtend(operand(false), operation.bits, operation.width);
      return 0;
    case 'neg':
      registers[insn.dst] = BigInt.asUintN(operation.width, -dst);
      return 0;
    case 'swap':
      registers[insn.dst] = swapBytes(operation.name, operation.bits, dst);
      return 0;
    case 'load': {
      const value = env.memory.load(address(operand(false)), operation.size);
      registers[insn.dst] = operation.signed ? signExtend(value, operation.size * 8, 64) : value;
      return 0;
    }
    case 'store':
      env.memory.store(address(dst), operation.size, operand(operation.immediate));
      return 0;
    case 'atomic':
      atomic(insn, operation, address(dst), registers, env.memory);
      return 0;
    case 'loadImmediate':
      registers[insn.dst] = env.resolve?.(insn) ?? (insn.imm64 as bigint);
      return 0;
    case 'branch':
      return holds(operation.condition, operation.width, dst, operand(operation.immediate)) ? insn.offset : 0;
    case 'goto':
      return operation.distance;
    case 'call': {
      if (operation.target !== 'helper' || env.call === undefined) {
        throw new BpfError('EINVAL', `call of a ${operation.target}: the interpreter was given none`);
      }
      registers[RESULT] = BigInt.asUintN(
        64,
        env.call(insn.imm, [...registers.slice(FIRST_ARGUMENT, LAST_ARGUMENT + 1)]),
      );
      return 0;
    }
    default:
      throw new BpfError('EINVAL', `there is no packet for opcode ${insn.opcode.toString(16)} to read`);
  }
}

function atomic(
  insn: BpfInsn,
  operation: Operation & { kind: 'atomic' },
  address: bigint,
  registers: BigUint64Array,
  memory: BpfMemory,
): void {
  const { name, size, fetch } = operation;
  const bits = size * 8;
  const operand = BigInt.asUintN(bits, registers[insn.src] as bigint);
  const old = memory.load(address, size);
  if (name === 'cmpxchg') {
    if (old === BigInt.asUintN(bits, registers[RESULT] as bigint)) memory.store(address, size, operand);
    registers[RESULT] = old;
    return;
  }
  memory.store(address, size, name === 'xchg' ? operand : atomicResult(name, size, old, operand));
  if (fetch) registers[insn.src] = old;
}

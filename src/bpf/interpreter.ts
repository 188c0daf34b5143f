/**
 * Runs a BPF program by walking its instructions: the meaning of the instruction set written down once, exact
 * and slow. Tests compare the JIT with it, and the verifier's predictions. It checks nothing: a program that
 * was not verified does here what it would do there, within the memory that it is given.
 *
 * Subprograms, callbacks, tail calls and the numbers iterator are its own; what helpers do, the environment says.
 */

import { BpfError } from '../kernel/errno.js';
import { atomicResult, compute, holds, immediateOperand, signExtend, swapBytes } from './arithmetic.js';
import { HELPER } from './helpers.js';
import {
  type BpfInsn,
  CALL_FRAMES,
  FIRST_ARGUMENT,
  FRAME_POINTER,
  LAST_ARGUMENT,
  MAX_LOOPS,
  PSEUDO,
  REGISTERS,
  RESULT,
  STACK_SIZE,
  TAIL_CALLS,
} from './instruction.js';
import { KFUNC } from './kfuncs.js';
import { type Layout, layoutOf } from './layout.js';
import { iteratorDestroy, iteratorNew, iteratorNext } from './numbers_iterator.js';
import { type AccessSize, type Operation, operationOf } from './operation.js';

/** The memory that a program sees, by address. Values are unsigned, little-endian. */
export interface BpfMemory {
  /** Throws where `address` may not be read. */
  load(address: bigint, size: AccessSize): bigint;
  /** Throws where `address` may not be written; takes the low bytes of `value`. */
  store(address: bigint, size: AccessSize, value: bigint): void;
}

/** Runs the subprogram at `address`, which a 16-byte load gave, with r1 to r5; returns its r0. */
export type Invoke = (address: bigint, args: readonly bigint[]) => bigint;

/** What a program runs in. */
export interface InterpreterEnv {
  readonly memory: BpfMemory;
  /** r1 at the start */
  readonly context: bigint;
  /** r2 at the start, where the program is given the length of its memory */
  readonly length?: bigint;
  /** r10: the address just above the stack; each subprogram has the 512 bytes below its caller's */
  readonly framePointer: bigint;
  /** runs helper `id` (but `loop` and `tail_call`), gets r1 to r5, returns r0 */
  readonly call?: (id: number, args: readonly bigint[], invoke: Invoke) => bigint;
  /** runs kernel function `id` (but those of the numbers iterator), gets r1 to r5, returns r0 */
  readonly callKfunc?: (id: number, args: readonly bigint[]) => bigint;
  /** the program at `index` of the program array `map`; `undefined` where there is none */
  readonly tailCall?: (map: bigint, index: number) => readonly BpfInsn[] | undefined;
  /** the value that a 16-byte load gives its register; the immediate itself where this is left out */
  readonly resolve?: (insn: BpfInsn) => bigint;
  /** by index of instruction: 1 where a load gives 0 if memory throws */
  readonly probeLoads?: Uint8Array;
  /** told the index of each instruction before it runs, and what the registers hold */
  readonly visit?: (index: number, registers: BigUint64Array) => void;
  /** how often may_goto goes on in each frame, 8,388,608 times if left out: that a program may count on no number */
  readonly mayGotos?: number;
  /** instructions to run at most, 1,000,000 if left out */
  readonly limit?: number;
}

const DEFAULT_LIMIT = 1_000_000;
/** Loops that `bpf_loop` makes at most. */
const LONGEST_LOOP = 1n << 23n;
/** Subprograms have addresses, which programs hand to helpers: this, and 8 for each slot. */
const CODE_ADDRESS = 0x6b70_0000_0000n;
const SLOT = 8n;
const KEPT = { first: 6, last: 9 } as const;

const EINVAL = -22n;
const ENOENT = -2n;
const E2BIG = -7n;

/** A program, with what is needed of it at each step. */
interface Code {
  readonly insns: readonly BpfInsn[];
  readonly layout: Layout;
  readonly operations: readonly Operation[];
}

/** A call that has not returned: where to go on, and what the caller's registers r6 to r10 held. */
interface Frame {
  readonly code: Code;
  readonly index: number;
  readonly kept: BigUint64Array;
  readonly mayGoto: number;
}

function codeOf(insns: readonly BpfInsn[]): Code {
  const layout = layoutOf(insns);
  return { insns, layout, operations: insns.map((insn, i) => operationOf(insn, layout.slotOf[i] as number)) };
}

/**
 * Runs `insns` to their exit and returns r0. Throws `BpfError` EFAULT where the program leaves itself or its frames,
 * ELOOP past the limit, EINVAL for an instruction that this machine does not have.
 */
export function interpret(insns: readonly BpfInsn[], env: InterpreterEnv): bigint {
  return new Interpreter(insns, env).run();
}

class Interpreter {
  private readonly env: InterpreterEnv;
  private readonly registers = new BigUint64Array(REGISTERS);
  private readonly frames: Frame[] = [];
  private readonly limit: number;
  private code: Code;
  private index = 0;
  /** how often may_goto still goes on in this frame */
  private mayGoto: number;
  private steps = 0;
  private tailCalls = 0;

  constructor(insns: readonly BpfInsn[], env: InterpreterEnv) {
    this.env = env;
    this.code = codeOf(insns);
    this.limit = env.limit ?? DEFAULT_LIMIT;
    this.mayGoto = env.mayGotos ?? MAX_LOOPS;
    this.registers[FIRST_ARGUMENT] = env.context;
    this.registers[FIRST_ARGUMENT + 1] = env.length ?? 0n;
    this.registers[FRAME_POINTER] = env.framePointer;
  }

  /** Goes on until the frame that is the newest now has returned; r0. */
  run(): bigint {
    const depth = this.frames.length;
    const { registers, env } = this;
    for (; this.steps < this.limit; this.steps++) {
      const { index, code } = this;
      const insn = code.insns[index];
      const operation = code.operations[index];
      if (insn === undefined || operation === undefined) {
        throw new BpfError('EFAULT', `the program ran to instruction ${index}, which it does not have`);
      }
      env.visit?.(index, registers);
      if (operation.kind === 'exit') {
        if (this.frames.length === depth) return registers[RESULT] as bigint;
        this.leave();
        continue;
      }
      if (operation.kind === 'call') {
        this.call(insn, operation.target);
        continue;
      }
      const distance =
        operation.kind === 'mayGoto' ? this.wayOn(insn) : step(insn, operation, registers, env, code, index);
      this.index = distance === 0 ? index + 1 : this.at((code.layout.slotOf[index] as number) + 1 + distance);
    }
    throw new BpfError('ELOOP', `the program did not end within ${this.limit} instructions`);
  }

  private at(slot: number): number {
    return this.code.layout.indexAt[slot] ?? this.code.insns.length;
  }

  private wayOn(insn: BpfInsn): number {
    if (this.mayGoto === 0) return insn.offset;
    this.mayGoto--;
    return 0;
  }

  private arguments(): bigint[] {
    return [...this.registers.slice(FIRST_ARGUMENT, LAST_ARGUMENT + 1)];
  }

  private call(insn: BpfInsn, target: 'helper' | 'subprogram' | 'kfunc'): void {
    const { registers } = this;
    if (target === 'subprogram') {
      this.enter((this.code.layout.slotOf[this.index] as number) + 1 + insn.imm, this.index + 1);
      return;
    }
    const args = this.arguments();
    if (target === 'helper' && insn.imm === HELPER.tail_call && this.jumpToProgram(args)) return;
    const result = target === 'kfunc' ? this.kernelFunction(insn.imm, args) : this.helper(insn.imm, args);
    registers[RESULT] = BigInt.asUintN(64, result);
    this.index++;
  }

  private helper(id: number, args: readonly bigint[]): bigint {
    if (id === HELPER.tail_call) return ENOENT;
    if (id === HELPER.loop) return this.loop(args);
    const { call } = this.env;
    if (call === undefined) throw new BpfError('EINVAL', `call of a helper: the interpreter was given none`);
    return call(id, args, (address, callbackArguments) => this.invoke(address, callbackArguments));
  }

  private kernelFunction(id: number, args: readonly bigint[]): bigint {
    const [first = 0n, second = 0n, third = 0n] = args;
    const { memory, callKfunc } = this.env;
    switch (id) {
      case KFUNC.bpf_iter_num_new:
        return iteratorNew(memory, first, second, third);
      case KFUNC.bpf_iter_num_next:
        return iteratorNext(memory, first);
      case KFUNC.bpf_iter_num_destroy:
        return iteratorDestroy(memory, first);
      default:
        if (callKfunc === undefined) {
          throw new BpfError('EINVAL', 'call of a kfunc: the interpreter was given none');
        }
        return callKfunc(id, args);
    }
  }

  /** Makes a frame for the subprogram at `slot`, which will return to instruction `back`. */
  private enter(slot: number, back: number): void {
    if (this.frames.length + 1 >= CALL_FRAMES) {
      throw new BpfError('EFAULT', `the program calls deeper than ${CALL_FRAMES} frames`);
    }
    const kept = this.registers.slice(KEPT.first, KEPT.last + 2);
    this.frames.push({ code: this.code, index: back, kept, mayGoto: this.mayGoto });
    this.registers[FRAME_POINTER] = (this.registers[FRAME_POINTER] as bigint) - BigInt(STACK_SIZE);
    this.mayGoto = this.env.mayGotos ?? MAX_LOOPS;
    this.index = this.at(slot);
  }

  private leave(): void {
    const frame = this.frames.pop() as Frame;
    this.registers.set(frame.kept, KEPT.first);
    this.code = frame.code;
    this.index = frame.index;
    this.mayGoto = frame.mayGoto;
  }

  /** Runs the subprogram at `address` from within a helper. */
  private invoke(address: bigint, args: readonly bigint[]): bigint {
    this.enter(Number((address - CODE_ADDRESS) / SLOT), this.index);
    this.registers.set(args, FIRST_ARGUMENT);
    const result = this.run();
    this.leave();
    return result;
  }

  /** bpf_loop(nr, callback, context, flags) */
  private loop([nr = 0n, callback = 0n, context = 0n, flags = 0n]: readonly bigint[]): bigint {
    const count = BigInt.asUintN(32, nr);
    if (flags !== 0n) return EINVAL;
    if (count > LONGEST_LOOP) return E2BIG;
    for (let i = 0n; i < count; i++) if (this.invoke(callback, [i, context]) !== 0n) return i + 1n;
    return count;
  }

  /** bpf_tail_call(context, map, index): whether another program goes on in this frame. */
  private jumpToProgram([context = 0n, map = 0n, index = 0n]: readonly bigint[]): boolean {
    const insns = this.env.tailCall?.(map, Number(BigInt.asUintN(32, index)));
    if (insns === undefined || this.tailCalls === TAIL_CALLS) return false;
    this.tailCalls++;
    this.code = codeOf(insns);
    this.index = 0;
    this.mayGoto = this.env.mayGotos ?? MAX_LOOPS;
    this.registers[FIRST_ARGUMENT] = context;
    return true;
  }
}

/** The value that a 16-byte load gives its register. */
function loadedConstant(insn: BpfInsn, env: InterpreterEnv, slot: number): bigint {
  if (insn.src === PSEUDO.FUNC) return CODE_ADDRESS + SLOT * BigInt(slot + 1 + insn.imm);
  return env.resolve?.(insn) ?? (insn.imm64 as bigint);
}

/** Runs one instruction; returns how many slots to jump over. */
function step(
  insn: BpfInsn,
  operation: Operation,
  registers: BigUint64Array,
  env: InterpreterEnv,
  code: Code,
  index: number,
): number {
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
      const value = loaded(env, address(operand(false)), operation.size, env.probeLoads?.[index] === 1);
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
      registers[insn.dst] = loadedConstant(insn, env, code.layout.slotOf[index] as number);
      return 0;
    case 'branch':
      return holds(operation.condition, operation.width, dst, operand(operation.immediate)) ? insn.offset : 0;
    case 'goto':
      return operation.distance;
    default:
      throw new BpfError('EINVAL', `there is no packet for opcode ${insn.opcode.toString(16)} to read`);
  }
}

/** What is at `address`; a probe reads 0 where nothing is. */
function loaded(env: InterpreterEnv, address: bigint, size: AccessSize, probe: boolean): bigint {
  if (!probe) return env.memory.load(address, size);
  try {
    return env.memory.load(address, size);
  } catch {
    return 0n;
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

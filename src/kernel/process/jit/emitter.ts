/**
 * What the pieces of the compiler share while the code of one program is written: the assembler, where each
 * instruction's code begins, which registers may be borrowed, and which were changed.
 */

import { type BpfInsn, FRAME_POINTER, LAST_ARGUMENT } from '../../../bpf/instruction.js';
import { ARGUMENTS, registersRead, registersWritten } from '../../../bpf/liveness.js';
import type { AccessSize, Operation } from '../../../bpf/operation.js';
import { Assembler, type Label, type Mem, mem, type Reg, ripLabel, rsp } from '../../../x86/assembler.js';
import { FixupList } from '../faults/fixup.js';
import type { JitEnv } from './environment.js';
import type { ProgramFacts } from './facts.js';
import type { FrameWord, FunctionPlan } from './frame_plan.js';
import type { Plan } from './plan.js';
import { CALLER_SAVED, homeOf, homesOf, maskOf, type RegisterMask, SPARE } from './register_map.js';

const CONSTANT_BYTES = 8;
/** Bytes of code to expect for an instruction. */
const BYTES_EACH = 16;
/** r0 to r5, whose homes programs may change. */
const CALLER_SAVED_HOMES = homesOf((1 << (LAST_ARGUMENT + 1)) - 1);

export class Emitter {
  readonly a: Assembler;
  readonly program: ProgramFacts;
  readonly plan: Plan;
  readonly env: JitEnv;
  /** caller-saved registers changed so far */
  clobbers: RegisterMask = 0;
  /** the function whose code is being written */
  fn: FunctionPlan;
  private readonly labels: Label[];
  private readonly entries: ReadonlyMap<number, Label>;
  /** loads that may fault */
  readonly fixups = new FixupList();
  private readonly cold: (() => void)[] = [];
  private readonly constants: { readonly label: Label; readonly value: bigint }[] = [];
  private index = 0;
  private borrowed: RegisterMask = 0;

  constructor(program: ProgramFacts, plan: Plan, env: JitEnv) {
    this.a = new Assembler(program.insns.length * BYTES_EACH);
    this.program = program;
    this.plan = plan;
    this.env = env;
    this.labels = program.insns.map(() => this.a.label());
    this.fn = plan.functions[0] as FunctionPlan;
    this.entries = new Map(plan.functions.map(fn => [fn.start, this.a.label()]));
  }

  /** Where the function begins whose first instruction is `start`: before it makes its frame. */
  entryOf(start: number): Label {
    const label = this.entries.get(start);
    if (label === undefined) throw new RangeError(`no function begins at instruction ${start}`);
    return label;
  }

  /** A word of our own in the frame. */
  word(name: FrameWord, offset = 0): Mem {
    const at = this.fn.words.get(name);
    if (at === undefined) throw new RangeError(`the frame at instruction ${this.index} has no ${name}`);
    return mem(rsp, at + offset);
  }

  /** Moves on to instruction `index`: its label is bound here, and nothing is borrowed any more. */
  begin(index: number): void {
    this.index = index;
    this.borrowed = 0;
    this.a.bind(this.labelOf(index));
  }

  /** Where the code of instruction `index` begins. */
  labelOf(index: number): Label {
    return this.labels[index] as Label;
  }

  insnAt(index: number): BpfInsn {
    return this.program.insns[index] as BpfInsn;
  }

  operationAt(index: number): Operation {
    return this.program.operations[index] as Operation;
  }

  // Registers

  /** The register of BPF register `number`, to be read. */
  source(number: number): Reg {
    if (number !== FRAME_POINTER) return homeOf(number);
    const register = this.borrow();
    this.a.lea(register, mem(rsp, this.fn.frameSize));
    return register;
  }

  /** The register of BPF register `number`, which changes. */
  target(number: number): Reg {
    return this.changing(homeOf(number));
  }

  /** Notes that `register` changes. */
  changing(register: Reg): Reg {
    this.clobbers |= maskOf(register) & CALLER_SAVED;
    return register;
  }

  /** The memory operand `offset` bytes from what BPF register `number` points to. */
  memory(number: number, offset: number): Mem {
    return number === FRAME_POINTER ? mem(rsp, this.fn.frameSize + offset) : mem(homeOf(number), offset);
  }

  /** Whether nothing needs what `register` holds, neither now nor after this instruction. */
  isFree(register: Reg): boolean {
    return (this.inUse() & maskOf(register)) === 0;
  }

  /**
   * A register to compute in, until the next instruction, that is none of `except`: one that the program changes
   * anyway, where there is one, so that the trampoline need not save another.
   */
  borrow(...except: Reg[]): Reg {
    const taken = this.inUse() | this.borrowed | maskOf(...except);
    const changed = this.plan.written | this.clobbers;
    const free = [...CALLER_SAVED_HOMES, ...SPARE].filter(candidate => (maskOf(candidate) & taken) === 0);
    const register = free.find(candidate => (maskOf(candidate) & changed) !== 0) ?? this.spare(free);
    this.borrowed |= maskOf(register);
    return this.changing(register);
  }

  /**
   * At a call compiled in place, once its arguments were used: one of their registers, or a spare one, that the
   * program changes anyway; `undefined` if there is none.
   */
  changedArgument(): Reg | undefined {
    const changed = this.plan.written | this.clobbers;
    const candidates = [...homesOf(ARGUMENTS), ...SPARE];
    return candidates.find(candidate => (maskOf(candidate) & changed) !== 0);
  }

  private spare(free: readonly Reg[]): Reg {
    const register = free.find(candidate => SPARE.includes(candidate));
    if (register === undefined) throw new RangeError('an instruction borrows more registers than there are');
    return register;
  }

  /** Homes of everything live before or after this instruction, and of what it reads and writes. */
  private inUse(): RegisterMask {
    const { before, after } = this.plan.liveness;
    const insn = this.insnAt(this.index);
    const operation = this.operationAt(this.index);
    const live = (before[this.index] as number) | (after[this.index] as number);
    return maskOf(...homesOf(live | registersRead(insn, operation) | registersWritten(insn, operation)));
  }

  // Code apart

  /** Writes `code` behind the program, so that what rarely runs is not in the way. `code` borrows nothing. */
  apart(code: () => void): void {
    this.cold.push(code);
  }

  /** A constant of 8 bytes in memory, behind the code: for where there is no register to load it into. */
  constant(value: bigint): Mem {
    const label = this.a.label();
    this.constants.push({ label, value });
    return ripLabel(label);
  }

  /** Writes what was put apart, and the constants. */
  finish(): void {
    for (const code of this.cold) code();
    if (this.constants.length > 0) this.a.align(CONSTANT_BYTES);
    for (const { label, value } of this.constants) {
      this.a.bind(label);
      this.a.u64(value);
    }
  }
}

/** Bytes of an operand of `width` bits. */
export function bytesOf(width: 32 | 64): 4 | 8 {
  return width === 32 ? 4 : 8;
}

/** An immediate as the store of `size` bytes takes it: its low bytes. */
export function lowBytes(imm: number, size: AccessSize): number {
  return size === 1 ? imm & 0xff : size === 2 ? imm & 0xffff : imm;
}

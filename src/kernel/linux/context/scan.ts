/**
 * What a program reads of its context: which words, by loads and by `bpf_get_func_arg`, at the function's entry and at its
 * return. It follows the context through registers, the stack and calls of subprograms, and never says less than what is
 * read; where the context goes out of sight, all words count as read. What is safe is the kernel's verifier to say.
 */

import { HELPER } from '../../../bpf/helpers.js';
import {
  type BpfInsn,
  CALL,
  FIRST_ARGUMENT,
  FRAME_POINTER,
  LAST_ARGUMENT,
  LD_IMM64,
  PSEUDO,
  RESULT,
} from '../../../bpf/instruction.js';
import { KFUNC } from '../../../bpf/kfuncs.js';
import { type Layout, layoutOf } from '../../../bpf/layout.js';
import { type Operation, operationOf } from '../../../bpf/operation.js';
import { BpfError } from '../../errno.js';
import {
  ANY_OFFSET,
  CONTEXT,
  constant,
  FRAME,
  joinInto,
  merge,
  NOTHING,
  type State,
  stateOfCall,
  type Value,
} from './scan_state.js';
import { arithmetic, branchTaken } from './scan_values.js';

/** Bytes of a word of the context. */
const WORD = 8;

/** What one run of a program reads. */
export interface ContextReads {
  /** Words, from 0. */
  readonly words: ReadonlySet<number>;
  /** Some load may be of any word. */
  readonly anyWord: boolean;
  /** Words that `bpf_get_func_arg` asks for; `anyArgument`: also such as are computed. */
  readonly asked: ReadonlySet<number>;
  readonly anyArgument: boolean;
}

/** Which run: at the entry, or at the return (`bpf_session_is_return`). */
export type Phase = 'entry' | 'return';

/**
 * What a program reads in a run of this phase. Throws EACCES where it writes into its context, or reads bytes that are in
 * no word.
 */
export function scanContext(insns: readonly BpfInsn[], phase: Phase): ContextReads {
  return new Scan(insns, phase).run();
}

class Scan {
  readonly #insns: readonly BpfInsn[];
  readonly #layout: Layout;
  readonly #isReturn: bigint;
  /** What is known before each instruction that jumps go to, and before the others where something came. */
  readonly #states: (State | undefined)[];
  readonly #pending: number[] = [];
  readonly #queued: Uint8Array;
  readonly #words = new Set<number>();
  readonly #asked = new Set<number>();
  #anyWord = false;
  #anyArgument = false;

  constructor(insns: readonly BpfInsn[], phase: Phase) {
    this.#insns = insns;
    this.#layout = layoutOf(insns);
    this.#isReturn = phase === 'return' ? 1n : 0n;
    this.#states = new Array(insns.length);
    this.#queued = new Uint8Array(insns.length);
  }

  run(): ContextReads {
    this.#reach(0, stateOfCall([{ kind: CONTEXT, offset: 0 }]));
    for (let index = this.#pending.pop(); index !== undefined; index = this.#pending.pop()) {
      this.#queued[index] = 0;
      this.#step(index, this.#states[index]!);
    }
    return {
      words: this.#words,
      anyWord: this.#anyWord,
      asked: this.#asked,
      anyArgument: this.#anyArgument,
    };
  }

  /** Something may come to an instruction with what is known in `state`. */
  #reach(index: number, state: State): void {
    if (index < 0 || index >= this.#insns.length) return;
    const known = this.#states[index];
    if (known === undefined)
      this.#states[index] = { registers: [...state.registers], stack: new Map(state.stack) };
    else if (!joinInto(known, state)) return;
    if (this.#queued[index] === 1) return;
    this.#queued[index] = 1;
    this.#pending.push(index);
  }

  #reachSlot(slot: number, state: State): void {
    const index = this.#layout.indexAt[slot];
    if (index !== undefined) this.#reach(index, state);
  }

  #step(index: number, before: State): void {
    const insn = this.#insns[index];
    const slot = this.#layout.slotOf[index];
    const state: State = { registers: [...before.registers], stack: new Map(before.stack) };
    const operation = decode(insn, slot);
    const next = (): void => this.#reach(index + 1, state);
    if (operation === undefined) {
      state.registers[insn.dst] = NOTHING;
      next();
      return;
    }
    switch (operation.kind) {
      case 'goto':
        this.#reachSlot(slot + 1 + operation.distance, state);
        return;
      case 'exit':
        return;
      case 'mayGoto':
        this.#reachSlot(slot + 1 + insn.offset, state);
        next();
        return;
      case 'branch': {
        const { registers } = state;
        const right = operation.immediate ? constant(BigInt(insn.imm)) : read(registers, insn.src);
        const taken = branchTaken(operation, read(registers, insn.dst), right);
        if (taken !== false) this.#reachSlot(slot + 1 + insn.offset, state);
        if (taken !== true) next();
        return;
      }
      case 'call':
        this.#call(insn, slot, operation.target, state);
        next();
        return;
      case 'load':
        state.registers[insn.dst] = this.#load(state, insn, operation.size, slot);
        next();
        return;
      case 'store':
        this.#store(state, insn, operation.size, operation.immediate, slot);
        next();
        return;
      case 'atomic':
        this.#store(state, insn, operation.size, false, slot);
        if (operation.fetch) state.registers[operation.name === 'cmpxchg' ? RESULT : insn.src] = NOTHING;
        next();
        return;
      case 'loadImmediate':
        this.#loadImmediate(state, insn, slot);
        next();
        return;
      case 'packet':
        state.registers[RESULT] = NOTHING;
        next();
        return;
      default:
        state.registers[insn.dst] = arithmetic(operation, insn, state.registers);
        next();
    }
  }

  #loadImmediate(state: State, insn: BpfInsn, slot: number): void {
    state.registers[insn.dst] = insn.src === PSEUDO.IMM ? constant(insn.imm64 ?? 0n) : NOTHING;
    // A callback: what it is handed is no context, unless one went out of sight.
    if (insn.src === PSEUDO.FUNC) this.#reachSlot(slot + 1 + insn.imm, stateOfCall([]));
  }

  #load({ registers, stack }: State, insn: BpfInsn, size: number, slot: number): Value {
    const pointer = read(registers, insn.src);
    if (pointer.kind === CONTEXT) {
      this.#readWord(pointer.offset, insn.offset, slot);
      return NOTHING;
    }
    if (pointer.kind !== FRAME || size !== WORD) return NOTHING;
    if (pointer.offset === ANY_OFFSET) return [...stack.values()].reduce(merge, NOTHING);
    return stack.get(pointer.offset + insn.offset) ?? NOTHING;
  }

  #readWord(base: number | typeof ANY_OFFSET, offset: number, slot: number): void {
    if (base === ANY_OFFSET) {
      this.#anyWord = true;
      return;
    }
    const at = base + offset;
    if (at < 0)
      throw new BpfError(
        'EACCES',
        `insn ${slot}: invalid bpf_context access off=${at}: the context begins at 0`,
      );
    this.#words.add(Math.floor(at / WORD));
  }

  #store({ registers, stack }: State, insn: BpfInsn, size: number, immediate: boolean, slot: number): void {
    const pointer = read(registers, insn.dst);
    const value = immediate ? NOTHING : read(registers, insn.src);
    if (pointer.kind === CONTEXT)
      throw new BpfError('EACCES', `insn ${slot}: the program writes into its context, which is only read`);
    if (pointer.kind === FRAME && pointer.offset !== ANY_OFFSET) {
      const at = pointer.offset + insn.offset;
      for (let byte = at - WORD + 1; byte < at + size; byte++) stack.delete(byte);
      if (size === WORD) stack.set(at, value);
    } else if (value.kind === CONTEXT) this.#anyWord = true;
  }

  #call(insn: BpfInsn, slot: number, target: 'helper' | 'subprogram' | 'kfunc', state: State): void {
    const { registers, stack } = state;
    const args = registers.slice(FIRST_ARGUMENT, LAST_ARGUMENT + 1);
    const callsBack = target === 'helper' && CALLING_BACK.has(insn.imm);
    // A context that is on the stack, and a pointer to the stack that goes elsewhere: it may be found there.
    if (target === 'subprogram' || callsBack) {
      const spilled = [...stack.values()].some(({ kind }) => kind === CONTEXT);
      if (spilled && args.some(({ kind }) => kind === FRAME)) this.#anyWord = true;
    }
    if (callsBack && args.some(({ kind }) => kind === CONTEXT)) this.#anyWord = true;
    if (target === 'subprogram') this.#reachSlot(slot + 1 + insn.imm, stateOfCall(args));
    if (target === 'helper' && insn.imm === HELPER.get_func_arg) {
      const asked = args[1];
      if (asked?.kind === 'constant') this.#asked.add(Number(BigInt.asUintN(32, asked.value)));
      else this.#anyArgument = true;
    }
    for (let register = FIRST_ARGUMENT; register <= LAST_ARGUMENT; register++) registers[register] = NOTHING;
    registers[RESULT] =
      insn.src === CALL.KFUNC && insn.imm === KFUNC.bpf_session_is_return
        ? constant(this.#isReturn)
        : NOTHING;
  }
}

/** Helpers that call a function of the program. */
const CALLING_BACK: ReadonlySet<number> = new Set([
  HELPER.for_each_map_elem,
  HELPER.loop,
  HELPER.find_vma,
  HELPER.user_ringbuf_drain,
  HELPER.timer_set_callback,
]);

function read(registers: readonly Value[], register: number): Value {
  return register === FRAME_POINTER ? { kind: FRAME, offset: 0 } : (registers[register] ?? NOTHING);
}

/** What an instruction means; `undefined` for one that only a kernel knows. */
function decode(insn: BpfInsn, slot: number): Operation | undefined {
  try {
    return operationOf(insn, slot);
  } catch (cause) {
    if (cause instanceof BpfError && insn.opcode !== LD_IMM64) return undefined;
    throw cause;
  }
}

/**
 * Proves that a BPF program is safe to run in the traced process, or refuses it with the reason (the kernel's
 * `bpf_check`). It walks every path that the program can take, keeping what is known of each register and stack
 * slot, and refuses whatever it can't prove: only a `VerifiedProgram` is ever compiled.
 *
 * It is less clever than the kernel's: no loops, no subprograms, no kernel functions, no variable offsets into
 * the stack, no packets. It never accepts what the kernel refuses for safety.
 */

import { type BpfInsn, PSEUDO, RESULT } from '../../../bpf/instruction.js';
import { layoutOf } from '../../../bpf/layout.js';
import { liveRegisters, registersRead, registersWritten } from '../../../bpf/liveness.js';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import { type Operation, operationOf } from '../../../bpf/operation.js';
import { BpfError } from '../../errno.js';
import { checkArithmetic, checkWritable, immediate } from './arithmetic_check.js';
import { type ControlFlow, checkControlFlow, fallsThrough } from './control_flow.js';
import type { MapSpec, VerifierEnv } from './environment.js';
import { checkHelperCall } from './helper_call.js';
import { checkAtomic, checkLoad, checkStore } from './memory_access.js';
import { certain, Findings, note, Step } from './path.js';
import { constant, isConstant } from './scalar.js';
import { refineBranch } from './scalar_branch.js';
import { State } from './state.js';
import { mapValue, type Value, ZERO } from './value.js';

/** Instructions that the verifier walks at most, over all paths (BPF_COMPLEXITY_LIMIT_INSNS). */
export const COMPLEXITY_LIMIT = 1_000_000;
/** Slots of the longest program that it looks at: the same number, as in the kernel. */
const LONGEST_PROGRAM = COMPLEXITY_LIMIT;
/** States remembered at one instruction, the latest ones, to end paths that bring nothing new. */
const STATES_AT_INSTRUCTION = 16;

/** A program that was proved safe. Only `verifyProgram` can make one: the private field is the brand. */
class Verified {
  readonly #proved = true;
  readonly insns: readonly BpfInsn[];
  /** what each instruction means */
  readonly operations: readonly Operation[];
  readonly flow: ControlFlow;
  readonly env: VerifierEnv;
  /** the arguments of the traced function that the program reads, ascending */
  readonly accessedArgs: readonly number[];
  /** whether it reads the traced function's return value */
  readonly readsReturnValue: boolean;
  /** bytes of stack that it uses, at most 512 */
  readonly stackDepth: number;
  /** numbers of the helpers that it calls, ascending */
  readonly usedHelpers: readonly number[];
  readonly usedMaps: readonly MapSpec[];
  /** the map that each call of a map helper is for, by index of instruction */
  readonly callMaps: ReadonlyMap<number, MapSpec>;
  /** where the key of a map helper's call is below the frame pointer, if always there; by index of instruction */
  readonly keyOffsets: ReadonlyMap<number, number>;
  /** what the source register of an atomic holds, if always the same number; by index of instruction */
  readonly atomicOperands: ReadonlyMap<number, bigint>;
  /** by index of instruction: 0 where no path that can be taken leads */
  readonly reached: Uint8Array;
  /** instructions walked, over all paths */
  readonly processed: number;

  constructor(
    program: {
      insns: readonly BpfInsn[];
      operations: readonly Operation[];
      flow: ControlFlow;
      env: VerifierEnv;
    },
    findings: Findings,
    reached: Uint8Array,
    processed: number,
  ) {
    this.insns = program.insns;
    this.operations = program.operations;
    this.flow = program.flow;
    this.env = program.env;
    this.accessedArgs = [...findings.accessedArgs].sort((a, b) => a - b);
    this.readsReturnValue = findings.readsReturnValue;
    this.stackDepth = findings.stackDepth;
    this.usedHelpers = [...findings.usedHelpers].sort((a, b) => a - b);
    this.usedMaps = [...findings.usedMaps.values()];
    this.callMaps = findings.callMaps;
    this.keyOffsets = certain(findings.keyOffsets);
    this.atomicOperands = certain(findings.atomicOperands);
    this.reached = reached;
    this.processed = processed;
  }

  /** Whether `value` really is one of these, whatever its type claims. */
  static is(value: object): value is Verified {
    return #proved in value;
  }
}

/** A program that was proved safe to run. Made by `verifyProgram` only. */
export type VerifiedProgram = Verified;

/** Whether `value` came from `verifyProgram`. */
export function isVerified(value: object): value is VerifiedProgram {
  return Verified.is(value);
}

interface Branch {
  readonly index: number;
  readonly state: State;
}

class Walk {
  private readonly insns: readonly BpfInsn[];
  private readonly env: VerifierEnv;
  private readonly slotOf: Int32Array;
  private readonly operations: readonly Operation[];
  private readonly flow: ControlFlow;
  private readonly live: Uint16Array;
  private readonly findings = new Findings();
  private readonly seen = new Map<number, State[]>();
  private readonly pending: Branch[] = [];
  private readonly reached: Uint8Array;
  private processed = 0;

  constructor(insns: readonly BpfInsn[], env: VerifierEnv) {
    const layout = layoutOf(insns);
    if (insns.length === 0 || layout.slots > LONGEST_PROGRAM) {
      throw new BpfError('E2BIG', `a program has 1 to ${LONGEST_PROGRAM} instructions, not ${layout.slots}`);
    }
    const operations = insns.map((insn, i) => operationOf(insn, layout.slotOf[i] as number));
    this.insns = insns;
    this.env = env;
    this.slotOf = layout.slotOf;
    this.operations = operations;
    this.refuseKinds();
    this.flow = checkControlFlow(insns, operations, layout);
    this.live = liveRegisters({
      length: insns.length,
      targets: this.flow.targets,
      fallsThrough: index => fallsThrough(operations[index] as Operation),
      reads: index => registersRead(insns[index] as BpfInsn, operations[index] as Operation),
      writes: index => registersWritten(insns[index] as BpfInsn, operations[index] as Operation),
    }).before;
    this.reached = new Uint8Array(insns.length);
  }

  run(): VerifiedProgram {
    this.pending.push({ index: 0, state: State.atEntry() });
    for (let branch = this.pending.pop(); branch !== undefined; branch = this.pending.pop()) {
      this.walkPath(branch.index, branch.state);
    }
    const { insns, operations, flow, env } = this;
    return new Verified({ insns, operations, flow, env }, this.findings, this.reached, this.processed);
  }

  /** Instructions that exist and that programs here can't have, whatever leads to them. */
  private refuseKinds(): void {
    this.operations.forEach((operation, index) => {
      const step = this.step(index, State.atEntry());
      if (operation.kind === 'packet') {
        step.fail('EINVAL', 'BPF_LD_[ABS|IND] instructions not allowed for this program type');
      }
      if (operation.kind === 'call' && operation.target === 'subprogram') {
        step.fail('EINVAL', 'calls of subprograms are not supported; write the program as one function');
      }
      if (operation.kind === 'call' && operation.target === 'kfunc') {
        step.fail('EINVAL', `calling kernel function #${step.insn.imm} is not allowed: a process has none`);
      }
    });
  }

  private step(index: number, state: State): Step {
    const insn = this.insns[index] as BpfInsn;
    return new Step(insn, index, this.slotOf[index] as number, state, this.env, this.findings);
  }

  /** Walks one path to its exit, to a state seen before, or to what is wrong with the program. */
  private walkPath(start: number, state: State): void {
    let index = start;
    for (;;) {
      if (this.flow.isTarget[index] === 1 && this.isCovered(index, state)) return;
      this.reached[index] = 1;
      if (++this.processed > COMPLEXITY_LIMIT) {
        throw new BpfError('E2BIG', `BPF program is too large. Processed ${this.processed} insn`);
      }
      const operation = this.operations[index] as Operation;
      const step = this.step(index, state);
      if (operation.kind === 'exit') {
        this.checkExit(step);
        return;
      }
      if (operation.kind === 'branch') {
        const next = this.walkBranch(step, operation);
        if (next < 0) return;
        index = next;
      } else if (operation.kind === 'goto') {
        index = this.flow.targets[index] as number;
      } else {
        this.checkInstruction(step, operation);
        index++;
      }
    }
  }

  /** Whether an earlier path through `index` proves this one safe; remembers the state if not. */
  private isCovered(index: number, state: State): boolean {
    state.keep(this.live[index] as number);
    const earlier = this.seen.get(index);
    if (earlier === undefined) {
      this.seen.set(index, [state.copy()]);
      return false;
    }
    if (earlier.some(old => old.coversState(state))) return true;
    if (earlier.length === STATES_AT_INSTRUCTION) earlier.shift();
    earlier.push(state.copy());
    return false;
  }

  private checkInstruction(step: Step, operation: Operation): void {
    const { insn, state } = step;
    switch (operation.kind) {
      case 'alu':
      case 'mov':
      case 'movsx':
      case 'neg':
      case 'swap':
        state.set(insn.dst, checkArithmetic(step, operation));
        return;
      case 'loadImmediate':
        checkWritable(step, insn.dst);
        state.set(insn.dst, this.loadedValue(step));
        return;
      case 'load':
        checkWritable(step, insn.dst);
        state.set(insn.dst, checkLoad(step, operation.size, operation.signed));
        return;
      case 'store':
        if (operation.immediate) checkStore(step, operation.size, immediate(step), undefined);
        else checkStore(step, operation.size, step.read(insn.src), insn.src);
        return;
      case 'atomic':
        this.checkAtomicInstruction(step, operation);
        return;
      case 'call':
        checkHelperCall(step);
        return;
      default:
        step.fail('EINVAL', 'not supported');
    }
  }

  private checkAtomicInstruction(step: Step, operation: Operation & { kind: 'atomic' }): void {
    const { insn, state } = step;
    const operand = step.readScalar(insn.src, `R${insn.src} leaks addr into mem`);
    note(this.findings.atomicOperands, step.index, isConstant(operand) ? operand.min : undefined);
    if (operation.name === 'cmpxchg') step.readScalar(RESULT, `R${RESULT} leaks addr into mem`);
    const fetched = operation.name === 'cmpxchg' ? RESULT : insn.src;
    if (operation.fetch) checkWritable(step, fetched);
    const old = checkAtomic(step, operation.size);
    if (operation.fetch) state.set(fetched, old);
  }

  private loadedValue(step: Step): Value {
    const { insn } = step;
    const value = insn.imm64 as bigint;
    if (insn.src === PSEUDO.IMM) return constant(value);
    if (insn.src !== PSEUDO.MAP_FD && insn.src !== PSEUDO.MAP_VALUE) {
      return step.fail('EINVAL', `16-byte loads of kind ${insn.src} are not supported`);
    }
    const id = Number(value & 0xffff_ffffn);
    const offset = Number(value >> 32n);
    const map = this.env.maps.get(id);
    if (map === undefined) return step.fail('EBADF', `fd ${id} is not pointing to valid bpf_map`);
    this.findings.usedMaps.set(id, map);
    if (insn.src === PSEUDO.MAP_FD) {
      if (offset !== 0) step.fail('EINVAL', 'unrecognized bpf_ld_imm64 insn');
      return { kind: 'map_ptr', map };
    }
    if (map.type !== MAP_TYPE.ARRAY || map.maxEntries !== 1) {
      step.fail('EINVAL', `direct value access needs an array map of one entry, and ${map.name} is not one`);
    }
    if (offset >= map.valueSize) {
      step.fail('EINVAL', `invalid access to map value pointer, value_size=${map.valueSize} off=${offset}`);
    }
    return mapValue(map, offset);
  }

  /** Both ways of a conditional jump: one is put aside, the other one's instruction is returned, -1 if none. */
  private walkBranch(step: Step, operation: Operation & { kind: 'branch' }): number {
    const { insn, index, state } = step;
    const target = this.flow.targets[index] as number;
    const left = step.read(insn.dst);
    const right: Value = operation.immediate ? immediate(step) : step.read(insn.src);

    if (left.kind === 'scalar' && right.kind === 'scalar') {
      const { taken, fallen } = refineBranch(operation.condition, operation.width, left, right);
      const follow = (at: State, way: { dst: Value; src: Value }): State => {
        at.set(insn.dst, way.dst);
        // A register compared with itself keeps what the comparison says of its one value.
        if (!operation.immediate && insn.src !== insn.dst) at.set(insn.src, way.src);
        return at;
      };
      if (taken !== undefined && fallen !== undefined) {
        this.pending.push({ index: target, state: follow(state.copy(), taken) });
        follow(state, fallen);
        return index + 1;
      }
      if (taken !== undefined) {
        follow(state, taken);
        return target;
      }
      if (fallen !== undefined) {
        follow(state, fallen);
        return index + 1;
      }
      return -1;
    }
    return this.walkNullCheck(step, operation, left, right, target);
  }

  private walkNullCheck(
    step: Step,
    operation: Operation & { kind: 'branch' },
    left: Value,
    right: Value,
    target: number,
  ): number {
    const { insn, index, state } = step;
    const isZero = right.kind === 'scalar' && right.max === 0n;
    const equality = operation.condition === 'eq' || operation.condition === 'ne';
    if (!isZero || !equality || operation.width !== 64) {
      const pointer = left.kind === 'scalar' ? insn.src : insn.dst;
      return step.fail('EACCES', `R${pointer} pointer comparison prohibited`, pointer);
    }
    const nullWay = operation.condition === 'eq' ? target : index + 1;
    const valueWay = operation.condition === 'eq' ? index + 1 : target;
    // Other pointers are never null.
    if (left.kind !== 'map_value_or_null') return valueWay;
    const without = state.copy();
    without.replaceLookup(left.id, ZERO);
    this.pending.push({ index: nullWay, state: without });
    state.replaceLookup(left.id, mapValue(left.map));
    return valueWay;
  }

  private checkExit(step: Step): void {
    const result = step.read(RESULT);
    if (result.kind !== 'scalar') step.fail('EACCES', 'R0 leaks addr as return value', RESULT);
    if (this.env.attachType === 'fmod_ret' || result.max === 0n) return;
    step.fail(
      'EINVAL',
      `At program exit the register R0 should have been in [0, 0] for ${this.env.attachType}`,
      RESULT,
    );
  }
}

/**
 * Proves `insns` safe for `env`. Throws `BpfError` where it can't: EINVAL for a program that is malformed or
 * uses what is not there, EACCES for one that does what it may not, E2BIG for one too long to check, EBADF for a
 * map that is not in `env`. The message names the slot, the instruction, the reason, and what the registers held.
 */
export function verifyProgram(insns: readonly BpfInsn[], env: VerifierEnv): VerifiedProgram {
  // A copy that nobody can change: what was proved is what will be compiled.
  return new Walk(Object.freeze(insns.map(insn => Object.freeze({ ...insn }))), env).run();
}

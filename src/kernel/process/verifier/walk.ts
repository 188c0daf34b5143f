/**
 * Walks every path that a program can take, keeping what is known of each register and stack slot, and refuses whatever
 * it can't prove (the kernel's `do_check`).
 */

import { type BpfInsn, FRAME_POINTER, PSEUDO, RESULT } from '../../../bpf/instruction.js';
import { KFUNC } from '../../../bpf/kfuncs.js';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import type { Operation } from '../../../bpf/operation.js';
import { VerifierError } from '../../verifier_error.js';
import { checkArithmetic, immediate } from './arithmetic_check.js';
import { checkBranch } from './branch_check.js';
import { leaveCallback } from './callback.js';
import { attachTypeOf, type VerifierEnv } from './environment.js';
import type { Facts } from './facts.js';
import { checkHelperCall } from './helper_call.js';
import { checkKfuncCall } from './kfunc_call.js';
import type { Log } from './log.js';
import { checkAtomic, checkLoad, checkStore } from './memory_access.js';
import { type Analysis, Findings, note, Step } from './path.js';
import type { Program } from './program.js';
import { endPath, type Node, Pruning } from './pruning.js';
import { constant, isConstant } from './scalar.js';
import { Frame, State } from './state.js';
import { checkSubprogramCall, globalEntry, leaveSubprogram } from './subprogram_call.js';
import { CONTEXT, mapValue, memory, type Value } from './value.js';

/** Instructions that the verifier walks at most, over all paths (BPF_COMPLEXITY_LIMIT_INSNS). */
export const COMPLEXITY_LIMIT = 1_000_000;
/** Paths put aside at most (BPF_COMPLEXITY_LIMIT_JMP_SEQ). */
const MOST_PENDING = 8192;
/** Instructions between two states that are remembered, where nothing asks for one. */
const INSTRUCTIONS_BETWEEN_STATES = 8;
const BRANCHES_BETWEEN_STATES = 2;
const CALLING_BACK: readonly number[] = [164, 181];

/** A path that is to be walked from `index`. */
interface Pending {
  readonly index: number;
  readonly state: State;
  readonly parent: Node | undefined;
  readonly from: number;
}

/** What the walk found matters more than it knew when it ended a path: it must begin again. */
export class Restart extends Error {}

export class Walk {
  readonly findings: Findings;
  readonly reached: Uint8Array;
  readonly pruning: Pruning;
  processed = 0;
  private readonly program: Program;
  private readonly env: VerifierEnv;
  private readonly facts: Facts;
  private readonly log: Log;
  private readonly step: Step;
  private readonly pending: Pending[] = [];
  private readonly always: Uint8Array;
  private parent: Node | undefined;
  private sinceState = 0;
  private branchesSinceState = 0;
  /** the path was put aside, and has not moved yet: others like it wait, or will come */
  private resumed = false;

  /** `widens`: numbers that grow in loops that end by themselves are taken to grow on; else every round is walked. */
  constructor(program: Program, facts: Facts, log: Log, widens: boolean) {
    this.program = program;
    this.env = program.env;
    this.facts = facts;
    this.log = log;
    this.findings = new Findings(program.insns.length);
    this.reached = new Uint8Array(program.insns.length);
    this.pruning = new Pruning(facts, widens);
    this.always = statePoints(program);
    const analysis: Analysis = {
      program,
      env: program.env,
      facts,
      findings: this.findings,
      log,
      pend: (index, state) => this.pend(index, state),
    };
    this.step = new Step(analysis, new State([Frame.enter(0, -1, 0, 0)]));
  }

  /** Walks the main program and every global function. Throws `VerifierError`, or `Restart`. */
  run(): void {
    this.walkFunction(0, this.entry());
    this.program.subprograms.list.forEach((subprogram, number) => {
      if (!subprogram.isGlobal || this.env.btf === undefined) return;
      const entry = globalEntry(this.env.btf, number, subprogram, () => this.findings.newId());
      this.walkFunction(subprogram.start, entry);
    });
  }

  private entry(): State {
    const frame = Frame.enter(0, -1, 0, 0);
    const { context } = this.env;
    if (context === undefined) frame.registers[1] = CONTEXT;
    else {
      frame.registers[1] = memory('mem', context.size);
      frame.registers[2] = constant(context.size);
    }
    return new State([frame]);
  }

  private walkFunction(start: number, state: State): void {
    this.pending.push({ index: start, state, parent: undefined, from: -1 });
    for (let next = this.pending.pop(); next !== undefined; next = this.pending.pop()) {
      this.parent = next.parent;
      const mark = this.log.mark();
      if (next.from >= 0) this.log.branch(next.from, this.slotOf(next.index), next.state);
      this.resumed = next.parent !== undefined;
      this.walkPath(next.index, next.state);
      this.log.rewind(mark);
      endPath(this.parent);
      if (this.facts.stale) throw new Restart();
    }
  }

  private slotOf(index: number): number {
    return this.program.layout.slotOf[index] as number;
  }

  private pend(index: number, state: State): void {
    if (this.pending.length >= MOST_PENDING) {
      this.step.fail('E2BIG', `The sequence of ${MOST_PENDING} jumps is too complex.`);
    }
    const { parent } = this;
    if (parent !== undefined) parent.branches++;
    this.pending.push({ index, state, parent, from: this.step.slot });
  }

  /** Walks one path to its exit, to a state seen before, or to what is wrong with the program. */
  private walkPath(start: number, state: State): void {
    const { program, step, log } = this;
    const { operations, flow } = program;
    step.state = state;
    let index = start;
    for (;;) {
      step.moveTo(index);
      if (flow.isTarget[index] === 1 || this.always[index] === 1) {
        if (this.isEnd(index)) return;
      }
      this.reached[index] = 1;
      this.env.observe?.instruction(index, step.state);
      this.sinceState++;
      if (++this.processed > COMPLEXITY_LIMIT) {
        const reason = `BPF program is too large. Processed ${this.processed} insn`;
        throw new VerifierError('E2BIG', reason, log.text());
      }
      const operation = operations[index] as Operation;
      if (log.tells) log.instruction(step.insn, step.slot, step.state);
      const next = this.walkInstruction(index, operation);
      if (log.tells) log.changed(step.state);
      if (next < 0) return;
      index = next;
    }
  }

  /** Whether the path ends here; remembers the state if not, where that is worth it. */
  private isEnd(index: number): boolean {
    const { step } = this;
    const verdict = this.pruning.judge(index, step.state, this.parent);
    if (this.facts.stale) throw new Restart();
    if (verdict === 'covered') {
      if (this.log.tells) this.log.line(`${step.slot}: safe`);
      return true;
    }
    if (verdict === 'loop') {
      step.fail(
        'EINVAL',
        `infinite loop detected at insn ${step.slot}: nothing that the program reads changes`,
      );
    }
    if (this.always[index] === 1) this.pruning.settleLoop(index, step.state);
    const enough =
      this.sinceState >= INSTRUCTIONS_BETWEEN_STATES && this.branchesSinceState >= BRANCHES_BETWEEN_STATES;
    const { resumed } = this;
    this.resumed = false;
    if (enough || resumed || this.always[index] === 1 || this.env.rememberOften === true) {
      this.parent = this.pruning.remember(index, step.state, this.parent);
      this.sinceState = 0;
      this.branchesSinceState = 0;
    }
    return false;
  }

  /** Checks one instruction; gives the index of the next one on this path, -1 where it ends. */
  private walkInstruction(index: number, operation: Operation): number {
    const { step, program } = this;
    switch (operation.kind) {
      case 'exit':
        return this.walkExit();
      case 'branch':
        return this.walkBranch(index, operation);
      case 'goto':
        this.branchesSinceState++;
        return program.flow.targets[index] as number;
      case 'mayGoto': {
        this.branchesSinceState++;
        const target = program.flow.targets[index] as number;
        this.pend(target, step.state.copy());
        step.state.frame.mayGotos++;
        return index + 1;
      }
      case 'call':
        this.branchesSinceState++;
        if (operation.target === 'subprogram') return checkSubprogramCall(step);
        if (operation.target === 'kfunc') checkKfuncCall(step);
        else checkHelperCall(step);
        return index + 1;
      default:
        this.checkInstruction(operation);
        return index + 1;
    }
  }

  private checkInstruction(operation: Operation): void {
    const { step } = this;
    const { insn, state } = step;
    if (insn.dst === FRAME_POINTER && writesDestination(operation)) {
      step.fail('EACCES', 'frame pointer is read only');
    }
    switch (operation.kind) {
      case 'alu':
      case 'mov':
      case 'movsx':
      case 'neg':
      case 'swap':
        state.set(insn.dst, checkArithmetic(step, operation));
        return;
      case 'loadImmediate':
        state.set(insn.dst, this.loadedValue());
        return;
      case 'load':
        state.set(insn.dst, checkLoad(step, operation.size, operation.signed));
        return;
      case 'store':
        if (operation.immediate) checkStore(step, operation.size, immediate(step), undefined);
        else checkStore(step, operation.size, step.read(insn.src), insn.src);
        return;
      case 'atomic':
        this.checkAtomicInstruction(operation);
        return;
      default:
        step.fail('EINVAL', 'not supported');
    }
  }

  private checkAtomicInstruction(operation: Operation & { kind: 'atomic' }): void {
    const { step } = this;
    const { insn, state } = step;
    const operand = step.readScalar(insn.src, `R${insn.src} leaks addr into mem`);
    note(this.findings.atomicOperands, step.index, isConstant(operand) ? operand.min : undefined);
    if (isConstant(operand)) step.matters(insn.src);
    if (operation.name === 'cmpxchg') step.readScalar(RESULT, `R${RESULT} leaks addr into mem`);
    const fetched = operation.name === 'cmpxchg' ? RESULT : insn.src;
    const old = checkAtomic(step, operation.size);
    if (operation.fetch) state.set(fetched, old);
  }

  private loadedValue(): Value {
    const { step, program } = this;
    const { insn } = step;
    const value = insn.imm64 as bigint;
    if (insn.src === PSEUDO.IMM) return constant(value);
    if (insn.src === PSEUDO.FUNC) {
      const subprogram = program.subprograms.named[step.index] as number;
      if (program.subprograms.list[subprogram]?.isGlobal) {
        step.fail('EINVAL', 'callback function not static: helpers call static functions only');
      }
      return { kind: 'func', subprogram };
    }
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
      return { kind: 'map_ptr', map, id: 0, maybeNull: false, inner: false };
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
  private walkBranch(index: number, operation: Operation & { kind: 'branch' }): number {
    const { step, program } = this;
    this.branchesSinceState++;
    const target = program.flow.targets[index] as number;
    const { taken, fallen } = checkBranch(step, operation);
    if (fallen === undefined) {
      if (taken === undefined) return -1;
      step.state = taken;
      return target;
    }
    if (taken !== undefined) this.pend(target, taken);
    step.state = fallen;
    return index + 1;
  }

  private walkExit(): number {
    const { step } = this;
    const { state } = step;
    if (state.lock !== undefined) {
      step.fail('EINVAL', 'BPF_EXIT instruction cannot be used inside bpf_spin_lock-ed region');
    }
    const { frame } = state;
    if (frame.callback !== undefined) return leaveCallback(step, frame);
    if (state.frames.length > 1) return leaveSubprogram(step, frame);
    const leaked = state.references[0];
    if (leaked !== undefined) {
      step.fail('EINVAL', `Unreleased reference id=${leaked.id} alloc_insn=${leaked.at}`);
    }
    this.checkResult(frame.subprogram);
    return -1;
  }

  private checkResult(subprogram: number): void {
    const step: Step = this.step;
    const result = step.read(RESULT);
    if (result.kind !== 'scalar') step.fail('EACCES', 'R0 leaks addr as return value', RESULT);
    const attachType = attachTypeOf(this.env);
    if (subprogram !== 0 || this.env.context !== undefined || attachType === 'fmod_ret') return;
    const most = attachType === 'fsession' ? 1n : 0n;
    step.matters(RESULT);
    if (result.max <= most) return;
    const range = `[0, ${most}]`;
    step.fail(
      'EINVAL',
      `At program exit the register R0 should have been in ${range} for ${attachType}`,
      RESULT,
    );
  }
}

function writesDestination({ kind }: Operation): boolean {
  return kind !== 'store' && kind !== 'atomic';
}

/** Instructions before which states are remembered: where loops that end by themselves go on, and calls. */
function statePoints(program: Program): Uint8Array {
  const points = new Uint8Array(program.insns.length);
  program.operations.forEach((operation, index) => {
    const insn = program.insns[index] as BpfInsn;
    if (operation.kind === 'mayGoto') points[index] = 1;
    if (operation.kind !== 'call') return;
    if (operation.target === 'helper' && CALLING_BACK.includes(insn.imm)) points[index] = 1;
    if (operation.target === 'kfunc' && insn.imm === KFUNC.bpf_iter_num_next) points[index] = 1;
  });
  return points;
}

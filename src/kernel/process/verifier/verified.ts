/**
 * A program that was proved safe, and what was found out about it: what the JIT compiles, and nothing else.
 */

import type { BpfInsn } from '../../../bpf/instruction.js';
import { isPerCpu, MAP_TYPE } from '../../../bpf/map_type.js';
import type { Operation } from '../../../bpf/operation.js';
import type { WalkStatistics } from '../../verifier_error.js';
import type { ControlFlow } from './control_flow.js';
import type { MapSpec, VerifierEnv } from './environment.js';
import { certain, type Findings } from './path.js';
import type { Program } from './program.js';

/** A function of the program: instructions `start` to before `end`. The first one is the main program. */
export interface VerifiedSubprogram {
  readonly start: number;
  readonly end: number;
  /** bytes of its own frame, a multiple of 8, at most 512 */
  readonly stackDepth: number;
  readonly name?: string;
  readonly isCallback: boolean;
}

/** What the code that runs the program must provide. */
export interface ProgramNeeds {
  /** a helper walks the stack: `[ctx-24]` */
  readonly stack: boolean;
  /** a helper reads the record of the traced function */
  readonly record: boolean;
  /** the thread's block: per-CPU maps, its number, its name */
  readonly thread: boolean;
  /** it must not be entered again on the same thread */
  readonly guard: boolean;
  /** loads that may fault */
  readonly faults: boolean;
  readonly tailCalls: boolean;
}

// Helpers by what they need.
const READS_ANY_MEMORY = [4, 6, 27, 45, 67, 112, 113, 114, 115, 148, 165, 177];
const WALKS_STACK = [27, 67];
const READS_RECORD = [173, 183, 185];
const KNOWS_THREAD = [6, 7, 8, 16, 25, 156, 157, 177];
const SPIN_LOCK = 93;
const TAIL_CALL = 12;
const TASK_STORAGE_GET = 156;

class Verified {
  readonly #proved = true;
  readonly #storesPerCpu: boolean;
  readonly insns: readonly BpfInsn[];
  /** what each instruction means */
  readonly operations: readonly Operation[];
  readonly flow: ControlFlow;
  readonly env: VerifierEnv;
  readonly subprograms: readonly VerifiedSubprogram[];
  /** the arguments of the traced function that the program reads, ascending */
  readonly accessedArgs: readonly number[];
  /** whether it reads the traced function's return value */
  readonly readsReturnValue: boolean;
  /** those of both that it takes by their types: where it may run depends on them */
  readonly typedArgs: readonly number[];
  readonly typedResult: boolean;
  /** whether it reads stack that it did not write before, which must be zero */
  readonly readsUnwritten: boolean;
  /** bytes of stack that the main program uses, at most 512 */
  readonly stackDepth: number;
  /** numbers of the helpers that it calls, ascending */
  readonly usedHelpers: readonly number[];
  /** numbers of `KFUNC` that it calls, ascending */
  readonly usedKfuncs: readonly number[];
  readonly usedMaps: readonly MapSpec[];
  /** the map that each call of a map helper is for, by index of instruction */
  readonly callMaps: ReadonlyMap<number, MapSpec>;
  /** those of them that are for a map known at run time only, like that one: r1 has its address */
  readonly dynamicMaps: ReadonlySet<number>;
  /** where the key of a map helper's call is below the frame pointer, if always there; by index of instruction */
  readonly keyOffsets: ReadonlyMap<number, number>;
  /** what the source register of an atomic holds, if always the same number; by index of instruction */
  readonly atomicOperands: ReadonlyMap<number, bigint>;
  /**
   * By index of instruction: atomics on the thread's own value of a per-CPU array, which no other thread sees unless some
   * program looks up the values of other threads.
   */
  readonly ownAtomics: ReadonlyMap<number, boolean>;
  /** by index of instruction: 1 for a load through a pointer that may be bad, which must give 0 then */
  readonly probeLoads: Uint8Array;
  /** the subprogram that a call of bpf_loop or bpf_for_each_map_elem calls back, by index of instruction */
  readonly callbacks: ReadonlyMap<number, number>;
  /** by index of instruction: 0 where no path that can be taken leads */
  readonly reached: Uint8Array;
  readonly needs: ProgramNeeds;
  /** instructions walked, over all paths */
  readonly processed: number;
  readonly statistics: WalkStatistics;
  readonly log: string;

  constructor(
    program: Program,
    findings: Findings,
    reached: Uint8Array,
    statistics: WalkStatistics,
    log: string,
  ) {
    this.insns = program.insns;
    this.operations = program.operations;
    this.flow = program.flow;
    this.env = program.env;
    this.subprograms = program.subprograms.list.map(({ start, end, name, isCallback }, i) => ({
      start,
      end,
      isCallback,
      stackDepth: Math.ceil((findings.stackDepth[i] ?? 0) / 8) * 8,
      ...(name !== undefined && { name }),
    }));
    this.accessedArgs = ascending(findings.accessedArgs);
    this.readsReturnValue = findings.readsReturnValue;
    this.typedArgs = ascending(findings.typedArgs);
    this.typedResult = findings.typedResult;
    this.readsUnwritten = findings.readsUnwritten;
    this.stackDepth = findings.stackDepth[0] ?? 0;
    this.usedHelpers = ascending(findings.usedHelpers);
    this.usedKfuncs = ascending(findings.usedKfuncs);
    this.usedMaps = [...findings.usedMaps.values()];
    this.callMaps = findings.callMaps;
    this.dynamicMaps = findings.dynamicMaps;
    this.keyOffsets = certain(findings.keyOffsets);
    this.atomicOperands = certain(findings.atomicOperands);
    this.ownAtomics = certain(findings.ownAtomics);
    this.#storesPerCpu = findings.storesPerCpu;
    this.probeLoads = findings.loads.map(kind => (kind === 1 ? 1 : 0));
    this.callbacks = findings.callbacks;
    this.reached = reached;
    this.processed = statistics.processed;
    this.statistics = statistics;
    this.log = log;
    this.needs = this.#needs();
  }

  #needs(): ProgramNeeds {
    const calls = (ids: readonly number[]): boolean => ids.some(id => this.usedHelpers.includes(id));
    const maps = [...this.callMaps.values(), ...this.usedMaps];
    const perCpu = maps.some(map => isPerCpu(map.type) || (map.innerMap && isPerCpu(map.innerMap.type)));
    // What only adds to the thread's own numbers, each time with one instruction, may be entered again.
    const adds =
      !this.#storesPerCpu &&
      !maps.some(map => map.innerMap !== undefined) &&
      maps.every(map => !isPerCpu(map.type) || map.type === MAP_TYPE.PERCPU_ARRAY);
    const storage = maps.some(map => map.type === MAP_TYPE.TASK_STORAGE);
    return {
      stack: calls(WALKS_STACK),
      record: calls(READS_RECORD) || calls(WALKS_STACK),
      thread: perCpu || storage || calls(KNOWS_THREAD),
      guard: (perCpu && !adds) || calls([SPIN_LOCK, TASK_STORAGE_GET]),
      faults: calls(READS_ANY_MEMORY) || this.probeLoads.includes(1),
      tailCalls: calls([TAIL_CALL]),
    };
  }

  /** Whether `value` really is one of these, whatever its type claims. */
  static is(value: object): value is Verified {
    return #proved in value;
  }
}

function ascending(numbers: ReadonlySet<number>): number[] {
  return [...numbers].sort((a, b) => a - b);
}

/** A program that was proved safe to run. Made by `verifyProgram` only. */
export type VerifiedProgram = Verified;

/** Whether `value` came from `verifyProgram`. */
export function isVerified(value: object): value is VerifiedProgram {
  return Verified.is(value);
}

/** For the walk, which proves it first. */
export { Verified as ProvedProgram };

/** How each call of a program is compiled. */

import { HELPER, helperName } from '../../../bpf/helpers.js';
import {
  type BpfInsn,
  FIRST_ARGUMENT,
  FRAME_POINTER,
  LAST_ARGUMENT,
  type RegisterNumber,
} from '../../../bpf/instruction.js';
import { KFUNC, kfuncName } from '../../../bpf/kfuncs.js';
import type { Layout } from '../../../bpf/layout.js';
import type { RegisterSet } from '../../../bpf/liveness.js';
import { isPerCpu } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import { type MapOperation, mapRoutineFor, routineNeedsSlot } from '../maps/routines.js';
import {
  isArray,
  isPerCpuArray,
  type JitArray,
  type JitEnv,
  type JitMap,
  type JitPerCpuArray,
} from './environment.js';
import type { FunctionFacts, ProgramFacts } from './facts.js';

export type CallPlan =
  /** an array's lookup, in place; the key is `keyOffset` from r10, or what r2 points to */
  | { readonly kind: 'array_lookup'; readonly map: JitArray; readonly keyOffset: number | undefined }
  | { readonly kind: 'percpu_lookup'; readonly map: JitPerCpuArray; readonly keyOffset: number | undefined }
  /** a routine: its address; `slot`: it takes the thread's slot, too */
  | {
      readonly kind: 'routine';
      readonly address: bigint;
      readonly arguments: number;
      readonly slot: boolean;
    }
  /** a few instructions that read what the trampoline laid out around the context */
  | { readonly kind: 'inline'; readonly helper: number; readonly arguments: number }
  | { readonly kind: 'kfunc'; readonly id: number; readonly arguments: number }
  /** the index of the function's first instruction */
  | { readonly kind: 'subprogram'; readonly start: number }
  | { readonly kind: 'loop' }
  | { readonly kind: 'for_each'; readonly iterate: bigint; readonly slot: boolean }
  | { readonly kind: 'tail_call'; readonly map: JitMap }
  | { readonly kind: 'override' };

/** Arguments of the helpers that are compiled in place. */
const INLINE: ReadonlyMap<number, number> = new Map([
  [HELPER.get_func_ip, 1],
  [HELPER.get_attach_cookie, 1],
  [HELPER.get_func_arg_cnt, 1],
  [HELPER.get_func_arg, 3],
  [HELPER.get_func_ret, 2],
  [HELPER.get_smp_processor_id, 0],
]);

/** Arguments of the kernel functions, all of which are compiled in place. */
const KFUNCS: ReadonlyMap<number, number> = new Map([
  [KFUNC.bpf_iter_num_new, 3],
  [KFUNC.bpf_iter_num_next, 1],
  [KFUNC.bpf_iter_num_destroy, 1],
  [KFUNC.bpf_rdonly_cast, 1],
  [KFUNC.bpf_session_is_return, 1],
  [KFUNC.bpf_session_cookie, 1],
  [KFUNC.bpf_session_frame, 1],
]);

/** Helpers that differ from one type of map to another, and their arguments. */
const OPERATIONS: ReadonlyMap<number, { readonly operation: MapOperation; readonly arguments: number }> =
  new Map([
    [HELPER.map_lookup_elem, { operation: 'lookup', arguments: 2 }],
    [HELPER.map_update_elem, { operation: 'update', arguments: 4 }],
    [HELPER.map_delete_elem, { operation: 'delete', arguments: 2 }],
    [HELPER.map_push_elem, { operation: 'push', arguments: 3 }],
    [HELPER.map_pop_elem, { operation: 'pop', arguments: 2 }],
    [HELPER.map_peek_elem, { operation: 'peek', arguments: 2 }],
    [HELPER.map_lookup_percpu_elem, { operation: 'lookupPercpu', arguments: 3 }],
  ]);

/** Plans the calls of one program. */
export class CallPlanner {
  private readonly program: ProgramFacts;
  private readonly env: JitEnv;
  private readonly layout: Layout;

  constructor(program: ProgramFacts, env: JitEnv, layout: Layout) {
    this.program = program;
    this.env = env;
    this.layout = layout;
  }

  plan(index: number, target: 'helper' | 'subprogram' | 'kfunc'): CallPlan {
    const { imm } = this.program.insns[index] as BpfInsn;
    if (target === 'helper') return this.helper(index, imm);
    if (target === 'subprogram') {
      const slot = (this.layout.slotOf[index] as number) + 1 + imm;
      return { kind: 'subprogram', start: this.layout.indexAt[slot] as number };
    }
    const count = KFUNCS.get(imm);
    if (count === undefined) {
      throw new BpfError('EOPNOTSUPP', `kernel function ${kfuncName(imm) ?? imm} has no code here`);
    }
    return { kind: 'kfunc', id: imm, arguments: count };
  }

  private helper(index: number, helper: number): CallPlan {
    const inline = INLINE.get(helper);
    if (inline !== undefined) return { kind: 'inline', helper, arguments: inline };
    const operation = OPERATIONS.get(helper);
    if (operation !== undefined) {
      const lookup = helper === HELPER.map_lookup_elem ? this.lookupInPlace(index) : undefined;
      return lookup ?? this.mapRoutine(index, operation.operation, operation.arguments);
    }
    switch (helper) {
      case HELPER.loop:
        return { kind: 'loop' };
      case HELPER.for_each_map_elem:
        return {
          kind: 'for_each',
          iterate: this.env.routine('mapIterate'),
          slot: isPerCpu(this.mapAt(index).type),
        };
      case HELPER.tail_call:
        if (this.program.dynamicMaps.has(index)) {
          throw new BpfError(
            'EOPNOTSUPP',
            'a tail call through one of several program arrays has no code here',
          );
        }
        return { kind: 'tail_call', map: this.constantMapAt(index) };
      case HELPER.override_return:
        this.checkOverride(index);
        return { kind: 'override' };
      default:
        return {
          kind: 'routine',
          address: this.env.routine(`helper_${helper}`),
          arguments: LAST_ARGUMENT,
          slot: this.program.needs.thread,
        };
    }
  }

  /** The value is kept in the main program's frame, until it ends. */
  private checkOverride(index: number): void {
    const { mayOverride, needs, subprograms } = this.program;
    const refuse = (reason: string): never => {
      throw new BpfError('EOPNOTSUPP', `bpf_override_return: ${reason}`);
    };
    if (!mayOverride) refuse('only a modify-return program (fmod_ret) can say what its function returns');
    if (needs.tailCalls) refuse('what it says would be lost at a tail call; use one or the other');
    if (index >= (subprograms[0] as FunctionFacts).end) {
      refuse('it has to be called by the program itself, not by a subprogram');
    }
  }

  private lookupInPlace(index: number): CallPlan | undefined {
    if (this.program.dynamicMaps.has(index)) return undefined;
    const map = this.constantMapAt(index);
    const keyOffset = this.program.keyOffsets.get(index);
    if (isArray(map)) return { kind: 'array_lookup', map, keyOffset };
    if (isPerCpuArray(map)) return { kind: 'percpu_lookup', map, keyOffset };
    return undefined;
  }

  private mapRoutine(index: number, operation: MapOperation, count: number): CallPlan {
    const { type, name } = this.mapAt(index);
    const routine = mapRoutineFor(type, operation);
    if (routine === undefined) {
      throw new BpfError('EOPNOTSUPP', `map ${name} (type ${type}) has no code for ${operation} by programs`);
    }
    const slot = routineNeedsSlot(routine);
    return { kind: 'routine', address: this.env.routine(routine), arguments: count, slot };
  }

  private mapAt(index: number): { readonly id: number; readonly type: number; readonly name: string } {
    const map = this.program.callMaps.get(index);
    const { imm } = this.program.insns[index] as BpfInsn;
    // The verifier and the environment are made from the same maps and helpers; this is our own mistake.
    if (map === undefined) {
      throw new RangeError(
        `the call of ${helperName(imm) ?? imm} at instruction ${index} is for no known map`,
      );
    }
    return map;
  }

  private constantMapAt(index: number): JitMap {
    const { id } = this.mapAt(index);
    const map = this.env.maps.get(id);
    if (map === undefined) throw new RangeError(`map ${id} has no code in this environment`);
    return map;
  }
}

function firstArguments(count: number): RegisterSet {
  return ((1 << count) - 1) << FIRST_ARGUMENT;
}

const KEY: RegisterNumber = FIRST_ARGUMENT + 1;

/** The BPF registers that the code of a call reads. */
export function callReads(plan: CallPlan): RegisterSet {
  switch (plan.kind) {
    case 'array_lookup':
    case 'percpu_lookup':
      return 1 << (plan.keyOffset === undefined ? KEY : FRAME_POINTER);
    case 'loop':
    case 'for_each':
      return firstArguments(4);
    case 'tail_call':
      return firstArguments(3);
    case 'override':
      return firstArguments(2);
    case 'subprogram':
      return firstArguments(LAST_ARGUMENT);
    default:
      return firstArguments(plan.arguments);
  }
}

/** Whether a call leaves the function's code, and writes below its stack. */
export function leaves(plan: CallPlan): boolean {
  switch (plan.kind) {
    case 'routine':
    case 'subprogram':
    case 'loop':
    case 'for_each':
      return true;
    default:
      return false;
  }
}

/** Whether a call runs functions of this program. */
export function runsFunctions(plan: CallPlan): boolean {
  return plan.kind === 'subprogram' || plan.kind === 'loop' || plan.kind === 'for_each';
}

/** Whether a call's code reads the thread's block. */
export function readsThread(plan: CallPlan): boolean {
  switch (plan.kind) {
    case 'percpu_lookup':
      return true;
    case 'inline':
      return plan.helper === HELPER.get_smp_processor_id;
    case 'routine':
    case 'for_each':
      return plan.slot;
    default:
      return false;
  }
}

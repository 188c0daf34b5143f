/**
 * The functions of a program: where each begins and ends, which calls and addresses name them (the kernel's
 * `check_subprogs`).
 */

import { type BpfInsn, PSEUDO } from '../../../bpf/instruction.js';
import type { Layout } from '../../../bpf/layout.js';
import type { Operation } from '../../../bpf/operation.js';
import type { Btf, BtfFuncProto } from '../../../btf/btf.js';
import { BpfError } from '../../errno.js';
import type { VerifierEnv } from './environment.js';

/** A function of the program. */
export interface Subprogram {
  /** index of the first instruction */
  readonly start: number;
  /** index behind the last one */
  readonly end: number;
  readonly name: string | undefined;
  /** its type, where `func_info` says one */
  readonly proto: BtfFuncProto | undefined;
  readonly typeId: number | undefined;
  /** callable with anything that fits its type; verified once, by itself */
  readonly isGlobal: boolean;
  /** its address is taken: a helper calls it */
  readonly isCallback: boolean;
}

export interface Subprograms {
  readonly list: readonly Subprogram[];
  /** by instruction: the function that it is in */
  readonly of: Int32Array;
  /** by instruction: the function that it calls or whose address it loads, or -1 */
  readonly named: Int32Array;
}

function namedSlot(insn: BpfInsn, operation: Operation, slot: number): number | undefined {
  if (operation.kind === 'call' && operation.target === 'subprogram') return slot + 1 + insn.imm;
  // The 16-byte load counts from itself, too.
  if (operation.kind === 'loadImmediate' && insn.src === PSEUDO.FUNC) return slot + 1 + insn.imm;
  return undefined;
}

/** Finds the functions. Throws `BpfError` EINVAL for a call that leaves the program or splits an instruction. */
export function findSubprograms(
  insns: readonly BpfInsn[],
  operations: readonly Operation[],
  layout: Layout,
  env: VerifierEnv,
): Subprograms {
  const starts = new Set<number>([0]);
  const callbacks = new Set<number>();
  const targets = new Map<number, number>();
  for (let index = 0; index < insns.length; index++) {
    const from = layout.slotOf[index] as number;
    const operation = operations[index] as Operation;
    const to = namedSlot(insns[index] as BpfInsn, operation, from);
    if (to === undefined) continue;
    if (to < 0 || to >= layout.slots) {
      throw new BpfError('EINVAL', `insn ${from}: call to invalid destination ${to}`);
    }
    const target = layout.indexAt[to] as number;
    if (target < 0)
      throw new BpfError('EINVAL', `insn ${from}: call into the middle of ldimm64 insn ${to - 1}`);
    if (target === 0 && operation.kind === 'loadImmediate') {
      throw new BpfError('EINVAL', `insn ${from}: the main program can not be called back`);
    }
    starts.add(target);
    targets.set(index, target);
    if (operation.kind === 'loadImmediate') callbacks.add(target);
  }
  const infos = new Map((env.funcInfo ?? []).map(info => [info.slot, info.typeId]));
  for (const slot of infos.keys()) {
    const index = slot < layout.slots ? (layout.indexAt[slot] ?? -1) : -1;
    if (index < 0) throw new BpfError('EINVAL', `func_info names slot ${slot}, where no instruction begins`);
    starts.add(index);
  }
  const sorted = [...starts].sort((a, b) => a - b);
  const list = sorted.map((start, i): Subprogram => {
    const end = sorted[i + 1] ?? insns.length;
    const type = functionType(env.btf, infos.get(layout.slotOf[start] as number));
    return { start, end, isCallback: callbacks.has(start), ...type, isGlobal: i > 0 && type.isGlobal };
  });
  const of = new Int32Array(insns.length);
  list.forEach(({ start, end }, number) => {
    of.fill(number, start, end);
  });
  const named = new Int32Array(insns.length).fill(-1);
  for (const [index, target] of targets) named[index] = of[target] as number;
  return { list, of, named };
}

function functionType(
  btf: Btf | undefined,
  typeId: number | undefined,
): Pick<Subprogram, 'name' | 'proto' | 'typeId' | 'isGlobal'> {
  const none = { name: undefined, proto: undefined, typeId: undefined, isGlobal: false };
  if (btf === undefined || typeId === undefined) return none;
  const type = btf.type(typeId);
  if (type.kind !== 'func')
    throw new BpfError('EINVAL', `func_info names type ${typeId}, which is no function`);
  const proto = btf.type(type.type);
  if (proto.kind !== 'func_proto') return none;
  return { name: type.name, proto, typeId, isGlobal: type.linkage === 'global' };
}

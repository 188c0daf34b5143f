/**
 * Makes tests of other program types into tests of ours, where the difference does not matter to them: a number out of
 * another type's context becomes a number out of ours, and a result that another type may have is dropped.
 */

import {
  type BpfInsn,
  CALL,
  CLASS,
  CLASS_MASK,
  CODE_MASK,
  JMP,
  LD_IMM64,
  loadImmediate64,
  MODE,
  MODE_MASK,
  PSEUDO,
  SIZE,
  SIZE_MASK,
} from '../../src/bpf/instruction.js';
import { layoutOf } from '../../src/bpf/layout.js';
import type { FuncInfo, LineInfo } from '../../src/kernel/kernel.js';
import type { Case } from './annotated.js';

/** `w<n> = w<n>`: the low 32 bits, and zeros. */
const truncate = (register: number): BpfInsn => ({
  opcode: CLASS.ALU | 0xb0 | 0x08,
  dst: register,
  src: register,
  offset: 0,
  imm: 0,
});
const mask = (register: number, imm: number): BpfInsn => ({
  opcode: CLASS.ALU | 0x50,
  dst: register,
  src: 0,
  offset: 0,
  imm,
});

/** Fields of a context that are addresses of packets and sockets: section, and bytes from its start. */
const ADDRESSES: readonly (readonly [RegExp, readonly number[]])[] = [
  [/^xdp/, [0, 4, 8]],
  [/^(sk_msg)/, [0, 8]],
  [/^(sk_reuseport|sk_lookup|sockops|cgroup\/(sock|bind|conn|send|recv|get))/, []],
  [/^(socket|tc|tcx|action|cgroup|sk_skb|lwt|flow|netkit|classifier|netfilter)/, [76, 80, 140, 144, 168]],
];

/**
 * The test with the load at `slot`, which reads a number out of another type's context, reading ours instead;
 * `undefined` where it is no such load.
 */
export function readingOurContext(test: Case, slot: number): Case | undefined {
  const { indexAt } = layoutOf(test.insns);
  const index = indexAt[slot] ?? -1;
  const insn = test.insns[index];
  if (insn === undefined || (insn.opcode & CLASS_MASK) !== CLASS.LDX) return undefined;
  if ((insn.opcode & MODE_MASK) !== MODE.MEM || insn.offset < 0) return undefined;
  const fields = ADDRESSES.find(([sections]) => sections.test(test.section))?.[1];
  if (fields?.includes(insn.offset)) return undefined;
  const size = insn.opcode & SIZE_MASK;
  const whole: BpfInsn = { ...insn, opcode: CLASS.LDX | MODE.MEM | SIZE.DW, offset: 0 };
  if (size === SIZE.DW) return { ...test, insns: test.insns.with(index, whole) };
  const narrow = size === SIZE.W ? truncate(insn.dst) : mask(insn.dst, size === SIZE.H ? 0xffff : 0xff);
  return inserted({ ...test, insns: test.insns.with(index, whole) }, index, narrow);
}

/** The test with one more instruction behind that at `index`; jumps and calls over it are longer. */
function inserted(test: Case, index: number, added: BpfInsn): Case {
  const { slotOf } = layoutOf(test.insns);
  const at = (slotOf[index] as number) + 1;
  const moved = (slot: number): number => (slot >= at ? slot + 1 : slot);
  const insns = test.insns.map((insn, i): BpfInsn => {
    const slot = slotOf[i] as number;
    const distance = (relative: number): number => {
      const next = slot + 1;
      return moved(next + relative) - moved(slot) - 1;
    };
    const kind = insn.opcode & CLASS_MASK;
    if (insn.opcode === LD_IMM64 && insn.src === PSEUDO.FUNC)
      return loadImmediate64(insn.dst, insn.src, BigInt.asUintN(32, BigInt(distance(insn.imm))));
    if (kind !== CLASS.JMP && kind !== CLASS.JMP32) return insn;
    const code = insn.opcode & CODE_MASK;
    if (code === JMP.EXIT) return insn;
    if (code === JMP.CALL) return insn.src === CALL.SUBPROGRAM ? { ...insn, imm: distance(insn.imm) } : insn;
    if (code === JMP.JA && kind === CLASS.JMP32) return { ...insn, imm: distance(insn.imm) };
    return { ...insn, offset: distance(insn.offset) };
  });
  insns.splice(index + 1, 0, added);
  return { ...test, insns, ...movedInfo(test, moved) };
}

/** The test called by a program that drops its result: other types may return what it does. */
export function withoutResult(test: Case): Case {
  const call: BpfInsn = { opcode: CLASS.JMP | JMP.CALL, dst: 0, src: CALL.SUBPROGRAM, offset: 0, imm: 2 };
  const zero: BpfInsn = { opcode: CLASS.ALU64 | 0xb0, dst: 0, src: 0, offset: 0, imm: 0 };
  const exit: BpfInsn = { opcode: CLASS.JMP | JMP.EXIT, dst: 0, src: 0, offset: 0, imm: 0 };
  // Without types: a static function, which may return what it has.
  const { btf: _, funcInfo: _functions, lineInfo: _lines, ...rest } = test;
  return { ...rest, insns: [call, zero, exit, ...test.insns] };
}

function movedInfo(
  { funcInfo, lineInfo }: Case,
  moved: (slot: number) => number,
): { funcInfo?: FuncInfo[]; lineInfo?: LineInfo[] } {
  return {
    ...(funcInfo !== undefined && { funcInfo: funcInfo.map(one => ({ ...one, slot: moved(one.slot) })) }),
    ...(lineInfo !== undefined && { lineInfo: lineInfo.map(one => ({ ...one, slot: moved(one.slot) })) }),
  };
}

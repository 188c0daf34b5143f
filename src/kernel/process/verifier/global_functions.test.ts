/** Global functions: walked once with anything that fits their types, and called with what fits them. */

import { expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R10 } from '../../../bpf/builder.js';
import { CALL } from '../../../bpf/instruction.js';
import { layoutOf } from '../../../bpf/layout.js';
import { Btf } from '../../../btf/btf.js';
import { BtfBuilder } from '../../../btf/builder.js';
import { MAPS, type Write } from './rules_fixture.js';
import { verifyProgram } from './verifier.js';

/** `int main(void *ctx)`, and `int callee(struct pair *)` whose argument may be tagged. */
function types(tag?: string): { btf: Btf; main: number; callee: number } {
  const b = new BtfBuilder();
  const int = b.addInt('int', 4, { signed: true });
  const pair = b.addStruct('pair', 8, [
    { name: 'a', type: int, bitOffset: 0, bitSize: 0 },
    { name: 'b', type: int, bitOffset: 32, bitSize: 0 },
  ]);
  const main = b.addFunc('main', b.addFuncProto(int, [{ name: 'ctx', type: b.addPtr(0) }]), 'global');
  const proto = b.addFuncProto(int, [{ name: 'pair', type: b.addPtr(pair) }]);
  const callee = b.addFunc('callee', proto, 'global');
  if (tag !== undefined) b.add({ kind: 'decl_tag', name: tag, tag, type: callee, component: 0 });
  return { btf: Btf.parse(b.build()), main, callee };
}

/** r0 = a value of `counts`, or null. */
const lookup: Write = p =>
  p.store(4, R10, -4, 0).mov(R2, R10).add(R2, -4).ldMap(R1, MAPS.counts).call(1).mov(R1, R0);
const careful: Write = p => {
  const out = p.label();
  return p.mov(R0, 0).jump('eq', R1, 0, out).load(4, R0, R1, 4).bind(out).exit();
};
const careless: Write = p => p.load(4, R0, R1, 4).exit();

function verify(argument: Write, body: Write, tag?: string): void {
  const { btf, main, callee } = types(tag);
  const p = new ProgramBuilder();
  const start = p.label();
  argument(p);
  p.callSubprogram(start).mov(R0, 0).exit().bind(start);
  body(p);
  const insns = p.build();
  const at = insns.findIndex(insn => insn.src === CALL.SUBPROGRAM && insn.opcode === 0x85);
  const slot = (layoutOf(insns).slotOf[at] as number) + 1 + (insns[at]?.imm as number);
  const maps = new Map([[MAPS.counts.id, MAPS.counts]]);
  const funcInfo = [
    { slot: 0, typeId: main },
    { slot, typeId: callee },
  ];
  verifyProgram(insns, { maps, btf, funcInfo });
}

test('a pointer that may be null is handed to a function that takes one', () => {
  verify(lookup, careful);
  verify(p => p.mov(R1, 0), careful);
  expect(() => verify(lookup, careful, 'arg:nonnull')).toThrow('R1 type=map_value_or_null expected=');
});

test('a function checks its argument for null, unless it says that it gets none', () => {
  const there: Write = p => p.store(8, R10, -8, 1).mov(R1, R10).add(R1, -8);
  verify(there, careless, 'arg:nonnull');
  expect(() => verify(there, careless)).toThrow("R1 invalid mem access 'mem_or_null'");
});

test('the memory handed on is as large as its type', () => {
  verify(p => p.mov(R1, R10).add(R1, -8), careful);
  expect(() => verify(p => p.mov(R1, R10).add(R1, -4), careful)).toThrow('stack R1 off=-4 size=8');
});

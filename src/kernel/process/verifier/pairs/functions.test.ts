/** Global functions: called with what fits their types, and walked by themselves with anything that does. */

import { type ProgramBuilder, R0, R1, R2, R10 } from '../../../../bpf/builder.js';
import { Btf } from '../../../../btf/btf.js';
import { BtfBuilder } from '../../../../btf/builder.js';
import type { VerifierEnv } from '../environment.js';
import { MAPS, type Rule } from '../rules_fixture.js';
import { testPairs } from './fixture.js';

/** `int main(void *ctx)` of five slots, and `int callee(…)` behind it, which takes what `parameter` makes. */
function callee(parameter: (b: BtfBuilder, int: number) => number): Partial<VerifierEnv> {
  const b = new BtfBuilder();
  const int = b.addInt('int', 4, { signed: true });
  const main = b.addFunc('main', b.addFuncProto(int, [{ name: 'ctx', type: b.addPtr(0) }]), 'global');
  const proto = b.addFuncProto(int, [{ name: 'x', type: parameter(b, int) }]);
  const global = b.addFunc('callee', proto, 'global');
  const funcInfo = [
    { slot: 0, typeId: main },
    { slot: 5, typeId: global },
  ];
  return { btf: Btf.parse(b.build()), funcInfo };
}
const takesNumber = callee((_b, int) => int);
const takesContext = callee(b => b.addPtr(0));
const takesInt = callee((b, int) => b.addPtr(int));

/** Two instructions of `argument`, the call, and the callee's `body`. */
function called(
  p: ProgramBuilder,
  argument: (p: ProgramBuilder) => unknown,
  body: (p: ProgramBuilder) => ProgramBuilder,
): ProgramBuilder {
  const f = p.label();
  argument(p);
  p.callSubprogram(f).mov(R0, 0).exit().bind(f);
  return body(p).exit();
}
const none = (p: ProgramBuilder): ProgramBuilder => p.mov(R0, 0);
const careful = (p: ProgramBuilder): ProgramBuilder => {
  const out = p.label();
  return p.mov(R0, 0).jump('eq', R1, 0, out).load(4, R0, R1).bind(out);
};

const PAIRS: readonly Rule[] = [
  {
    name: 'a number is passed where one is taken',
    accept: p => called(p, q => q.mov(R2, 1).mov(R1, R2), none),
    refuse: p => called(p, q => q.mov(R2, 1).mov(R1, R10), none),
    because: 'R1 is not a scalar: func callee takes a number there',
    env: takesNumber,
  },
  {
    name: 'the context is passed where it is taken',
    accept: p => called(p, q => q.mov(R2, R1).mov(R1, R2), none),
    refuse: p => called(p, q => q.mov(R2, R1).mov(R1, R10), none),
    because: 'arg#0 expected pointer to ctx, but got fp',
    env: takesContext,
  },
  {
    name: 'the context is passed as it was given',
    accept: p => called(p, q => q.add(R1, 8).add(R1, -8), none),
    refuse: p => called(p, q => q.add(R1, 8).add(R1, 8), none),
    because: 'dereference of modified ctx ptr R1 off=16 disallowed',
    env: takesContext,
  },
  {
    name: 'memory is passed that the function may write',
    accept: p => called(p, q => q.ldMapValue(R1, MAPS.global), careful),
    refuse: p => called(p, q => q.ldMapValue(R1, MAPS.rodata), careful),
    because: 'write into map forbidden',
    env: takesInt,
  },
  {
    name: 'a function reads no more than its type says, however much it is passed',
    accept: p => called(p, q => q.ldMapValue(R1, MAPS.global), careful),
    refuse: p =>
      called(
        p,
        q => q.ldMapValue(R1, MAPS.global),
        q => {
          const out = q.label();
          return q.mov(R0, 0).jump('eq', R1, 0, out).load(8, R0, R1).bind(out);
        },
      ),
    because: 'invalid access to memory, mem_size=4 off=0 size=8',
    env: takesInt,
  },
];

testPairs('global functions', PAIRS);

import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R3, R4, R6, R9 } from '../../../bpf/builder.js';
import { Random, randomProgram } from '../../../bpf/fixture.js';
import { HELPER } from '../../../bpf/helpers.js';
import type { BpfInsn } from '../../../bpf/instruction.js';
import { interpret } from '../../../bpf/interpreter.js';
import { layoutOf } from '../../../bpf/layout.js';
import { memoryOf } from '../../../bpf/memory.js';
import { type Edit, editProgram } from './edit.js';

const NOTHING = new ProgramBuilder().mov(R6, R6).build();
/** Jumps over a load of two slots. */
const JUMPS: readonly BpfInsn[] = ((b: ProgramBuilder) => {
  const out = b.label();
  return b.goto(out).ldImm64(R0, 99n).bind(out).build();
})(new ProgramBuilder());

const FRAME = 0x10_0000n;
const CONTEXT = 0x20_0000n;
/** From the context. */
const VALUE = 0x1000;

/** r0, and what the program left in its value. */
function outcome(insns: readonly BpfInsn[]): string {
  const value = new Uint8Array(64).fill(5);
  const context = new Uint8Array(256).fill(3);
  const memory = memoryOf([
    { address: FRAME - 8192n, bytes: new Uint8Array(8192) },
    { address: CONTEXT, bytes: context },
    { address: CONTEXT + BigInt(VALUE), bytes: value },
  ]);
  const result = interpret(insns, {
    memory,
    context: CONTEXT,
    framePointer: FRAME,
    mayGotos: 20,
    call: (id, args, invoke) => {
      if (id !== HELPER.loop) throw new Error(`helper ${id}`);
      for (let i = 0n; i < args[0]; i++) if (invoke(args[1], [i, args[2]]) !== 0n) return i + 1n;
      return args[0];
    },
  });
  return `${result} ${Buffer.from(value).toString('hex')}`;
}

describe('editProgram', () => {
  test('a program with instructions put anywhere does what it did', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const random = new Random(seed);
      const insns = randomProgram(random, {
        nargs: 4,
        functions: true,
        value: p => p.mov(R9, R6).add(R9, VALUE),
      });
      const edits = new Map<number, Edit>();
      for (let index = 0; index < insns.length; index++)
        if (random.chance(30)) edits.set(index, { before: random.chance(50) ? NOTHING : JUMPS });
      const edited = editProgram(insns, edits);
      expect(outcome(edited.insns), `seed ${seed}`).toBe(outcome(insns));
    }
  });

  test('a jump to an instruction comes to what was put before it, or in its place', () => {
    const p = new ProgramBuilder();
    const end = p.label();
    p.mov(R0, 1).jump('eq', R0, 1, end).mov(R0, 2).bind(end).mov(R1, 0).exit();
    const add = new ProgramBuilder().add(R0, 10).build();
    const edits = new Map<number, Edit>([
      [2, { before: add }],
      [3, { before: add, drop: true }],
    ]);
    const { insns, slot } = editProgram(p.build(), edits);
    expect(outcome(insns).split(' ')[0]).toBe('11');
    expect([0, 1, 2, 3, 4, 5].map(slot)).toEqual([0, 1, 2, 4, 5, 6]);
  });

  test('addresses of callbacks, calls and the second slot of a load are where they were', () => {
    const p = new ProgramBuilder();
    const callback = p.label();
    const sub = p.label();
    p.mov(R1, 3).ldFunction(R2, callback).mov(R3, 0).mov(R4, 0).call(HELPER.loop);
    p.mov(R6, R0).callSubprogram(sub).add(R0, R6).exit();
    p.bind(callback).mov(R0, 0).exit();
    p.bind(sub).mov(R0, 40).exit();
    const insns = p.build();
    const edits = new Map<number, Edit>(insns.map((_, index) => [index, { before: JUMPS }]));
    const edited = editProgram(insns, edits);
    expect(outcome(edited.insns).split(' ')[0]).toBe('43');
    expect(edited.slot(2)).toBe(edited.slot(1) + 3 + 1);
    expect(edited.slot(layoutOf(insns).slots)).toBe(layoutOf(edited.insns).slots);
  });

  test('a jump that would be too long is refused', () => {
    const p = new ProgramBuilder();
    const end = p.label();
    p.mov(R0, 0).jump('eq', R0, 0, end);
    for (let i = 0; i < 0x7fff; i++) p.mov(R1, i);
    p.bind(end).exit();
    const insns = p.build();
    expect(() => editProgram(insns, new Map([[10, { before: NOTHING }]]))).toThrow(
      /too long|instructions long/,
    );
    expect(editProgram(insns, new Map([[1, { before: NOTHING }]])).insns.length).toBe(insns.length + 1);
  });
});

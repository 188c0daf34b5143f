import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R3, R6, R7, R8, R10 } from '../../../bpf/builder.js';
import { HELPER } from '../../../bpf/helpers.js';
import type { BpfInsn } from '../../../bpf/instruction.js';
import { KFUNC } from '../../../bpf/kfuncs.js';
import { Btf } from '../../../btf/btf.js';
import { BtfBuilder } from '../../../btf/builder.js';
import { countProgram } from '../../../tools/count.js';
import type { FunctionPrototype } from '../../kernel.js';
import { type Call, FakeRuns, kernelWith, MEMORY } from './fixture.js';
import { type ContextForm, type ContextProgram, rewriteContext, savedState } from './rewrite.js';

const KERNEL = kernelWith('bpf_session_is_return', 'bpf_session_cookie');
const MAP = { id: 7 };

/** Stores words of its context into its memory, from `to` on. */
function reads(words: readonly number[], to = 0): BpfInsn[] {
  const p = new ProgramBuilder().ldImm64(R7, MEMORY).mov(R6, R1);
  for (const [i, word] of words.entries()) p.load(8, R2, R6, 8 * word).store(8, R7, 8 * (to + i), R2);
  return p.mov(R0, 0).exit().build();
}

/** Loads the program in this form, and runs it at both ends of a call where it runs there. */
function runs(program: ContextProgram, form: ContextForm, call: Call, kernel = KERNEL): bigint[] {
  const runs = new FakeRuns();
  const forms: readonly ContextForm[] =
    form.halves === true && form.runs === 'session'
      ? [
          { ...form, runs: 'entry' },
          { ...form, runs: 'return' },
        ]
      : [form];
  for (const at of ['entry', 'return'] as const) {
    for (const one of forms) {
      if (one.runs !== at && one.runs !== 'session') continue;
      const state = savedState(program, one);
      const saved = state === undefined ? {} : { saved: MAP };
      if (state !== undefined) runs.saved = state;
      const { insns } = rewriteContext(program, one, kernel, saved);
      runs.run(insns, one.context, at, call);
    }
  }
  expect(runs.underWay).toBe(0);
  return Array.from({ length: 10 }, (_, i) => runs.word(i));
}

const base = { name: 'test' } as const;
const opaque = (nargs: number): FunctionPrototype => ({ nargs });
const TRAMPOLINE = { context: 'trampoline' } as const;
const REGISTERS = { context: 'pt_regs' } as const;
const CALL: Call = { args: [11n, 12n, 13n, 14n, 15n, 16n, 17n, 18n], result: 99n, cookie: 5n };

describe('rewriteContext', () => {
  test('a program that reads nothing of its context stays as it is', () => {
    const insns = countProgram(MAP);
    for (const form of [TRAMPOLINE, REGISTERS]) {
      const made = rewriteContext(
        { ...base, attachType: 'fentry', insns },
        { ...form, runs: 'entry' },
        KERNEL,
      );
      expect(made.insns).toEqual(insns);
      expect(made.wrapped).toBe(false);
    }
  });

  test.each(['typed', 'trampoline', 'pt_regs'] as const)('arguments at the entry: %s', context => {
    const program = { ...base, attachType: 'fentry', insns: reads([0, 2, 5]), prototype: opaque(8) } as const;
    expect(runs(program, { context, runs: 'entry' }, CALL).slice(0, 3)).toEqual([11n, 13n, 16n]);
    expect(rewriteContext(program, { context, runs: 'entry' }, KERNEL).accessedArgs).toEqual([0, 2, 5]);
  });

  test.each(['trampoline', 'pt_regs'] as const)('arguments on the stack: %s', context => {
    const program = { ...base, attachType: 'fentry', insns: reads([6, 7]), prototype: opaque(8) } as const;
    expect(runs(program, { context, runs: 'entry' }, CALL).slice(0, 2)).toEqual([17n, 18n]);
  });

  test('words that a function does not have are 0', () => {
    const program = { ...base, attachType: 'fentry', insns: reads([0, 1, 2]), argumentWords: 6 } as const;
    const call = { args: [11n, 12n] };
    expect(runs(program, { ...TRAMPOLINE, runs: 'entry' }, call).slice(0, 3)).toEqual([11n, 12n, 0n]);
  });

  test.each<[string, ContextForm]>([
    ['trampoline', { ...TRAMPOLINE, runs: 'return' }],
    ['a kprobe session', { ...REGISTERS, runs: 'session' }],
    ['kprobes at entry and return', { ...REGISTERS, runs: 'session', halves: true }],
  ])('arguments and result at the return: %s', (_, form) => {
    const program = { ...base, attachType: 'fexit', insns: reads([0, 3, 4]), prototype: opaque(4) } as const;
    const call = { ...CALL, args: CALL.args.slice(0, 4) };
    expect(runs(program, form, call).slice(0, 3)).toEqual([11n, 14n, 99n]);
  });

  test('a kprobe at the return alone has a result, and no arguments', () => {
    const form = { ...REGISTERS, runs: 'return' } as const;
    const result = { ...base, attachType: 'fexit', insns: reads([6]) } as const;
    expect(runs(result, form, CALL)[0]).toBe(99n);
    const both = { ...base, attachType: 'fexit', insns: reads([1, 6]) } as const;
    expect(() => rewriteContext(both, form, KERNEL)).toThrow(/argument 2 at the return/);
  });

  test.each<[string, ContextForm]>([
    ['trampoline', { ...TRAMPOLINE, runs: 'session' }],
    ['two trampolines', { ...TRAMPOLINE, runs: 'session', halves: true }],
    ['a kprobe session', { ...REGISTERS, runs: 'session' }],
    ['kprobes at entry and return', { ...REGISTERS, runs: 'session', halves: true }],
  ])('a session hands its cookie on, knows its frame, and reads at both ends: %s', (_, form) => {
    const p = new ProgramBuilder();
    const back = p.label();
    p.ldImm64(R7, MEMORY).mov(R6, R1).callKfunc(KFUNC.bpf_session_is_return).jump('ne', R0, 0, back);
    p.mov(R1, R6).callKfunc(KFUNC.bpf_session_cookie).load(8, R1, R6, 8).store(8, R0, 0, R1);
    p.mov(R1, R6).callKfunc(KFUNC.bpf_session_frame).store(8, R7, 0, R0);
    p.mov(R0, 0).exit();
    p.bind(back);
    p.mov(R1, R6).callKfunc(KFUNC.bpf_session_cookie).load(8, R1, R0).store(8, R7, 16, R1);
    p.mov(R1, R6).callKfunc(KFUNC.bpf_session_frame).store(8, R7, 8, R0);
    p.load(8, R1, R6, 0).store(8, R7, 24, R1).load(8, R1, R6, 48).store(8, R7, 32, R1);
    p.mov(R1, R6).call(HELPER.get_attach_cookie).store(8, R7, 40, R0);
    p.mov(R0, 0).exit();
    const program = { ...base, attachType: 'fsession', insns: p.build() } as const;
    const [entered, returned, ...rest] = runs(program, form, { ...CALL, args: CALL.args.slice(0, 6) });
    expect(entered).not.toBe(0n);
    expect(returned).toBe(entered);
    expect(rest.slice(0, 4)).toEqual([12n, 11n, 99n, 5n]);
  });

  test('the return of a call whose entry said no, or was not seen, is not run', () => {
    const insns = new ProgramBuilder().ldImm64(R7, MEMORY).mov(R6, R1).callKfunc(KFUNC.bpf_session_is_return);
    insns.load(8, R1, R7, 0).add(R1, 1).store(8, R7, 0, R1).load(8, R0, R6, 0).exit();
    const program = { ...base, attachType: 'fsession', insns: insns.build() } as const;
    const form = (runs: 'entry' | 'return') => ({ ...TRAMPOLINE, runs });
    const [entry, back] = (['entry', 'return'] as const).map(
      at => rewriteContext(program, form(at), KERNEL, { saved: MAP }).insns,
    );
    const runs = new FakeRuns();
    runs.saved = savedState(program, form('entry'))!;
    runs.run(entry, 'trampoline', 'entry', { args: [1n] });
    runs.run(back, 'trampoline', 'return', { args: [1n] });
    expect(runs.word(0)).toBe(1n);
    runs.run(entry, 'trampoline', 'entry', { args: [0n] });
    runs.run(back, 'trampoline', 'return', { args: [0n] });
    expect(runs.word(0)).toBe(3n);
  });

  test('calls within calls get back what was theirs, as many as there are', () => {
    const program = { ...base, attachType: 'fexit', insns: reads([0, 6]) } as const;
    const form = (runs: 'entry' | 'return') => ({ ...REGISTERS, runs, halves: true }) as const;
    const state = savedState(program, form('entry'))!;
    const [entry, back] = (['entry', 'return'] as const).map(
      at => rewriteContext(program, form(at), KERNEL, { saved: MAP }).insns,
    );
    const runs = new FakeRuns();
    runs.saved = state;
    const call = (i: number) => ({ args: [BigInt(i)], result: BigInt(2 * i), frame: BigInt(-16 * i) });
    for (let i = 1; i <= 500; i++) runs.run(entry, 'pt_regs', 'entry', call(i));
    expect(runs.underWay).toBe(500);
    for (let i = 500; i >= 1; i--) {
      runs.run(back, 'pt_regs', 'return', call(i));
      expect([runs.word(0), runs.word(1)]).toEqual([BigInt(i), BigInt(2 * i)]);
    }
    expect(runs.underWay).toBe(0);
    // One that was entered before, and never returned, makes room for itself.
    for (let again = 0; again < 100; again++) runs.run(entry, 'pt_regs', 'entry', call(1));
    expect(runs.underWay).toBe(1);
  });

  test('a call that finds no place among those under way is counted, and its return not seen', () => {
    const program = { ...base, attachType: 'fexit', insns: reads([0, 6]) } as const;
    const form = (runs: 'entry' | 'return') => ({ ...REGISTERS, runs, halves: true }) as const;
    const [entry, back] = (['entry', 'return'] as const).map(
      at => rewriteContext(program, form(at), KERNEL, { saved: MAP }).insns,
    );
    const runs = new FakeRuns();
    runs.saved = savedState(program, form('entry'))!;
    const seen = (call: Call): boolean => {
      runs.memory.fill(0);
      runs.run(entry, 'pt_regs', 'entry', call);
      runs.run(back, 'pt_regs', 'return', call);
      return runs.word(0) !== 0n;
    };
    expect([seen(CALL), runs.lost]).toEqual([true, 0]);
    runs.fill();
    expect([seen(CALL), runs.lost]).toEqual([false, 1]);
    expect([seen({ ...CALL, frame: -64n }), runs.lost]).toEqual([false, 2]);
  });

  test('what a kprobe has no helper for is read from registers', () => {
    const p = new ProgramBuilder().ldImm64(R7, MEMORY).mov(R6, R1);
    for (const [i, n] of [1, 7, 9].entries())
      p.mov(R1, R6)
        .mov(R2, n)
        .mov(R3, R10)
        .add(R3, -8)
        .call(HELPER.get_func_arg)
        .store(8, R7, 16 * i, R0)
        .load(8, R8, R10, -8)
        .store(8, R7, 16 * i + 8, R8);
    p.mov(R1, R6).call(HELPER.get_func_arg_cnt).store(8, R7, 48, R0);
    const insns = p.mov(R0, 0).exit().build();
    const program = { ...base, attachType: 'fentry', insns, prototype: opaque(8) } as const;
    const want = [0n, 12n, 0n, 18n, 0xffff_ffff_ffff_ffean, 18n, 8n];
    expect(runs(program, { ...REGISTERS, runs: 'entry' }, CALL).slice(0, 7)).toEqual(want);
    expect(runs(program, { ...TRAMPOLINE, runs: 'entry' }, CALL).slice(0, 7)).toEqual(want);
    const { prototype: _, ...without } = program;
    expect(() => rewriteContext(without, { ...REGISTERS, runs: 'entry' }, KERNEL)).toThrow(
      /how many arguments/,
    );
  });

  test('functions that the kernel does not have are named', () => {
    const insns = new ProgramBuilder().mov(R2, 1).callKfunc(KFUNC.bpf_rdonly_cast).mov(R0, 0).exit().build();
    const program = { ...base, attachType: 'fentry', insns } as const;
    expect(() => rewriteContext(program, { ...TRAMPOLINE, runs: 'entry' }, KERNEL)).toThrow(
      expect.objectContaining({ code: 'EOPNOTSUPP', message: expect.stringContaining('bpf_rdonly_cast') }),
    );
  });

  test('words behind the result are refused', () => {
    const program = { ...base, attachType: 'fexit', insns: reads([3]), prototype: opaque(2) } as const;
    expect(() => rewriteContext(program, { ...TRAMPOLINE, runs: 'return' }, KERNEL)).toThrow(
      expect.objectContaining({ code: 'EACCES' }),
    );
  });

  test('a program that changes a result has no kprobe', () => {
    const program = { ...base, attachType: 'fmod_ret', insns: reads([0]) } as const;
    expect(() => rewriteContext(program, { ...REGISTERS, runs: 'entry' }, KERNEL)).toThrow(
      expect.objectContaining({ code: 'EOPNOTSUPP' }),
    );
  });

  test('functions and lines are where their instructions are', () => {
    const b = new BtfBuilder();
    const int = b.addInt('int', 4, { signed: true });
    const proto = b.addFuncProto(int, [{ name: 'ctx', type: b.addPtr(0) }]);
    const typeIds = [b.addFunc('program', proto, 'global'), b.addFunc('sub', proto, 'static')];
    const p = new ProgramBuilder();
    const sub = p.label();
    p.mov(R6, R1).call(HELPER.get_attach_cookie).load(8, R2, R6, 0).callSubprogram(sub).exit();
    p.bind(sub).mov(R0, 0).exit();
    const line = (slot: number, n: number) => ({ slot, file: 'a.c', text: '', line: n, column: 1 });
    const program: ContextProgram = {
      ...base,
      attachType: 'fentry',
      insns: p.build(),
      btf: Btf.parse(b.build()),
      funcInfo: [
        { slot: 0, typeId: typeIds[0] },
        { slot: 5, typeId: typeIds[1] },
      ],
      lineInfo: [line(0, 1), line(2, 2), line(5, 3)],
    };
    const made = rewriteContext(program, { ...TRAMPOLINE, runs: 'entry' }, KERNEL);
    const main = made.insns.length - program.insns.length - 1;
    expect(made.funcInfo).toEqual([
      { slot: 0, typeId: typeIds[0] },
      { slot: main, typeId: typeIds[0] },
      { slot: main + 6, typeId: typeIds[1] },
    ]);
    expect(made.lineInfo.map(({ slot, line: n }) => [slot, n])).toEqual([
      [0, 1],
      [main, 1],
      [main + 3, 2],
      [main + 6, 3],
    ]);
  });
});

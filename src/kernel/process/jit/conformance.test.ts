/**
 * What RFC 9669 says of each instruction, with the values where it is easily got wrong: every one is run by the
 * interpreter and compiled, and both must give what stands here. The last test checks that none is left out.
 */

import { describe, expect, test } from 'vitest';
import {
  type Operand,
  ProgramBuilder,
  R0,
  R1,
  R2,
  R3,
  R4,
  R5,
  R6,
  R7,
  R10,
  type Register,
} from '../../../bpf/builder.js';
import { decodeProgram, encodeProgram } from '../../../bpf/encoding.js';
import { ALU, ATOMIC, type BpfInsn, CLASS, JMP, LD_IMM64, MODE } from '../../../bpf/instruction.js';
import { type AccessSize, type BinaryName, type Condition, operationOf } from '../../../bpf/operation.js';
import { Bench, factsByHand } from './fixture.js';
import { generate } from './generate.js';

const bench = new Bench(1 << 12);
const CALL = { args: [1n, 2n, 3n], cookie: 0n, functionAddress: 0n };
const NOTHING = {
  maps: new Map(),
  routine(): bigint {
    throw new RangeError('nothing is called here');
  },
};

/** What the programs of this file were made of. */
const used = new Set<string>();

/** One kind of instruction: the opcode, and the field that selects within it. */
function kindOf(insn: BpfInsn): string {
  const operation = operationOf(insn, 0);
  switch (operation.kind) {
    case 'swap':
      return `${insn.opcode} ${insn.imm}`;
    case 'atomic':
      return `${insn.opcode} atomic ${insn.imm}`;
    case 'movsx':
      return `${insn.opcode} ${insn.offset}`;
    case 'alu':
      return `${insn.opcode} ${operation.name}`;
    case 'call':
      return `${insn.opcode} ${operation.target}`;
    case 'load':
    case 'store':
      return `${insn.opcode} ${operation.kind} ${operation.ordered === true}`;
    default:
      return `${insn.opcode}`;
  }
}

type Write = (p: ProgramBuilder) => ProgramBuilder;

/** r0 of a program, compiled and interpreted, from its encoded form. */
function run(write: Write): bigint {
  const insns = decodeProgram(encodeProgram(write(new ProgramBuilder()).build()));
  for (const insn of insns) used.add(kindOf(insn));
  const facts = factsByHand(insns);
  const expected = bench.interpret(facts, CALL, new Map()).result;
  const { result } = bench.run(generate(facts, NOTHING), CALL);
  expect(result, 'compiled and interpreted').toBe(expected);
  return result;
}

const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);
const MIN64 = 0x8000_0000_0000_0000n;
const MAX64 = 0x7fff_ffff_ffff_ffffn;
const ONES = 0xffff_ffff_ffff_ffffn;
const MIN32 = 0x8000_0000n;
const HIGH = 0xaaaa_bbbb_0000_0000n;

/** The immediate that stands for `value`; `undefined` if none does. */
function immediateFor(value: bigint, width: 32 | 64): number | undefined {
  const signed = BigInt.asIntN(width, value);
  return signed === BigInt.asIntN(32, signed) ? Number(signed) : undefined;
}

type Row = readonly [BinaryName, 32 | 64, dst: bigint, src: bigint, result: bigint];

const ARITHMETIC: readonly Row[] = [
  ['add', 64, ONES, 1n, 0n],
  ['add', 64, MAX64, 1n, MIN64],
  ['add', 64, 5n, ONES, 4n],
  ['add', 32, HIGH | 0xffff_ffffn, 1n, 0n],
  ['add', 32, HIGH | 1n, 0xffff_ffff_8000_0000n, 0x8000_0001n],
  ['sub', 64, 0n, 1n, ONES],
  ['sub', 32, HIGH, 1n, 0xffff_ffffn],
  ['mul', 64, 0x1_0000_0001n, 0x1_0000_0001n, 0x2_0000_0001n],
  ['mul', 64, 7n, u64(-3n), u64(-21n)],
  ['mul', 32, HIGH | 0xffff_ffffn, 0xffff_ffffn, 1n],
  ['mul', 32, 0x1_0000n, 0x1_0000n, 0n],
  ['div', 64, 100n, 7n, 14n],
  ['div', 64, ONES, 2n, MAX64],
  ['div', 64, 5n, 0n, 0n],
  ['div', 64, ONES, ONES, 1n],
  // An immediate is sign-extended, and the division unsigned.
  ['div', 64, 100n, u64(-7n), 0n],
  ['div', 32, HIGH | 100n, HIGH | 7n, 14n],
  ['div', 32, HIGH | 100n, HIGH, 0n],
  ['div', 32, 0xffff_fffen, 0xffff_ffffn, 0n],
  ['sdiv', 64, u64(-13n), 3n, u64(-4n)],
  ['sdiv', 64, 13n, u64(-3n), u64(-4n)],
  ['sdiv', 64, MIN64, ONES, MIN64],
  ['sdiv', 64, u64(-13n), 0n, 0n],
  ['sdiv', 32, HIGH | 0xffff_fff3n, 3n, 0xffff_fffcn],
  ['sdiv', 32, HIGH | MIN32, 0xffff_ffffn, MIN32],
  ['sdiv', 32, HIGH | 13n, HIGH, 0n],
  ['mod', 64, 100n, 7n, 2n],
  ['mod', 64, HIGH | 5n, 0n, HIGH | 5n],
  ['mod', 64, 100n, u64(-7n), 100n],
  ['mod', 32, HIGH | 100n, 7n, 2n],
  // Modulo zero leaves the register, and still clears its upper half.
  ['mod', 32, HIGH | 100n, HIGH, 100n],
  ['smod', 64, u64(-13n), 3n, u64(-1n)],
  ['smod', 64, 13n, u64(-3n), 1n],
  ['smod', 64, MIN64, ONES, 0n],
  ['smod', 64, u64(-13n), 0n, u64(-13n)],
  ['smod', 32, 0xffff_fff3n, 3n, 0xffff_ffffn],
  ['smod', 32, HIGH | MIN32, 0xffff_ffffn, 0n],
  ['smod', 32, HIGH | 13n, HIGH, 13n],
  ['or', 64, 0xf0n, ONES, ONES],
  ['or', 64, 0xf0n, 0x0fn, 0xffn],
  ['or', 32, HIGH | 0xf0n, 0x8000_0000n, 0x8000_00f0n],
  ['and', 64, ONES, u64(-2n), u64(-2n)],
  ['and', 64, ONES, 0xffff_ffffn, 0xffff_ffffn],
  ['and', 32, ONES, 0xffff_fffen, 0xffff_fffen],
  ['xor', 64, ONES, 0x0fn, u64(-16n)],
  ['xor', 32, ONES, 0xffff_ffffn, 0n],
  ['lsh', 64, 1n, 63n, MIN64],
  ['lsh', 32, HIGH | 1n, 31n, MIN32],
  ['lsh', 32, HIGH | 5n, 0n, 5n],
  ['rsh', 64, MIN64, 63n, 1n],
  ['rsh', 32, ONES, 4n, 0x0fff_ffffn],
  ['arsh', 64, MIN64, 63n, ONES],
  ['arsh', 64, MAX64, 62n, 1n],
  ['arsh', 32, MIN32, 31n, 0xffff_ffffn],
  ['arsh', 32, HIGH | 0x4000_0000n, 30n, 1n],
];

/** Counts beyond the width, which only a register can hold: 6 or 5 bits of them are used. */
const LONG_SHIFTS: readonly Row[] = [
  ['lsh', 64, 3n, 65n, 6n],
  ['lsh', 64, 3n, ONES, MIN64],
  ['rsh', 64, 8n, 64n, 8n],
  ['arsh', 64, MIN64, 127n, ONES],
  ['lsh', 32, 3n, 33n, 6n],
  ['rsh', 32, 8n, 32n, 8n],
  ['arsh', 32, MIN32, 63n, 0xffff_ffffn],
];

function arithmetic(
  [name, width, dst, , result]: Row,
  operand: Operand,
  src: bigint,
  target: Register,
): void {
  const method = (width === 32 ? `${name}32` : name) as `${BinaryName}32`;
  const got = run(p => {
    p.ldImm64(target, dst);
    if (typeof operand !== 'number') p.ldImm64(operand, src);
    return p[method](target, operand).mov(R0, target).exit();
  });
  expect(got, `${name}${width} 0x${dst.toString(16)} 0x${src.toString(16)}`).toBe(result);
}

describe('arithmetic', () => {
  // r4 is the register that x86-64 shifts by, r0 and r3 those that it divides in.
  const targets = [R0, R3, R4, R6];
  const sources = [R0, R1, R3, R4, R7];

  test.each([
    'add',
    'sub',
    'mul',
    'div',
    'sdiv',
    'mod',
    'smod',
    'or',
    'and',
    'xor',
    'lsh',
    'rsh',
    'arsh',
  ] as const)('%s', name => {
    for (const row of [...ARITHMETIC, ...LONG_SHIFTS].filter(([of]) => of === name)) {
      for (const target of targets) {
        for (const source of sources) if (source !== target) arithmetic(row, source, row[3], target);
      }
    }
    for (const row of ARITHMETIC.filter(([of]) => of === name)) {
      const immediate = immediateFor(row[3], row[1]);
      // By zero is for registers: as an immediate no verifier takes it.
      if (immediate === undefined || (immediate === 0 && /div|mod/.test(name))) continue;
      for (const target of targets) arithmetic(row, immediate, row[3], target);
    }
  });

  test('with itself', () => {
    const self = (write: (p: ProgramBuilder) => ProgramBuilder): bigint =>
      run(p =>
        write(p.ldImm64(R1, HIGH | 9n))
          .mov(R0, R1)
          .exit(),
      );
    expect(self(p => p.sub(R1, R1))).toBe(0n);
    expect(self(p => p.div(R1, R1))).toBe(1n);
    expect(self(p => p.smod32(R1, R1))).toBe(0n);
    expect(self(p => p.lsh32(R1, R1))).toBe(9n << 9n);
    expect(self(p => p.add32(R1, R1))).toBe(18n);
  });

  test.each([
    ['neg', 1n, ONES],
    ['neg', MIN64, MIN64],
    ['neg32', HIGH | 1n, 0xffff_ffffn],
    ['neg32', HIGH | MIN32, MIN32],
    ['neg32', HIGH, 0n],
  ] as const)('%s', (name, value, result) =>
    expect(run(p => p.ldImm64(R0, value)[name](R0).exit())).toBe(result),
  );
});

describe('moves', () => {
  test('of registers', () => {
    expect(
      run(p =>
        p
          .ldImm64(R1, HIGH | 5n)
          .mov(R0, R1)
          .exit(),
      ),
    ).toBe(HIGH | 5n);
    expect(
      run(p =>
        p
          .ldImm64(R1, HIGH | 5n)
          .mov32(R0, R1)
          .exit(),
      ),
    ).toBe(5n);
    expect(
      run(p =>
        p
          .ldImm64(R0, HIGH | 5n)
          .mov32(R0, R0)
          .exit(),
      ),
    ).toBe(5n);
  });
  test('of immediates: sign-extended to the width', () => {
    expect(run(p => p.mov(R0, -1).exit())).toBe(ONES);
    expect(run(p => p.mov32(R0, -1).exit())).toBe(0xffff_ffffn);
    expect(run(p => p.ldImm64(R0, 0x8000_0000_7fff_ffffn).exit())).toBe(0x8000_0000_7fff_ffffn);
  });
  test.each([
    [8, 64, 0x80n, u64(-128n)],
    [8, 64, 0x17fn, 0x7fn],
    [16, 64, 0x8000n, u64(-32768n)],
    [32, 64, MIN32, u64(-0x8000_0000n)],
    [32, 64, HIGH | 1n, 1n],
    [8, 32, HIGH | 0x80n, 0xffff_ff80n],
    [16, 32, HIGH | 0x1_8000n, 0xffff_8000n],
  ] as const)('sign-extending %i bits to %i', (bits, width, value, result) => {
    const got = run(p => {
      p.ldImm64(R1, value);
      if (width === 64) p.movsx(bits, R0, R1);
      else p.movsx32(bits as 8 | 16, R0, R1);
      return p.exit();
    });
    expect(got).toBe(result);
  });
});

describe('byte order', () => {
  const value = 0x0102_0304_0506_0708n;
  test.each([
    ['le', 16, 0x0708n],
    ['le', 32, 0x0506_0708n],
    ['le', 64, value],
    ['be', 16, 0x0807n],
    ['be', 32, 0x0807_0605n],
    ['be', 64, 0x0807_0605_0403_0201n],
    ['bswap', 16, 0x0807n],
    ['bswap', 32, 0x0807_0605n],
    ['bswap', 64, 0x0807_0605_0403_0201n],
  ] as const)('%s%i', (name, bits, result) => {
    for (const register of [R0, R2, R6]) {
      expect(run(p => p.ldImm64(register, value)[name](bits, register).mov(R0, register).exit())).toBe(
        result,
      );
    }
  });
});

describe('jumps', () => {
  type Case = readonly [Condition, 32 | 64, dst: bigint, src: bigint, taken: boolean];
  const cases: readonly Case[] = [
    ...([32, 64] as const).flatMap(width => {
      const top = 1n << BigInt(width - 1);
      const ones = (1n << BigInt(width)) - 1n;
      return [
        ['eq', width, 5n, 5n, true],
        ['eq', width, 5n, 6n, false],
        ['ne', width, 5n, 6n, true],
        ['ne', width, 5n, 5n, false],
        ['gt', width, ones, 1n, true],
        ['gt', width, 1n, 1n, false],
        ['ge', width, 1n, 1n, true],
        ['ge', width, 1n, ones, false],
        ['lt', width, 1n, ones, true],
        ['lt', width, ones, 1n, false],
        ['le', width, 1n, 1n, true],
        ['le', width, ones, 1n, false],
        ['sgt', width, 1n, ones, true],
        ['sgt', width, top, top - 1n, false],
        ['sge', width, top, top, true],
        ['sge', width, ones, 0n, false],
        ['slt', width, top, 0n, true],
        ['slt', width, 0n, ones, false],
        ['sle', width, ones, ones, true],
        ['sle', width, 0n, ones, false],
        ['set', width, 6n, 12n, true],
        ['set', width, 3n, 12n, false],
        ['set', width, top, ones, true],
      ] as const satisfies readonly Case[];
    }),
    ['eq', 64, HIGH, 0n, false],
    ['eq', 32, HIGH, 0n, true],
    ['set', 64, HIGH, u64(-1n), true],
    ['set', 32, HIGH, u64(-1n), false],
    ['sgt', 32, HIGH | 1n, 0n, true],
    ['slt', 64, HIGH, 0n, true],
    ['slt', 32, HIGH, 0n, false],
  ];

  test.each(cases)('%s at %i bits: 0x%x and 0x%x: %s', (condition, width, dst, src, taken) => {
    const jump = width === 64 ? 'jump' : 'jump32';
    const with_ = (operand: Operand): bigint =>
      run(p => {
        const there = p.label();
        p.ldImm64(R1, dst).ldImm64(R2, src)[jump](condition, R1, operand, there);
        return p.mov(R0, 0).exit().bind(there).mov(R0, 1).exit();
      });
    expect(with_(R2)).toBe(taken ? 1n : 0n);
    const immediate = immediateFor(src, width);
    if (immediate !== undefined) expect(with_(immediate)).toBe(taken ? 1n : 0n);
  });

  test('always, near and far, forward and back', () => {
    for (const jump of ['goto', 'gotol'] as const) {
      const result = run(p => {
        const [ahead, back, out] = [p.label(), p.label(), p.label()];
        p.mov(R0, 1)[jump](ahead);
        p.bind(back).add(R0, 4)[jump](out);
        p.bind(ahead).add(R0, 2)[jump](back);
        return p.bind(out).exit();
      });
      expect(result).toBe(7n);
    }
    const far = run(p => {
      const end = p.label();
      p.mov(R0, 1).gotol(end);
      for (let n = 0; n < 40_000; n++) p.mov(R0, 2);
      return p.bind(end).exit();
    });
    expect(far).toBe(1n);
  });

  test('may_goto goes on', () => {
    const result = run(p => {
      const out = p.label();
      return p.mov(R0, 1).mayGoto(out).mov(R0, 2).bind(out).exit();
    });
    expect(result).toBe(2n);
  });
});

describe('memory', () => {
  const pattern = 0xf1f2_f3f4_f5f6_f7f8n;
  const sizes: readonly AccessSize[] = [1, 2, 4, 8];

  test.each(sizes)('loads and stores of %i bytes, little-endian', size => {
    const mask = (1n << BigInt(8 * size)) - 1n;
    for (const base of [R10, R2, R6]) {
      const at = (p: ProgramBuilder): ProgramBuilder =>
        p.store(8, R10, -8, 0).mov(R2, R10).mov(R6, R10).ldImm64(R1, pattern);
      expect(run(p => at(p).store(size, base, -8, R1).load(8, R0, R10, -8).exit())).toBe(pattern & mask);
      expect(run(p => at(p).store(8, R10, -8, R1).load(size, R0, base, -8).exit())).toBe(pattern & mask);
      expect(run(p => at(p).store(size, base, -8, -2).load(8, R0, R10, -8).exit())).toBe(u64(-2n) & mask);
      expect(run(p => at(p).storeRelease(size, base, -8, R1).loadAcquire(size, R0, base, -8).exit())).toBe(
        pattern & mask,
      );
      if (size !== 8) {
        const signed = u64(BigInt.asIntN(8 * size, pattern));
        expect(run(p => at(p).store(8, R10, -8, R1).loadSigned(size, R0, base, -8).exit())).toBe(signed);
      }
    }
  });

  test('bytes beside the one stored stay', () => {
    const result = run(p =>
      p.store(8, R10, -8, -1).store(1, R10, -7, 0).store(2, R10, -4, 0x1234).load(8, R0, R10, -8).exit(),
    );
    expect(result).toBe(0xffff_1234_ffff_00ffn);
  });

  type Atomic = readonly [
    'add' | 'or' | 'and' | 'xor' | 'xchg' | 'cmpxchg',
    4 | 8,
    memory: bigint,
    src: bigint,
    r0: bigint,
    left: bigint,
    fetched: bigint,
  ];
  const old = 0x1111_2222_3333_4444n;
  const atomics: readonly Atomic[] = [
    ['add', 8, old, ONES, 0n, old - 1n, old],
    ['add', 4, HIGH | 0xffff_ffffn, 2n, 0n, HIGH | 1n, 0xffff_ffffn],
    ['or', 8, old, MIN64, 0n, old | MIN64, old],
    ['or', 4, old, ONES, 0n, 0x1111_2222_ffff_ffffn, 0x3333_4444n],
    ['and', 8, old, 0xffffn, 0n, 0x4444n, old],
    ['and', 4, old, 0xffffn, 0n, 0x1111_2222_0000_4444n, 0x3333_4444n],
    ['xor', 8, old, old, 0n, 0n, old],
    ['xor', 4, old, old, 0n, 0x1111_2222_0000_0000n, 0x3333_4444n],
    ['xchg', 8, old, 5n, 0n, 5n, old],
    ['xchg', 4, old, HIGH | 5n, 0n, 0x1111_2222_0000_0005n, 0x3333_4444n],
    ['cmpxchg', 8, old, 5n, old, 5n, old],
    ['cmpxchg', 8, old, 5n, 6n, old, old],
    // The low half is what is compared; r0 is zero-extended either way.
    ['cmpxchg', 4, old, HIGH | 5n, HIGH | 0x3333_4444n, 0x1111_2222_0000_0005n, 0x3333_4444n],
    ['cmpxchg', 4, old, 5n, HIGH, old, 0x3333_4444n],
  ];

  test.each(atomics)('atomic %s of %i bytes', (name, size, memory, src, r0, left, fetched) => {
    const capital = `${name[0]?.toUpperCase()}${name.slice(1)}` as 'Add' | 'Or' | 'And' | 'Xor';
    const fetch = (
      name === 'xchg' || name === 'cmpxchg' ? `atomic${capital}` : `atomicFetch${capital}`
    ) as 'atomicXchg';
    const start = (p: ProgramBuilder, operand: Register): ProgramBuilder =>
      p.ldImm64(R3, memory).store(8, R10, -8, R3).ldImm64(R0, r0).ldImm64(operand, src);
    for (const operand of [R1, R5, R6]) {
      expect(run(p => start(p, operand)[fetch](size, R10, -8, operand).load(8, R0, R10, -8).exit())).toBe(
        left,
      );
      const result = name === 'cmpxchg' ? R0 : operand;
      expect(run(p => start(p, operand)[fetch](size, R10, -8, operand).mov(R0, result).exit())).toBe(fetched);
      if (name === 'cmpxchg') {
        // The operand is left alone.
        expect(run(p => start(p, operand)[fetch](size, R10, -8, operand).mov(R0, operand).exit())).toBe(src);
      } else if (name !== 'xchg') {
        const plain = `atomic${capital}` as 'atomicAdd';
        expect(run(p => start(p, operand)[plain](size, R10, -8, operand).load(8, R0, R10, -8).exit())).toBe(
          left,
        );
        expect(run(p => start(p, operand)[plain](size, R10, -8, operand).mov(R0, operand).exit())).toBe(src);
      }
    }
  });
});

describe('calls', () => {
  test('of a subprogram', () => {
    const result = run(p => {
      const f = p.label();
      return p.mov(R1, 41).callSubprogram(f).exit().bind(f).mov(R0, R1).add(R0, 1).exit();
    });
    expect(result).toBe(42n);
  });

  test('by number', () => expect(run(p => p.call(185).exit())).toBe(3n));

  test('of a kernel function', () => {
    const iterate: Write = p => p.mov(R1, R10).add(R1, -8).mov(R2, 5).mov(R3, 4).callKfunc(1).exit();
    expect(run(iterate)).toBe(u64(-22n));
  });
});

test('no instruction is left out', () => {
  const all: BpfInsn[] = [];
  const tryInsn = (insn: BpfInsn): void => {
    try {
      const { kind } = operationOf(insn, 0);
      // The packet access of classic BPF is refused everywhere here.
      if (kind !== 'packet') all.push(insn);
    } catch {
      // There is no such instruction.
    }
  };
  const atomics = [ALU.ADD, ALU.OR, ALU.AND, ALU.XOR].flatMap(code => [code, code | ATOMIC.FETCH]);
  for (let opcode = 0; opcode < 256; opcode++) {
    if (opcode === LD_IMM64) continue;
    const insn: BpfInsn = { opcode, dst: 0, src: 0, offset: 0, imm: 0 };
    const cls = opcode & 7;
    const isSwap = (cls === CLASS.ALU || cls === CLASS.ALU64) && (opcode & 0xf0) === ALU.END;
    if (isSwap) for (const imm of [16, 32, 64]) tryInsn({ ...insn, imm });
    else if (cls === CLASS.STX && (opcode & 0xe0) === MODE.ATOMIC) {
      for (const imm of [...atomics, ATOMIC.XCHG, ATOMIC.CMPXCHG, ATOMIC.LOAD_ACQ, ATOMIC.STORE_REL])
        tryInsn({ ...insn, imm });
    } else if (opcode === (CLASS.JMP | JMP.CALL)) for (const src of [0, 1, 2]) tryInsn({ ...insn, src });
    else {
      tryInsn(insn);
      if (cls === CLASS.ALU || cls === CLASS.ALU64)
        for (const offset of [1, 8, 16, 32]) tryInsn({ ...insn, offset });
    }
  }
  const missing = all.filter(insn => !used.has(kindOf(insn)));
  expect(missing.map(kindOf)).toEqual([]);
  expect(used.has(`${LD_IMM64}`)).toBe(true);
  expect(new Set(all.map(kindOf)).size).toBe(166);
});

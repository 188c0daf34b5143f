/** The interpreter against results worked out by hand from RFC 9669: everything else is compared with it. */

import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R3, R10 } from './builder.js';
import { type BpfMemory, interpret } from './interpreter.js';

const FRAME = 0x1000n;

function run(write: (p: ProgramBuilder) => ProgramBuilder, context = 0n): bigint {
  const bytes = new Uint8Array(512);
  const view = new DataView(bytes.buffer);
  const at = (address: bigint): number => Number(address - (FRAME - 512n));
  const memory: BpfMemory = {
    load: (address, size) => {
      let value = 0n;
      for (let i = 0; i < size; i++) value |= BigInt(view.getUint8(at(address) + i)) << BigInt(8 * i);
      return value;
    },
    store: (address, size, value) => {
      for (let i = 0; i < size; i++) view.setUint8(at(address) + i, Number((value >> BigInt(8 * i)) & 0xffn));
    },
  };
  const insns = write(new ProgramBuilder()).exit().build();
  return interpret(insns, {
    memory,
    context,
    framePointer: FRAME,
    call: (id, args) => BigInt(id) + (args[0] as bigint),
  });
}

const MIN64 = 0x8000_0000_0000_0000n;
const MAX64 = 0xffff_ffff_ffff_ffffn;

type Write = (p: ProgramBuilder) => ProgramBuilder;

test.each<[string, Write, bigint]>([
  ['64-bit addition wraps', p => p.mov(R0, -1).add(R0, 2), 1n],
  ['32-bit addition wraps and clears the upper half', p => p.mov(R0, -1).add32(R0, 2), 1n],
  ['a 32-bit move of -1 is 0xffffffff', p => p.mov32(R0, -1), 0xffff_ffffn],
  ['a 64-bit move of -1 is all ones', p => p.mov(R0, -1), MAX64],
  ['division is unsigned', p => p.mov(R0, -1).div(R0, 2), 0x7fff_ffff_ffff_ffffn],
  ['the immediate of a 64-bit division is sign-extended', p => p.mov(R0, -1).div(R0, -1), 1n],
  ['division by zero is zero', p => p.mov(R0, 7).mov(R1, 0).div(R0, R1), 0n],
  ['modulo zero leaves the destination', p => p.mov(R0, -7).mov(R1, 0).mod(R0, R1), MAX64 - 6n],
  ['32-bit modulo zero clears the upper half', p => p.mov(R0, -7).mov(R1, 0).mod32(R0, R1), 0xffff_fff9n],
  [
    '32-bit division looks at the low half only',
    p =>
      p
        .ldImm64(R0, 7n)
        .ldImm64(R1, 1n << 32n)
        .div32(R0, R1),
    0n,
  ],
  ['signed division truncates towards zero', p => p.mov(R0, -13).sdiv(R0, 3), MAX64 - 3n],
  ['signed modulo has the sign of the dividend', p => p.mov(R0, -13).smod(R0, 3), MAX64],
  ['32-bit signed division', p => p.mov(R0, -13).sdiv32(R0, 3), 0xffff_fffcn],
  ['the smallest number by -1 is itself', p => p.ldImm64(R0, MIN64).mov(R1, -1).sdiv(R0, R1), MIN64],
  ['the smallest number modulo -1 is 0', p => p.ldImm64(R0, MIN64).mov(R1, -1).smod(R0, R1), 0n],
  ['shifts use 6 bits of the count', p => p.mov(R0, 1).mov(R1, 65).lsh(R0, R1), 2n],
  ['32-bit shifts use 5', p => p.mov(R0, 1).mov(R1, 33).lsh32(R0, R1), 2n],
  ['arithmetic shift copies the sign', p => p.mov(R0, -8).arsh(R0, 1), MAX64 - 3n],
  ['32-bit arithmetic shift copies bit 31', p => p.ldImm64(R0, 0x80000000n).arsh32(R0, 4), 0xf800_0000n],
  ['negation', p => p.mov(R0, 1).neg(R0), MAX64],
  ['32-bit negation', p => p.mov(R0, 1).neg32(R0), 0xffff_ffffn],
  ['sign extension of a byte', p => p.mov(R1, 0x1ff).movsx(8, R0, R1), MAX64],
  ['sign extension of a byte to 32 bits', p => p.mov(R1, 0x80).movsx32(8, R0, R1), 0xffff_ff80n],
  ['bswap16', p => p.ldImm64(R0, 0x11_2233_4455n).bswap(16, R0), 0x5544n],
  ['be32', p => p.ldImm64(R0, 0x1122_3344_5566n).be(32, R0), 0x6655_4433n],
  ['le32 truncates', p => p.ldImm64(R0, 0x1122_3344_5566n).le(32, R0), 0x3344_5566n],
  ['bswap64', p => p.ldImm64(R0, 0x0102_0304_0506_0708n).bswap(64, R0), 0x0807_0605_0403_0201n],
  ['loads are little-endian', p => p.store(4, R10, -8, 0x11223344).load(2, R0, R10, -7), 0x2233n],
  ['signed loads', p => p.store(8, R10, -8, 0x8081).loadSigned(1, R0, R10, -8), MAX64 - 0x7en],
  [
    'an 8-byte store of an immediate sign-extends',
    p => p.store(8, R10, -8, -2).load(8, R0, R10, -8),
    MAX64 - 1n,
  ],
  [
    'a narrow store keeps the rest',
    p => p.store(8, R10, -8, -1).store(1, R10, -8, 0).load(8, R0, R10, -8),
    MAX64 - 255n,
  ],
  [
    'fetch and add gives the old value',
    p => p.store(8, R10, -8, 5).mov(R0, 3).atomicFetchAdd(8, R10, -8, R0),
    5n,
  ],
  [
    'and leaves the sum',
    p => p.store(8, R10, -8, 5).mov(R1, 3).atomicAdd(8, R10, -8, R1).load(8, R0, R10, -8),
    8n,
  ],
  [
    'a 32-bit atomic wraps',
    p => p.store(8, R10, -8, -1).mov(R1, 1).atomicAdd(4, R10, -8, R1).load(8, R0, R10, -8),
    0xffff_ffff_0000_0000n,
  ],
  ['exchange', p => p.store(4, R10, -8, 9).mov(R0, -1).atomicXchg(4, R10, -8, R0), 9n],
  [
    'compare and exchange stores where it compares equal, over 32 bits only',
    p =>
      p
        .store(4, R10, -8, 9)
        .ldImm64(R0, 0xff_0000_0009n)
        .mov(R1, 4)
        .atomicCmpxchg(4, R10, -8, R1)
        .load(4, R0, R10, -8),
    4n,
  ],
  [
    'and gives the old value',
    p => p.store(4, R10, -8, 9).mov(R0, 8).mov(R1, 4).atomicCmpxchg(4, R10, -8, R1),
    9n,
  ],
  ['a helper gets r1', p => p.mov(R1, 7).call(100), 107n],
])('%s', (_name, write, expected) => {
  expect(run(write)).toBe(expected);
});

describe('jumps', () => {
  const taken = (
    ...[condition, left, right, narrow]: [Parameters<ProgramBuilder['jump']>[0], bigint, bigint, boolean?]
  ): boolean => {
    const result = run(p => {
      const yes = p.label();
      p.ldImm64(R2, left).ldImm64(R3, right).mov(R0, 1);
      if (narrow === true) p.jump32(condition, R2, R3, yes);
      else p.jump(condition, R2, R3, yes);
      return p.mov(R0, 0).bind(yes);
    });
    return result === 1n;
  };

  test('unsigned and signed differ', () => {
    expect(taken('gt', MAX64, 1n)).toBe(true);
    expect(taken('sgt', MAX64, 1n)).toBe(false);
    expect(taken('slt', MIN64, 0n)).toBe(true);
    expect(taken('lt', MIN64, 0n)).toBe(false);
  });

  test('32-bit jumps compare the low halves', () => {
    expect(taken('eq', 1n << 32n, 0n)).toBe(false);
    expect(taken('eq', 1n << 32n, 0n, true)).toBe(true);
    expect(taken('slt', 0x8000_0000n, 0n, true)).toBe(true);
    expect(taken('slt', 0x8000_0000n, 0n)).toBe(false);
  });

  test('set looks for any bit', () => {
    expect(taken('set', 6n, 12n)).toBe(true);
    expect(taken('set', 3n, 12n)).toBe(false);
  });

  test('equal counts for the conditions that include it', () => {
    for (const condition of ['eq', 'ge', 'le', 'sge', 'sle'] as const)
      expect(taken(condition, 5n, 5n)).toBe(true);
    for (const condition of ['ne', 'gt', 'lt', 'sgt', 'slt'] as const)
      expect(taken(condition, 5n, 5n)).toBe(false);
  });

  test('a program that calls deeper than eight frames is stopped', () => {
    const p = new ProgramBuilder();
    const f = p.label();
    const insns = p.mov(R0, 0).bind(f).callSubprogram(f).exit().build();
    const memory: BpfMemory = { load: () => 0n, store: () => undefined };
    expect(() => interpret(insns, { memory, context: 0n, framePointer: 0n })).toThrow('deeper than 8 frames');
  });

  test('each function has the 512 bytes below its caller', () => {
    const p = new ProgramBuilder();
    const f = p.label();
    const insns = p.callSubprogram(f).sub(R0, R10).exit().bind(f).mov(R0, R10).exit().build();
    const memory: BpfMemory = { load: () => 0n, store: () => undefined };
    const result = interpret(insns, { memory, context: 0n, framePointer: 0x10000n });
    expect(BigInt.asIntN(64, result)).toBe(-512n);
  });

  test('a probe of memory that is not there gives zero, and only a probe', () => {
    const memory: BpfMemory = {
      load() {
        throw new RangeError('nothing there');
      },
      store: () => undefined,
    };
    const insns = new ProgramBuilder().mov(R0, 7).load(8, R0, R1).exit().build();
    const env = { memory, context: 0n, framePointer: 0n };
    expect(interpret(insns, { ...env, probeLoads: Uint8Array.of(0, 1, 0) })).toBe(0n);
    expect(() => interpret(insns, env)).toThrow('nothing there');
  });

  test('a program that does not end is stopped', () => {
    const p = new ProgramBuilder();
    const again = p.label();
    const insns = p.bind(again).mov(R0, 0).goto(again).build();
    const memory: BpfMemory = { load: () => 0n, store: () => undefined };
    expect(() => interpret(insns, { memory, context: 0n, framePointer: 0n, limit: 1000 })).toThrow(
      'did not end within 1000',
    );
  });
});

/** Compiled code against the interpreter: random programs, executed in this process. */

import { describe, expect, test } from 'vitest';
import {
  ProgramBuilder,
  R0,
  R1,
  R2,
  R3,
  R4,
  R5,
  R6,
  R7,
  R8,
  R9,
  R10,
  type Register,
} from '../../../bpf/builder.js';
import { disassemble } from '../../../bpf/disassemble.js';
import { HELPER } from '../../../bpf/helpers.js';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import type { AccessSize, Condition } from '../../../bpf/operation.js';
import type { MapSpec, VerifierEnv } from '../verifier/environment.js';
import { verifyProgram } from '../verifier/verifier.js';
import { compileProgram } from './compile.js';
import type { JitMap } from './environment.js';
import { Bench } from './fixture.js';

const SEED = Number(process.env.MULTITRACE_SEED ?? Date.now() % 2 ** 31);
const PROGRAMS = Number(process.env.MULTITRACE_PROGRAMS ?? 3000);
const RUNS = 3;
const NARGS = 6;
const MAP_ID = 7;
const VALUE_SIZE = 64;
const SLOTS = 8;

/** A small generator with a seed (mulberry32). */
class Random {
  private state: number;
  constructor(seed: number) {
    this.state = seed | 0;
  }
  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  }
  below(n: number): number {
    return this.next() % n;
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  imm(): number {
    const interesting = [
      0, 1, -1, 2, 3, 7, 8, 63, 64, 127, 128, 255, 256, -128, 0x7fffffff, -0x80000000, -2, 10,
    ];
    return this.chance(60) ? this.pick(interesting) : this.next() | 0;
  }
  u64(): bigint {
    const interesting = [
      0n,
      1n,
      2n,
      0x7fffffffn,
      0x80000000n,
      0xffffffffn,
      0x100000000n,
      0x7fffffffffffffffn,
      0x8000000000000000n,
      0xffffffffffffffffn,
      0xfffffffffffffffen,
      0xffffffff80000000n,
      63n,
      10n,
    ];
    if (this.chance(50)) return this.pick(interesting);
    return (BigInt(this.next()) << 32n) | BigInt(this.next());
  }
}

const SCALARS = [R0, R1, R2, R3, R4, R5, R7, R8] as const;
const BINARY = [
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
] as const;
const CONDITIONS: Condition[] = ['eq', 'ne', 'gt', 'ge', 'lt', 'le', 'sgt', 'sge', 'slt', 'sle', 'set'];

function randomAlu(p: ProgramBuilder, random: Random): void {
  const name = random.pick(BINARY);
  const narrow = random.chance(50);
  const dst = random.pick(SCALARS);
  const method = (narrow ? `${name}32` : name) as `${typeof name}32`;
  if (random.chance(50)) {
    p[method](dst, random.pick(SCALARS));
    return;
  }
  let imm = random.imm();
  if (name === 'lsh' || name === 'rsh' || name === 'arsh') imm = random.below(narrow ? 32 : 64);
  if (/div|mod/.test(name) && imm === 0) imm = 3;
  p[method](dst, imm);
}

function randomMemory(p: ProgramBuilder, random: Random): void {
  const size = random.pick<AccessSize>([1, 2, 4, 8]);
  const stack = random.chance(50);
  const base = stack ? R10 : R9;
  const slot = random.below(SLOTS) * 8 + random.below(8 / size) * size;
  const offset = stack ? slot - SLOTS * 8 : slot;
  const register = random.pick(SCALARS);
  switch (random.below(5)) {
    case 0:
      p.load(size, register, base, offset);
      return;
    case 1:
      if (size !== 8) p.loadSigned(size, register, base, offset);
      return;
    case 2:
      p.store(size, base, offset, register);
      return;
    case 3:
      p.store(size, base, offset, random.imm());
      return;
    default: {
      if (size !== 4 && size !== 8) return;
      const names = [
        'atomicAdd',
        'atomicOr',
        'atomicAnd',
        'atomicXor',
        'atomicFetchAdd',
        'atomicFetchOr',
        'atomicFetchAnd',
        'atomicFetchXor',
        'atomicXchg',
        'atomicCmpxchg',
      ] as const;
      // Half of the compare-and-exchanges should succeed, with ones in the half that 32 bits do not compare too.
      const name = random.pick(names);
      if (name === 'atomicCmpxchg' && random.chance(50)) {
        p.load(size, R0, base, offset);
        if (size === 4) p.ldImm64(register, random.u64() << 32n).or(R0, register);
      }
      p[name](size, base, offset, register);
    }
  }
}

function randomOther(p: ProgramBuilder, random: Random): void {
  const dst = random.pick(SCALARS);
  const src = random.pick(SCALARS);
  switch (random.below(11)) {
    case 0:
      p.mov(dst, src);
      return;
    case 1:
      p.mov32(dst, src);
      return;
    case 2:
      p.mov(dst, random.imm());
      return;
    case 3:
      p.mov32(dst, random.imm());
      return;
    case 4:
      p.ldImm64(dst, random.u64());
      return;
    case 5:
      p.movsx(random.pick([8, 16, 32] as const), dst, src);
      return;
    case 6:
      p.movsx32(random.pick([8, 16] as const), dst, src);
      return;
    case 7:
      if (random.chance(50)) p.neg(dst);
      else p.neg32(dst);
      return;
    case 8:
      p.bswap(random.pick([16, 32, 64] as const), dst);
      return;
    case 9:
      p.be(random.pick([16, 32, 64] as const), dst);
      return;
    default:
      p.le(random.pick([16, 32, 64] as const), dst);
  }
}

/** A helper call, after which r1 to r5 need new values. */
function randomCall(p: ProgramBuilder, random: Random): void {
  p.mov(R1, R6);
  switch (random.below(4)) {
    case 0:
      p.call(HELPER.get_func_ip);
      break;
    case 1:
      p.call(HELPER.get_attach_cookie);
      break;
    case 2:
      p.call(HELPER.get_func_arg_cnt);
      break;
    default:
      if (random.chance(50)) p.mov(R2, random.below(NARGS + 2));
      p.mov(R3, R10).add(R3, -8 * (1 + random.below(SLOTS)));
      p.call(HELPER.get_func_arg);
  }
  for (const register of [R1, R2, R3, R4, R5]) {
    if (random.chance(50)) p.load(8, register, R6, 8 * random.below(NARGS));
    else p.ldImm64(register, random.u64());
  }
}

/** A second lookup, with an index that may be too large; the result is compared with zero one way or another. */
function randomLookup(p: ProgramBuilder, random: Random): void {
  const key = random.pick(SCALARS);
  const skip = p.label();
  if (random.chance(70)) p.and(key, 3);
  p.store(4, R10, -8 * SLOTS - 4, key);
  p.ldMap(R1, { id: MAP_ID })
    .mov(R2, R10)
    .add(R2, -8 * SLOTS - 4)
    .call(HELPER.map_lookup_elem);
  if (random.chance(30)) p.mov(R7, 5);
  if (random.chance(50)) p.jump('eq', R0, 0, skip);
  else {
    const there = p.label();
    p.jump('ne', R0, 0, there).mov(R0, 77).goto(skip).bind(there);
  }
  p.load(8, R8, R0, 16).store(8, R0, 24, R8).mov(R0, 3).bind(skip);
  for (const register of [R1, R2, R3, R4, R5]) p.mov(register, random.imm());
}

function randomProgram(random: Random): ProgramBuilder {
  const p = new ProgramBuilder();
  p.mov(R6, R1);
  for (let slot = 1; slot <= SLOTS; slot++) p.store(8, R10, -8 * slot, random.imm());
  const out = p.label();
  p.store(4, R10, -8 * SLOTS - 4, random.below(2));
  p.ldMap(R1, { id: MAP_ID })
    .mov(R2, R10)
    .add(R2, -8 * SLOTS - 4)
    .call(HELPER.map_lookup_elem);
  p.jump('eq', R0, 0, out).mov(R9, R0);
  for (const register of SCALARS) {
    if (random.chance(60)) p.load(8, register, R6, 8 * random.below(NARGS));
    else p.ldImm64(register, random.u64());
  }
  const length = 1 + random.below(25);
  const waiting: { at: number; label: ReturnType<ProgramBuilder['label']> }[] = [];
  for (let i = 0; i < length; i++) {
    for (const jump of waiting.filter(w => w.at === i)) p.bind(jump.label);
    const kind = random.below(100);
    if (kind < 50) randomAlu(p, random);
    else if (kind < 72) randomMemory(p, random);
    else if (kind < 83) randomOther(p, random);
    else if (kind < 86) randomCall(p, random);
    else if (kind < 88) randomLookup(p, random);
    else {
      const label = p.label();
      const operand = random.chance(50) ? random.pick(SCALARS) : random.imm();
      const condition = random.pick(CONDITIONS);
      const dst: Register = random.pick(SCALARS);
      if (random.chance(50)) p.jump(condition, dst, operand, label);
      else p.jump32(condition, dst, operand, label);
      waiting.push({ at: i + 1 + random.below(6), label });
    }
  }
  for (const jump of waiting.filter(w => w.at >= length)) p.bind(jump.label);
  // Everything that can be seen goes into the result, or into memory.
  for (const register of SCALARS.slice(1)) if (random.chance(80)) p.mul(R0, 31).add(R0, register);
  for (let slot = 1; slot <= SLOTS; slot++)
    p.load(8, R1, R10, -8 * slot)
      .mul(R0, 33)
      .xor(R0, R1);
  p.exit();
  p.bind(out).mov(R0, 1).exit();
  return p;
}

describe('compiled programs do what the interpreter does', () => {
  test(`${PROGRAMS} random programs, seed ${SEED}`, () => {
    const bench = new Bench();
    const values = bench.alloc(2 * VALUE_SIZE);
    const spec: MapSpec = {
      id: MAP_ID,
      type: MAP_TYPE.ARRAY,
      name: 'values',
      keySize: 4,
      valueSize: VALUE_SIZE,
      maxEntries: 2,
    };
    const code: JitMap = { ...spec, address: 0x1234_5678_9abcn, values: values.address, stride: VALUE_SIZE };
    const maps = new Map([[MAP_ID, code]]);
    const env: VerifierEnv = { attachType: 'fmod_ret', nargs: NARGS, maps: new Map([[MAP_ID, spec]]) };
    const jitEnv = {
      maps,
      routine(): bigint {
        throw new Error('no routine is called here');
      },
    };
    const executed = new Map<number, number>();
    for (let n = 0; n < PROGRAMS; n++) {
      const random = new Random(SEED + n);
      const insns = randomProgram(random).build();
      const program = verifyProgram(insns, env);
      const compiled = compileProgram(program, jitEnv);
      for (let run = 0; run < RUNS; run++) {
        const call = {
          args: Array.from({ length: NARGS }, () => random.u64()),
          cookie: random.u64(),
          functionAddress: random.u64(),
        };
        for (let i = 0; i < values.bytes.length; i++) values.bytes[i] = random.next() & 0xff;
        const where = (): string => `seed ${SEED + n}, run ${run}\n${disassemble(insns).join('\n')}`;
        const expected = bench.interpret(program, call, maps, index => {
          if (program.reached[index] === 0) throw new Error(`insn ${index} was reached: ${where()}`);
          const opcode = insns[index]?.opcode as number;
          executed.set(opcode, (executed.get(opcode) ?? 0) + 1);
        });
        const got = bench.run(compiled, call);
        if (got.result !== expected.result) {
          expect.fail(`r0 is ${got.result}, not ${expected.result}: ${where()}`);
        }
        const same = Buffer.compare(Bench.visible(bench.dataBytes), Bench.visible(expected.data)) === 0;
        if (!same) expect.fail(`memory differs: ${where()}`);
        const undeclared = got.changed & ~compiled.clobbers;
        if (undeclared !== 0) expect.fail(`changes registers ${undeclared.toString(2)}: ${where()}`);
      }
    }
    // Every ALU, jump, load, store and atomic opcode ran.
    expect(executed.size).toBeGreaterThan(105);
  });
});

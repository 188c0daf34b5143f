/**
 * Compiled code against the interpreter: random programs, executed in this process. Once as the verifier passes them,
 * with all that it finds out, and once with subprograms, callbacks and loops, straight into the code generator.
 */

import { describe, expect, test } from 'vitest';
import { type ProgramBuilder, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 } from '../../../bpf/builder.js';
import { disassemble } from '../../../bpf/disassemble.js';
import { Random, randomProgram, SLOTS } from '../../../bpf/fixture.js';
import { HELPER } from '../../../bpf/helpers.js';
import type { BpfInsn } from '../../../bpf/instruction.js';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import type { MapSpec, VerifierEnv } from '../verifier/environment.js';
import { type VerifiedProgram, verifyProgram } from '../verifier/verifier.js';
import { compileProgram } from './compile.js';
import type { JitMap } from './environment.js';
import { Bench, factsByHand } from './fixture.js';
import { generate, type JitCode } from './generate.js';

const SEED = Number(process.env.MULTITRACE_SEED ?? Date.now() % 2 ** 31);
const SOAK = process.env.MULTITRACE_SOAK !== undefined;

/** Programs of both kinds together; verifying takes the longest. */
const PROGRAMS = Number(process.env.MULTITRACE_PROGRAMS ?? (SOAK ? 1_000_000 : 20_000));
const VERIFIED = Math.ceil(PROGRAMS / 25);
const UNVERIFIED = PROGRAMS - VERIFIED;
const NARGS = 6;
const MAP_ID = 7;
const VALUE_SIZE = 64;

/** A helper call. */
function helperCall(p: ProgramBuilder, random: Random): void {
  if (random.chance(30)) {
    lookup(p, random);
    return;
  }
  p.mov(R1, R6);
  switch (random.below(4)) {
    case 0:
      p.call(HELPER.get_func_ip);
      return;
    case 1:
      p.call(HELPER.get_attach_cookie);
      return;
    case 2:
      p.call(HELPER.get_func_arg_cnt);
      return;
    default:
      if (random.chance(50)) p.mov(R2, random.below(NARGS + 2));
      p.mov(R3, R10).add(R3, -8 * (1 + random.below(SLOTS)));
      p.call(HELPER.get_func_arg);
  }
}

const KEY = -8 * SLOTS - 4;

/** A lookup, with an index that may be too large; the result is compared with zero one way or another. */
function lookup(p: ProgramBuilder, random: Random): void {
  const key = random.pick([R0, R1, R2, R3, R4, R5, R7, R8]);
  const skip = p.label();
  if (random.chance(70)) p.and(key, 3);
  p.store(4, R10, KEY, key).ldMap(R1, { id: MAP_ID }).mov(R2, R10).add(R2, KEY).call(HELPER.map_lookup_elem);
  if (random.chance(30)) p.mov(R7, 5);
  if (random.chance(50)) p.jump('eq', R0, 0, skip);
  else {
    const there = p.label();
    p.jump('ne', R0, 0, there).mov(R0, 77).goto(skip).bind(there);
  }
  p.load(8, R8, R0, 16).store(8, R0, 24, R8).mov(R0, 3).bind(skip);
}

/** r9 = one of the two values. */
const value = (p: ProgramBuilder, out: ReturnType<ProgramBuilder['label']>, index: number): void => {
  p.store(4, R10, KEY, index)
    .ldMap(R1, { id: MAP_ID })
    .mov(R2, R10)
    .add(R2, KEY)
    .call(HELPER.map_lookup_elem);
  p.jump('eq', R0, 0, out).mov(R9, R0);
};

const spec: MapSpec = {
  id: MAP_ID,
  type: MAP_TYPE.ARRAY,
  name: 'values',
  keySize: 4,
  valueSize: VALUE_SIZE,
  maxEntries: 2,
};

class Comparison {
  readonly bench = new Bench(1 << 12);
  readonly values = this.bench.alloc(2 * VALUE_SIZE);
  readonly code: JitMap = {
    ...spec,
    address: 0x1234_5678_9abcn,
    values: this.values.address,
    stride: VALUE_SIZE,
  };
  readonly maps = new Map([[MAP_ID, this.code]]);
  readonly jitEnv = {
    maps: this.maps,
    routine(): bigint {
      throw new Error('no routine is called here');
    },
  };
  /** how often each opcode ran */
  readonly executed = new Int32Array(256);

  /** Runs both, `runs` times with different arguments and memory. */
  compare(
    insns: readonly BpfInsn[],
    compiled: JitCode,
    random: Random,
    seed: number,
    runs: number,
    reached?: Uint8Array,
  ): void {
    const { bench, values, executed } = this;
    for (let run = 0; run < runs; run++) {
      const call = {
        args: Array.from({ length: NARGS }, () => random.u64()),
        cookie: random.u64(),
        functionAddress: random.u64(),
      };
      for (let i = 0; i < values.bytes.length; i++) values.bytes[i] = random.next() & 0xff;
      const where = (): string => `seed ${seed}, run ${run}\n${disassemble(insns).join('\n')}`;
      const expected = bench.interpret({ insns }, call, this.maps, index => {
        if (reached?.[index] === 0) throw new Error(`insn ${index} was reached: ${where()}`);
        const opcode = insns[index]?.opcode as number;
        executed[opcode] = (executed[opcode] as number) + 1;
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

  get opcodes(): number {
    return this.executed.filter(times => times > 0).length;
  }
}

describe('compiled programs do what the interpreter does', () => {
  const timeout = SOAK ? 7_200_000 : 240_000;

  test(`${VERIFIED} random programs that were verified, seed ${SEED}`, { timeout }, () => {
    const comparison = new Comparison();
    let tooComplex = 0;
    const env: VerifierEnv = { attachType: 'fmod_ret', nargs: NARGS, maps: new Map([[MAP_ID, spec]]) };
    for (let n = 0; n < VERIFIED; n++) {
      const random = new Random(SEED + n);
      const index = random.below(2);
      const functions = random.chance(30);
      const insns = randomProgram(random, {
        nargs: NARGS,
        value: (p, out) => value(p, out, index),
        call: helperCall,
        functions,
        // Jumps within loops within callbacks make more paths than a verifier walks.
        length: functions ? 5 : 25,
      });
      let program: VerifiedProgram;
      try {
        program = verifyProgram(insns, env);
      } catch (error) {
        if (!(error instanceof BpfError) || error.code !== 'E2BIG') throw error;
        tooComplex++;
        continue;
      }
      const compiled = compileProgram(program, comparison.jitEnv);
      comparison.compare(insns, compiled, random, SEED + n, 1, program.reached);
    }
    expect(tooComplex).toBeLessThanOrEqual(VERIFIED / 20);
    // Every ALU, jump, load, store and atomic opcode ran.
    expect(comparison.opcodes).toBeGreaterThan(Math.min(105, VERIFIED));
  });

  test(`${UNVERIFIED} random programs with functions and loops, seed ${SEED}`, { timeout }, () => {
    const comparison = new Comparison();
    for (let n = 0; n < UNVERIFIED; n++) {
      const seed = SEED + 0x4000_0000 + n;
      const random = new Random(seed);
      const index = random.below(2);
      const insns = randomProgram(random, {
        nargs: NARGS,
        value: (p, out) => value(p, out, index),
        call: helperCall,
        functions: true,
        length: 20,
      });
      const facts = factsByHand(insns, { callMap: spec });
      comparison.compare(insns, generate(facts, comparison.jitEnv), random, seed, 1);
    }
    expect(comparison.opcodes).toBeGreaterThan(Math.min(108, UNVERIFIED));
  });
});

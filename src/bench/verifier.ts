/**
 * How fast the verifier walks: programs of about 5,000 instructions as compilers write them, verified over and over.
 * Instructions processed are those walked over all paths, as a program's statistics count them. Times are the
 * processor's, garbage collection included, so that other work on the machine does not count.
 */

import { ProgramBuilder, R0, R1, R2, R3, R4, R6, R7, R8, R9, R10 } from '../bpf/builder.js';
import { HELPER } from '../bpf/helpers.js';
import { KFUNC } from '../bpf/kfuncs.js';
import { MAP_TYPE } from '../bpf/map_type.js';
import type { MapSpec } from '../kernel/process/verifier/environment.js';
import { verifyProgram } from '../kernel/process/verifier/verifier.js';
import type { RoundsSetup } from './rounds.js';
import { median, spread } from './statistics.js';

export interface VerifierResult {
  readonly name: string;
  readonly what: string;
  readonly instructions: number;
  /** Instructions walked over all paths. */
  readonly processed: number;
  /** The processor's time of the first round, when nothing of the verifier is compiled, and the median of the others. */
  readonly firstMs: number;
  readonly ms: number;
  readonly spread: number;
}

const ROUNDS = 15;
const INSTRUCTIONS = 5000;
const MAP: MapSpec = {
  id: 1,
  type: MAP_TYPE.HASH,
  name: 'counts',
  keySize: 8,
  valueSize: 64,
  maxEntries: 1024,
};

/** Looks a key up, and goes on where there is a value: r9 points to it. */
function lookUp(p: ProgramBuilder): void {
  const there = p.label();
  p.store(8, R10, -8, R7).ldMap(R1, MAP).mov(R2, R10).add(R2, -8).call(HELPER.map_lookup_elem);
  p.jump('ne', R0, 0, there).mov(R0, 0).exit().bind(there).mov(R9, R0);
}

/** Numbers worked with and spilled, no branch. */
function straight(p: ProgramBuilder): void {
  p.mov(R6, R1).load(8, R7, R6, 0).load(8, R8, R6, 8);
  lookUp(p);
  for (let i = 0; i < INSTRUCTIONS / 16; i++) {
    const slot = -16 - 8 * (i % 40);
    p.load(8, R1, R6, 8 * (i % 3))
      .mov(R2, R7)
      .add(R2, R1)
      .and32(R1, 0xff)
      .lsh(R2, 3)
      .xor(R2, R8);
    p.store(8, R10, slot, R2).mov32(R3, R2).rsh32(R3, 4).add(R3, i).load(8, R4, R10, slot);
    p.add(R4, R3)
      .store(8, R9, 8 * (i % 8), R4)
      .load(4, R7, R9, 4 * (i % 16))
      .mul(R7, 3)
      .or(R8, R7);
  }
}

/** Conditions that come together again, bounds that become offsets, look-ups. */
function branches(p: ProgramBuilder): void {
  p.mov(R6, R1).load(8, R7, R6, 0).load(8, R8, R6, 8);
  lookUp(p);
  for (let i = 0; i < INSTRUCTIONS / 20; i++) {
    const over = p.label();
    const join = p.label();
    p.load(8, R1, R6, 8 * (i % 3)).jump('gt', R1, 50, over);
    p.mov(R2, R9)
      .add(R2, R1)
      .load(1, R3, R2, i % 8)
      .add(R8, R3)
      .goto(join)
      .bind(over);
    p.rsh(R8, 1).jump32('sgt', R8, 7, join).add(R7, 1).bind(join).store(8, R10, -16, R8);
    p.mov32(R1, R8).and32(R1, 7).lsh(R1, 3).mov(R2, R9).add(R2, R1).store(8, R2, 0, R7).load(8, R8, R10, -16);
    if (i % 8 === 0) lookUp(p);
  }
}

/** Loops with counters, iterators, callbacks and functions. */
function loops(p: ProgramBuilder): void {
  const callback = p.label();
  const sum = p.label();
  p.mov(R6, R1).load(8, R7, R6, 0).load(8, R8, R6, 8);
  lookUp(p);
  for (let i = 0; i < INSTRUCTIONS / 64; i++) {
    const again = p.label();
    const out = p.label();
    const next = p.label();
    const done = p.label();
    // for (int i = 0; i < 64; i++) sum += value[i];
    p.mov(R7, 0).bind(again).mov(R2, R9).add(R2, R7).load(1, R3, R2).add(R8, R3).add(R7, 1);
    p.jump('lt', R7, 64, again);
    // while (n-- > 0 && n < 32) …
    const loop = p.label();
    p.load(8, R7, R6, 8).and(R7, 31).bind(loop).jump('eq', R7, 0, out).mov(R1, R7).mov(R2, R10).add(R2, -16);
    p.store(8, R10, -16, R8).load(8, R3, R2).xor(R8, R3).add(R7, -1).goto(loop).bind(out);
    // bpf_for(j, 0, n) …
    p.mov(R1, R10).add(R1, -24).mov(R2, 0).load(4, R3, R9, 0).callKfunc(KFUNC.bpf_iter_num_new);
    p.bind(next).mov(R1, R10).add(R1, -24).callKfunc(KFUNC.bpf_iter_num_next).jump('eq', R0, 0, done);
    p.load(4, R1, R0).and(R1, 31).mov(R2, R9).add(R2, R1).load(1, R3, R2).add(R8, R3).goto(next);
    p.bind(done).mov(R1, R10).add(R1, -24).callKfunc(KFUNC.bpf_iter_num_destroy);
    p.store(8, R10, -32, R8).mov(R1, 100).ldFunction(R2, callback).mov(R3, R10).add(R3, -32).mov(R4, 0);
    p.call(HELPER.loop).load(8, R1, R10, -32).mov(R2, R9).callSubprogram(sum).add(R8, R0);
  }
  p.mov(R0, 0).exit();
  p.bind(callback).load(8, R3, R2).add(R3, R1).store(8, R2, 0, R3).mov(R0, 0).exit();
  const again = p.label();
  p.bind(sum).mov(R3, 0).mov(R0, R1).bind(again).load(8, R4, R2).add(R0, R4).add(R2, 8).add(R3, 1);
  p.jump('lt', R3, 8, again);
}

const PROGRAMS: readonly {
  readonly name: string;
  readonly what: string;
  readonly write: (p: ProgramBuilder) => void;
}[] = [
  { name: 'verifier', what: 'loops: counters, iterators, callbacks, functions', write: loops },
  { name: 'verifier-branches', what: 'conditions, bounded offsets, look-ups', write: branches },
  { name: 'verifier-straight', what: 'numbers, stack, map values, no branch', write: straight },
];

/** Every row's name and what it is. */
export const VERIFIER_ROWS: readonly { readonly name: string; readonly what: string }[] = PROGRAMS;

/** Verifies each program over and over. */
export function measureVerifier(
  wanted: (name: string) => boolean,
  { say, stopped }: Pick<RoundsSetup, 'say' | 'stopped'>,
): VerifierResult[] {
  return PROGRAMS.filter(({ name }) => wanted(name) && !stopped()).map(({ name, what, write }) => {
    say(`verifying: ${name}`);
    const p = new ProgramBuilder();
    write(p);
    const insns = p.mov(R0, 0).exit().build();
    let processed = 0;
    const times = Array.from({ length: ROUNDS + 1 }, () => {
      const from = process.cpuUsage();
      ({ processed } = verifyProgram(insns, { nargs: 3, maps: new Map([[MAP.id, MAP]]) }));
      const { user, system } = process.cpuUsage(from);
      return (user + system) / 1000;
    });
    const [firstMs = 0, ...warm] = times;
    return {
      name,
      what,
      instructions: insns.length,
      processed,
      firstMs,
      ms: median(warm),
      spread: spread(warm),
    };
  });
}

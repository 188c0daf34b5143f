/**
 * Whatever the verifier accepts is safe: programs that clang compiled (tests/bpf), each with a few instructions changed,
 * are verified; every accepted one is run in the interpreter in a machine that knows what may be touched
 * (tests/support/machine.ts).
 */

import { expect, test } from 'vitest';
import {
  bpfPrograms,
  compileBpf,
  compileBpfTarget,
  missingBpfCompiler,
} from '../../../../tests/support/bpf.js';
import { runInMachine } from '../../../../tests/support/machine.js';
import { missingCommand, SOAK } from '../../../../tests/support/skip.js';
import { disassemble } from '../../../bpf/disassemble.js';
import type { BpfInsn } from '../../../bpf/instruction.js';
import { LD_IMM64 } from '../../../bpf/instruction.js';
import { BpfObject } from '../../../libbpf/object.js';
import { BpfError } from '../../errno.js';
import type { BpfMap, MapCreateAttr, ProgLoadAttr } from '../../kernel.js';
import { FileTargets } from '../file_targets.js';
import { VerifyKernel } from '../verify_kernel.js';
import type { MapSpec, VerifierEnv } from './environment.js';
import { Beliefs, TooLong } from './fixture.js';
import { type VerifiedProgram, verifyProgram } from './verifier.js';

const SEED = Number(process.env.MULTITRACE_SEED ?? Date.now() % 2 ** 31);
const MUTATIONS = Number(process.env.MULTITRACE_MUTATIONS ?? (SOAK ? 100_000 : 1_500));
/** Instructions that a walk may take: what loops for long costs the test its time. */
const WALK = 20_000;
const RUNS = 3;

let state = SEED;
function below(n: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) | 0;
  return (state >>> 8) % n;
}
function pick<T>(items: readonly T[]): T {
  return items[below(items.length)] as T;
}

interface Compiled {
  readonly name: string;
  readonly insns: readonly BpfInsn[];
  readonly env: VerifierEnv;
}

/** Takes what a loader hands to a machine. */
class Taking extends VerifyKernel {
  readonly taken: Compiled[] = [];
  readonly #maps = new Map<number, MapSpec>();
  #object = '';

  from(object: string): void {
    this.#object = object;
  }

  override mapCreate(attr: MapCreateAttr): BpfMap {
    const map = super.mapCreate(attr);
    this.#maps.set(map.id, map as BpfMap & MapSpec);
    return map;
  }

  override progLoad(attr: ProgLoadAttr): ReturnType<VerifyKernel['progLoad']> {
    this.taken.push({
      name: `${this.#object}:${attr.name}`,
      insns: attr.insns,
      env: {
        attachType: attr.attachType,
        prototype: attr.target && this.prototypeOf(attr.target),
        maps: new Map(this.#maps),
        btf: attr.btf,
        funcInfo: attr.funcInfo,
        sleepable: attr.sleepable ?? false,
      },
    });
    return super.progLoad(attr);
  }
}

function compiledPrograms(): Compiled[] {
  const targets = new FileTargets({ program: compileBpfTarget() });
  try {
    const kernel = new Taking(targets);
    for (const name of bpfPrograms()) {
      kernel.from(name);
      const object = BpfObject.open(compileBpf(name, pick(['v2', 'v3', 'v4'] as const)));
      for (const program of object.programs) program.autoload = true;
      // One for a function that is not in the target has none to be verified for.
      object.load(kernel, { refused: () => undefined });
    }
    return kernel.taken;
  } finally {
    targets.close();
  }
}

const OFFSETS = [-1, 1, -4, 4, -8, 8, 16, -16, 2, 0x7fff, -0x8000];
const IMMEDIATES = [
  0, 1, -1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 127, 255, 256, 4096, 0x7fffffff, -0x80000000,
];

/** One change of a program, in place. */
function mutate(insns: BpfInsn[]): void {
  const at = below(insns.length);
  const insn = insns[at] as BpfInsn;
  const wide = insn.opcode === LD_IMM64;
  const change = (fields: Partial<BpfInsn>): void => {
    insns[at] = { ...insn, ...fields };
  };
  switch (below(10)) {
    case 0:
      // Another operation or condition of the same class, another source, another size.
      if (!wide)
        change({ opcode: (insn.opcode & 7) | (pick([...Array(16).keys()]) << 4) | (insn.opcode & 8) });
      return;
    case 1:
      if (!wide) change({ opcode: insn.opcode ^ pick([0x08, 0x10, 0x18, 0x20, 0x03, 0x01]) });
      return;
    case 2:
      change({ dst: below(11) });
      return;
    case 3:
      if (!wide) change({ src: below(11) });
      return;
    case 4:
      if (!wide) change({ offset: clamp(insn.offset + pick(OFFSETS)) });
      return;
    case 5:
      if (wide)
        change({ imm64: BigInt.asUintN(64, (insn.imm64 ?? 0n) + (BigInt(pick([1, 8, -1, 4])) << 32n)) });
      else change({ imm: below(2) === 0 ? pick(IMMEDIATES) : (insn.imm + pick([-8, -4, -1, 1, 4, 8])) | 0 });
      return;
    case 6: {
      const other = below(insns.length);
      insns[at] = insns[other] as BpfInsn;
      insns[other] = insn;
      return;
    }
    case 7:
      // The same number of slots: jumps go where they went.
      if (!wide) change({ opcode: 0xb7, dst: below(10), src: 0, offset: 0, imm: pick(IMMEDIATES) });
      return;
    case 8:
      // In place of a deletion: nothing, so that what it did is missing.
      if (!wide) change({ opcode: 0x05, dst: 0, src: 0, offset: 0, imm: 0 });
      return;
    default: {
      const copied = insns[below(insns.length)] as BpfInsn;
      if (!wide && copied.opcode !== LD_IMM64) insns[at] = copied;
    }
  }
}

function clamp(offset: number): number {
  return Math.max(-0x8000, Math.min(0x7fff, offset));
}

function describeChange(before: readonly BpfInsn[], after: readonly BpfInsn[]): string {
  const changed = after.filter((insn, i) => insn !== before[i]).length;
  return `${changed} instructions changed\n${disassemble(after)
    .map((line, i) => (after[i] === before[i] ? `  ${line}` : `> ${line}`))
    .join('\n')}`;
}

const lacking = missingBpfCompiler() ?? missingCommand('gcc');

// The time limit is for a machine where nothing is compiled yet, and others are at work.
test.skipIf(lacking !== undefined)(
  `no accepted one of ${MUTATIONS} changed programs goes wrong, seed ${SEED}${lacking ? ` (${lacking})` : ''}`,
  { timeout: 180_000 + MUTATIONS * 60 },
  () => {
    const programs = compiledPrograms();
    expect(programs.length).toBeGreaterThan(40);
    let accepted = 0;
    let ended = 0;
    let runs = 0;
    for (let n = 0; n < MUTATIONS; n++) {
      const seed = state;
      const { name, insns, env } = pick(programs);
      const changed = [...insns];
      const changes = 1 + below(3);
      // The first of all are the programs as they are.
      if (n >= programs.length) for (let i = 0; i < changes; i++) mutate(changed);
      const original = n < programs.length ? (programs[n] as Compiled) : { name, insns: changed, env };
      const beliefs = new Beliefs(WALK);
      let verified: VerifiedProgram;
      try {
        verified = verifyProgram(original.insns, { ...original.env, observe: beliefs });
      } catch (error) {
        if (error instanceof BpfError || error instanceof TooLong) continue;
        throw error;
      }
      accepted++;
      for (let run = 0; run < RUNS; run++) {
        runs++;
        try {
          if (runInMachine(verified, beliefs, below)) ended++;
        } catch (error) {
          const from = n < programs.length ? original.insns : insns;
          expect.fail(
            `${original.name}, seed ${seed}: ${(error as Error).message}\n${describeChange(from, original.insns)}`,
          );
        }
      }
    }
    // Neither all nor nothing is accepted, and what runs comes to its end.
    expect(accepted).toBeGreaterThan(MUTATIONS / 20);
    expect(accepted).toBeLessThan(MUTATIONS * 0.9);
    expect(ended).toBeGreaterThan(runs * 0.6);
    if (process.env.MULTITRACE_SEED !== undefined)
      console.log({ accepted, runs, ended, programs: programs.length });
  },
);

/** What the JIT makes of each program of the benchmark: how much machine code, and the time to verify and compile it. */

import { slotsOf } from '../bpf/instruction.js';
import type { AttachType, BpfMap, MapCreateAttr, ProgLoadAttr } from '../kernel/kernel.js';
import { countProgram } from '../tools/count.js';
import { OPERATIONS, operationProgram } from './operations.js';
import { countPerThreadProgram, OurMachine } from './our_machine.js';
import type { RoundsSetup } from './rounds.js';
import { median, spread } from './statistics.js';

const ROUNDS = 5;
/** Of a round, after a first that brings what the program needs into the process. */
const LOADS = 10;

export interface JitResult {
  readonly name: string;
  /** Slots of 8 bytes of BPF, bytes of machine code. */
  readonly instructions: number;
  readonly bytes: number;
  /** Median of the processor's time, verifier and JIT together. */
  readonly ms: number;
  readonly spread: number;
}

interface Named {
  readonly name: string;
  load(machine: OurMachine): ProgLoadAttr;
}

const PROGRAMS: readonly Named[] = [
  ...(['fentry', 'fexit', 'fmod_ret', 'fsession'] as const).map(
    (attachType: AttachType): Named => ({
      name: `jit-count-${attachType.replace('_', '')}`,
      load: machine => {
        const map = machine.counts(1);
        return { name: 'count', attachType, insns: countProgram(map), maps: [map] };
      },
    }),
  ),
  {
    name: 'jit-count-thread',
    load: machine => {
      const map = machine.countsPerThread();
      return { name: 'count_percpu', attachType: 'fentry', insns: countPerThreadProgram(map), maps: [map] };
    },
  },
  ...OPERATIONS.map(
    (operation): Named => ({
      name: `jit-${operation.name}`,
      load: machine => {
        const counts = machine.counts(1);
        const map =
          operation.map && machine.kernel.mapCreate({ ...(operation.map as MapCreateAttr), name: 'm' });
        const { address } = machine.function('ordinary');
        const maps: readonly BpfMap[] = map === undefined ? [counts] : [counts, map];
        const insns = operationProgram(operation, counts, map, address);
        return { name: 'operation', attachType: 'fentry', insns, maps };
      },
    }),
  ),
];

export const JIT_NAMES: readonly string[] = PROGRAMS.map(({ name }) => name);

/** Loads every program, in rounds of random order, each time in a new process, and measures. */
export async function measureJit(
  wanted: (name: string) => boolean,
  { program, random, say, stopped }: RoundsSetup,
): Promise<JitResult[]> {
  const rows = PROGRAMS.filter(({ name }) => wanted(name)).map(named => ({
    named,
    times: [] as number[],
    instructions: 0,
    bytes: 0,
  }));
  for (let round = 0; round < ROUNDS; round++)
    for (const row of random.shuffled(rows)) {
      if (stopped()) break;
      say(`compiling, round ${round + 1} of ${ROUNDS}: ${row.named.name}`);
      const target = await program.start();
      const machine = new OurMachine(target.pid);
      try {
        const attr = row.named.load(machine);
        row.instructions = attr.insns.reduce((sum, insn) => sum + slotsOf(insn), 0);
        row.bytes = machine.kernel.progLoad(attr).jitedSize;
        for (let i = 0; i < LOADS; i++) row.times.push(loadMs(machine, attr));
      } finally {
        machine.close();
        await target.end();
      }
    }
  return rows
    .filter(({ times }) => times.length > 0)
    .map(({ named: { name }, times, instructions, bytes }) => ({
      name,
      instructions,
      bytes,
      ms: median(times),
      spread: spread(times),
    }));
}

/** The processor's time for loading a program once. */
function loadMs(machine: OurMachine, attr: ProgLoadAttr): number {
  const from = process.cpuUsage();
  const prog = machine.kernel.progLoad(attr);
  const { user, system } = process.cpuUsage(from);
  prog.free();
  return (user + system) / 1000;
}

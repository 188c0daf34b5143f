/** What the JIT makes of each program of the benchmark: how much machine code, and the time to verify and compile it. */

import { slotsOf } from '../bpf/instruction.js';
import type { AttachType, BpfMap, MapCreateAttr, ProgLoadAttr } from '../kernel/kernel.js';
import { countProgram } from '../tools/count.js';
import { OPERATIONS, operationProgram } from './operations.js';
import { countPerThreadProgram, OurMachine } from './our_machine.js';
import type { RoundsSetup } from './rounds.js';
import { median, spread } from './statistics.js';

/** How often each is loaded; the first time, what all programs of its kind need is brought into the process. */
const LOADS = 30;

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

/** Loads every program, and measures. */
export async function measureJit(
  wanted: (name: string) => boolean,
  { program, say, stopped }: RoundsSetup,
): Promise<JitResult[]> {
  const programs = PROGRAMS.filter(({ name }) => wanted(name));
  if (programs.length === 0 || stopped()) return [];
  const target = await program.start();
  const machine = new OurMachine(target.pid);
  try {
    return programs.map(({ name, load }) => {
      say(`compiling: ${name}`);
      const attr = load(machine);
      const times: number[] = [];
      let bytes = 0;
      for (let i = 0; i < LOADS; i++) {
        const from = process.cpuUsage();
        const prog = machine.kernel.progLoad(attr);
        const { user, system } = process.cpuUsage(from);
        bytes = prog.jitedSize;
        prog.free();
        if (i > 0) times.push((user + system) / 1000);
      }
      const instructions = attr.insns.reduce((sum, insn) => sum + slotsOf(insn), 0);
      return { name, instructions, bytes, ms: median(times), spread: spread(times) };
    });
  } finally {
    machine.close();
    await target.end();
  }
}

/**
 * What it takes to attach: time, how long the process stood still, time to detach, and memory, for one multi-link, for
 * a plain link for each function, and for the kernel's uprobes, on the same functions of the same processes.
 */

import { readFileSync } from 'node:fs';
import { BpfError } from '../kernel/errno.js';
import type { ProcessTarget } from '../kernel/process/targets.js';
import { REGION_NAME } from '../process/mappings.js';
import { countProgram } from '../tools/count.js';
import { type FileOffsets, KernelCounter } from './kernel_bpf.js';
import { OurMachine, slotOf } from './our_machine.js';
import type { RoundsSetup } from './rounds.js';
import { NotHere } from './row.js';
import { fileOffset, type Target, type TracedProgram } from './target.js';

export const COUNTS = [1, 10, 100, 1000, 5000, 10_000] as const;
const ROUNDS = 5;
/** Calls of one of the functions, to see that the program runs. */
const TRIAL_CALLS = 1000;
/** What would take longer is not tried. */
const PATIENCE_MS = 8_000;
const A_FEW = 10;
/** Instructions that the kernel's uprobes refuse at a function's entry: with a `lock` prefix, and those of AVX. */
const NO_UPROBE: ReadonlySet<number> = new Set([0xf0, 0xc4, 0xc5, 0x62]);

export const WAYS = {
  multi: 'one multi-link',
  plain: 'a plain link for each function',
  'uprobe-multi': 'kernel uprobe-multi, a link for each file',
  uprobe: 'a kernel uprobe for each function',
} as const;
export type Way = keyof typeof WAYS;
const ONE_BY_ONE: ReadonlySet<Way> = new Set(['plain', 'uprobe']);

/** One attachment. */
export interface AttachSample {
  readonly attachMs: number;
  /** Of the processor, in our process and in the kernel for it, all its threads. */
  readonly processorMs: number;
  readonly detachMs: number;
  /** The longest time between two readings of the clock by a thread of the process. */
  readonly gapMs: number;
  /** What we say that the process stood still; of the longest stop. */
  readonly pauseMs: number | undefined;
  /** Bytes of memory more, of all functions. */
  readonly bytes: number;
}

export interface AttachResult {
  readonly name: string;
  readonly way: Way;
  readonly functions: number;
  readonly samples: ReadonlyMap<number, AttachSample>;
  readonly unavailable?: string;
}

/** What is attached: undone by `detach`, and how often `ordinary` was seen. */
interface Held {
  readonly pauseMs?: number;
  detach(): void;
  count(): number;
}

const attachers: Readonly<
  Record<Way, (m: OurMachine, pid: number, functions: readonly ProcessTarget[]) => Held>
> = {
  multi: (machine, _pid, functions) => {
    const { map, prog } = counter(machine, functions.length);
    const targets = functions.map((target, i) => ({ target, cookie: BigInt(i) }));
    const link = machine.kernel.linkCreate({ prog, targets });
    prog.free();
    return { pauseMs: link.pauseMs, detach: () => link.detach(), count: () => slotOf(map, 0) };
  },
  plain: (machine, _pid, functions) => {
    const { map, prog } = counter(machine, functions.length);
    const links = functions.map((target, i) => machine.plain(prog, target, BigInt(i)));
    prog.free();
    return {
      pauseMs: Math.max(...links.map(link => link.pauseMs)),
      detach: () => {
        for (const link of links) link.detach();
      },
      count: () => slotOf(map, 0),
    };
  },
  'uprobe-multi': (_machine, pid, functions) =>
    kernelProbes(functions, probes => {
      for (const file of byFile(functions)) probes.attachMulti(pid, file, false);
    }),
  uprobe: (_machine, pid, functions) =>
    kernelProbes(functions, probes => {
      for (const { path, offsets, cookies } of byFile(functions))
        for (const [i, offset] of offsets.entries()) probes.attach(pid, path, offset, cookies[i], false);
    }),
};

function counter(machine: OurMachine, functions: number) {
  const map = machine.counts(functions);
  const prog = machine.kernel.progLoad({
    name: 'count',
    attachType: 'fentry',
    insns: countProgram(map),
    maps: [map],
  });
  return { map, prog };
}

function kernelProbes(functions: readonly ProcessTarget[], attach: (probes: KernelCounter) => void): Held {
  const probes = new KernelCounter(functions.length);
  try {
    attach(probes);
  } catch (cause) {
    probes[Symbol.dispose]();
    throw cause;
  }
  return {
    detach: () => probes.detach(),
    count: () => {
      using ended = probes;
      return ended.count(0);
    },
  };
}

function byFile(functions: readonly ProcessTarget[]): FileOffsets[] {
  const files = new Map<string, { path: string; offsets: number[]; cookies: number[] }>();
  for (const [cookie, { owner, fileAddress }] of functions.entries()) {
    const file = files.get(owner.path) ?? { path: owner.path, offsets: [], cookies: [] };
    files.set(owner.path, file);
    file.offsets.push(fileOffset(owner.elf, fileAddress));
    file.cookies.push(cookie);
  }
  return [...files.values()];
}

/**
 * Bytes of memory that attaching takes: shared regions of ours, pages of text that the process has for itself now, and
 * what the kernel has allocated for its own.
 */
function memoryOf(pid: number, kernelOwn: boolean): number {
  let bytes = 0;
  let counted = '';
  const smaps = (file: string, wanted: (header: string) => string): void => {
    for (const line of readFileSync(file, 'utf8').split('\n')) {
      if (/^[0-9a-f]+-/.test(line)) counted = wanted(line);
      else if (counted !== '' && line.startsWith(`${counted}:`)) bytes += Number(/\d+/.exec(line)![0]) * 1024;
    }
  };
  smaps('/proc/self/smaps', line => (line.includes(REGION_NAME) ? 'Rss' : ''));
  smaps(`/proc/${pid}/smaps`, line => (/ r.xp .*\//.test(line) ? 'Private_Dirty' : ''));
  if (kernelOwn)
    for (const line of readFileSync('/proc/meminfo', 'utf8').split('\n'))
      if (/^(Slab|VmallocUsed|Percpu):/.test(line)) bytes += Number(/\d+/.exec(line)![0]) * 1024;
  return bytes;
}

/** Measures every way on every number of functions, in rounds, in random order. */
export async function measureAttaching(
  wanted: (name: string) => boolean,
  setup: RoundsSetup,
): Promise<AttachResult[]> {
  const states = (Object.keys(WAYS) as Way[]).flatMap(way =>
    COUNTS.map(functions => ({ name: `attach-${way}-${functions}`, way, functions })),
  );
  const rows = states
    .filter(({ name }) => wanted(name))
    .map(row => ({
      ...row,
      samples: new Map<number, AttachSample>(),
      unavailable: undefined as string | undefined,
    }));
  if (rows.length === 0) return [];
  // Ways that make a link for each function: ms for one, known from a few before many are tried.
  const perFunctionMs = new Map<Way, number>();
  const attach = async (row: { name: string; way: Way; functions: number }): Promise<AttachSample> => {
    const sample = await attachOnce(row, setup);
    if (ONE_BY_ONE.has(row.way) && row.functions >= A_FEW)
      perFunctionMs.set(row.way, (sample.attachMs + sample.detachMs) / row.functions);
    return sample;
  };
  for (let round = 0; round < ROUNDS && !setup.stopped(); round++)
    for (const row of setup.random.shuffled(rows)) {
      if (row.unavailable !== undefined || setup.stopped()) continue;
      setup.say(`attaching, round ${round + 1} of ${ROUNDS}: ${row.name}`);
      try {
        if (ONE_BY_ONE.has(row.way) && row.functions > A_FEW && !perFunctionMs.has(row.way))
          await attach({ ...row, functions: A_FEW });
        const expectedMs = (perFunctionMs.get(row.way) ?? 0) * row.functions;
        if (expectedMs > PATIENCE_MS)
          throw new NotHere(`it would take about ${Math.round(expectedMs / 1000)} s`);
        row.samples.set(round, await attach(row));
      } catch (cause) {
        if (!(cause instanceof NotHere)) throw cause;
        row.unavailable = cause.message;
      }
    }
  return rows.map(({ unavailable, ...row }) => (unavailable === undefined ? row : { ...row, unavailable }));
}

async function attachOnce(
  { name, way, functions: n }: { name: string; way: Way; functions: number },
  { program, libraries }: { program: TracedProgram; libraries: readonly string[] },
): Promise<AttachSample> {
  const target = await program.start(libraries);
  const machine = new OurMachine(target.pid);
  try {
    const functions = choose(machine, n);
    await target.ask('watch');
    await target.ask('gap');
    const kernelOwn = way.startsWith('uprobe');
    const before = memoryOf(target.pid, kernelOwn);
    const cpuFrom = process.cpuUsage();
    const from = performance.now();
    const held = attachers[way](machine, target.pid, functions);
    const attachMs = performance.now() - from;
    const { user, system } = process.cpuUsage(cpuFrom);
    const gapMs = Number(await target.ask('gap')) / 1e6;
    const bytes = memoryOf(target.pid, kernelOwn) - before;
    await target.ask('unwatch');
    const made = await trial(target);
    const then = performance.now();
    held.detach();
    const detachMs = performance.now() - then;
    await trial(target);
    const seen = held.count();
    if (seen !== made)
      throw new BpfError('EIO', `${name} saw ${seen} of ${made} calls: the benchmark is not valid`);
    return { attachMs, processorMs: (user + system) / 1000, detachMs, gapMs, pauseMs: held.pauseMs, bytes };
  } finally {
    machine.close();
    await target.end();
  }
}

async function trial(target: Target): Promise<number> {
  const { made, sum } = await target.run('ordinary', 1, TRIAL_CALLS);
  if (sum !== made) throw new BpfError('EIO', `${made} calls returned ${sum}: the benchmark is not valid`);
  return made;
}

/** `ordinary`, and the first functions of the libraries that both we and the kernel can attach to. */
function choose(machine: OurMachine, n: number): ProcessTarget[] {
  const first = machine.function('ordinary');
  const files = new Map<string, Buffer>();
  const firstByte = ({ owner, fileAddress }: ProcessTarget): number => {
    const bytes = files.get(owner.path) ?? readFileSync(owner.path);
    files.set(owner.path, bytes);
    return bytes[fileOffset(owner.elf, fileAddress)];
  };
  const others = machine.attachable().filter(one => !one.owner.isMain && !NO_UPROBE.has(firstByte(one)));
  if (others.length < n - 1)
    throw new NotHere(`the process has only ${others.length + 1} functions that can be attached`);
  return [first, ...others.slice(0, n - 1)];
}

/**
 * What one traced call costs: the same function called untraced, counted by us, and counted by a kernel uprobe with a
 * BPF program, interleaved in rounds of random order in one run.
 */

import { ElfFile } from '../src/elf/file.js';
import { BpfError } from '../src/kernel/errno.js';
import { ProcessKernel } from '../src/kernel/process/machine.js';
import { openProcess } from '../src/process/process.js';
import { SelectorSet } from '../src/process/symbols/selector.js';
import { Counter } from '../src/tools/count.js';
import { median, shuffled, spread } from './statistics.js';
import { compile, Target } from './target.js';
import { CountingUprobe, whyRefused } from './uprobe.js';

export interface CallRow {
  readonly name: string;
  /** Medians over the rounds, ns. */
  readonly nsPerCall?: number;
  readonly spread?: number;
  readonly unavailable?: string;
}

const CALLS = 5_000_000;
const UPROBE_CALLS = 100_000;
const ROUNDS = 15;

/** Offset in the file of a function's first instruction. */
function fileOffset(program: string, name: string): number {
  const elf = ElfFile.open(program);
  const symbol = elf.symbols().find(s => s.name === name)!;
  const segment = elf.segments.find(s => symbol.value >= s.vaddr && symbol.value < s.vaddr + s.filesz)!;
  return symbol.value - segment.vaddr + segment.offset;
}

function exactly(what: string, counted: number, made: number): void {
  if (counted !== made)
    throw new BpfError('EIO', `${what} counted ${counted} of ${made} calls: the benchmark is not valid`);
}

/** Measures all rows; `say` is told what goes on. */
export async function callCost(say: (text: string) => void): Promise<CallRow[]> {
  const program = compile('calls.c');
  const target = new Target(program);
  await target.ask('pid');
  const kernel = new ProcessKernel(openProcess(target.pid));

  const traced = async (what: string): Promise<number> => {
    const counter = new Counter(kernel, SelectorSet.parse([what]));
    const ns = await target.time(what, CALLS);
    counter.detach();
    exactly(`multitrace on ${what}`, Number(counter.read()[0].count), CALLS);
    counter.close();
    return ns;
  };
  const probed = async (what: string): Promise<number> => {
    using probe = new CountingUprobe(target.pid, program, fileOffset(program, what));
    const ns = await target.time(what, UPROBE_CALLS);
    exactly(`the uprobe on ${what}`, probe.count(), UPROBE_CALLS);
    return ns;
  };
  const rows: { name: string; run: () => Promise<number>; ns: number[]; unavailable?: string }[] = [
    { name: 'the loop without a call', run: () => target.time('loop', CALLS), ns: [] },
    { name: 'untraced call', run: () => target.time('moved', CALLS), ns: [] },
    { name: 'untraced call, nop sled', run: () => target.time('sled', CALLS), ns: [] },
    { name: 'fentry-multi (moved instructions, record by stub)', run: () => traced('moved'), ns: [] },
    { name: 'fentry-multi (nop sled, record by hash)', run: () => traced('sled'), ns: [] },
    { name: 'kernel uprobe + BPF counter', run: () => probed('moved'), ns: [] },
    { name: 'kernel uprobe + BPF counter, on the nop sled', run: () => probed('sled'), ns: [] },
  ];
  for (let round = 0; round < ROUNDS; round++) {
    say(`cost of a call: round ${round + 1} of ${ROUNDS}`);
    for (const row of shuffled(rows)) {
      if (row.unavailable !== undefined) continue;
      try {
        row.ns.push(await row.run());
      } catch (cause) {
        if (cause instanceof BpfError) throw cause;
        row.unavailable = whyRefused(cause);
      }
    }
  }
  kernel.close();
  target.end();
  return rows.map(({ name, ns, unavailable }) =>
    unavailable === undefined ? { name, nsPerCall: median(ns), spread: spread(ns) } : { name, unavailable },
  );
}

/**
 * Everything at once, for a long time: 24 threads call 1,000 functions while links of all kinds, plain and multi, are
 * attached, updated and detached at random. At quiet points, where all threads wait for one another outside of the
 * functions, every link's counts are compared with the program's own.
 */

import { readFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R10 } from '../src/bpf/builder.js';
import { HELPER } from '../src/bpf/helpers.js';
import { MAP_TYPE } from '../src/bpf/map_type.js';
import { SelectorSet } from '../src/index.js';
import type { AttachType, BpfLink, BpfMap, BpfProg, TargetFunction } from '../src/kernel/kernel.js';
import { ProcessKernel } from '../src/kernel/process/machine.js';
import { openProcess } from '../src/process/process.js';
import { describeRun, Running } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { mappings } from './support/process.js';
import { randomNumbers } from './support/random.js';
import { expectClean } from './support/rounds.js';
import { missingCommand, SOAK } from './support/skip.js';

const SECONDS = SOAK ? 300 : 20;
const FUNCTIONS = 1000;
const MOST_LINKS = 10;
/** Memory is looked at so often. */
const PARTS = 8;
const KINDS: readonly AttachType[] = ['fentry', 'fexit', 'fmod_ret', 'fsession'];
/** Of a map's value: one word for each of the two programs that a link runs in turn. */
const VALUE_BYTES = 16;

/** Adds one to word `turn` of the element that the cookie names. */
function countingProgram(map: BpfMap, turn: number): ReturnType<ProgramBuilder['build']> {
  const b = new ProgramBuilder();
  const out = b.label();
  b.call(HELPER.get_attach_cookie);
  b.store(4, R10, -4, R0);
  b.mov(R2, R10);
  b.add(R2, -4);
  b.ldMap(R1, map);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, out);
  b.mov(R1, 1);
  b.atomicAdd(8, R0, 8 * turn, R1);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

/** A link with what it counts in. */
class Counted {
  readonly #map: BpfMap;
  readonly #kernel: ProcessKernel;
  readonly link: BpfLink;
  readonly #type: AttachType;
  readonly #targets: readonly TargetFunction[];
  #prog: BpfProg;
  #turn = 0;
  updates = 0;
  detached = false;
  /** Its counts at the last quiet point, if it was there then. */
  #before: readonly number[] | undefined;

  constructor(kernel: ProcessKernel, type: AttachType, targets: readonly TargetFunction[], plain: boolean) {
    this.#kernel = kernel;
    this.#type = type;
    this.#targets = targets;
    this.#map = kernel.mapCreate({
      type: MAP_TYPE.ARRAY,
      name: 'counts',
      keySize: 4,
      valueSize: VALUE_BYTES,
      maxEntries: targets.length,
    });
    this.#prog = this.#load();
    const [target] = targets;
    this.link = plain
      ? kernel.linkCreate({ prog: this.#prog, target })
      : kernel.linkCreate({
          prog: this.#prog,
          targets: targets.map((one, i) => ({ target: one, cookie: BigInt(i) })),
        });
  }

  #load(): BpfProg {
    const insns = countingProgram(this.#map, this.#turn);
    return this.#kernel.progLoad({ name: 'count', attachType: this.#type, insns, maps: [this.#map] });
  }

  update(): void {
    this.#turn ^= 1;
    const next = this.#load();
    this.link.update(next);
    this.#prog.free();
    this.#prog = next;
    this.updates++;
  }

  detach(): void {
    this.link.detach();
    this.detached = true;
  }

  #read(): number[] {
    const key = new Uint8Array(4);
    const number = new DataView(key.buffer);
    return this.#targets.map((_, i) => {
      number.setUint32(0, i, true);
      const value = this.#map.lookup(key)!;
      const view = new DataView(value.buffer, value.byteOffset);
      return Number(view.getBigUint64(0, true) + view.getBigUint64(8, true));
    });
  }

  /** At a quiet point: `calls` of each function since the last one. */
  check(calls: number, what: string): void {
    const times = this.#type === 'fsession' ? 2 : 1;
    const counts = this.#read();
    const all = `${what}: ${this.#type}, ${this.#targets.length} functions, ${this.updates} updates`;
    expect(this.link.missed, all).toBe(0n);
    if (this.#before !== undefined && !this.detached) {
      const wrong = counts.findIndex((count, i) => count - this.#before![i] !== times * calls);
      if (wrong >= 0)
        expect(counts[wrong] - this.#before[wrong], `${all}: function ${wrong}`).toBe(times * calls);
    } else {
      const most = Math.max(...counts.map((count, i) => count - (this.#before?.[i] ?? 0)));
      expect(most, all).toBeLessThanOrEqual(times * calls);
    }
    this.#before = counts;
  }

  free(): void {
    this.#prog.free();
    this.#map.free();
  }
}

/** Of a process: kB of virtual memory, kB of it that are resident, mappings, kB that are ours. */
interface Memory {
  readonly size: number;
  readonly resident: number;
  readonly mappings: number;
  readonly ours: number;
}

function memoryOf(pid: number): Memory {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const maps = mappings(pid);
  const kilobytes = (field: string): number =>
    Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)![1]);
  return {
    size: kilobytes('VmSize'),
    resident: kilobytes('VmRSS'),
    mappings: maps.length,
    ours: maps
      .filter(({ path }) => path.includes('memfd:multitrace'))
      .reduce((sum, { start, end }) => sum + (end - start) / 1024, 0),
  };
}

test(
  `24 threads call 1,000 functions for ${SECONDS} s while links come, change and go: every count exact, memory flat, all bytes restored`,
  async ({ skip }) => {
    const missing = missingCommand('gcc');
    skip(missing !== undefined, missing);
    const random = randomNumbers('soak');
    const below = (n: number): number => Math.floor(random() * n);
    const program = compileTarget({
      source: 'load.c',
      flags: ['-DTHREADS=24', `-DFUNCTIONS=${FUNCTIONS}`],
    });
    // At the lowest priority: threads that never wait would leave us next to no processor.
    const load = new Running('nice', ['-n', '19', program], {
      keepInput: true,
      timeoutMs: SECONDS * 2000 + 120_000,
    });
    onTestFinished(() => load.stop());
    await load.expectOutput(/^pid \d+\n/);
    const pid = load.pid;
    let rounds = 0;
    const tell = async (word: 'go' | 'hold', answer: 'going' | 'held'): Promise<number> => {
      const from = load.stdoutSoFar.length;
      load.say(word);
      const pattern = new RegExp(`^[\\s\\S]{${from}}${answer} (\\d+)\\n`);
      return Number((await load.expectOutput(pattern, 'stdout', 60_000))[1]);
    };
    // What its threads take for themselves they have taken by then.
    await tell('go', 'going');
    rounds = await tell('hold', 'held');
    const start = memoryOf(pid);

    const kernel = new ProcessKernel(openProcess(pid));
    onTestFinished(() => kernel.close());
    kernel.allowModifyReturn = SelectorSet.parse(['work_*']);
    const functions = kernel.functions(SelectorSet.parse(['work_*']));
    expect(functions.length).toBe(FUNCTIONS);
    const make = (type: AttachType, plain: boolean, targets: readonly TargetFunction[]): Counted =>
      new Counted(kernel, type, targets, plain);
    // Always there, never changed but by updates.
    const always = KINDS.map(type => make(type, false, functions));
    const live: Counted[] = [...always];
    let left: Counted[] = [];
    const done = { attached: 0, updated: 0, detached: 0, quietPoints: 0 };
    const some = (): TargetFunction[] => {
      const share = random() ** 2;
      const picked = functions.filter(() => random() < share);
      return picked.length > 0 ? picked : [functions[below(FUNCTIONS)]];
    };
    const step = (): void => {
      const what = random();
      if (what < 0.4 && live.length < MOST_LINKS + always.length) {
        const plain = random() < 0.3;
        live.push(make(KINDS[below(KINDS.length)], plain, plain ? [functions[below(FUNCTIONS)]] : some()));
        done.attached++;
      } else if (what < 0.7) {
        live[below(live.length)].update();
        done.updated++;
      } else if (live.length > always.length) {
        const [gone] = live.splice(always.length + below(live.length - always.length), 1);
        gone.detach();
        left.push(gone);
        done.detached++;
      }
    };
    const atQuietPoint = async (): Promise<void> => {
      const now = await tell('hold', 'held');
      for (const one of [...live, ...left]) one.check(now - rounds, `quiet point ${done.quietPoints}`);
      for (const one of left) one.free();
      left = [];
      rounds = now;
      done.quietPoints++;
    };

    /** What is in use with none but the links that are always there, threads at rest. */
    const bare = async (): Promise<{ readonly code: number; readonly data: number }> => {
      for (const one of live.splice(always.length)) {
        one.detach();
        left.push(one);
      }
      await atQuietPoint();
      // Each change is a stop that ends grace periods: of what others freed when theirs ended, too.
      for (let i = 0; i < 4; i++) for (const one of always) one.update();
      return kernel.bytesInUse;
    };

    const memory: Memory[] = [];
    const inUse: Awaited<ReturnType<typeof bare>>[] = [];
    const end = performance.now() + SECONDS * 1000;
    let next = performance.now();
    let mark = 0;
    await atQuietPoint();
    while (performance.now() < end) {
      await tell('go', 'going');
      next = performance.now() + 500 + random() * 1500;
      while (performance.now() < Math.min(next, end)) {
        step();
        await new Promise(resolve => setTimeout(resolve, random() * 20));
      }
      await atQuietPoint();
      const passed = 1 - (end - performance.now()) / (SECONDS * 1000);
      if (passed >= (mark + 1) / PARTS) {
        mark = Math.floor(passed * PARTS);
        inUse.push(await bare());
        memory.push(memoryOf(pid));
      }
    }
    console.log(`${JSON.stringify(done)}, ${rounds * FUNCTIONS} calls`);
    console.log([start, ...memory].map(m => JSON.stringify(m)).join('\n'));
    // Some 160 in 20 s where the machine does nothing else.
    expect(done.attached).toBeGreaterThan(SECONDS / 20);
    console.log(inUse.map(m => JSON.stringify(m)).join('\n'));
    expect(memory.length).toBeGreaterThan(2);
    const [middle, last] = [Math.floor(memory.length / 2), memory.length - 1];
    expect(inUse[last].data, 'data in use').toBe(inUse[middle].data);
    // A slot may stand in a larger place than it needs.
    expect(inUse[last].code, 'code in use').toBeLessThan(inUse[middle].code * 1.05);
    // Blocks are kept by their size: how many of each there are at most is found out by and by. In the short form that may
    // still take a region more, which is a seventh of them.
    const growth = SOAK ? 1.15 : 1.35;
    expect(memory[last].ours, 'what is ours, kB').toBeLessThan(memory[middle].ours * growth);
    expect(memory[last].size, 'the whole, kB').toBeLessThan(memory[middle].size * (SOAK ? 1.02 : 1.05));

    for (const { link } of live) link.detach();
    kernel.close();
    expectClean(pid);
    const after = memoryOf(pid);
    console.log(JSON.stringify(after));
    expect(after.mappings).toBeLessThanOrEqual(start.mappings + 2);
    expect(after.size).toBeLessThan(start.size + 1024);
    expect(after.resident).toBeLessThan(start.resident + 2048);
    load.child.stdin!.end();
    const ended = await load.ended;
    expect(ended.stdout, describeRun(ended)).toMatch(/^checksum ok$/m);
    expect(ended.status).toBe(0);
  },
  SECONDS * 2000 + 180_000,
);

/**
 * Links through the API on a live process: several on one function, all or nothing, joined and left in any order,
 * other programs than `count`, a hash map, memory that stays flat.
 */

import { readFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R3, R4, R6, R10 } from '../src/bpf/builder.js';
import { HELPER } from '../src/bpf/helpers.js';
import { MAP_TYPE } from '../src/bpf/map_type.js';
import type { BpfMap } from '../src/kernel/kernel.js';
import { ProcessKernel } from '../src/kernel/process/machine.js';
import { randomNumbers } from '../src/kernel/process/maps/fixture.js';
import { openProcess } from '../src/process/process.js';
import { SelectorSet } from '../src/process/symbols/selector.js';
import { Counter, countProgram } from '../src/tools/count.js';
import { Running } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { changedCode } from './support/process.js';
import { missingCommand, SOAK } from './support/skip.js';

const THREADS = 16;
const CYCLES = SOAK ? 500 : 30;
const lacking = missingCommand('gcc');
const traced = test.skipIf(lacking !== undefined);

/** tests/targets/load.c, opened; its `say` sends an order and returns the number in the answer. */
async function open(flags: readonly string[] = []): Promise<{
  kernel: ProcessKernel;
  pid: number;
  /** Every thread calls every function so often. */
  run: (rounds: number) => Promise<void>;
  /** `go` or `hold`; how many rounds all threads have made by then. */
  order: (what: 'go' | 'hold') => Promise<number>;
  /** Ends the program, which checks its own results. */
  end: () => Promise<void>;
}> {
  const load = new Running(compileTarget({ source: 'load.c', flags }), [], {
    keepInput: true,
    timeoutMs: 600_000,
  });
  onTestFinished(() => load.stop());
  await load.expectOutput(/^pid \d+\n/);
  const kernel = new ProcessKernel(openProcess(load.pid));
  onTestFinished(() => kernel.close());
  const say = async (order: string, answer: RegExp): Promise<number> => {
    const from = load.stdoutSoFar.length;
    load.say(order);
    for (let i = 0; i < 6000 && !answer.test(load.stdoutSoFar.slice(from)); i++)
      await new Promise(done => setTimeout(done, 10));
    const match = answer.exec(load.stdoutSoFar.slice(from));
    expect(match, `${order}: ${load.stdoutSoFar.slice(from)}`).not.toBeNull();
    return Number(match![1]);
  };
  return {
    kernel,
    pid: load.pid,
    run: async rounds => {
      await say(`run ${rounds}`, /^ran (\d+)\n/m);
    },
    order: what => say(what, what === 'go' ? /^going (\d+)\n/m : /^held (\d+)\n/m),
    end: async () => {
      load.child.stdin!.end();
      const { stdout, status } = await load.ended;
      expect(stdout).toMatch(/^checksum ok$/m);
      expect(status).toBe(0);
    },
  };
}

function counts(counter: Counter): Set<number> {
  return new Set(counter.read().map(row => Number(row.count)));
}

for (const [what, flags] of [
  ['moved instructions', []],
  ['nop sleds', ['-fpatchable-function-entry=5']],
] as const)
  traced(
    `three links on the same functions (${what}), in any order of detaching, each count every call`,
    async () => {
      const { kernel, pid, run } = await open(flags);
      const first = new Counter(kernel, SelectorSet.parse(['work_*']));
      await run(10);
      const second = new Counter(kernel, SelectorSet.parse(['work_1*', 'inner']));
      const third = new Counter(kernel, SelectorSet.parse(['work_*']));
      await run(5);
      expect(counts(first)).toEqual(new Set([15 * THREADS]));
      expect(counts(third)).toEqual(new Set([5 * THREADS]));
      const inner = second.read().find(row => row.function === 'inner')!;
      expect(Number(inner.count)).toBe(5 * THREADS * 40);
      first.detach();
      await run(3);
      expect(counts(first)).toEqual(new Set([15 * THREADS]));
      expect(counts(third)).toEqual(new Set([8 * THREADS]));
      third.detach();
      await run(2);
      expect(counts(third)).toEqual(new Set([8 * THREADS]));
      expect(Number(second.read().find(row => row.function === 'work_100')!.count)).toBe(10 * THREADS);
      second.detach();
      await run(1);
      expect(Number(second.read().find(row => row.function === 'work_100')!.count)).toBe(10 * THREADS);
      expect(changedCode(pid).changed.filter(where => !where.includes('ld-'))).toEqual([]);
      kernel.close();
      expect(changedCode(pid).changed).toEqual([]);
    },
  );

traced('a link is all or nothing: one bad target, and no byte is changed', async () => {
  const { kernel, pid, run } = await open();
  const before = changedCode(pid).changed;
  const [good] = kernel.functions(SelectorSet.parse(['work_000']));
  const map = kernel.mapCreate({
    type: MAP_TYPE.ARRAY,
    name: 'counts',
    keySize: 4,
    valueSize: 8,
    maxEntries: 4,
  });
  const prog = kernel.progLoad({
    name: 'count',
    attachType: 'fentry',
    insns: countProgram(map),
    maps: [map],
  });
  const bad = { ...good, name: 'nothing', address: good.address + 1n };
  const targets = [good, bad].map((target, i) => ({ target, cookie: BigInt(i) }));
  expect(() => kernel.linkCreate({ prog, targets })).toThrow(
    /load:nothing can't be attached, so the link is not made/,
  );
  expect(changedCode(pid).changed).toEqual(before);
  const twice = [good, good].map((target, i) => ({ target, cookie: BigInt(i) }));
  expect(() => kernel.linkCreate({ prog, targets: twice })).toThrow(/it is in the link already/);
  expect(changedCode(pid).changed).toEqual(before);
  const link = kernel.linkCreate({ prog, targets, skipInvalid: true });
  expect(link.targets.length).toBe(1);
  expect(link.skipped).toMatchObject([{ function: 'nothing', reason: 'unknown-function' }]);
  await run(1);
});

/** calls[{ ip, first argument & 1 }] += 1, in a hash map, by a program that clang would have made like this. */
function histogram(map: BpfMap): ReturnType<ProgramBuilder['build']> {
  const b = new ProgramBuilder();
  const add = b.label();
  const out = b.label();
  b.load(8, R6, R1, 0);
  b.call(HELPER.get_func_ip);
  b.store(8, R10, -16, R0);
  b.and(R6, 1);
  b.store(8, R10, -8, R6);
  b.mov(R2, R10);
  b.add(R2, -16);
  b.ldMap(R1, map);
  b.call(HELPER.map_lookup_elem);
  b.jump('ne', R0, 0, add);
  b.store(8, R10, -24, 0);
  b.mov(R2, R10);
  b.add(R2, -16);
  b.mov(R3, R10);
  b.add(R3, -24);
  b.mov(R4, 1);
  b.ldMap(R1, map);
  b.call(HELPER.map_update_elem);
  b.mov(R2, R10);
  b.add(R2, -16);
  b.ldMap(R1, map);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, out);
  b.bind(add);
  b.mov(R1, 1);
  b.atomicAdd(8, R0, 0, R1);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

traced(
  'a program that reads an argument and counts in a hash map loses nothing among 16 threads',
  async () => {
    const { kernel, run } = await open();
    const map = kernel.mapCreate({
      type: MAP_TYPE.HASH,
      name: 'calls',
      keySize: 16,
      valueSize: 8,
      maxEntries: 1024,
    });
    const prog = kernel.progLoad({
      name: 'histogram',
      attachType: 'fentry',
      insns: histogram(map),
      maps: [map],
    });
    expect(prog.accessedArgs).toEqual([0]);
    const functions = kernel.functions(SelectorSet.parse(['work_*']));
    const link = kernel.linkCreate({ prog, targets: functions.map(target => ({ target, cookie: 0n })) });
    await run(500);
    link.detach();
    const sums = new Map<bigint, number>();
    let keys = 0;
    for (let key = map.nextKey(); key !== undefined; key = map.nextKey(key)) {
      const view = new DataView(key.buffer, key.byteOffset);
      const value = map.lookup(key)!;
      const ip = view.getBigUint64(0, true);
      expect(view.getBigUint64(8, true)).toBeLessThan(2n);
      sums.set(
        ip,
        (sums.get(ip) ?? 0) + Number(new DataView(value.buffer, value.byteOffset).getBigUint64(0, true)),
      );
      keys++;
    }
    expect(new Set(sums.keys())).toEqual(new Set(functions.map(f => f.address)));
    expect(new Set(sums.values())).toEqual(new Set([500 * THREADS]));
    expect(keys).toBeGreaterThan(functions.length / 2);
  },
);

traced('a program that the verifier does not accept is refused with its sentence', async () => {
  const { kernel } = await open();
  const b = new ProgramBuilder();
  b.load(8, R0, R1, 48);
  b.mov(R0, 0);
  b.exit();
  // A seventh argument, of a function that is known to have six at most.
  expect(() =>
    kernel.progLoad({ name: 'seventh', attachType: 'fentry', insns: b.build(), maps: [] }),
  ).toThrow(/ctx/);
});

traced(
  `${CYCLES} times attached and detached, the process maps no more than after the first times`,
  async () => {
    const { kernel, pid, run } = await open();
    const size = (): number => {
      const status = readFileSync(`/proc/${pid}/status`, 'latin1');
      return Number(/^VmSize:\s+(\d+)/m.exec(status)![1]);
    };
    let after = 0;
    for (let i = 0; i < CYCLES; i++) {
      const counter = new Counter(kernel, SelectorSet.parse(['work_*', 'libc:*']));
      counter.close();
      if (i === 3) after = size();
    }
    expect(size()).toBeLessThanOrEqual(after);
    await run(1);
  },
);

for (const [what, flags] of [
  ['moved instructions', []],
  ['nop sleds', ['-fpatchable-function-entry=5']],
] as const)
  traced(`links come and go at random under load (${what}): one that stays loses nothing`, async () => {
    const { kernel, pid, order, end } = await open(flags);
    const seed = Date.now() & 0xffff;
    const random = randomNumbers(seed);
    const stays = new Counter(kernel, SelectorSet.parse(['work_*']));
    await order('go');
    const others: Counter[] = [];
    const until = performance.now() + (SOAK ? 120_000 : 3_000);
    let changes = 0;
    while (performance.now() < until) {
      if (others.length === 0 || (others.length < 5 && random(2) === 0))
        others.push(new Counter(kernel, SelectorSet.parse([`work_?${random(10)}?`, 'inner'])));
      else {
        const [one] = others.splice(random(others.length), 1);
        one.close();
      }
      changes++;
      await new Promise(done => setTimeout(done, random(10)));
    }
    const rounds = await order('hold');
    console.log(`${what}: seed ${seed}, ${changes} changes, ${rounds} rounds`);
    // Each thread made one round before it was traced.
    expect(counts(stays)).toEqual(new Set([rounds - THREADS]));
    for (const one of others) one.close();
    stays.close();
    kernel.close();
    expect(changedCode(pid).changed).toEqual([]);
    await end();
  });

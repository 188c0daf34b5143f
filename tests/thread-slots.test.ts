/** Slots of threads in real processes: exact counts without atomic operations, reuse, children, signals, ids. */

import { expect, onTestFinished, test } from 'vitest';
import { emitPidTgid } from '../src/kernel/process/helpers/thread_info.js';
import { POSSIBLE_CPUS, THREAD } from '../src/kernel/process/threads/layout.js';
import {
  emitGuardEnter,
  emitGuardLeave,
  emitThreadBlock,
} from '../src/kernel/process/threads/thread_block.js';
import { mem, rax, rcx, rdx, rsi } from '../src/x86/assembler.js';
import { killOne, Running } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { until } from './support/process.js';
import { Planted } from './support/routines.js';
import { missingCommand } from './support/skip.js';

const lacking = missingCommand('gcc');

/** The program, started by a shell, with a counter for each slot: `add [counter], 1`, no `lock`. */
async function start(args: readonly (string | number)[], guard: boolean, recipe: { flags?: string[] } = {}) {
  const program = compileTarget({ source: 'many_threads.c', ...recipe });
  const shell = new Running('/bin/sh', ['-c', '"$0" "$@"; exit $?', program, ...args.map(String)], {
    timeoutMs: 60_000,
  });
  const [, text] = await shell.expectOutput(/^pid (\d+)\n/);
  const pid = Number(text);
  onTestFinished(() => killOne(pid));
  const planted = new Planted(pid);
  const counters = planted.arena.alloc(POSSIBLE_CPUS * 64);
  const missed = planted.arena.alloc(8);
  const none = planted.arena.alloc(8);
  planted.plant(a => {
    const { code } = planted.threads;
    const lacks = a.label();
    const busy = a.label();
    const begin = a.here();
    const search = emitThreadBlock(a, code, rax, [rcx, rdx], lacks);
    const cold = guard ? emitGuardEnter(a, code, rax, rcx, search, missed.address, busy) : undefined;
    a.mov(rcx, mem(rax, THREAD.slot), 4);
    a.shl(rcx, 6, 4);
    a.movImm64(rdx, counters.address);
    a.add(rcx, rdx);
    if (guard) {
      // Wide enough for a signal to come in between.
      a.mov(rdx, mem(rcx));
      a.mov(rsi, 40, 4);
      const wait = a.here();
      a.dec(rsi, 4);
      a.jcc('ne', wait);
      a.inc(rdx);
      a.mov(mem(rcx), rdx);
      emitGuardLeave(a, rax);
    } else a.add(mem(rcx), 1);
    a.ret();
    a.bind(lacks);
    a.movImm64(rcx, none.address);
    a.lock('inc', mem(rcx));
    a.bind(busy);
    a.ret();
    search.cold();
    cold?.();
    return {
      variables: new Map([
        ['count_me', begin],
        ['pid_tgid', emitPidTgid(a, code)],
      ]),
      fixups: [],
    };
  }, false);
  const number = (bytes: Uint8Array, at = 0): number =>
    Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at, true));
  return {
    planted,
    shell,
    missed: () => number(missed.bytes),
    none: () => number(none.bytes),
    counted: () => {
      let sum = 0;
      for (let slot = 0; slot < POSSIBLE_CPUS; slot++) sum += number(counters.bytes, slot * 64);
      return sum;
    },
  };
}

const CALLED = /^called (\d+) wrong (\d+) children (\d+)\n/m;

for (const [what, flags] of [
  ['a dynamic program', []],
  ['a static program', ['-static']],
] as const)
  test.skipIf(lacking !== undefined)(`counts by slot are exact, ids right, in ${what}`, async () => {
    const { planted, shell, counted, none } = await start([8, 100_000, 2, 3], false, {
      flags: [...flags],
    });
    expect(planted.threads.threadIdOffset).toBeGreaterThan(0);
    planted.set('go', 1n);
    const [, called, wrong, children] = await shell.expectOutput(CALLED);
    expect(wrong).toBe('0');
    expect(children).toBe('0');
    expect(none()).toBe(0);
    // The children's calls are in their own memory, and in ours.
    expect(counted()).toBe(Number(called) + 3 * 100_000);
  });

test.skipIf(lacking !== undefined)('300 threads one after the other use few slots', async () => {
  const { planted, shell, counted, none } = await start([3, 50, 100], false);
  planted.set('go', 1n);
  const [, called] = await shell.expectOutput(CALLED);
  expect(none()).toBe(0);
  expect(counted()).toBe(Number(called));
  expect(POSSIBLE_CPUS - planted.threads.freeSlots).toBeLessThan(20);
  const freed = planted.stopper.during(stop => planted.threads.reclaim(stop, true)).value;
  expect(freed).toBeGreaterThan(0);
  expect(planted.threads.freeSlots).toBe(POSSIBLE_CPUS);
});

test.skipIf(lacking !== undefined)(
  'of 200 threads at once, 128 have a slot, and the others are told so',
  async () => {
    const { planted, shell, counted, none } = await start([200, 20_000, 1], false);
    planted.set('go', 1n);
    const [, called] = await shell.expectOutput(CALLED);
    expect(counted() + none()).toBe(Number(called));
  },
);

test.skipIf(lacking !== undefined)(
  'a program entered again from a signal handler is missed, and no count is lost',
  async () => {
    const { planted, shell, counted, missed, none } = await start([4, 400_000, 1, 0, 'alarm'], true);
    planted.set('go', 1n);
    const [, called] = await shell.expectOutput(CALLED);
    console.log(`${missed()} missed of ${called}`);
    expect(none()).toBe(0);
    expect(counted() + missed()).toBe(Number(called));
  },
);

test.skipIf(lacking !== undefined)('threads have their names a moment later', async () => {
  const { planted } = await start([4, 2_000_000_000, 1], false);
  planted.set('go', 1n);
  await until('four threads have slots', () => planted.threads.owners().size >= 4);
  planted.threads.refresh();
  for (const slot of planted.threads.owners().keys()) expect(planted.threads.commOf(slot)).toBe('worker');
});

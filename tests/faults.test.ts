/**
 * Loads of ours that fault in a real process: caught, whatever the process does meanwhile, and harmless when the tracer
 * is killed.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { errnoNumber } from '../src/kernel/errno.js';
import { FixupList } from '../src/kernel/process/faults/fixup.js';
import { emitProbeRead, emitProbeReadStr } from '../src/kernel/process/helpers/probe_read.js';
import { rax } from '../src/x86/assembler.js';
import { describeRun, killOne, type Run, Running } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { ROOT } from './support/paths.js';
import { processState, tracerOf, until } from './support/process.js';
import { Planted } from './support/routines.js';
import { missingCommand, SOAK } from './support/skip.js';

const DIST = process.env.MULTITRACE_DIST ?? join(ROOT, 'dist');
const lacking = missingCommand('gcc');

/** The program, started by a shell: what node starts itself, it waits for itself. */
class Target {
  readonly #shell: Running;
  pid = 0;

  constructor(...args: (string | number)[]) {
    const program = compileTarget({ source: 'fault_storm.c' });
    this.#shell = new Running('/bin/sh', ['-c', '"$0" "$@"; exit $?', program, ...args.map(String)], {
      timeoutMs: 120_000,
    });
  }

  static async start(...args: (string | number)[]): Promise<Target> {
    const target = new Target(...args);
    onTestFinished(() => target.stop());
    const text = await target.#shell.expectOutput(/^pid (\d+)\n/);
    target.pid = Number(text[1]);
    return target;
  }

  get ended(): Promise<Run> {
    return this.#shell.ended;
  }

  stop(): void {
    killOne(this.pid);
  }
}

const { start } = Target;

function plantReads(planted: Planted): void {
  planted.plant(a => {
    const fixups = new FixupList();
    const variables = new Map([
      ['routine', emitProbeRead(a, fixups)],
      ['routine_str', emitProbeReadStr(a, fixups)],
    ]);
    return { variables, fixups: fixups.finish(a) };
  });
}

/** The same in a process of its own, which can be killed: `node -e` with the pid, and "spawn" or "attach". */
const TRACER = `
const [dist, pid] = process.argv.slice(1);
const at = name => import(dist + '/' + name + '.js');
const { openProcess } = await at('process/process');
const { pokeWords } = await at('process/poke');
const { readModules } = await at('process/image');
const { Stopper } = await at('kernel/process/stopper');
const { CodeRegion } = await at('kernel/process/region/code_region');
const { DataArena } = await at('kernel/process/region/data_arena');
const { planDataAddress, SharedRegion } = await at('kernel/process/region/region');
const { Threads } = await at('kernel/process/threads/threads');
const { FaultServer } = await at('kernel/process/faults/fault_server');
const { FixupList } = await at('kernel/process/faults/fixup');
const { emitTracerCheck } = await at('kernel/process/faults/tracer_word');
const { emitProbeRead, emitProbeReadStr } = await at('kernel/process/helpers/probe_read');
const { Assembler, rax } = await at('x86/assembler');
const target = openProcess(Number(pid));
const stopper = new Stopper(target);
const main = readModules(target.pid).modules.find(m => m.isMain);
const code = CodeRegion.plan(target, 65536, main.start, main.end, []);
const dataAddress = planDataAddress(target, 1 << 20);
const tableAddress = Threads.plan(target);
const { arena, threads } = stopper.during(stop => stop.remote(remote => {
  const data = SharedRegion.map(remote, target.task, 'data', dataAddress, 1 << 20);
  code.map(remote, target.task);
  const arena = new DataArena(data, () => { throw new Error('full'); });
  return { arena, threads: Threads.map(target, remote, arena, tableAddress) };
})).value;
const server = new FaultServer(stopper, threads, arena);
const a = new Assembler();
const fixups = new FixupList();
const variables = {};
for (const [name, emit] of [['routine', emitProbeRead], ['routine_str', emitProbeReadStr]]) {
  const absent = a.label();
  variables[name] = a.here();
  emitTracerCheck(a, server.words, rax, absent);
  const body = a.label();
  a.jmp(body);
  a.bind(absent);
  a.mov(rax, -1);
  a.ret();
  a.bind(body);
  emit(a, fixups);
}
const block = code.alloc(a.length);
const address = code.addressOf(block);
code.bytesOf(block).set(a.finish(address));
server.faults.add(address, fixups.finish(a));
const symbols = main.elf.symbols(new Set(['OBJECT']));
const addressOf = name => main.bias + BigInt(symbols.find(s => s.name === name).value);
stopper.during(stop => {
  server.start(stop);
  const words = Object.keys(variables).flatMap(n => [addressOf(n), address + BigInt(a.offsetOf(variables[n]))]);
  pokeWords(stop.tid, new BigUint64Array([...words, addressOf('go'), 1n]));
});
console.log('started');
setInterval(() => console.log('faults ' + target.faults), 100);
`;

test.skipIf(lacking !== undefined)(
  'bad pointers on 4 threads read as zeros, and good ones as they are',
  async () => {
    const target = await start(4, 12_000);
    const planted = new Planted(target.pid);
    plantReads(planted);
    const from = performance.now();
    planted.set('go', 1n);
    const ended = await target.ended;
    const ms = performance.now() - from;
    console.log(`${planted.process.faults} faults in ${ms.toFixed(0)} ms`);
    expect(ended.stdout, describeRun(ended)).toMatch(/done 0\n/);
    expect(ended.status).toBe(0);
    expect(planted.process.faults).toBeGreaterThan(12_000);
  },
);

for (const [what, mode] of [
  ['handles SIGSEGV itself', 'h'],
  ['blocks SIGSEGV', 'b'],
  ['makes threads and children', 'c'],
  ['does all of that but block', 'hc'],
  ['execs at the end', 'ce'],
] as const)
  test.skipIf(lacking !== undefined)(`faults of ours in a process that ${what}`, async () => {
    const target = await start(2, 1500, mode);
    const planted = new Planted(target.pid);
    // A session opens the next program; here it is let go.
    planted.process.changed = () => {
      if (planted.process.poll() === 'exec') planted.process.resumeAll();
    };
    plantReads(planted);
    planted.set('go', 1n);
    const ended = await target.ended;
    expect(ended.stdout, describeRun(ended)).toMatch(mode.includes('e') ? /execed\n/ : /done 0\n/);
    expect(ended.stderr).toBe('');
    expect(ended.status).toBe(0);
    expect(planted.process.faults).toBeGreaterThan(500);
  });

test.skipIf(lacking !== undefined)('a signal that was blocked when we faulted stays blocked', async () => {
  const target = await start(2, 1_000_000, 'b');
  const planted = new Planted(target.pid);
  plantReads(planted);
  planted.set('go', 1n);
  await until('it faults', () => planted.process.faults > 1000);
  const blocked = (tid: number): boolean => {
    const mask = /^SigBlk:\s+(\w+)/m.exec(
      readFileSync(`/proc/${target.pid}/task/${tid}/status`, 'latin1'),
    )?.[1];
    return (BigInt(`0x${mask}`) & ((1n << 10n) | (1n << 6n))) === ((1n << 10n) | (1n << 6n));
  };
  await until('all threads have it blocked', () => planted.process.threads().every(blocked));
  target.stop();
});

test.skipIf(lacking !== undefined)('a fault of the process itself still kills it', async () => {
  const target = await start(1, 100, 'x');
  const planted = new Planted(target.pid);
  plantReads(planted);
  planted.set('go', 1n);
  const ended = await target.ended;
  expect(ended.status, describeRun(ended)).toBe(139);
});

test.skipIf(lacking !== undefined)('job control works while a process is followed', async () => {
  const target = await start(2, 100_000);
  const planted = new Planted(target.pid);
  plantReads(planted);
  planted.set('go', 1n);
  for (let i = 0; i < 5; i++) {
    process.kill(target.pid, 'SIGSTOP');
    await new Promise(done => setTimeout(done, 60));
    const before = planted.get('rounds');
    await new Promise(done => setTimeout(done, 60));
    expect(planted.get('rounds')).toBe(before);
    process.kill(target.pid, 'SIGCONT');
    await until('it goes on', () => planted.get('rounds') > before);
    planted.stopper.during(() => {});
  }
  target.stop();
});

test.skipIf(lacking !== undefined)(
  'what is followed can be let go in the middle, and is as it was',
  async () => {
    const target = await start(2, 300_000);
    const planted = new Planted(target.pid);
    planted.plant(a => {
      const begin = a.here();
      a.mov(rax, -errnoNumber('EFAULT'));
      a.ret();
      return { variables: new Map([['routine', begin]]), fixups: [] };
    });
    expect(tracerOf(target.pid)).toBe(process.pid);
    planted.stopper.during(stop => planted.server.stop(stop));
    expect(tracerOf(target.pid)).toBe(0);
    const caught = /^SigCgt:\s+(\w+)/m.exec(readFileSync(`/proc/${target.pid}/status`, 'latin1'))?.[1];
    expect(BigInt(`0x${caught}`) & ((1n << 10n) | (1n << 6n))).toBe(0n);
    target.stop();
  },
);

const KILLS = SOAK ? 500 : 10;
test.skipIf(lacking !== undefined)(
  `the tracer killed in a storm of faults ${KILLS} times: the process goes on, with its own handler every other time`,
  async () => {
    for (let i = 0; i < KILLS; i++) {
      const target = await start(4, 1_000_000, i % 2 === 0 ? '' : 'h');
      const tracer = new Running(
        process.execPath,
        ['--input-type=module', '-e', TRACER, DIST, `${target.pid}`],
        { timeoutMs: 20_000 },
      );
      onTestFinished(() => tracer.stop());
      await tracer.expectOutput(/faults [1-9]\d+\n/);
      await new Promise(done => setTimeout(done, Math.random() * 20));
      tracer.child.kill('SIGKILL');
      const killed = await tracer.ended;
      expect(killed.stderr).toBe('');
      await new Promise(done => setTimeout(done, 50));
      expect(processState(target.pid), `round ${i}`).toMatch(/[RSD]/);
      target.stop();
      const ended = await target.ended;
      expect(ended.status, describeRun(ended)).toBe(137);
      // The word was marked: from then on nothing is read.
      expect(ended.stderr).toMatch(/^wrong: /);
    }
  },
  KILLS * 3000 + 20_000,
);

/**
 * What becomes of links and programs over time: libraries that come and go, programs that are freed and their memory
 * used again, children that still run what their parent let go of, threads that never come back.
 */

import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0 } from '../src/bpf/builder.js';
import { MAP_TYPE } from '../src/bpf/map_type.js';
import { ProcessKernel } from '../src/kernel/process/machine.js';
import { BpfObject } from '../src/libbpf/object.js';
import { openProcess } from '../src/process/process.js';
import { SelectorSet } from '../src/process/symbols/selector.js';
import { countProgram } from '../src/tools/count.js';
import { missingBpfCompiler } from './support/bpf.js';
import { killOne, Running } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { linkObject, openEight, plugin } from './support/eight.js';
import { ROOT } from './support/paths.js';
import { changedCode, readMemory } from './support/process.js';
import { missingCommand, SOAK } from './support/skip.js';

const lacking = missingBpfCompiler() ?? missingCommand('gcc', 'pahole');
/** Program code, and rounded up as it is placed. */
const SHORT = 64;

/** A program that does nothing, and another code each time where `filler` says so. */
function nothing(filler = 0): ReturnType<ProgramBuilder['build']> {
  const b = new ProgramBuilder();
  for (let i = 0; i < filler; i++) b.mov(R0, i);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

async function until(condition: () => boolean, what: string): Promise<void> {
  let met = condition();
  for (let i = 0; i < 300 && !met; i++) {
    await new Promise(resolve => setTimeout(resolve, 20));
    met = condition();
  }
  expect(met, what).toBe(true);
}

/** Whether the code at an address was freed: int3 all over. */
function isFreed(pid: number, address: bigint): boolean {
  return readMemory(pid, Number(address), 8).every(byte => byte === 0xcc);
}

describe.skipIf(lacking !== undefined)('libraries that come and go', () => {
  test('functions leave their links with their library, and come back with it: plain, multi, at the return', async () => {
    const eight = await openEight();
    using object = BpfObject.open(linkObject('plugin'));
    object.load(eight.kernel, { deferUnmatched: true });
    expect(object.attach()).toBe(0);
    const rounds = SOAK ? 200 : 25;
    const expected = { plain: 0n, multi: 0n, exits: 0n };
    for (let round = 0; round < rounds; round++) {
      expect(await eight.say(`load ${plugin()}`)).toBe('loaded');
      // The first time the programs are loaded and attached; from then on the links do it.
      if (round === 0) {
        expect(object.attach()).toBe(6);
        expect(await eight.say('unload')).toBe('unloaded');
        expect(await eight.say(`load ${plugin()}`)).toBe('loaded');
        // The constructor calls one function once and another seven times.
        expected.multi += 1n + 1n + 7n;
        expected.exits += 7n;
      } else {
        expected.multi += 1n + 7n;
        expected.exits += 7n;
      }
      const [plain, multi, exit] = ['on_work', 'on_any', 'on_step'].map(name => object.program(name).link!);
      expect([plain, multi, exit].map(link => link.targets.length)).toEqual([1, 4, 1]);
      expect(plain.info().targets).toMatchObject([{ module: 'plugin', function: 'plugin_work' }]);
      expect(await eight.say('work 10')).toBe('worked');
      expected.plain += 10n;
      expected.multi += 20n;
      expected.exits += 10n;
      expect(await eight.say('unload')).toBe('unloaded');
      // The destructor.
      expected.multi += 1n;
      expect([plain, multi, exit].map(link => link.targets.length)).toEqual([0, 0, 0]);
      const { bss } = object.globals;
      expect({ plain: bss.plain, multi: bss.multi, exits: bss.exits }).toEqual(expected);
    }
    object.destroy();
    expect(await eight.say(`load ${plugin()}`)).toBe('loaded');
    expect(await eight.say('work 10')).toBe('worked');
    await eight.end();
  });
});

describe.skipIf(lacking !== undefined)('programs', () => {
  test('the code of a freed program is used again; one that a link has stays', async () => {
    const eight = await openEight();
    const { kernel } = eight;
    const load = (filler?: number) =>
      kernel.progLoad({ name: 'nothing', attachType: 'fentry', insns: nothing(filler), maps: [] });
    const places = new Set<bigint>();
    for (let round = 0; round < 30; round++) {
      const prog = load();
      places.add(prog.jited!.address);
      const [target] = kernel.functions(SelectorSet.parse(['counted']));
      const link = kernel.linkCreate({ prog, target });
      // The link has it.
      prog.free();
      prog.free();
      expect(await eight.say('spin 100')).toBe('spun 100');
      link.detach();
      expect(() => kernel.linkCreate({ prog, target })).toThrow(
        /program nothing is not loaded into process \d+, or was freed/,
      );
      await new Promise(resolve => setTimeout(resolve, 10));
    }
    // Freed at a quiet stop, which comes with a later change or a quarter of a second after.
    expect(places.size).toBeLessThan(20);
    await until(() => {
      const prog = load();
      prog.free();
      return places.has(prog.jited!.address);
    }, 'its place is used again');
    await eight.end();
  });

  test('programs that nothing led to are freed at once: any number can be loaded one after the other', async () => {
    const eight = await openEight();
    for (let i = 0; i < 10_000; i++)
      eight.kernel.progLoad({ name: 'nothing', attachType: 'fentry', insns: nothing(), maps: [] }).free();
    await eight.end();
  });

  test('programs of another process, and cookies that are no u64, are refused', async () => {
    const [one, two] = [await openEight(), await openEight()];
    const [mine, other] = [one, two].map(({ kernel }) =>
      kernel.progLoad({ name: 'nothing', attachType: 'fentry', insns: nothing(), maps: [] }),
    );
    const [target] = one.kernel.functions(SelectorSet.parse(['counted']));
    expect(() => one.kernel.linkCreate({ prog: other, target })).toThrow(/is not loaded into process/);
    const link = one.kernel.linkCreate({ prog: mine, target, cookie: 2n ** 64n - 1n });
    expect(() => link.update(other)).toThrow(/is not loaded into process/);
    const array = one.kernel.mapCreate({ type: 3, name: 'jumps', keySize: 4, valueSize: 4, maxEntries: 1 });
    expect(() => array.updateObject!(new Uint8Array(4), other)).toThrow(/loaded in the process/);
    array.updateObject!(new Uint8Array(4), mine);
    for (const cookie of [-1n, 2n ** 64n])
      expect(() => one.kernel.linkCreate({ prog: mine, target, cookie })).toThrow(
        /cookie -?\d+ of eight:counted is no unsigned number of 64 bits/,
      );
    expect(await one.say('spin 10')).toBe('spun 10');
    await one.end();
    await two.end();
  });

  test('a program array holds its programs, and a program its maps', async () => {
    const eight = await openEight();
    const { kernel } = eight;
    const array = kernel.mapCreate({ type: 3, name: 'jumps', keySize: 4, valueSize: 4, maxEntries: 2 });
    const prog = kernel.progLoad({ name: 'held', attachType: 'fentry', insns: nothing(3), maps: [] });
    const at = prog.jited!.address;
    array.updateObject!(new Uint8Array(4), prog);
    prog.free();
    await new Promise(resolve => setTimeout(resolve, 600));
    expect(isFreed(eight.pid, at)).toBe(false);
    array.delete(new Uint8Array(4));
    await until(() => isFreed(eight.pid, at), 'let go of by the array, it is freed');
    await eight.end();
  });

  test('what a forked child still runs is not freed until it ends', async () => {
    const eight = await openEight();
    const { kernel } = eight;
    const load = () =>
      kernel.progLoad({ name: 'nothing', attachType: 'fentry', insns: nothing(5), maps: [] });
    const prog = load();
    const [target] = kernel.functions(SelectorSet.parse(['counted']));
    const link = kernel.linkCreate({ prog, target });
    const child = Number(/^child (\d+)$/.exec(await eight.say('fork'))![1]);
    const at = prog.jited!.address;
    link.detach();
    prog.free();
    await new Promise(resolve => setTimeout(resolve, 1200));
    // The child's text leads to it yet.
    expect(isFreed(eight.pid, at)).toBe(false);
    expect(() => process.kill(child, 0), 'the child runs on').not.toThrow();
    killOne(child);
    await until(() => isFreed(eight.pid, at), 'the child is gone: it is freed');
    await eight.end();
  });

  test('types of modules are kept while a program needs them, and let go of with the last', async () => {
    const eight = await openEight();
    const object = BpfObject.open(linkObject('update'));
    for (const program of object.programs) program.autoload = program.name === 'one';
    object.load(eight.kernel);
    object.attach();
    const types = new WeakRef(eight.kernel.moduleTypes('eight')!);
    // As a later turn of node finds it.
    const collected = async (): Promise<boolean> => {
      for (let i = 0; i < 20 && types.deref() !== undefined; i++) {
        await new Promise(resolve => setTimeout(resolve, 50));
        collectGarbage();
      }
      return types.deref() === undefined;
    };
    expect(await collected()).toBe(false);
    // More functions are compared with what it was verified for.
    expect(() => object.program('one').attachMulti({ names: ['eight_7', 'twin_long'] })).not.toThrow();
    object.destroy();
    expect(await collected()).toBe(true);
    await eight.end();
  });

  for (const attachType of ['fexit', 'fsession'] as const)
    test(`update while threads sit in calls: the new ${attachType} program sees each of their returns, once`, async () => {
      const sits = new Running(compileTarget({ source: 'sits.c' }), [], { keepInput: true });
      try {
        await sits.expectOutput(/^pid \d+\n/);
        const kernel = new ProcessKernel(openProcess(sits.pid));
        const counts = ['old', 'new'].map(name => {
          const map = kernel.mapCreate({
            type: MAP_TYPE.ARRAY,
            name,
            keySize: 4,
            valueSize: 8,
            maxEntries: 1,
          });
          const prog = kernel.progLoad({ name, attachType, insns: countProgram(map), maps: [map] });
          const read = (): number => Number(Buffer.from(map.lookup(new Uint8Array(4))!).readBigUInt64LE());
          return { prog, read };
        });
        const [old, next] = counts;
        const targets = kernel.functions(SelectorSet.parse(['sit'])).map(target => ({ target, cookie: 0n }));
        const link = kernel.linkCreate({ prog: old.prog, targets });
        sits.say('go');
        await sits.expectOutput(/^sitting\n/m);
        // Eight threads and a coroutine, each so deep in itself.
        const entered = old.read();
        link.update(next.prog, { oldProg: old.prog });
        old.prog.free();
        sits.say('go');
        await sits.expectOutput(/^again \d+\n/m);
        const depths = Array.from({ length: 9 }, (_, i) => 50 + (i === 8 ? 2 : i % 2 === 1 ? i + 2 : i) + 1);
        const calls = depths.reduce((sum, depth) => sum + depth, 0);
        if (attachType === 'fexit') expect([entered, old.read(), next.read()]).toEqual([0, 0, 2 * calls]);
        // Entry and return, each once: the first round was entered under the old one.
        else expect([entered, old.read(), next.read()]).toEqual([calls, calls, 3 * calls]);
        link.detach();
        kernel.close();
        sits.child.stdin!.end();
        expect((await sits.ended).status).toBe(0);
      } finally {
        sits.stop();
      }
    });

  test('a program at the return is freed while threads sit in the functions that it was on', async () => {
    const sits = new Running(compileTarget({ source: 'sits.c' }), [], { keepInput: true });
    try {
      await sits.expectOutput(/^pid \d+\n/);
      const kernel = new ProcessKernel(openProcess(sits.pid));
      const prog = kernel.progLoad({
        name: 'exits',
        attachType: 'fexit',
        insns: nothing(SHORT),
        maps: [],
      });
      const targets = kernel
        .functions(SelectorSet.parse(['sit', 'first', 'middle', 'last']))
        .map(target => ({ target, cookie: 0n }));
      const link = kernel.linkCreate({ prog, targets });
      const at = prog.jited!.address;
      sits.say('go');
      await sits.expectOutput(/^sitting\n/m);
      link.detach();
      prog.free();
      await until(() => isFreed(sits.pid, at), 'it is freed, though nobody returned');
      expect(changedCode(sits.pid).changed.filter(where => !/ld-|libgcc/.test(where))).toEqual([]);
      kernel.close();
      sits.say('go');
      sits.child.stdin!.end();
      const { stdout, status } = await sits.ended;
      expect(stdout).toMatch(/^sum (\d+)\nagain \1\n/m);
      expect(status).toBe(0);
    } finally {
      sits.stop();
    }
  });
});

test.skipIf(missingCommand('gcc') !== undefined)(
  'bytes of the process that multitrace borrows for system calls are never replaced',
  async () => {
    const program = new Running(compileTarget({ source: 'borrowed.c' }), [], { keepInput: true });
    try {
      await program.expectOutput(/^pid \d+\n/);
      const kernel = new ProcessKernel(openProcess(program.pid));
      const [tiny, after] = kernel.functionsNamed(['tiny', 'after']).map(([target]) => target);
      const prog = kernel.progLoad({ name: 'nothing', attachType: 'fentry', insns: nothing(), maps: [] });
      expect(() => kernel.linkCreate({ prog, target: tiny })).toThrow(/multitrace uses it, to see libraries/);
      const link = kernel.linkCreate({ prog, target: after });
      program.say('x');
      await program.expectOutput(/^called 1\n/m);
      link.detach();
      kernel.close();
      expect(changedCode(program.pid).changed).toEqual([]);
      program.child.stdin!.end();
      expect((await program.ended).status).toBe(0);
    } finally {
      program.stop();
    }
  },
);

describe.skipIf(lacking !== undefined)('killed', () => {
  const ROUNDS = SOAK ? 60 : 2;
  const SCRIPT = `
    import { BpfObject, openProcess, ProcessKernel } from ${JSON.stringify(join(ROOT, 'dist', 'index.js'))};
    const [pid, file] = process.argv.slice(1);
    const kernel = new ProcessKernel(openProcess(Number(pid)));
    const object = BpfObject.open(file);
    for (const program of object.programs) program.autoload = program.name !== 'takes_pointer';
    object.load(kernel);
    object.attach();
    console.log('attached');
    const links = ['one', 'exit_one'].map(name => object.program(name).link);
    const others = [['two', 'one'], ['exit_two', 'exit_one']];
    for (let i = 0; ; i++)
      for (const [k, link] of links.entries()) link.update(object.program(others[k][i % 2]).prog);
  `;

  for (const [what, flags] of [
    ['moved instructions', []],
    ['nop sleds', ['-fpatchable-function-entry=5']],
  ] as const)
    test(`multitrace is killed while it updates links: the program goes on, and the next one tidies up (${what})`, async () => {
      const eight = await openEight(flags);
      eight.kernel.close();
      for (let round = 0; round < ROUNDS; round++) {
        const spinning = eight.say('spin 3000000');
        const tracer = new Running(process.execPath, [
          '--input-type=module',
          '-e',
          SCRIPT,
          `${eight.pid}`,
          linkObject('update'),
        ]);
        await tracer.expectOutput(/^attached\n/);
        await new Promise(resolve => setTimeout(resolve, Math.random() * 60));
        killOne(tracer.pid);
        await tracer.ended;
        expect(await spinning).toBe('spun 3000000');
      }
      const kernel = new ProcessKernel(openProcess(eight.pid));
      kernel.close();
      expect(changedCode(eight.pid).changed).toEqual([]);
      await eight.end();
    });
});

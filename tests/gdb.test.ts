/**
 * gdb's `bt` on a process whose functions are traced at their return, and on a core file of one: what it shows by itself,
 * and through the return trampolines with share/gdb.py.
 */

import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { SelectorSet, Session } from '../src/index.js';
import {
  CALL,
  CHUNK,
  DEPTH_SHIFT,
  DEPTH_STEP,
  FIRST_PLACES,
  LIVE,
  MOST_DEPTH,
  SECOND_PLACES,
  STEP_FACTOR,
} from '../src/kernel/process/kfunc_md/call_table.js';
import { RETURN_STRIDE } from '../src/kernel/process/trampoline/return.js';
import { describeRun, Running, run } from './support/command.js';
import { compileTarget, type Recipe } from './support/compile.js';
import { Tallies } from './support/exits.js';
import { ROOT } from './support/paths.js';
import { expectClean, traceProcess } from './support/rounds.js';
import { missingCommand, missingCompiler, SOAK } from './support/skip.js';

const SCRIPT = ['-x', join(ROOT, 'share', 'gdb.py')];
const BATCH = ['-nx', '-q', '-batch', '-iex', 'set debuginfod enabled off'];
const FUNCTIONS = ['bottom', 'tailing', 'middle', 'top', 'main'];

/** The functions of a backtrace, from the bottom of the target's own on. */
function functionsOf(output: string): string[] {
  const names = [...output.matchAll(/^#\d+ +(?:0x[0-9a-f]+ in )?([\w?]+)/gm)].map(([, name]) => name);
  return names.slice(names.indexOf('bottom'));
}

async function backtrace(args: readonly string[]): Promise<string[]> {
  const done = await run('gdb', [...BATCH, ...args, '-ex', 'bt'], { timeoutMs: 60_000 });
  expect(done.stdout, describeRun(done)).toContain('bottom');
  return functionsOf(done.stdout);
}

async function start(recipe: Recipe): Promise<Running> {
  const running = new Running(compileTarget(recipe), [], { keepInput: true });
  onTestFinished(() => running.stop());
  await running.expectOutput(/^pid \d+\n/);
  return running;
}

async function goDown(running: Running): Promise<void> {
  running.say('');
  await running.expectOutput(/^sitting\n/m);
}

async function comeBack(running: Running): Promise<void> {
  running.say('');
  const ended = await running.ended;
  expect(ended.stdout, describeRun(ended)).toMatch(/^back 12\n/m);
  expect(ended.status).toBe(0);
}

/** With a core file, too: it is large. */
const RECIPES: readonly (readonly [string, Recipe, boolean])[] = [
  ['gcc -O0', { source: 'returns/debugged.c', flags: ['-O0'] }, SOAK],
  ['gcc -O2', { source: 'returns/debugged.c' }, true],
  ['clang -O2', { source: 'returns/debugged.c', compiler: 'clang-19' }, SOAK],
];

test('share/gdb.py knows the layout of the call table', () => {
  const script = readFileSync(SCRIPT[1], 'utf8');
  for (const [name, value] of Object.entries({
    ENTRY_SIZE: CALL.size,
    CHUNK,
    FIRST_PLACES,
    SECOND_PLACES,
    STEP_FACTOR,
    DEPTH_STEP,
    DEPTH_SHIFT,
    MOST_DEPTH,
    STRIDE: RETURN_STRIDE,
    LIVE,
  }))
    expect(script).toContain(`\n${name} = ${value}\n`);
});

describe('a debugger on a traced process', () => {
  for (const [what, recipe, withCore] of RECIPES)
    test(`${what}: gdb’s backtrace is the untraced one with share/gdb.py${withCore ? ', live and in a core file' : ''}`, async ({
      skip,
    }) => {
      const missing = missingCommand('gdb') ?? missingCompiler(recipe);
      skip(missing !== undefined, missing);
      const untraced = await start(recipe);
      await goDown(untraced);
      const expected = await backtrace(['-p', String(untraced.pid)]);
      expect(expected).toEqual(expect.arrayContaining(['bottom', 'middle', 'top', 'main']));
      await comeBack(untraced);

      const running = await start(recipe);
      let links: Tallies | undefined;
      let returns: number[] = [];
      const letGo = await traceProcess(
        running.pid,
        kernel => {
          links = new Tallies(kernel, FUNCTIONS, 'fexit');
        },
        () => {
          const tallies = links!.read();
          returns = FUNCTIONS.map(name => tallies.get(name)!.count);
        },
      );
      await goDown(running);
      // gdb has no rules for our return trampolines: it ends there, or guesses.
      const alone = await backtrace(['-p', String(running.pid)]);
      expect(alone.slice(0, 2)).toEqual(['bottom', '??']);
      expect(alone).not.toContain('top');
      const core = `/tmp/multitrace-${process.pid}-core`;
      onTestFinished(() => rmSync(core, { force: true }));
      const attached = ['-p', String(running.pid), ...(withCore ? ['-ex', `gcore ${core}`] : [])];
      expect(await backtrace([...SCRIPT, ...attached])).toEqual(expected);
      if (withCore) expect(await backtrace([...SCRIPT, compileTarget(recipe), core])).toEqual(expected);
      await comeBack(running);
      await letGo();
      expect(returns).toEqual([1, 1, 4, 1, 0]);
    });

  test('gdb sees all by itself once multitrace has left; while it traces a command, gdb is refused', async ({
    skip,
  }) => {
    const missing = missingCommand('gdb', 'gcc');
    skip(missing !== undefined, missing);
    const running = await start(RECIPES[1][1]);
    const letGo = await traceProcess(running.pid, kernel => {
      new Tallies(kernel, FUNCTIONS, 'fexit');
    });
    await goDown(running);
    await letGo();
    // The threads that sat in the functions have their return addresses back.
    expect(await backtrace(['-p', String(running.pid)])).toContain('top');
    expectClean(running.pid);
    await comeBack(running);

    let pid = 0;
    const session = Session.start(['/bin/sleep', '30'], {
      opened(kernel) {
        pid = kernel.process.pid;
        expect(kernel.functions(SelectorSet.parse(['*:*'])).length).toBeGreaterThan(0);
      },
      modulesChanged() {},
      closed() {},
      refused(error) {
        throw error;
      },
    });
    await expect.poll(() => pid).toBeGreaterThan(0);
    const done = await run('gdb', [...BATCH, '-p', String(pid), '-ex', 'bt']);
    expect(done.stdout + done.stderr).toMatch(/ptrace: Operation not permitted/);
    process.kill(pid, 'SIGKILL');
    await session.end;
  });
});

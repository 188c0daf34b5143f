/**
 * Drives the programs of tests/targets/returns (rounds.h): one round traced, one round after everything was detached, and
 * the same program untraced to compare with.
 */

import { spawnSync } from 'node:child_process';
import { dirname } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import { Session } from '../../src/index.js';
import type { AttachType } from '../../src/kernel/kernel.js';
import type { ProcessKernel } from '../../src/kernel/process/machine.js';
import { describeRun, Running } from './command.js';
import { compileTarget, type Recipe } from './compile.js';
import { Tallies, type Tally } from './exits.js';
import { changedCode, mappings } from './process.js';

/** For one round. */
const LIMIT_MS = 50_000;

/** How often a function was entered and returned, by the program's own counters. */
export interface Passes {
  readonly entered: number;
  readonly returned: number;
}

/** What one round printed. */
export interface Round {
  readonly text: string;
  readonly passes: ReadonlyMap<string, Passes>;
}

/** What the programs on one function saw. */
export interface Seen {
  readonly fentry: ReadonlyMap<string, Tally>;
  readonly fexit: ReadonlyMap<string, Tally>;
  /** Entries and returns together. */
  readonly fsession: ReadonlyMap<string, Tally>;
  /** Calls whose return could not be waited for, by fexit and by fsession. */
  readonly missed: { readonly fexit: number; readonly fsession: number };
}

export function parseRounds(stdout: string): Round[] {
  const parts = stdout.replace(/^pid \d+\n/, '').split('round over\n');
  parts.pop();
  return parts.map(part => {
    const passes = new Map<string, Passes>();
    const text = part.replace(/^(\w+)\t(\d+)\t(\d+)\n/gm, (_, name, entered, returned) => {
      passes.set(name, { entered: Number(entered), returned: Number(returned) });
      return '';
    });
    return { text, passes };
  });
}

/** No byte of code is changed, and nothing of ours is mapped. */
export function expectClean(pid: number, when?: string): void {
  expect(changedCode(pid).changed, when).toEqual([]);
  expect(
    mappings(pid).filter(({ path }) => path.includes('memfd:multitrace')),
    when,
  ).toEqual([]);
}

/** A traced process: attached by `attach`, and let go of by the function that is returned. */
export async function traceProcess(
  pid: number,
  attach: (kernel: ProcessKernel) => void,
  letGo: () => void = () => {},
): Promise<() => Promise<void>> {
  const session = Session.attach(pid, {
    opened: attach,
    modulesChanged() {},
    closed: letGo,
    refused(error) {
      throw error;
    },
  });
  return async () => {
    session.stop();
    await session.end;
  };
}

/**
 * Runs a program's two rounds, fentry, fexit and fsession programs on all its `FUNCTIONS` during the first one. Expects that
 * it prints what it prints untraced, in both rounds, ends as it does untraced, and is as it was in between; with `exact`
 * that every entry was counted.
 */
export async function runRounds(
  recipe: Recipe,
  { exact = true }: { readonly exact?: boolean } = {},
): Promise<{ round: Round; seen: Seen }> {
  const program = compileTarget(recipe);
  const env = { ...process.env, LD_LIBRARY_PATH: dirname(program) };
  const alone = spawnSync(program, { encoding: 'utf8', input: '\n\n', env });
  const [expected] = parseRounds(alone.stdout);
  const running = new Running(program, [], { keepInput: true, env, timeoutMs: 3 * LIMIT_MS });
  onTestFinished(() => running.stop());
  await running.expectOutput(/^pid \d+\n/);
  const links: Partial<Record<AttachType, Tallies>> = {};
  let seen: Seen | undefined;
  const names = [...expected.passes.keys()];
  const letGo = await traceProcess(
    running.pid,
    kernel => {
      for (const type of ['fentry', 'fexit', 'fsession'] as const)
        links[type] = new Tallies(kernel, names, type);
    },
    () => {
      const { fentry, fexit, fsession } = links as Record<AttachType, Tallies>;
      seen = {
        fentry: fentry.read(),
        fexit: fexit.read(),
        fsession: fsession.read(),
        missed: { fexit: Number(fexit.link.missed), fsession: Number(fsession.link.missed) },
      };
    },
  );
  expect(changedCode(running.pid).changed.length).toBeGreaterThan(0);
  running.say('');
  await running.expectOutput(/^round over\n/m, 'stdout', LIMIT_MS);
  await letGo();
  expectClean(running.pid);
  running.say('');
  const ended = await running.ended;
  const [round, after] = parseRounds(ended.stdout);
  expect(ended.status, describeRun(ended)).toBe(alone.status);
  expect(ended.stderr).toBe(alone.stderr);
  expect(round?.text, describeRun(ended)).toBe(expected.text);
  expect(after?.text, describeRun(ended)).toBe(expected.text);
  for (const name of names) {
    expect(links.fentry?.link.targets.map(({ target }) => target.name)).toContain(name);
    if (exact) expect(seen?.fentry.get(name)?.count, `${name} entered`).toBe(round.passes.get(name)?.entered);
  }
  return { round, seen: seen! };
}

/** Every function's returns were seen, as often as it says that it returned. */
export function expectEveryReturn({ round, seen }: { round: Round; seen: Seen }): void {
  expect(seen.missed).toEqual({ fexit: 0, fsession: 0 });
  for (const [name, { entered, returned }] of round.passes) {
    expect(seen.fexit.get(name)?.count, `${name} returned`).toBe(returned);
    expect(seen.fsession.get(name)?.count, `${name} entered and returned`).toBe(entered + returned);
  }
}

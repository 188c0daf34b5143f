/**
 * Return hooks that do not hurt: real programs that leave their functions in every way there is, each compiled by gcc and
 * clang, traced for one round and let go of for the next. The programs check themselves; every entry and every return
 * that really happened is counted, and no other.
 */

import { describe, expect, test } from 'vitest';
import type { Recipe } from './support/compile.js';
import { expectEveryReturn, runRounds } from './support/rounds.js';
import { missingCompiler } from './support/skip.js';

/** A program of tests/targets/returns by each compiler. */
function variants(source: string, flags: readonly string[] = []): (readonly [string, Recipe])[] {
  const cc = source.endsWith('.cc');
  const recipe = (compiler: NonNullable<Recipe['compiler']>, level: string): readonly [string, Recipe] => [
    `${compiler} ${level}`,
    { source: `returns/${source}`, compiler, flags: [level, ...(cc ? ['-std=c++20'] : []), ...flags] },
  ];
  const gcc = cc ? 'g++' : 'gcc';
  return [recipe(gcc, '-O0'), recipe(gcc, '-O2'), recipe(cc ? 'clang++-19' : 'clang-19', '-O2')];
}

/** One test for each compiler. */
function eachVariant(
  source: string,
  what: string,
  check: (recipe: Recipe) => Promise<void>,
  flags: readonly string[] = [],
): void {
  for (const [name, recipe] of variants(source, flags))
    test(`${name}: ${what}`, async ({ skip }) => {
      const missing = missingCompiler(recipe);
      skip(missing !== undefined, missing);
      await check(recipe);
    });
}

describe('calls that return once, or never', () => {
  for (const [source, what] of [
    ['exceptions.cc', 'C++ exceptions through traced frames'],
    ['jumps.c', 'longjmp out of traced frames'],
    ['cancels.c', 'threads that exit or are cancelled in traced frames'],
    ['switches.c', 'calls on stacks that are switched'],
    ['coroutines.cc', 'C++20 coroutines'],
    ['alternate.c', 'signals on an alternate stack'],
    ['children.c', 'children made in traced functions'],
    ['recursion.c', '100,000 frames deep'],
    ['twice.c', 'functions that call setjmp, getcontext and vfork'],
  ] as const)
    eachVariant(source, what, async recipe => expectEveryReturn(await runRounds(recipe)));
});

describe('the program’s own view of its stacks', () => {
  eachVariant(
    'stacks.c',
    'backtrace and _Unwind_Backtrace name the same functions as untraced',
    async recipe => {
      expectEveryReturn(await runRounds(recipe));
    },
    ['-rdynamic'],
  );
});

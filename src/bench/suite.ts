/** All rows of the benchmark: which there are, which are wanted, and measuring them. */

import { BpfError } from '../kernel/errno.js';
import { Glob } from '../process/symbols/glob.js';
import { type AttachResult, COUNTS, measureAttaching, WAYS } from './attach.js';
import { JIT_NAMES, type JitResult, measureJit } from './jit.js';
import { librariesHere } from './libraries.js';
import { OPERATION_ROWS } from './operations.js';
import { measure, type RoundsSetup } from './rounds.js';
import type { Result, Row } from './row.js';
import { TIMED } from './rows.js';
import { Random } from './statistics.js';
import { TracedProgram } from './target.js';
import { TOOLS } from './tools.js';
import { measureVerifier, VERIFIER_ROWS, type VerifierResult } from './verifier.js';
import { measureWork, WORKLOADS, type WorkResult } from './work.js';

export interface Measured {
  readonly seed: number;
  readonly seconds: number;
  readonly producers: number;
  /** Rows that were timed in rounds. */
  readonly timed: readonly Result[];
  readonly attaching: readonly AttachResult[];
  readonly work: readonly WorkResult[];
  readonly jit: readonly JitResult[];
  readonly verifier: readonly VerifierResult[];
}

export interface SuiteOptions {
  /** Names or globs; all rows where empty. */
  readonly rows: readonly string[];
  readonly producers: number;
  readonly seconds: number;
  readonly seed: number;
  readonly say: (text: string) => void;
  readonly stopped: () => boolean;
}

/** Rows that are timed in rounds; those of one list share their rounds. */
const ROUNDS: readonly (readonly Row[])[] = [[...TIMED, ...TOOLS], OPERATION_ROWS];

/** Every row's name and what it is. */
export function allRows(): { name: string; what: string }[] {
  return [
    ...ROUNDS.flat().map(({ name, what }) => ({ name, what })),
    ...Object.entries(WAYS).flatMap(([way, what]) =>
      COUNTS.map(n => ({ name: `attach-${way}-${n}`, what: `attaching ${n} functions: ${what}` })),
    ),
    ...WORKLOADS.map(({ name, what }) => ({ name, what })),
    ...JIT_NAMES.map(name => ({ name, what: 'machine code, and the time to verify and compile it' })),
    ...VERIFIER_ROWS.map(({ name, what }) => ({ name, what: `verifying 5,000 instructions: ${what}` })),
  ];
}

/** Throws EINVAL for a row that there is not. */
function chooser(patterns: readonly string[]): (name: string) => boolean {
  const names = allRows().map(({ name }) => name);
  const globs = patterns.map(pattern => {
    const glob = Glob.compile(pattern, pattern, 0);
    if (!names.some(name => glob.matches(name)))
      throw new BpfError(
        'EINVAL',
        `the benchmark has no row '${pattern}'; \`multitrace bench --list\` shows those that there are`,
      );
    return glob;
  });
  return name => globs.length === 0 || globs.some(glob => glob.matches(name));
}

/** Measures what is wanted. Throws ENOENT where there is no compiler, EIO where a row's number is not to be believed. */
export async function runSuite(options: SuiteOptions): Promise<Measured> {
  const wanted = chooser(options.rows);
  using program = new TracedProgram();
  const setup: RoundsSetup = {
    ...options,
    program,
    libraries: librariesHere(),
    random: new Random(options.seed),
  };
  const timed: Result[] = [];
  for (const rows of ROUNDS)
    timed.push(
      ...(await measure(
        rows.filter(({ name }) => wanted(name)),
        setup,
      )),
    );
  const { seed, seconds, producers } = options;
  return {
    seed,
    seconds,
    producers,
    timed,
    attaching: await measureAttaching(wanted, setup),
    work: await measureWork(wanted, setup),
    jit: await measureJit(wanted, setup),
    verifier: measureVerifier(wanted, setup),
  };
}

/**
 * Compiles the programs of tests/targets, each once for each set of flags: the result is kept in build/targets
 * under a hash of the compiler, the flags and the sources. Says why where a compiler is missing.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, linkSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join, parse } from 'node:path';
import { BUILT_TARGETS, TARGETS } from './paths.js';

export type Compiler = 'gcc' | 'g++' | 'clang-19' | 'clang++-19' | 'musl-gcc';

/** How to make one program of a source file. */
export interface Recipe {
  /** A file of tests/targets. */
  readonly source: string;
  readonly compiler?: Compiler;
  /** Behind `-O2 -g0`; a later `-O` or `-g` wins. */
  readonly flags?: readonly string[];
  /** Arguments of `strip`, where the result is to be stripped. */
  readonly strip?: readonly string[];
}

const versions = new Map<string, string>();

function versionOf(compiler: string): string {
  let version = versions.get(compiler);
  if (version === undefined) {
    version = execFileSync(compiler, ['--version'], { encoding: 'utf8' }).split('\n', 1)[0];
    versions.set(compiler, version);
  }
  return version;
}

/** What a source may include; few and short, so every target is keyed by all of them. */
function headers(): string {
  const names = readdirSync(TARGETS).filter(name => name.endsWith('.h'));
  return names.map(name => readFileSync(join(TARGETS, name), 'utf8')).join('\0');
}

/**
 * The path of the compiled program. Throws with the compiler's words where it does not compile; ask
 * `missingCommand` first whether there is a compiler.
 */
export function compileTarget(recipe: Recipe): string {
  const compiler = recipe.compiler ?? (recipe.source.endsWith('.cc') ? 'g++' : 'gcc');
  const source = join(TARGETS, recipe.source);
  const flags = ['-O2', '-g0', '-pthread', ...(recipe.flags ?? [])];
  const key = [
    versionOf(compiler),
    flags.join(' '),
    recipe.strip?.join(' ') ?? '',
    readFileSync(source, 'utf8'),
    headers(),
  ];
  const hash = createHash('sha256').update(key.join('\0')).digest('hex').slice(0, 16);
  const folder = join(BUILT_TARGETS, hash);
  const program = join(folder, parse(recipe.source).name);
  if (existsSync(program)) return program;

  mkdirSync(folder, { recursive: true });
  const unfinished = `${program}.${process.pid}`;
  const done = spawnSync(
    compiler,
    [...flags.filter(flag => !isLibrary(flag)), '-o', unfinished, source, ...flags.filter(isLibrary)],
    {
      encoding: 'utf8',
    },
  );
  if (done.status !== 0) throw new Error(`${compiler} ${flags.join(' ')} ${recipe.source}: ${done.stderr}`);
  if (recipe.strip !== undefined) execFileSync('strip', [...recipe.strip, unfinished]);
  publish(unfinished, program);
  return program;
}

/** Gives a finished file its name, unless another process was faster: theirs may run already, and is the same. */
export function publish(unfinished: string, path: string): void {
  try {
    linkSync(unfinished, path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause;
  }
  rmSync(unfinished);
}

/** Libraries go behind the source that needs them. */
const isLibrary = (flag: string) => flag.startsWith('-l');

/** `name<TAB>calls` lines of a target's output; the checksum line and others are left out. */
export function ownCounts(output: string): Map<string, number> {
  const counts = new Map<string, number>();
  for (const line of output.split('\n')) {
    const match = /^(\w+)\t(\d+)$/.exec(line);
    if (match !== null && match[1] !== 'checksum') counts.set(match[1], Number(match[2]));
  }
  return counts;
}

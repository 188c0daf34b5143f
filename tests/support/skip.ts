/** What this machine lacks for a test: each function gives the reason to skip, or `undefined` where all is there. */

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { type Compiler, compileTarget, type Recipe } from './compile.js';

/** Long forms of tests run too. */
export const SOAK = process.env.MULTITRACE_SOAK === '1';

/** The file that a command's name stands for, if any. */
export function commandPath(command: string): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return folders.map(folder => join(folder, command)).find(path => existsSync(path));
}

/** The first of these commands that is not installed. */
export function missingCommand(...commands: string[]): string | undefined {
  const missing = commands.find(command => commandPath(command) === undefined);
  return missing === undefined ? undefined : `${missing} is not installed`;
}

/** The first of these files that does not exist: real programs are traced where Debian puts them. */
export function missingFile(...paths: string[]): string | undefined {
  const missing = paths.find(path => !existsSync(path));
  return missing === undefined ? undefined : `${missing} does not exist`;
}

/** Why a recipe can't be compiled here; a source that fails to compile is no reason, but a failure. */
export function missingCompiler(recipe: Recipe): string | undefined {
  const compiler: Compiler = recipe.compiler ?? (recipe.source.endsWith('.cc') ? 'g++' : 'gcc');
  return missingCommand(compiler, ...(recipe.strip === undefined ? [] : ['strip']));
}

/** Why the kernel's own counts (uprobes through perf_event_open) can't be had. */
export function uprobesRefused(): string | undefined {
  const reason = missingCommand('gcc');
  if (reason !== undefined) return reason;
  const program = compileTarget({ source: 'uprobes.c' });
  const tried = spawnSync(program, ['all', program, '0x1000', '/bin/true'], {
    encoding: 'utf8',
    timeout: 10_000,
  });
  return tried.status === 0 ? undefined : `the kernel refuses uprobes: ${tried.stderr.trim()}`;
}

/** Why privileges can't be given up: that takes root. */
export function notRoot(): string | undefined {
  return process.getuid?.() === 0 ? missingCommand('setpriv') : 'only root can become another user';
}

// What every script needs before its own work: dependencies installed and `dist` built, each only when stale.
// Plain Node, no dependencies, since it runs before any is there. Nothing here writes to standard output.

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder that holds package.json. */
export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/** Written by npm when an installation is complete. */
const INSTALLED = join(ROOT, 'node_modules', '.package-lock.json');
/** Written here when a build is complete: a build that failed midway leaves none. */
const BUILT = join(ROOT, 'dist', '.built');
/** Both our output streams are the parent's standard error. */
const QUIET = ['ignore', 2, 2];

/** Runs one step of the set-up; ends the script with its status where it fails. */
function step(what, command, args) {
  const done = spawnSync(command, args, { cwd: ROOT, stdio: QUIET });
  if (done.error === undefined && done.status === 0) return;
  const why =
    done.error?.message ?? (done.signal ? `killed by ${done.signal}` : `exit status ${done.status}`);
  process.stderr.write(`multitrace: ${what} failed (${command} ${args.join(' ')}: ${why}).\n`);
  process.exit(done.status || 1);
}

const modified = path => (existsSync(path) ? statSync(path).mtimeMs : 0);

/** `npm ci`, where node_modules is missing or older than package-lock.json. */
export function installDependencies() {
  if (modified(INSTALLED) >= modified(join(ROOT, 'package-lock.json')) && existsSync(INSTALLED)) return;
  process.stderr.write('multitrace: installing dependencies (npm ci)\n');
  // The compiler is a development dependency, so NODE_ENV=production must not leave those out.
  step('installing the dependencies', 'npm', [
    'ci',
    '--include=dev',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
  ]);
}

/** When anything that the build reads was last changed; folders count too, since a deleted file changes only them. */
function newestSource(folder) {
  let newest = modified(folder);
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) newest = Math.max(newest, newestSource(path));
    else if (!entry.name.endsWith('.test.ts')) newest = Math.max(newest, modified(path));
  }
  return newest;
}

/** Builds `dist`, where it is missing or older than a source file. */
export function build() {
  const inputs = ['tsconfig.json', 'tsconfig.build.json', 'package-lock.json'].map(name => join(ROOT, name));
  const newest = Math.max(newestSource(join(ROOT, 'src')), ...inputs.map(modified));
  if (existsSync(BUILT) && modified(BUILT) >= newest) return;
  process.stderr.write('multitrace: building (tsc)\n');
  rmSync(join(ROOT, 'dist'), { recursive: true, force: true });
  step('building', process.execPath, [
    join(ROOT, 'node_modules/typescript/bin/tsc'),
    '-p',
    'tsconfig.build.json',
  ]);
  writeFileSync(BUILT, '');
}

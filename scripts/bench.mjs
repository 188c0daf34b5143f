// `npm run bench`: compiles the sources and bench/ and runs bench/main.ts with the arguments behind `--`.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { build, installDependencies, ROOT } from './setup.mjs';

installDependencies();
build();

/** Compiled apart from dist, which holds only what the package ships. */
const OUT = join(ROOT, 'build', 'bench');
const MAIN = join(OUT, 'bench', 'main.js');

const compiled = spawnSync(
  process.execPath,
  [
    join(ROOT, 'node_modules/typescript/bin/tsc'),
    ...[
      '-p',
      'tsconfig.json',
      '--noEmit',
      'false',
      '--declaration',
      'false',
      '--rootDir',
      '.',
      '--outDir',
      OUT,
    ],
  ],
  { cwd: ROOT, stdio: ['ignore', 2, 2] },
);
if (compiled.status !== 0) process.exit(compiled.status ?? 1);
if (!existsSync(MAIN)) {
  process.stderr.write('multitrace: there is no benchmark: bench/main.ts is missing.\n');
  process.exit(1);
}
const done = spawnSync(
  process.execPath,
  ['--min-semi-space-size=16', '--enable-source-maps', MAIN, ...process.argv.slice(2)],
  {
    cwd: ROOT,
    stdio: 'inherit',
  },
);
process.exit(done.status ?? 1);

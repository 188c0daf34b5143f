// `npm start`: from a fresh clone to the running command. Sets up what is missing, then runs bin/multitrace with
// the arguments behind `--`, or its demonstration where there are none. Standard output is the command's alone.

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { build, installDependencies, ROOT } from './setup.mjs';

installDependencies();
build();

const given = process.argv.slice(2);
const child = spawn(
  process.execPath,
  ['--min-semi-space-size=16', join(ROOT, 'bin/multitrace'), ...(given.length > 0 ? given : ['demo'])],
  {
    stdio: 'inherit',
  },
);

// A terminal sends SIGINT and SIGQUIT to the whole foreground group: the command has its own, and decides.
// The others come to this process alone.
process.on('SIGINT', () => {});
process.on('SIGQUIT', () => {});
for (const name of ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2']) process.on(name, () => child.kill(name));

child.on('error', error => {
  process.stderr.write(`multitrace: cannot start the command: ${error.message}.\n`);
  process.exit(1);
});
child.on('exit', (code, signal) => {
  if (signal === null) process.exit(code);
  // Die as the command died, so that the caller sees the same status.
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
});

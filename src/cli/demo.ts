/**
 * `multitrace demo`, what `npm start` runs: counts a whole library of a program that is there, and says what it did.
 */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { resolveCommand } from '../process/spawn.js';
import { count } from './count.js';
import { print } from './output.js';

const PACKAGE = fileURLToPath(new URL('../../package.json', import.meta.url));

interface Demonstration {
  readonly program: string;
  readonly selector: string;
  readonly command: readonly string[];
  readonly says: string;
}

function demonstrations(): Demonstration[] {
  const file = existsSync(PACKAGE) ? PACKAGE : '/etc/passwd';
  return [
    {
      program: 'openssl',
      selector: 'libcrypto:*',
      command: ['openssl', 'dgst', '-sha256', file],
      says: 'openssl hashes a file; every function of its libcrypto is counted',
    },
    {
      program: '/usr/bin/python3',
      selector: 'libc:*',
      command: ['/usr/bin/python3', '-c', 'import json; print(json.dumps({"hello": list(range(5))}))'],
      says: 'python3 prints some JSON; every function of its libc is counted',
    },
    {
      program: process.execPath,
      selector: 'libc:*',
      command: [process.execPath, '-e', 'console.log("hello")'],
      says: 'node says hello; every function of its libc is counted',
    },
    {
      program: 'ls',
      selector: 'libc:*',
      command: ['ls', '/'],
      says: 'ls lists /; every function of its libc is counted',
    },
  ];
}

/** Runs the demonstration; the exit status. */
export async function demo(): Promise<number> {
  const chosen = demonstrations().find(({ program }) => {
    try {
      resolveCommand(program, process.env);
      return true;
    } catch {
      return false;
    }
  })!;
  const typed = chosen.command.map(word => (/^[\w./-]+$/.test(word) ? word : `'${word}'`)).join(' ');
  print(`${chosen.says}:\n\n    multitrace count '${chosen.selector}' --top 15 -- ${typed}\n\n`);
  const status = await count([chosen.selector], { command: chosen.command }, { top: 15 });
  print(
    [
      '',
      'The program is unmodified, and needed no root. Try next:',
      '',
      `    npm start -- count '*:*' --top 20 -- ${typed}`,
      `    npm start -- list 'libc:mem*' -- ls`,
      "    npm start -- count 'libc:*alloc*' --duration 5 -p PID",
      '    npm start -- --help',
      '',
    ].join('\n'),
  );
  return status;
}

/**
 * Functions of an ELF file as binutils sees them: a second opinion, independent of the reader under test.
 */

import { execFileSync } from 'node:child_process';

export interface FileFunction {
  readonly name: string;
  /** Virtual address in the file. */
  readonly address: number;
  /** Where its code is in the file. */
  readonly offset: number;
}

const SPACE = 64 * 1024 * 1024;

function output(command: string, args: readonly string[]): string {
  return execFileSync(command, args, {
    encoding: 'utf8',
    maxBuffer: SPACE,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
}

/** Defined functions (not IFUNCs) of `.symtab`, or of `.dynsym` with `dynamic`. */
export function fileFunctions(file: string, dynamic = false): FileFunction[] {
  const segments = output('readelf', ['-lW', file])
    .split('\n')
    .map(line => /^\s+LOAD\s+(0x\w+)\s+(0x\w+)\s+0x\w+\s+(0x\w+)/.exec(line))
    .filter(match => match !== null)
    .map(([, offset, address, size]) => ({
      offset: Number(offset),
      address: Number(address),
      size: Number(size),
    }));
  const functions: FileFunction[] = [];
  for (const line of output('nm', ['--defined-only', ...(dynamic ? ['-D'] : []), file]).split('\n')) {
    const match = /^([0-9a-f]+) [tTwW] (\S+)$/.exec(line);
    if (match === null) continue;
    const address = Number.parseInt(match[1], 16);
    const segment = segments.find(one => address >= one.address && address < one.address + one.size);
    if (segment === undefined) continue;
    // A symbol's version is no part of its name.
    const name = match[2].replace(/@.*/, '');
    functions.push({ name, address, offset: address - segment.address + segment.offset });
  }
  return functions;
}

/** The file that a program's loader takes for a library whose name starts with `name`. */
export function libraryOf(program: string, name: string): string {
  const match = new RegExp(`${name.replaceAll('.', '\\.')}\\S* => (\\S+)`).exec(output('ldd', [program]));
  if (match === null) throw new Error(`${program} does not use ${name}`);
  return match[1];
}

/** Whether the loader chooses the address: a PIE, a static PIE or a library. */
export function isPositionIndependent(file: string): boolean {
  return /Type:\s+DYN/.test(output('readelf', ['-h', file]));
}

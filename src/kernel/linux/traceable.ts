/**
 * What the kernel says of its functions beside their names and types: which ones its ftrace can trace, and of which ones
 * a program may change the result. Both are files of file systems that only root sees, and that may not be mounted.
 */

import { readFileSync } from 'node:fs';
import type { KernelSymbols } from './kallsyms.js';

const TRACEABLE = ['/sys/kernel/tracing', '/sys/kernel/debug/tracing'].map(
  directory => `${directory}/available_filter_functions`,
);
const INJECTABLE = '/sys/kernel/debug/error_injection/list';

const NEWLINE = 0x0a;
const SPACE = 0x20;

/** What ftrace can trace of the symbols of a name: none, all, or some, which it does not tell apart. */
export const TRACED = { NO: 0, YES: 1, SOME_OF_NAME: 2 } as const;

/** By index of a symbol, a number of `TRACED`. `undefined` where nobody may read that. */
export function readTraceable(root: string, symbols: KernelSymbols): Uint8Array | undefined {
  const bytes = firstReadable(TRACEABLE.map(path => root + path));
  if (bytes === undefined || bytes.length === 0) return undefined;
  const traceable = new Uint8Array(symbols.count);
  /** How many lines have the name of a symbol that shares it. */
  const lines = new Map<number, number>();
  let modules = new Map<string, number>();
  const number = (start: number, end: number): number => {
    if (modules.size === 0) modules = new Map(symbols.modules.map((name, index) => [name, index]));
    return modules.get(bytes.toString('latin1', start, end)) ?? -1;
  };
  for (let at = 0; at < bytes.length; ) {
    let end = at;
    while (bytes[end] > SPACE) end++;
    let next = end;
    let owner = 0;
    // `name [module]`
    if (bytes[end] === SPACE) {
      next = bytes.indexOf(NEWLINE, end);
      if (next < 0) next = bytes.length;
      owner = number(end + 2, next - 1);
    }
    symbols.each(bytes, at, end, index => {
      if (symbols.owner(index) !== owner) return;
      traceable[index] = TRACED.YES;
      if (symbols.isDuplicate(index)) lines.set(index, (lines.get(index) ?? 0) + 1);
    });
    at = next + 1;
  }
  for (const [index, count] of lines) {
    const named = symbols
      .find(symbols.name(index))
      .filter(other => symbols.owner(other) === symbols.owner(index));
    if (count < named.length) traceable[index] = TRACED.SOME_OF_NAME;
  }
  return traceable;
}

/** Names of functions whose result may be changed, for errors to be injected; `undefined` where that is not shown. */
export function readInjectable(root: string): ReadonlySet<string> | undefined {
  const text = firstReadable([root + INJECTABLE])?.toString('latin1');
  if (text === undefined) return undefined;
  // `name+0x0/0x20 [module]`, a tab, and what errors it may have.
  return new Set(text.split('\n').map(line => line.split(/[+\s]/, 1)[0]));
}

function firstReadable(paths: readonly string[]): Buffer | undefined {
  for (const path of paths)
    try {
      return readFileSync(path);
    } catch {
      // It is not mounted, or not for us: the next one, or none.
    }
  return undefined;
}

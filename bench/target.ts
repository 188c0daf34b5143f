/**
 * The traced program of the benchmark: compiled, started, and asked over a pipe to make its calls.
 */

import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';

export const ROOT = process.cwd();

/** Compiles a file of bench/targets with gcc; the program's path. */
export function compile(source: string, ...flags: string[]): string {
  const folder = join(ROOT, 'build', 'bench-targets');
  mkdirSync(folder, { recursive: true });
  const program = join(folder, source.replace(/\.c$/, ''));
  execFileSync('gcc', ['-O2', '-o', program, join(ROOT, 'bench', 'targets', source), ...flags]);
  return program;
}

export class Target {
  readonly pid: number;
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: Interface;
  readonly #waiting: ((line: string) => void)[] = [];

  constructor(program: string, args: readonly string[] = []) {
    this.#child = spawn(program, args);
    this.pid = this.#child.pid!;
    this.#lines = createInterface(this.#child.stdout);
    this.#lines.on('line', line => this.#waiting.shift()?.(line));
  }

  /** Sends a command; its answer. */
  ask(command: string): Promise<string> {
    return new Promise(resolve => {
      this.#waiting.push(resolve);
      this.#child.stdin.write(`${command}\n`);
    });
  }

  /** Makes `calls` calls of `what`; ns each. */
  async time(what: string, calls: number): Promise<number> {
    return Number(await this.ask(`${what} ${calls}`));
  }

  end(): void {
    this.#child.stdin.end();
    this.#lines.close();
  }
}

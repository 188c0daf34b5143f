/** Other programs that the benchmark runs: where they are, and running them with a limit of time. */

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { basename, delimiter, join } from 'node:path';

/** Not in the terminal's group: Ctrl-C is for us to deal with. */
export const OWN_GROUP = { detached: true } as const;

/** The file that a command's name stands for, if any, in these folders or those of PATH. */
export function commandPath(
  command: string,
  folders: readonly string[] = (process.env.PATH ?? '').split(delimiter),
): string | undefined {
  return folders.map(folder => join(folder, command)).find(path => existsSync(path));
}

export interface CommandResult {
  /** `null` where it was killed because it took too long. */
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command to its end, at most `timeoutMs`. */
export function runCommand(
  [file, ...args]: readonly string[],
  timeoutMs: number,
  input = '',
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, OWN_GROUP);
    const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', data => {
      stdout += data;
    });
    child.stderr.on('data', data => {
      stderr += data;
    });
    child.stdin.on('error', () => {});
    child.stdin.end(input);
    child.on('error', cause => {
      clearTimeout(timer);
      reject(cause);
    });
    child.on('close', status => {
      clearTimeout(timer);
      resolve({ status, stdout, stderr });
    });
  });
}

/** A command that runs beside us and is talked to; it is killed where it does not do what is waited for in time. */
export class RunningCommand {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #ended: Promise<void>;
  readonly #name: string;
  #output = '';
  #over = false;

  constructor([file, ...args]: readonly string[]) {
    this.#name = basename(file);
    this.#child = spawn(file, args, OWN_GROUP);
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream.on('data', data => {
        this.#output += data;
      });
    this.#child.stdin.on('error', () => {});
    this.#ended = new Promise(resolve => {
      const gone = (): void => {
        this.#over = true;
        resolve();
      };
      this.#child.on('error', gone);
      this.#child.on('close', gone);
    });
  }

  /** Everything that it has printed. */
  get output(): string {
    return this.#output;
  }

  write(line: string): void {
    this.#child.stdin.write(`${line}\n`);
  }

  /** Ctrl-C. */
  interrupt(): void {
    this.#child.kill('SIGINT');
  }

  /** Waits till `done` says so; what it printed in the case of a failure is in the error. */
  async until(what: string, done: () => boolean, timeoutMs = 15_000): Promise<void> {
    const end = performance.now() + timeoutMs;
    while (!done()) {
      const late = performance.now() > end;
      if (late || this.#over) {
        this.kill();
        const words = this.#output.split('\n').filter(line => line.trim() !== '');
        throw new Error(
          `${this.#name} ${late ? `had not ${what} after ${timeoutMs / 1000} s` : `ended: ${words.at(-1) ?? 'it said nothing'}`}`,
        );
      }
      await new Promise(resolve => setTimeout(resolve, 5));
    }
  }

  /** Waits till it has ended, and kills it where it does not. */
  async end(timeoutMs = 15_000): Promise<void> {
    this.#child.stdin.end();
    const timer = setTimeout(() => this.kill(), timeoutMs);
    await this.#ended;
    clearTimeout(timer);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }
}

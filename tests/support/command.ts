/**
 * Runs programs, the command under test above all, so that no test can hang: every run has a hard time limit,
 * after which the process and what it started are killed, each by its own number, and the run says so.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { MULTITRACE } from './paths.js';

export interface RunOptions {
  /** Written to standard input, which is then closed; without it standard input is /dev/null. */
  readonly input?: string | Buffer;
  /** The whole environment; this process's where left out. */
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** The hard limit; 60 s where left out. */
  readonly timeoutMs?: number;
}

/** What a run did. */
export interface Run {
  /** Exit status as a shell gives it: 128 + n for a death by signal n. */
  readonly status: number;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly bytes: Buffer;
  readonly durationMs: number;
  /** The command line, for messages. */
  readonly line: string;
}

/** The processes that `pid` started and that still run, their children first. */
export function descendants(pid: number): number[] {
  const found: number[] = [];
  let threads: string[];
  try {
    threads = readdirSync(`/proc/${pid}/task`);
  } catch {
    return found;
  }
  for (const thread of threads) {
    let children = '';
    try {
      children = readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8');
    } catch {
      // The thread ended while we looked.
    }
    for (const child of children.split(' ').filter(word => word !== '')) {
      found.push(...descendants(Number(child)), Number(child));
    }
  }
  return found;
}

/** SIGKILL to one process that the test started; nothing where it is gone already. */
export function killOne(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}

/** A process of this test with everything that it started. */
export function killTree(pid: number): void {
  const tree = [pid, ...descendants(pid)];
  for (const one of tree) killOne(one);
}

function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A program that runs while the test talks to it. Call `stop` in the end (`onTestFinished`). */
export class Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Run>;
  private readonly chunks: Buffer[] = [];
  private err = '';
  private timedOut = false;
  private over = false;
  private readonly changed = new Set<() => void>();

  constructor(
    command: string,
    args: readonly string[],
    options: RunOptions & { readonly keepInput?: boolean } = {},
  ) {
    const line = [command, ...args].map(quote).join(' ');
    const started = performance.now();
    const hasInput = options.input !== undefined || options.keepInput === true;
    const child = spawn(command, args, {
      stdio: [hasInput ? 'pipe' : 'ignore', 'pipe', 'pipe'],
      ...(options.env === undefined ? {} : { env: options.env }),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    this.child = child;
    child.stdout!.on('data', (chunk: Buffer) => {
      this.chunks.push(chunk);
      for (const wake of this.changed) wake();
    });
    child.stderr!.setEncoding('utf8');
    child.stderr!.on('data', (chunk: string) => {
      this.err += chunk;
      for (const wake of this.changed) wake();
    });
    if (options.input !== undefined) {
      child.stdin!.on('error', () => {}); // The program may end without reading all of it.
      child.stdin!.end(options.input);
    }
    const timeoutMs = options.timeoutMs ?? 60_000;
    this.ended = new Promise((resolve, reject) => {
      const limit = setTimeout(() => {
        this.timedOut = true;
        if (child.pid !== undefined) killTree(child.pid);
        // A grandchild that lives on keeps the pipes open: don't wait for them.
        setTimeout(() => {
          child.stdout?.destroy();
          child.stderr?.destroy();
        }, 500);
      }, timeoutMs);
      child.on('error', error => {
        clearTimeout(limit);
        reject(error);
      });
      child.on('close', (code, signal) => {
        clearTimeout(limit);
        this.over = true;
        for (const wake of this.changed) wake();
        const bytes = Buffer.concat(this.chunks);
        const run: Run = {
          status: code ?? 128 + (signal === null ? 0 : constants.signals[signal]),
          signal,
          stdout: bytes.toString(),
          stderr: this.err,
          bytes,
          durationMs: performance.now() - started,
          line,
        };
        if (this.timedOut) {
          reject(new Error(`still running after ${timeoutMs} ms: ${describeRun(run)}`));
        } else resolve(run);
      });
    });
    // Who does not await `ended` still waits in `stop`.
    this.ended.catch(() => {});
  }

  get pid(): number {
    return this.child.pid!;
  }

  get stdoutSoFar(): string {
    return Buffer.concat(this.chunks).toString();
  }

  get stderrSoFar(): string {
    return this.err;
  }

  /** Writes one line to standard input (`keepInput`). */
  say(line: string): void {
    this.child.stdin!.write(`${line}\n`);
  }

  /** Waits till standard output (or error) matches; the match. Fails after `timeoutMs` or when the program ends. */
  async expectOutput(
    pattern: RegExp,
    stream: 'stdout' | 'stderr' = 'stdout',
    timeoutMs = 20_000,
  ): Promise<RegExpExecArray> {
    const deadline = performance.now() + timeoutMs;
    let wake = () => {};
    const awake = () => wake();
    this.changed.add(awake);
    try {
      for (;;) {
        const changed = new Promise<void>(resolve => {
          wake = resolve;
        });
        const text = stream === 'stdout' ? this.stdoutSoFar : this.err;
        const match = pattern.exec(text);
        if (match !== null) return match;
        const left = deadline - performance.now();
        if (this.over || left <= 0) {
          throw new Error(
            `${this.over ? 'ended' : `${timeoutMs} ms`} without ${pattern} on ${stream}: ${text}\nstderr: ${this.err}`,
          );
        }
        let timer: NodeJS.Timeout | undefined;
        await Promise.race([
          changed,
          new Promise<void>(resolve => {
            timer = setTimeout(resolve, left);
          }),
        ]);
        clearTimeout(timer);
      }
    } finally {
      this.changed.delete(awake);
    }
  }

  /** Kills it and all it started, and waits for the end. */
  async stop(): Promise<void> {
    if (!this.over) killTree(this.pid);
    await this.ended.catch(() => {});
  }
}

/** Command line, status and both streams of a run, shortened, for a failure's message. */
export function describeRun(run: Run): string {
  const short = (text: string) =>
    text.length > 3000 ? `${text.slice(0, 1500)}\n…\n${text.slice(-1500)}` : text;
  return `${run.line}\nstatus ${run.status}${run.signal ? ` (${run.signal})` : ''} after ${Math.round(run.durationMs)} ms\n--- stdout\n${short(run.stdout)}\n--- stderr\n${short(run.stderr)}`;
}

/** Runs a program to its end. Rejects where it has not ended in time. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Run> {
  return new Running(command, args, options).ended;
}

/** Runs bin/multitrace to its end. */
export function multitrace(args: readonly string[], options: RunOptions = {}): Promise<Run> {
  return run(process.execPath, [MULTITRACE, ...args], options);
}

/** Starts bin/multitrace and leaves it running. */
export function startMultitrace(
  args: readonly string[],
  options: RunOptions & { readonly keepInput?: boolean } = {},
): Running {
  return new Running(process.execPath, [MULTITRACE, ...args], options);
}

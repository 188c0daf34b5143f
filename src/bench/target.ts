/**
 * The traced program of the benchmark (bench/targets/traced.c): compiled, started, and asked over a pipe to make its
 * calls. No question waits for ever: a program that does not answer in time is killed, and the row fails.
 */

import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { ElfFile } from '../elf/file.js';
import { BpfError } from '../kernel/errno.js';
import { commandPath, OWN_GROUP } from './commands.js';

const SOURCE = fileURLToPath(new URL('../../bench/targets/traced.c', import.meta.url));
const ANSWER_MS = 120_000;
/** A child of this node can't be followed (its events would go to node); a shell's child can. */
const NOT_OUR_CHILD = 'exec 3<&0; "$@" <&3 3<&- & exec 3<&-; wait';

/** What `Target.run` did. */
export interface Run {
  /** Calls made in all, the warm-up with them. */
  readonly made: number;
  /** Of what they returned. */
  readonly sum: number;
  /** From the first thread's begin to the last one's end, without the warm-up. */
  readonly ns: number;
  /** Of these, for how long the threads had a processor. */
  readonly processorNs: number;
}

/** The traced program, compiled in a folder of its own, which goes with it. */
export class TracedProgram implements Disposable {
  readonly path: string;
  readonly folder: string;
  readonly #elf: ElfFile;

  /** Throws ENOENT where there is no gcc. */
  constructor() {
    if (commandPath('gcc') === undefined)
      throw new BpfError(
        'ENOENT',
        'the benchmark compiles its traced program with gcc, which is not installed; install it (Debian: apt-get install gcc libc6-dev)',
      );
    this.folder = mkdtempSync(join(tmpdir(), 'multitrace-bench-'));
    this.path = join(this.folder, 'traced');
    try {
      execFileSync('gcc', ['-O2', '-pthread', '-o', this.path, SOURCE, '-ldl'], {
        stdio: ['ignore', 'ignore', 'pipe'],
        encoding: 'utf8',
      });
    } catch (cause) {
      this[Symbol.dispose]();
      const words = (cause as { stderr?: string }).stderr?.split('\n').find(line => line.includes('error'));
      throw new BpfError('ENOENT', `gcc can't compile the benchmark's traced program: ${words ?? cause}`);
    }
    this.#elf = ElfFile.open(this.path);
  }

  /** Offset in the file of a function's first instruction. */
  fileOffset(name: string): number {
    const symbol = this.#elf.symbols().find(s => s.name === name)!;
    return fileOffset(this.#elf, symbol.value);
  }

  /** Starts it, with libraries that it loads. */
  async start(libraries: readonly string[] = []): Promise<Target> {
    return Target.start(['/bin/sh', '-c', NOT_OUR_CHILD, 'sh', this.path, ...libraries]);
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Offset in the file of what is at virtual address `value`. */
export function fileOffset(elf: ElfFile, value: number): number {
  const segment = elf.segments.find(s => value >= s.vaddr && value < s.vaddr + s.filesz)!;
  return value - segment.vaddr + segment.offset;
}

/** The program as it runs. */
export class Target {
  /** The traced program itself, also where another command started it. */
  pid = 0;
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: Interface;
  readonly #waiting: { answer: (line: string) => void; fail: (cause: Error) => void }[] = [];
  readonly #ended: Promise<void>;
  #stderr = '';

  /** `command` is the program, or one that runs it and leaves it our standard input and output. */
  static async start(command: readonly string[]): Promise<Target> {
    const target = new Target(command);
    target.pid = Number(await target.ask('pid'));
    return target;
  }

  private constructor([file, ...args]: readonly string[]) {
    this.#child = spawn(file, args, OWN_GROUP);
    this.#child.stderr.on('data', data => {
      this.#stderr += data;
    });
    this.#child.stdin.on('error', () => {});
    this.#lines = createInterface(this.#child.stdout);
    this.#lines.on('line', line => this.#waiting.shift()?.answer(line));
    this.#ended = new Promise(resolve => {
      const gone = (): void => {
        for (const { fail } of this.#waiting.splice(0)) fail(new BpfError('ESRCH', this.#lastWords));
        resolve();
      };
      this.#child.on('error', gone);
      this.#child.on('close', gone);
    });
  }

  get #lastWords(): string {
    const [line] = this.#stderr.split('\n').filter(text => text.trim() !== '');
    return `the traced program of the benchmark ended${line === undefined ? '' : `: ${line}`}`;
  }

  /** What it, or the command that runs it, has written to standard error. */
  get stderr(): string {
    return this.#stderr;
  }

  /** Sends a command; its answer. */
  async ask(command: string): Promise<string> {
    const timer = setTimeout(() => this.kill(), ANSWER_MS);
    try {
      const line = await new Promise<string>((answer, fail) => {
        this.#waiting.push({ answer, fail });
        this.#child.stdin.write(`${command}\n`);
      });
      if (line.startsWith('?'))
        throw new BpfError('EIO', `the traced program of the benchmark answers '${line}' to '${command}'`);
      return line;
    } finally {
      clearTimeout(timer);
    }
  }

  /** `threads` threads each call `what` so many times. */
  async run(what: string, threads: number, calls: number): Promise<Run> {
    const answer = await this.ask(`run ${what} ${threads} ${calls}`);
    const [made, sum, ns, processorNs] = answer.split(' ').map(Number);
    return { made, sum, ns, processorNs };
  }

  /** Ends it, and waits till it has ended. */
  async end(): Promise<void> {
    this.#child.stdin.end();
    const timer = setTimeout(() => this.kill(), 10_000);
    await this.#ended;
    clearTimeout(timer);
    this.#lines.close();
  }

  kill(): void {
    if (this.pid > 0 && this.pid !== this.#child.pid && this.#child.exitCode === null)
      try {
        process.kill(this.pid, 'SIGKILL');
      } catch {
        // It ended before.
      }
    this.#child.kill('SIGKILL');
  }
}

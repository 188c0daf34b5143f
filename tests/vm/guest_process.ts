/** A program that runs in a guest, seen from the test. */

export interface RunOptions {
  /** Written to standard input, which is then closed; empty where left out. */
  readonly input?: string | Uint8Array;
  /** Added to the agent's environment. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** The hard limit; 120 s where left out. */
  readonly timeoutMs?: number;
  /** Standard input stays open, for `say`. */
  readonly keepInput?: boolean;
}

/** What a run did. `status` is null for a death by a signal. */
export interface GuestRun {
  readonly status: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Standard output. */
  readonly bytes: Buffer;
  readonly durationMs: number;
}

/** A process that was killed is gone by then. */
const GRACE_MS = 10_000;

interface Agent {
  write(bytes: Uint8Array, end: boolean): void;
  kill(signal: string, group: boolean): Promise<void>;
}

export class GuestProcess {
  private readonly output = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  private readonly started = performance.now();
  private line = '';
  private readonly changed = new Set<() => void>();
  private over = false;
  private settle!: { resolve: (run: GuestRun) => void; reject: (error: Error) => void };
  /** Rejects where the machine ends first. */
  readonly ended: Promise<GuestRun>;

  constructor(
    readonly pid: number,
    private readonly agent: Agent,
  ) {
    this.ended = new Promise((resolve, reject) => {
      this.settle = { resolve, reject };
    });
    this.ended.catch(() => {}); // Not everyone waits for the end.
  }

  get stdoutSoFar(): string {
    return Buffer.concat(this.output.stdout).toString();
  }

  get stderrSoFar(): string {
    return Buffer.concat(this.output.stderr).toString();
  }

  /** Writes one line to standard input (`keepInput`). */
  say(line: string): void {
    this.write(`${line}\n`, false);
  }

  /** Writes to standard input, and closes it where `end` is set. */
  write(content: string | Uint8Array, end: boolean): void {
    this.agent.write(typeof content === 'string' ? Buffer.from(content) : content, end);
  }

  /** Sends a signal to the process; nothing where it has ended. */
  kill(signal = 'SIGTERM'): Promise<void> {
    return this.agent.kill(signal, false);
  }

  /** Waits for the end. After `timeoutMs` it is killed with all that it started, and this rejects. */
  async waitForEnd(timeoutMs = 120_000): Promise<GuestRun> {
    const timers: NodeJS.Timeout[] = [];
    const late = new Promise<'late'>(resolve => {
      const kill = (): void => {
        this.agent.kill('SIGKILL', true).catch(() => {});
        // It is gone at once, or else the guest hangs.
        const gone = () => resolve('late');
        void this.ended.then(gone, gone);
        timers.push(setTimeout(gone, GRACE_MS));
      };
      timers.push(setTimeout(kill, timeoutMs));
    });
    try {
      const run = await Promise.race([late, this.ended]);
      if (run !== 'late' && timers.length === 1) return run;
      throw new Error(`in the guest: still running after ${timeoutMs} ms: ${this.said()}`);
    } finally {
      for (const timer of timers) clearTimeout(timer);
    }
  }

  /** Waits till a stream's text so far matches; the match. Fails after `timeoutMs` or when the program ends. */
  async expectOutput(
    pattern: RegExp,
    stream: 'stdout' | 'stderr' = 'stdout',
    timeoutMs = 30_000,
  ): Promise<RegExpExecArray> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const match = pattern.exec(stream === 'stdout' ? this.stdoutSoFar : this.stderrSoFar);
      if (match !== null) return match;
      const left = deadline - performance.now();
      if (this.over || left <= 0) {
        const why = this.over ? 'ended' : `ran ${timeoutMs} ms`;
        throw new Error(`in the guest: ${why} without ${pattern} on ${stream}: ${this.said()}`);
      }
      await new Promise<void>(resolve => {
        const wake = () => {
          clearTimeout(timer);
          this.changed.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, left);
        this.changed.add(wake);
      });
    }
  }

  /** For Guest: the command line, for messages. */
  begin(argv: readonly string[]): void {
    this.line = argv.join(' ');
  }

  /** For Guest: some output has come. */
  hear(stream: 'stdout' | 'stderr', bytes: Buffer): void {
    this.output[stream].push(bytes);
    this.wakeAll();
  }

  /** For Guest: the process has ended, and all of its output has come. */
  end(status: number | null, signal: string | null): void {
    const bytes = Buffer.concat(this.output.stdout);
    const durationMs = performance.now() - this.started;
    this.over = true;
    this.settle.resolve({
      ...{ status, signal, bytes, durationMs },
      stdout: bytes.toString(),
      stderr: this.stderrSoFar,
    });
    this.wakeAll();
  }

  /** For Guest: the machine is gone. */
  fail(error: Error): void {
    this.over = true;
    this.settle.reject(error);
    this.wakeAll();
  }

  private wakeAll(): void {
    for (const wake of [...this.changed]) wake();
  }

  private said(): string {
    const short = (text: string) => (text.length > 2000 ? `…${text.slice(-2000)}` : text);
    return `${this.line}\n--- stdout\n${short(this.stdoutSoFar)}\n--- stderr\n${short(this.stderrSoFar)}`;
  }
}

/**
 * A virtual machine with one of the kernels of kernels.ts, under qemu's own emulation: boots it, runs programs in it,
 * and ends it in every case, also where the test process dies.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, readFileSync, writevSync } from 'node:fs';
import type { Duplex } from 'node:stream';
import { memfdCreate } from '../../src/ffi/libc.js';
import { encodeFrame, FrameReader, type Message, type Request } from './guest/frames.js';
import { GuestProcess, type GuestRun, type RunOptions } from './guest_process.js';
import { GUEST_ROOT, initramfs, PORT } from './initramfs.js';
import type { VmKernel } from './kernels.js';

export interface BootOptions {
  /** More words for the kernel's command line, such as 'lockdown=confidentiality'. */
  readonly append?: string;
  /** Files that are there at boot: path in the guest to contents, or to a path on this machine. Executable. */
  readonly files?: Readonly<Record<string, Uint8Array | string>>;
  /**
   * 2 where left out. One for what patches thousands of functions under load: of two busy processors, emulated in turns,
   * each waits for up to 0.1 s until the other takes an interrupt, and each patch takes some.
   */
  readonly processors?: 1 | 2;
  /** Until the agent is ready; 120 s where left out. */
  readonly timeoutMs?: number;
}

const COMMAND_FD = 3;
const ARCHIVE_FD = 4;
/** `panic=-1` with qemu's -no-reboot: a panic ends qemu at once. An oops is one too: nothing after it can be trusted. */
const COMMAND_LINE =
  'console=ttyS0 quiet no_timer_check panic=-1 oops=panic mitigations=off tsc=reliable nokaslr random.trust_cpu=on';
/** The agent answers at once, however long what it starts takes: if not by then, the guest hangs. */
const ANSWER_MS = 90_000;
/** Lines of the kernel's log that no test may cause. */
const COMPLAINT =
  /BUG:|WARNING:|Oops|general protection|Call Trace|UBSAN|KASAN|lockdep|RCU.*stall|rcu:.*stall/;

/** What a request without its `id` is. */
type Asked = Request extends infer R ? (R extends unknown ? Omit<R, 'id'> : never) : never;
interface Answer {
  /** What was started: it may have ended by the time that the answer is looked at. */
  readonly started: GuestProcess | undefined;
  readonly bytes: Buffer;
}
interface Waiting {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

export class Guest {
  private readonly waiting = new Map<number, Waiting>();
  private readonly processes = new Map<number, GuestProcess>();
  private readonly commands: Duplex;
  private nextId = 1;
  private text = '';
  private over = false;
  private whenReady: () => void = () => {};
  private readonly ready = new Promise<void>(resolve => {
    this.whenReady = resolve;
  });
  /** Resolves when qemu is gone. */
  readonly ended: Promise<void>;

  private constructor(
    readonly kernel: VmKernel,
    private readonly qemu: ChildProcess,
  ) {
    qemu.stdout!.setEncoding('utf8');
    qemu.stderr!.setEncoding('utf8');
    const hear = (text: string) => {
      this.text += text.replaceAll('\r', '');
    };
    qemu.stdout!.on('data', hear);
    qemu.stderr!.on('data', hear);
    this.commands = qemu.stdio[COMMAND_FD] as Duplex;
    this.commands.on('error', () => {}); // qemu ended: its exit is what counts.
    const reader = new FrameReader((value, bytes) => this.take(value as Message, bytes));
    this.commands.on('data', (chunk: Buffer) => reader.push(chunk));
    this.ended = new Promise(resolve => {
      qemu.on('error', error => hear(`${error.message}\n`));
      qemu.on('close', () => {
        this.over = true;
        const error = this.endedError();
        for (const { reject } of this.waiting.values()) reject(error);
        for (const process of this.processes.values()) process.fail(error);
        resolve();
      });
    });
  }

  /** Starts a machine; resolves when its agent is ready. */
  static async boot(kernel: VmKernel, options: BootOptions = {}): Promise<Guest> {
    const archive = memfdCreate('initramfs');
    let qemu: ChildProcess;
    try {
      writeAll(archive, initramfs(kernel, options.files ?? {}));
      const command = [
        ...['--pdeathsig', 'KILL', 'qemu-system-x86_64'],
        ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
        // 5-level page tables panic some kernels under emulation. Emulated processors take turns on one thread: on
        // threads of their own they now and then run instructions that another has just patched as they were before,
        // and the kernel, which patches itself in steps that a real processor keeps, dies of an int3.
        ...['-machine', 'pc', '-accel', 'tcg,thread=single', '-cpu', 'max,la57=off', '-m', '2G'],
        ...['-smp', `${options.processors ?? 2}`],
        ...['-kernel', kernel.image, '-initrd', `/proc/self/fd/${ARCHIVE_FD}`],
        ...['-append', [COMMAND_LINE, options.append ?? ''].join(' ').trim()],
        ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
        ...['-chardev', `socket,id=commands,fd=${COMMAND_FD}`, '-device', 'virtio-serial-pci'],
        ...['-device', `virtserialport,chardev=commands,name=${PORT}`],
      ];
      qemu = spawn('setpriv', command, { stdio: ['ignore', 'pipe', 'pipe', 'pipe', archive] });
    } finally {
      closeSync(archive);
    }
    const guest = new Guest(kernel, qemu);
    const timeoutMs = options.timeoutMs ?? 120_000;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const sentence = `the ${kernel.name} kernel was not ready after ${timeoutMs} ms`;
      timer = setTimeout(() => reject(new Error(`${sentence}\n${guest.lastLines()}`)), timeoutMs);
    });
    try {
      await Promise.race([
        guest.ready,
        late,
        guest.ended.then(() => {
          throw guest.endedError();
        }),
      ]);
    } catch (error) {
      await guest.kill();
      throw error;
    } finally {
      clearTimeout(timer);
    }
    return guest;
  }

  /** Starts a program that runs while the test talks to it. */
  async spawn(argv: readonly string[], options: Omit<RunOptions, 'timeoutMs'> = {}): Promise<GuestProcess> {
    const { started } = await this.ask({
      op: 'spawn',
      argv,
      ...(options.env === undefined ? {} : { env: options.env }),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    if (started === undefined) throw new Error(`in the guest: ${argv[0]} was started, but has no number`);
    started.begin(argv);
    if (options.keepInput !== true) started.write(options.input ?? '', true);
    else if (options.input !== undefined) started.write(options.input, false);
    return started;
  }

  /** Runs a program to its end. Rejects where it has not ended in time (120 s), after killing it. */
  async run(argv: readonly string[], options: RunOptions = {}): Promise<GuestRun> {
    return (await this.spawn(argv, options)).waitForEnd(options.timeoutMs);
  }

  /** Runs the command to its end. */
  multitrace(args: readonly string[], options: RunOptions = {}): Promise<GuestRun> {
    return this.run(['node', '--min-semi-space-size=16', `${GUEST_ROOT}/bin/multitrace`, ...args], options);
  }

  /** Runs tests/vm/guest/NAME.ts; what it printed, one JSON value a line. Rejects where its status is not 0. */
  async script<T = unknown>(
    name: string,
    args: readonly string[] = [],
    options: RunOptions = {},
  ): Promise<T[]> {
    const program = `${GUEST_ROOT}/tests/vm/guest/${name}.js`;
    const done = await this.run(['node', program, ...args], options);
    if (done.status !== 0) {
      throw new Error(
        `${name} ended with status ${done.status ?? done.signal}:\n${done.stdout}${done.stderr}`,
      );
    }
    return done.stdout
      .split('\n')
      .filter(line => line !== '')
      .map(line => JSON.parse(line) as T);
  }

  /** Writes a file, and the folders above it; from bytes, or from a file of this machine. */
  async put(path: string, content: Uint8Array | string, mode = 0o755): Promise<void> {
    await this.ask({ op: 'put', path, mode }, typeof content === 'string' ? readFileSync(content) : content);
  }

  /** A file's contents. */
  async get(path: string): Promise<Buffer> {
    return (await this.ask({ op: 'get', path })).bytes;
  }

  /** All that came over the console, qemu's own messages too. */
  get console(): string {
    return this.text;
  }

  get alive(): boolean {
    return !this.over;
  }

  /** The number of qemu's process on this machine. */
  get pid(): number {
    return this.qemu.pid!;
  }

  /** The lines of the kernel's log that tell of something wrong in the kernel: no test may cause one. */
  async complaints(): Promise<string[]> {
    const log = (await this.run(['dmesg'])).stdout;
    return log.split('\n').filter(line => COMPLAINT.test(line));
  }

  /** Ends the machine; its kernel's complaints until now, none where it was gone already. */
  async close(): Promise<string[]> {
    try {
      return this.over ? [] : await this.complaints();
    } finally {
      await this.kill();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  private async kill(): Promise<void> {
    if (!this.over) this.qemu.kill('SIGKILL');
    await this.ended;
  }

  private ask(request: Asked, bytes?: Uint8Array): Promise<Answer> {
    if (this.over) return Promise.reject(this.endedError());
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => {
        this.waiting.delete(id);
        const sentence = `the ${this.kernel.name} kernel's agent did not answer '${request.op}' in ${ANSWER_MS} ms`;
        reject(new Error(`${sentence}\n${this.lastLines()}`));
      }, ANSWER_MS);
      this.waiting.set(id, {
        resolve: answer => {
          clearTimeout(late);
          resolve(answer);
        },
        reject: error => {
          clearTimeout(late);
          reject(error);
        },
      });
      this.commands.write(encodeFrame({ ...request, id } as Request, bytes));
    });
  }

  /** The process of a number; output may come before the answer that names it. */
  private processOf(pid: number): GuestProcess {
    const known = this.processes.get(pid);
    if (known !== undefined) return known;
    const process = new GuestProcess(pid, {
      write: (bytes, end) => void this.ask({ op: 'write', pid, end }, bytes).catch(() => {}),
      kill: async (signal, group) => void (await this.ask({ op: 'kill', pid, signal, group })),
    });
    this.processes.set(pid, process);
    return process;
  }

  private take(message: Message, bytes: Buffer): void {
    switch (message.kind) {
      case 'ready':
        this.whenReady();
        break;
      case 'answer': {
        const waiting = this.waiting.get(message.id);
        this.waiting.delete(message.id);
        if (message.error !== undefined) waiting?.reject(new Error(`in the guest: ${message.error}`));
        else {
          const started = message.pid === undefined ? undefined : this.processOf(message.pid);
          waiting?.resolve({ started, bytes });
        }
        break;
      }
      case 'output':
        this.processOf(message.pid).hear(message.stream, bytes);
        break;
      case 'end':
        this.processOf(message.pid).end(message.status, message.signal);
        this.processes.delete(message.pid);
        break;
    }
  }

  private endedError(): Error {
    const panic = /Kernel panic - not syncing: .*/.exec(this.text)?.[0];
    const sentence =
      panic === undefined
        ? `the virtual machine with the ${this.kernel.name} kernel has ended`
        : `the ${this.kernel.name} kernel (${this.kernel.version}) panicked: ${panic}`;
    return new Error(`${sentence}\n${this.lastLines()}`);
  }

  private lastLines(): string {
    return this.text.trimEnd().split('\n').slice(-40).join('\n');
  }
}

function writeAll(fd: number, pieces: readonly Uint8Array[]): void {
  // writev takes at most 1024 pieces (IOV_MAX).
  for (let at = 0; at < pieces.length; at += 1000) {
    const some = pieces.slice(at, at + 1000);
    const wanted = some.reduce((sum, piece) => sum + piece.length, 0);
    if (writevSync(fd, some) !== wanted) throw new Error('the initramfs could not be written whole');
  }
}

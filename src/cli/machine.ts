/** Which machine a command line means, a live process or the running kernel, and a session on it. */

import { readlinkSync } from 'node:fs';
import { BpfError } from '../kernel/errno.js';
import type { Kernel, Way } from '../kernel/kernel.js';
import type { SessionTool, TracingSession } from '../kernel/session.js';
import { openProcess } from '../process/process.js';
import { resolveCommand } from '../process/spawn.js';
import { parseSelector } from '../process/symbols/selector.js';
import { parseTids } from '../tools/filters.js';
import type { ThreadChoice } from '../tools/thread_choice.js';
import { note } from './output.js';
import type { StopSignals } from './stop_signals.js';

export const MACHINES = ['process', 'kernel'] as const;
export const WAYS = ['tracing_multi', 'kprobe_multi', 'tracing'] as const satisfies readonly Way[];
/** Names of the module that holds what is built into the kernel. */
const KERNEL_MODULES: readonly string[] = ['kernel', 'vmlinux'];

/** Options of every command that can trace the kernel. */
export interface MachineOptions {
  readonly pid?: number;
  readonly machine?: (typeof MACHINES)[number];
  readonly way?: Way;
  readonly maxLinks?: number;
}

/** A live process. */
export type ProcessWhat = { readonly command: readonly string[] } | { readonly pid: number };

/** The running kernel, until the command or the process ends where there is one. */
export interface KernelWhat {
  readonly kernel: {
    readonly way?: Way;
    readonly maxLinks?: number;
    /** Only calls of this process. */
    readonly pid?: number;
  };
  readonly command?: readonly string[];
}

/** What is traced. */
export type What = ProcessWhat | KernelWhat;

/** Takes `-p` or the command, exactly one. Throws EINVAL. */
export function processToTrace(pid: number | undefined, command: readonly string[] | undefined): ProcessWhat {
  if (pid !== undefined && command !== undefined) throw notBoth();
  if (pid !== undefined) return { pid };
  if (command === undefined || command.length === 0)
    throw new BpfError(
      'EINVAL',
      "nothing to trace: give a running process with -p PID, or a command after --; 'kernel:FUNCTION' traces the kernel",
    );
  return { command };
}

function notBoth(): BpfError {
  return new BpfError('EINVAL', 'both -p and a command after -- are given; give one of them');
}

/** Whether some selector is of the kernel, so that all are. */
export function namesKernel(selectors: readonly string[]): boolean {
  return selectors.some(text => {
    const { module, excludes } = parseSelector(text);
    return !excludes && module !== undefined && KERNEL_MODULES.includes(module);
  });
}

/** Whether the options, or the selectors where they leave it open, mean the kernel. */
export function meansKernel({ machine }: MachineOptions, selectors: readonly string[]): boolean {
  return machine === undefined ? namesKernel(selectors) : machine === 'kernel';
}

/** What a command line is to trace. Throws EINVAL for what goes not together. */
export function whatToTrace(
  options: MachineOptions,
  command: readonly string[] | undefined,
  selectors: readonly string[],
): What {
  const { pid, way, maxLinks } = options;
  if (!meansKernel(options, selectors)) {
    const only = way !== undefined ? '--way' : maxLinks !== undefined ? '--max-links' : undefined;
    if (only !== undefined)
      throw new BpfError(
        'EINVAL',
        `${only} is for the kernel; add --machine kernel, or name functions as kernel:FUNCTION`,
      );
    return processToTrace(pid, command);
  }
  if (pid !== undefined && command !== undefined) throw notBoth();
  if (command?.length === 0) throw new BpfError('EINVAL', 'there is no command after --');
  return {
    kernel: {
      ...(way === undefined ? {} : { way }),
      ...(maxLinks === undefined ? {} : { maxLinks }),
      ...(pid === undefined ? {} : { pid }),
    },
    ...(command === undefined ? {} : { command }),
  };
}

export function isKernel(what: What): what is KernelWhat {
  return 'kernel' in what;
}

/**
 * Whose calls are wanted: `tids` are those of `--tid`. Of the kernel's functions `-p` chooses too; a process that is traced
 * itself has no others. Throws EINVAL.
 */
export function threadsOf(what: What, tids?: string): ThreadChoice {
  return {
    ...(isKernel(what) && what.kernel.pid !== undefined ? { pid: what.kernel.pid } : {}),
    ...(tids === undefined ? {} : { tids: parseTids(tids) }),
  };
}

/** `/proc/self/ns/pid` of processes that are in no container. */
const FIRST_PID_NAMESPACE = 'pid:[4026531836]';

/** Processes have the same numbers here as in the kernel's programs. */
export function numberedByKernel(): boolean {
  return readlinkSync('/proc/self/ns/pid') === FIRST_PID_NAMESPACE;
}

export interface OpenOptions {
  /** Our file descriptor that becomes a command's standard output. */
  readonly stdout?: number;
  /** Caught before a process is touched. Without them a signal ends us, and a command that is being opened with us. */
  readonly signals?: StopSignals;
  /** The kernel: a look at it before anything is loaded. */
  before?(kernel: Kernel): void;
}

/** Begins a session. Throws where that can't be done, for the kernel with the reason why it lets nobody trace it. */
export async function openSession(
  what: What,
  tool: SessionTool,
  options: OpenOptions = {},
): Promise<TracingSession> {
  const stdout = options.stdout === undefined ? {} : { stdout: options.stdout };
  if (isKernel(what)) {
    const { pid, ...how } = what.kernel;
    if (pid !== undefined && !numberedByKernel())
      throw new BpfError(
        'EOPNOTSUPP',
        '-p needs the numbers that the kernel itself gives to processes, and in this container they have others; run multitrace outside of it, or trace all processes',
      );
    const { KernelSession } = await import('../kernel/linux/session.js');
    const { LinuxKernel } = await import('../kernel/linux/machine.js');
    const kernel = new LinuxKernel({ ...how, progress: note });
    // What is wrong with the command line is told first.
    if (what.command !== undefined) resolveCommand(what.command[0], process.env);
    if (pid !== undefined) openProcess(pid);
    options.before?.(kernel);
    try {
      return KernelSession.start(kernel, what.command, tool, {
        ...stdout,
        ...(pid === undefined ? {} : { pid }),
      });
    } catch (cause) {
      throw await whyNot(cause);
    }
  }
  const { Session } = await import('../kernel/process/session.js');
  // The kernel lets go by itself of what somebody attached who is killed; a process would be left patched.
  options.signals?.catch();
  return 'pid' in what ? Session.attach(what.pid, tool) : Session.start(what.command, tool, stdout);
}

/** Where nothing can be attached at all, that is what there is to say. */
async function whyNot(cause: unknown): Promise<unknown> {
  if (!(cause instanceof BpfError)) return cause;
  const { KernelFeatures } = await import('../kernel/linux/features.js');
  const { why } = new KernelFeatures().ways('fentry');
  return why === undefined ? cause : new BpfError('EPERM', `the kernel can't be traced: ${why}`, { cause });
}

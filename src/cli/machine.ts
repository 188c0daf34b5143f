/** Which machine a command line means, a live process or the running kernel, and a session on it. */

import { BpfError } from '../kernel/errno.js';
import type { Kernel, Way } from '../kernel/kernel.js';
import type { SessionTool, TracingSession } from '../kernel/session.js';
import { resolveCommand } from '../process/spawn.js';
import { parseSelector } from '../process/symbols/selector.js';
import { note } from './output.js';

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

/** The running kernel, until the command ends where there is one. */
export interface KernelWhat {
  readonly kernel: { readonly way?: Way; readonly maxLinks?: number };
  readonly command?: readonly string[];
}

/** What is traced. */
export type What = ProcessWhat | KernelWhat;

/** Takes `-p` or the command, exactly one. Throws EINVAL. */
export function processToTrace(pid: number | undefined, command: readonly string[] | undefined): ProcessWhat {
  if (pid !== undefined && command !== undefined)
    throw new BpfError('EINVAL', 'both -p and a command after -- are given; give one of them');
  if (pid !== undefined) return { pid };
  if (command === undefined || command.length === 0)
    throw new BpfError(
      'EINVAL',
      "nothing to trace: give a running process with -p PID, or a command after --; 'kernel:FUNCTION' traces the kernel",
    );
  return { command };
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
  if (pid !== undefined)
    throw new BpfError(
      'EINVAL',
      '-p is for functions of a process, and these are of the kernel, which is traced for all processes; leave it out, or name threads with --tid where the command has it',
    );
  if (command?.length === 0) throw new BpfError('EINVAL', 'there is no command after --');
  return {
    kernel: {
      ...(way === undefined ? {} : { way }),
      ...(maxLinks === undefined ? {} : { maxLinks }),
    },
    ...(command === undefined ? {} : { command }),
  };
}

export function isKernel(what: What): what is KernelWhat {
  return 'kernel' in what;
}

export interface OpenOptions {
  /** Our file descriptor that becomes a command's standard output. */
  readonly stdout?: number;
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
    const { KernelSession } = await import('../kernel/linux/session.js');
    const { LinuxKernel } = await import('../kernel/linux/machine.js');
    const kernel = new LinuxKernel({ ...what.kernel, progress: note });
    // What is wrong with the command line is told first.
    if (what.command !== undefined) resolveCommand(what.command[0], process.env);
    options.before?.(kernel);
    try {
      return KernelSession.start(kernel, what.command, tool, stdout);
    } catch (cause) {
      throw await whyNot(cause);
    }
  }
  const { Session } = await import('../kernel/process/session.js');
  return 'pid' in what ? Session.attach(what.pid, tool) : Session.start(what.command, tool, stdout);
}

/** Where nothing can be attached at all, that is what there is to say. */
async function whyNot(cause: unknown): Promise<unknown> {
  if (!(cause instanceof BpfError)) return cause;
  const { KernelFeatures } = await import('../kernel/linux/features.js');
  const { why } = new KernelFeatures().ways('fentry');
  return why === undefined ? cause : new BpfError('EPERM', `the kernel can't be traced: ${why}`, { cause });
}

/**
 * Starts a command stopped at the first instruction of its program, seized by us.
 *
 * The child is made by a few instructions of our own rather than by posix_spawn or child_process: a clone that shares
 * our memory, waits on a word until we have seized it, puts the signal state as a shell would have it and calls
 * execve, whose errno comes back through the same memory. Nothing runs between the clone and the program, and
 * node's own SIGCHLD handling never sees the child.
 */

import { accessSync, closeSync, constants as fsConstants, openSync, readSync, statSync } from 'node:fs';
import { constants } from 'node:os';
import { delimiter, join } from 'node:path';
import { ElfFile } from '../elf/file.js';
import {
  callCode,
  MAP,
  mmap,
  munmap,
  PROT,
  SYS,
  systemCall,
  viewMemory,
  WALL,
  waitpid,
} from '../ffi/libc.js';
import { BpfError, errnoName } from '../kernel/errno.js';
import { type Assembler, mem, r8, r10, r12, rax, rdi, rdx, rsi } from '../x86/assembler.js';
import { ownCode } from './own_code.js';
import { TracedProcess } from './process.js';

const SYS_RT_SIGACTION = 13;
const SYS_RT_SIGPROCMASK = 14;
const SYS_DUP2 = 33;
const SYS_CLONE = 56;
const SYS_EXECVE = 59;
const SYS_EXIT_GROUP = 231;
const SYS_FCNTL = 72;
const F_SETFD = 2;
const CLONE_VM = 0x100;
const SIG_SETMASK = 2;
const SIGSET_BYTES = 8;
const FUTEX_WAIT = 0;
const FUTEX_WAKE = 1;
const { SIGCHLD, SIGPIPE, SIGXFSZ } = constants.signals;
const { ENOEXEC, ENOENT, EACCES, E2BIG } = constants.errno;

/**
 * The words that parent and child share, byte offsets:
 *
 *     0  path of the program       8  argv          16  envp
 *    24  u32 go: 0 wait, 1 exec    28  i32 errno of execve, 0 while it has not failed
 *    32  our signal mask           40  every signal
 *    48  struct sigaction of the kernel, all zero: SIG_DFL (32 bytes)
 *    80  the file descriptor that becomes the child's standard output, or -1
 */
const CALL = {
  path: 0,
  argv: 8,
  envp: 16,
  go: 24,
  errno: 28,
  mask: 32,
  all: 40,
  action: 48,
  stdout: 80,
  size: 96,
};
const STACK_BYTES = 16384;
let startCode: bigint | undefined;

/** The code behind `startChild`: rdi = the shared words, rsi = top of the child's stack; returns the pid or -errno. */
function emitStart(a: Assembler): void {
  const child = a.label();
  const wait = a.label();
  const go = a.label();
  const keepStdout = a.label();
  const sys = (number: number): void => {
    a.mov(rax, number, 4);
    a.syscall();
  };
  const setMask = (from: number, to: number | undefined): void => {
    a.mov(rdi, SIG_SETMASK, 4);
    a.lea(rsi, mem(r12, from));
    if (to === undefined) a.xor(rdx, rdx, 4);
    else a.lea(rdx, mem(r12, to));
    a.mov(r10, SIGSET_BYTES, 4);
    sys(SYS_RT_SIGPROCMASK);
  };
  a.push(r12);
  a.mov(r12, rdi);
  a.mov(r8, rsi);
  // No signal handler of ours may run in the child, which stands on our memory.
  setMask(CALL.all, CALL.mask);
  a.mov(rsi, r8);
  a.mov(rdi, CLONE_VM | SIGCHLD, 4);
  a.xor(rdx, rdx, 4);
  a.xor(r10, r10, 4);
  a.xor(r8, r8, 4);
  sys(SYS_CLONE);
  a.test(rax, rax);
  a.jcc('e', child);
  a.push(rax);
  setMask(CALL.mask, undefined);
  a.pop(rax);
  a.pop(r12);
  a.ret();

  a.bind(child);
  a.bind(wait);
  a.mov(rdx, mem(r12, CALL.go), 4);
  a.test(rdx, rdx, 4);
  a.jcc('ne', go);
  a.lea(rdi, mem(r12, CALL.go));
  a.mov(rsi, FUTEX_WAIT, 4);
  a.xor(r10, r10, 4);
  sys(SYS.futex);
  a.jmp(wait);
  a.bind(go);
  // node ignores these two, and what is ignored stays so over exec.
  for (const signal of [SIGPIPE, SIGXFSZ]) {
    a.mov(rdi, signal, 4);
    a.lea(rsi, mem(r12, CALL.action));
    a.xor(rdx, rdx, 4);
    a.mov(r10, SIGSET_BYTES, 4);
    sys(SYS_RT_SIGACTION);
  }
  // node marks its standard streams to be closed on exec.
  for (const fd of [0, 1, 2]) {
    a.mov(rdi, fd, 4);
    a.mov(rsi, F_SETFD, 4);
    a.xor(rdx, rdx, 4);
    sys(SYS_FCNTL);
  }
  a.mov(rdi, mem(r12, CALL.stdout), 4);
  a.test(rdi, rdi, 4);
  a.jcc('s', keepStdout);
  a.mov(rsi, 1, 4);
  sys(SYS_DUP2);
  a.bind(keepStdout);
  setMask(CALL.mask, undefined);
  a.mov(rdi, mem(r12, CALL.path));
  a.mov(rsi, mem(r12, CALL.argv));
  a.mov(rdx, mem(r12, CALL.envp));
  sys(SYS_EXECVE);
  a.neg(rax, 4);
  a.mov(mem(r12, CALL.errno), rax, 4);
  a.mov(rdi, 127, 4);
  sys(SYS_EXIT_GROUP);
  a.ud2();
}

/** Finds `command` as a shell would: a path as it is, a name through PATH. Throws with a sentence. */
export function resolveCommand(command: string, environment: NodeJS.ProcessEnv): string {
  const candidates = command.includes('/')
    ? [command]
    : (environment.PATH ?? '/usr/local/bin:/usr/bin:/bin')
        .split(delimiter)
        .map(d => join(d === '' ? '.' : d, command));
  let found: string | undefined;
  for (const candidate of candidates) {
    try {
      if (!statSync(candidate).isFile()) continue;
      found ??= candidate;
      accessSync(candidate, fsConstants.X_OK);
      return candidate;
    } catch {
      // Not there, or not ours to run: the next one.
    }
  }
  if (found !== undefined)
    throw new BpfError(
      'EACCES',
      `may not run ${found}: it is not executable; chmod +x it, or name another program`,
    );
  throw new BpfError(
    'ENOENT',
    command.includes('/')
      ? `there is no program ${command}; check the path`
      : `there is no program '${command}' on the PATH; give its path`,
  );
}

/** Refuses a file that is an ELF program for another machine before anything is started. */
function checkProgram(path: string): void {
  const magic = Buffer.alloc(4);
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch {
    // It may be run and not read: the kernel tells what it is.
    return;
  }
  try {
    readSync(fd, magic, 0, 4, 0);
  } finally {
    closeSync(fd);
  }
  if (magic.toString('latin1') === '\x7fELF') ElfFile.open(path);
}

/** How a command is to be started. */
export interface SpawnOptions {
  readonly environment?: NodeJS.ProcessEnv;
  /** Our file descriptor that becomes its standard output; its own (ours) where left out. */
  readonly stdout?: number;
}

/**
 * Starts `argv` and returns it standing at the first instruction of its program, all its threads (one) stopped.
 * Throws ENOENT, EACCES, ENOEXEC with a sentence.
 */
export function spawnStopped(argv: readonly string[], options: SpawnOptions = {}): TracedProcess {
  const environment = options.environment ?? process.env;
  const path = resolveCommand(argv[0], environment);
  checkProgram(path);
  try {
    return execStopped(path, argv, environment, options.stdout);
  } catch (cause) {
    // A script without a #! line: a shell runs it with sh, and so do we.
    if (cause instanceof ExecError && cause.code === 'ENOEXEC')
      return execStopped('/bin/sh', ['sh', path, ...argv.slice(1)], environment, options.stdout);
    throw cause;
  }
}

class ExecError extends BpfError {
  constructor(path: string, errno: number) {
    const name = errnoName(errno);
    const why: Record<number, string> = {
      [ENOENT]: 'its interpreter (the #! line, or the ELF interpreter) is not there',
      [EACCES]: 'permission denied',
      [ENOEXEC]: 'it is no program that this kernel runs',
      [E2BIG]: 'its arguments and environment are too long',
    };
    super(name ?? 'EINVAL', `could not run ${path}: ${why[errno] ?? `execve failed with errno ${errno}`}`);
  }
}

function execStopped(
  path: string,
  argv: readonly string[],
  environment: NodeJS.ProcessEnv,
  stdout: number | undefined,
): TracedProcess {
  const strings = [
    path,
    ...argv,
    ...Object.entries(environment).map(([name, value]) => `${name}=${value ?? ''}`),
  ];
  const texts = strings.map(s => Buffer.from(`${s}\0`, 'utf8'));
  const pointerBytes = (strings.length + 2) * 8;
  const used = CALL.size + pointerBytes + texts.reduce((sum, text) => sum + text.length, 0);
  const size = (used + STACK_BYTES + 4095) & ~4095;

  const area = mmap(0n, size, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
  try {
    const buffer = viewMemory(area, size);
    const bytes = new Uint8Array(buffer);
    const view = new DataView(buffer);
    const argvAt = CALL.size;
    const envpAt = argvAt + (argv.length + 1) * 8;
    let textAt = CALL.size + pointerBytes;
    for (const [i, text] of texts.entries()) {
      bytes.set(text, textAt);
      // The path is the first text, then argv, then the environment; each array ends with a null pointer.
      const slot =
        i === 0 ? CALL.path : i <= argv.length ? argvAt + (i - 1) * 8 : envpAt + (i - 1 - argv.length) * 8;
      view.setBigUint64(slot, area + BigInt(textAt), true);
      textAt += text.length;
    }
    view.setBigUint64(CALL.argv, area + BigInt(argvAt), true);
    view.setBigUint64(CALL.envp, area + BigInt(envpAt), true);
    view.setBigUint64(CALL.all, 0xffff_ffff_ffff_ffffn, true);
    view.setInt32(CALL.stdout, stdout ?? -1, true);

    startCode ??= ownCode(emitStart);
    const stackTop = (area + BigInt(size)) & ~15n;
    const pid = Number(BigInt.asIntN(64, callCode(startCode, area, stackTop)));
    if (pid < 0)
      throw new BpfError('EAGAIN', `could not start a process for ${path}: clone failed with errno ${-pid}`);
    const child = new TracedProcess(pid, true);
    try {
      child.seizeChild();
    } catch (cause) {
      child.kill(constants.signals.SIGKILL);
      waitpid(pid, WALL);
      throw cause;
    }
    view.setUint32(CALL.go, 1, true);
    systemCall('futex', SYS.futex, area + BigInt(CALL.go), FUTEX_WAKE, 1);
    if (child.waitThread(pid) === undefined) throw new ExecError(path, view.getInt32(CALL.errno, true));
    return child;
  } finally {
    munmap(area, size);
  }
}

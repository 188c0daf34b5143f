/**
 * The libc calls that the rest of the project needs, through koffi: the only file that loads a library.
 *
 * Every call here is thin: numbers in, numbers out, no policy. A call that fails throws `SystemError` with the
 * errno unless its comment says otherwise. Addresses are bigints: in this process or in a traced one, as said.
 */

import koffi from 'koffi';

const libc = koffi.load('libc.so.6');

const cSyscall = libc.func('int64 syscall(int64 n, int64 a, int64 b, int64 c, int64 d, int64 e, int64 f)');
const cPtrace = libc.func('int64 ptrace(int64 request, int64 pid, uint64 address, uint64 data)');
const cPtraceBuffer = koffi.load('libc.so.6').func('ptrace', 'int64', ['int64', 'int64', 'uint64', 'void *']);
const cWaitpid = libc.func('int waitpid(int pid, void *status, int options)');
const cMmap = libc.func(
  'void *mmap(uint64 address, size_t length, int prot, int flags, int fd, int64 offset)',
);
const cMunmap = libc.func('int munmap(uint64 address, size_t length)');
const cMemfdCreate = libc.func('int memfd_create(const char *name, uint flags)');
const cFtruncate = libc.func('int ftruncate(int fd, int64 length)');
const cVmReadv = libc.func(
  'int64 process_vm_readv(int pid, void *local, uint64 nLocal, void *remote, uint64 nRemote, uint64 flags)',
);

/** Numbers of system calls on x86-64 (asm/unistd_64.h) that the project issues, here or in a traced process. */
export const SYS = {
  mmap: 9,
  mprotect: 10,
  munmap: 11,
  close: 3,
  getpid: 39,
  kill: 62,
  ftruncate: 77,
  futex: 202,
  tgkill: 234,
  openat: 257,
  memfd_create: 319,
} as const;

export const PROT = { NONE: 0, READ: 1, WRITE: 2, EXEC: 4 } as const;
export const MAP = {
  SHARED: 0x01,
  PRIVATE: 0x02,
  FIXED: 0x10,
  ANONYMOUS: 0x20,
  NORESERVE: 0x4000,
  FIXED_NOREPLACE: 0x100000,
} as const;
export const MFD_CLOEXEC = 1;

/** ptrace(2) requests, options and events (sys/ptrace.h). */
export const PTRACE = {
  POKETEXT: 4,
  CONT: 7,
  SINGLESTEP: 9,
  DETACH: 17,
  SETOPTIONS: 0x4200,
  GETREGSET: 0x4204,
  SETREGSET: 0x4205,
  SEIZE: 0x4206,
  INTERRUPT: 0x4207,
  LISTEN: 0x4208,
  GETSIGMASK: 0x420a,
  SETSIGMASK: 0x420b,
  GETREGS: 12,
  SETREGS: 13,
  SYSCALL: 24,
  O_TRACESYSGOOD: 0x1,
  O_TRACEEXEC: 0x10,
  O_EXITKILL: 0x100000,
  EVENT_EXEC: 4,
  EVENT_STOP: 128,
} as const;

export const WNOHANG = 1;
/** Wait for clone children too: threads are that (wait(2)). */
export const WALL = 0x40000000;

/** A libc call that failed: which one, and the errno it left. */
export class SystemError extends Error {
  override readonly name = 'SystemError';
  readonly call: string;
  readonly errno: number;

  constructor(call: string, errno: number) {
    super(`${call} failed: errno ${errno}`);
    this.call = call;
    this.errno = errno;
  }
}

function check<T extends number | bigint>(call: string, result: T): T {
  if (result < 0) throw new SystemError(call, koffi.errno());
  return result;
}

/** Any system call by number with integer arguments; throws `SystemError` named `name`. */
export function systemCall(name: string, n: number, ...args: (number | bigint)[]): bigint {
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = args;
  return BigInt(check(name, cSyscall(n, a, b, c, d, e, f) as number | bigint));
}

/** ptrace(2) with integer arguments. */
export function ptrace(request: number, pid: number, address: bigint | number, data: bigint | number): void {
  check('ptrace', cPtrace(request, pid, address, data) as number | bigint);
}

/** ptrace(2) with a buffer for `data`, filled or read by the kernel. */
export function ptraceBuffer(request: number, pid: number, address: bigint | number, data: Uint8Array): void {
  check('ptrace', cPtraceBuffer(request, pid, address, data) as number | bigint);
}

const statusBuffer = Buffer.alloc(4);

/** waitpid(2): the pid that changed state and its raw status, or `undefined` where nothing did (WNOHANG). */
export function waitpid(pid: number, options: number): { pid: number; status: number } | undefined {
  for (;;) {
    const got = cWaitpid(pid, statusBuffer, options) as number;
    if (got > 0) return { pid: got, status: statusBuffer.readInt32LE(0) };
    if (got === 0) return undefined;
    const errno = koffi.errno();
    if (errno === 4 /* EINTR */) continue;
    throw new SystemError('waitpid', errno);
  }
}

/** mmap(2) in this process: the address. */
export function mmap(
  address: bigint,
  length: number,
  prot: number,
  flags: number,
  fd: number,
  offset: number,
): bigint {
  const at = BigInt((cMmap(address, length, prot, flags, fd, offset) as number | bigint | null) ?? 0);
  if (BigInt.asIntN(64, at) === -1n) throw new SystemError('mmap', koffi.errno());
  return at;
}

/** munmap(2) in this process. */
export function munmap(address: bigint, length: number): void {
  check('munmap', cMunmap(address, length) as number);
}

/** memfd_create(2), closed on exec: the file descriptor. */
export function memfdCreate(name: string): number {
  return check('memfd_create', cMemfdCreate(name, MFD_CLOEXEC) as number);
}

/** ftruncate(2). */
export function ftruncate(fd: number, length: number): void {
  check('ftruncate', cFtruncate(fd, length) as number);
}

/**
 * A window on this process's own memory, `length` bytes from `address`: no copy. The caller keeps the mapping
 * alive for as long as the view is used.
 */
export function viewMemory(address: bigint, length: number): ArrayBuffer {
  return koffi.view(address, length) as ArrayBuffer;
}

const iov = new BigUint64Array(4);
const iovLocal = new Uint8Array(iov.buffer, 0, 16);
const iovRemote = new Uint8Array(iov.buffer, 16, 16);

/**
 * process_vm_readv(2): reads from `address` of process `pid` into `into`; the number of bytes read, which is
 * short where the memory ends.
 */
export function readProcessMemory(pid: number, address: bigint, into: Uint8Array): number {
  iov[0] = BigInt(koffi.address(into));
  iov[1] = BigInt(into.length);
  iov[2] = address;
  iov[3] = BigInt(into.length);
  return Number(check('process_vm_readv', cVmReadv(pid, iovLocal, 1, iovRemote, 1, 0) as number | bigint));
}

const FUTEX_WAIT = 0;
const FUTEX_WAKE = 1;
const cFutexWait = libc.func('int64 syscall(int64 n, uint64 address, int64 op, int64 value, void *timeout)');

/**
 * Waits on a worker thread while the 32-bit word at `address` of this process holds `value`, at most `ms`
 * milliseconds. Resolves for every reason a futex wait ends: woken, changed before, timed out.
 */
export function futexWaitAsync(address: bigint, value: number, ms: number): Promise<void> {
  const timeout = new BigInt64Array([BigInt(Math.floor(ms / 1000)), BigInt((ms % 1000) * 1_000_000)]);
  return new Promise(resolve => {
    cFutexWait.async(SYS.futex, address, FUTEX_WAIT, value, Buffer.from(timeout.buffer), () => resolve());
  });
}

const cPoll = libc.func('int poll(void *fds, uint64 n, int timeout)');
const POLLIN = 1;
const POLLFD_BYTES = 8;

/** poll(2) for reading, on a worker thread: how many of the descriptors can be read, or -1. */
export function pollAsync(fds: readonly number[], ms: number): Promise<number> {
  const list = Buffer.alloc(fds.length * POLLFD_BYTES);
  for (const [i, fd] of fds.entries()) {
    list.writeInt32LE(fd, i * POLLFD_BYTES);
    list.writeInt16LE(POLLIN, i * POLLFD_BYTES + 4);
  }
  return new Promise(resolve => {
    cPoll.async(list, fds.length, ms, (_: unknown, ready: number) => {
      // The list lives until here.
      resolve(list.length > 0 ? ready : -1);
    });
  });
}

/** Wakes everything that waits on the 32-bit word at `address` of this process, in any process that shares it. */
export function futexWake(address: bigint): void {
  systemCall('futex', SYS.futex, address, FUTEX_WAKE, 0x7fffffff);
}

const protoCode = koffi.proto(
  'uint64 multitrace_code(uint64 a, uint64 b, uint64 c, uint64 d, uint64 e, uint64 f)',
);

/**
 * Calls machine code at `address` of this process with up to six integer arguments (System V convention) and
 * returns rax. For code that this project wrote: the start of a child, and tests of generated code.
 */
export function callCode(address: bigint, ...args: (number | bigint)[]): bigint {
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = args;
  return BigInt.asUintN(64, BigInt(koffi.call(address, protoCode, a, b, c, d, e, f)));
}

/** The address in this process of the bytes behind a typed array, valid while the array lives and is not moved. */
export function addressOf(bytes: Uint8Array): bigint {
  return BigInt(koffi.address(bytes));
}

const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** Sleeps for so many milliseconds; nothing else of node runs meanwhile. */
export function sleepHere(ms: number): void {
  Atomics.wait(sleeper, 0, 0, ms);
}

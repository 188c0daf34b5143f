/**
 * The one error class of the project: an errno name, what was tried, on what, and what to do about it.
 * Numbers are those of Linux on x86-64 (asm-generic/errno-base.h and errno.h).
 */

const NUMBERS = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  E2BIG: 7,
  ENOEXEC: 8,
  EBADF: 9,
  ECHILD: 10,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  EMFILE: 24,
  ENOSPC: 28,
  ERANGE: 34,
  ENOSYS: 38,
  ELOOP: 40,
  EOPNOTSUPP: 95,
  ETIMEDOUT: 110,
} as const;

/** The name of an errno that this project reports. */
export type ErrnoName = keyof typeof NUMBERS;

/** The number behind an errno name. */
export function errnoNumber(name: ErrnoName): number {
  return NUMBERS[name];
}

/** The name of an errno number; `undefined` for a number that the project has no name for. */
export function errnoName(number: number): ErrnoName | undefined {
  for (const [name, value] of Object.entries(NUMBERS)) if (value === number) return name as ErrnoName;
  return undefined;
}

/**
 * An operation that failed. `message` is one sentence for a person: what was tried, on what, why it failed
 * and what to do; `code` is the errno name for a program.
 */
export class BpfError extends Error {
  override readonly name = 'BpfError';
  readonly code: ErrnoName;

  constructor(code: ErrnoName, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }

  /** The errno number of `code`. */
  get errno(): number {
    return NUMBERS[this.code];
  }
}

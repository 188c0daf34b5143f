/**
 * The system call bpf(2): commands, attributes by offset (`union bpf_attr` of linux/bpf.h), file descriptors that are
 * closed once, and errors with a sentence.
 */

import { addressOf, SYS, SystemError, systemCall } from '../../ffi/libc.js';
import { BpfError, type ErrnoName, errnoName } from '../errno.js';
import { whyRefused } from './refusal.js';

const SYS_BPF = 321;

/** `enum bpf_cmd` */
export const CMD = {
  MAP_CREATE: 0,
  MAP_LOOKUP_ELEM: 1,
  MAP_UPDATE_ELEM: 2,
  MAP_DELETE_ELEM: 3,
  MAP_GET_NEXT_KEY: 4,
  PROG_LOAD: 5,
  PROG_TEST_RUN: 10,
  BTF_GET_FD_BY_ID: 19,
  BTF_GET_NEXT_ID: 23,
  OBJ_GET_INFO_BY_FD: 15,
  RAW_TRACEPOINT_OPEN: 17,
  BTF_LOAD: 18,
  MAP_LOOKUP_AND_DELETE_ELEM: 21,
  MAP_FREEZE: 22,
  MAP_LOOKUP_BATCH: 24,
  LINK_CREATE: 28,
  LINK_UPDATE: 29,
  ENABLE_STATS: 32,
} as const;
export type Command = keyof typeof CMD;

/** `enum bpf_prog_type` */
export const PROG_TYPE = { KPROBE: 2, TRACING: 26 } as const;

/** `enum bpf_attach_type` */
export const ATTACH = {
  TRACE_FENTRY: 24,
  TRACE_FEXIT: 25,
  MODIFY_RETURN: 26,
  PERF_EVENT: 41,
  TRACE_KPROBE_MULTI: 42,
  TRACE_UPROBE_MULTI: 48,
  TRACE_KPROBE_SESSION: 56,
  TRACE_FSESSION: 58,
  TRACE_FENTRY_MULTI: 59,
  TRACE_FEXIT_MULTI: 60,
  TRACE_FSESSION_MULTI: 61,
} as const;

/** Enough for every command; a kernel takes a longer attribute whose rest is zero. */
export const ATTR_BYTES = 168;

/** The numbers of an attribute, written where linux/bpf.h has them; what it points to lives as long as it does. */
export class Attr {
  readonly bytes = Buffer.alloc(ATTR_BYTES);
  readonly #kept: Uint8Array[] = [];

  u32(offset: number, value: number): this {
    this.bytes.writeUInt32LE(value >>> 0, offset);
    return this;
  }

  u64(offset: number, value: bigint): this {
    this.bytes.writeBigUInt64LE(BigInt.asUintN(64, value), offset);
    return this;
  }

  pointer(offset: number, target: Uint8Array | undefined): this {
    if (target === undefined || target.length === 0) return this;
    this.#kept.push(target);
    return this.u64(offset, addressOf(target));
  }

  /** An array of addresses of texts. */
  texts(offset: number, texts: readonly string[]): this {
    const all = texts.map(text => Buffer.from(`${text}\0`));
    this.#kept.push(...all);
    const addresses = BigUint64Array.from(all, text => addressOf(text));
    return this.pointer(offset, new Uint8Array(addresses.buffer));
  }

  /** A pointer to so many words of 64 bits. */
  words(offset: number, words: readonly bigint[]): this {
    const array = BigUint64Array.from(words, word => BigInt.asUintN(64, word));
    return this.pointer(offset, new Uint8Array(array.buffer));
  }

  /** A name of at most 15 bytes, of the characters that names have. */
  name(offset: number, text: string): this {
    const clean = text.replace(/[^A-Za-z0-9_.]/g, '_').slice(0, 15);
    this.bytes.write(clean, offset, 'latin1');
    return this;
  }
}

/** bpf(2): its result. Throws `SystemError`, named after the command. */
export function bpf(command: Command, attr: Attr): number {
  return Number(
    systemCall(`bpf(BPF_${command})`, SYS_BPF, CMD[command], addressOf(attr.bytes), attr.bytes.length),
  );
}

/** As `bpf`; `undefined` where the kernel answers with one of `expected`. */
export function tryBpf(command: Command, attr: Attr, ...expected: ErrnoName[]): number | undefined {
  try {
    return bpf(command, attr);
  } catch (cause) {
    if (cause instanceof SystemError && expected.some(name => name === errnoName(cause.errno)))
      return undefined;
    throw cause;
  }
}

/** What the kernel says that the project has no name for. */
const OTHERS: Readonly<Record<number, ErrnoName>> = { 524: 'EOPNOTSUPP' };

export function nameOfErrno(errno: number): ErrnoName {
  return errnoName(errno) ?? OTHERS[errno] ?? 'EIO';
}

/** `what` was refused: an error that says so. Anything but a `SystemError` is thrown as it is. */
export function refusedBy(cause: unknown, what: string): BpfError {
  if (!(cause instanceof SystemError)) throw cause;
  const code = nameOfErrno(cause.errno);
  const why = whyRefused(code);
  return new BpfError(code, `the kernel refuses ${what}: ${why ?? code}`, { cause });
}

/** A file descriptor of ours. */
export class Fd implements Disposable {
  #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Throws EBADF where it is closed. */
  get number(): number {
    if (this.#fd < 0) throw new BpfError('EBADF', 'it was let go of already');
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  close(): void {
    if (this.#fd < 0) return;
    const fd = this.#fd;
    this.#fd = -1;
    systemCall('close', SYS.close, fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** `BPF_OBJ_GET_INFO_BY_FD`: fills `info` as far as the kernel has something for it. */
export function objectInfo(fd: number, info: Buffer): Buffer {
  bpf('OBJ_GET_INFO_BY_FD', new Attr().u32(0, fd).u32(4, info.length).pointer(8, info));
  return info;
}

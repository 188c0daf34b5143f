/**
 * The bytes of a file, read as they are asked for. It behaves like a private read-only mapping, with one
 * difference that matters for files nobody vouches for: when the file is cut short, a read fails with an error
 * instead of a SIGBUS. It knows nothing of ELF.
 */

import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { BpfError, type ErrnoName } from '../kernel/errno.js';

/** Bytes read at once. Large enough that a symbol table takes few reads, small enough to open fast. */
const CHUNK = 256 * 1024;

/** The largest file that is read; node's buffers end there. */
const MAX_SIZE = 2 ** 32 - 1;

/** Closes the descriptor of a file whose reader was dropped without `close()`. */
const dropped = new FinalizationRegistry<Descriptor>(descriptor => descriptor.close());

class Descriptor {
  #fd: number | undefined;

  constructor(fd: number) {
    this.#fd = fd;
  }

  get fd(): number | undefined {
    return this.#fd;
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

/** A file's bytes. Views stay valid after `close()`; the views must not be written to. */
export class FileBytes {
  readonly path: string;
  /** Size of the file in bytes, as it was when opened. */
  readonly size: number;
  readonly #bytes: Buffer;
  /** One flag for each chunk: is it read? */
  readonly #present: Uint8Array;
  readonly #descriptor: Descriptor | undefined;

  private constructor(path: string, bytes: Buffer, descriptor: Descriptor | undefined) {
    this.path = path;
    this.size = bytes.length;
    this.#bytes = bytes;
    this.#present = new Uint8Array(Math.ceil(bytes.length / CHUNK));
    this.#descriptor = descriptor;
    if (descriptor) dropped.register(this, descriptor, this);
    else this.#present.fill(1);
  }

  /** Bytes that are in memory already; `path` names them in errors. */
  static of(bytes: Uint8Array, path: string): FileBytes {
    return new FileBytes(path, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), undefined);
  }

  /**
   * Opens a regular file. Throws `BpfError`: ENOENT, EACCES, EISDIR and the like as the system says, ENOEXEC
   * for what is not a regular file, E2BIG for a file of 4 GiB or more.
   */
  static open(path: string): FileBytes {
    let fd: number;
    try {
      // Non-blocking: opening a FIFO must not wait for its writer.
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      throw systemFailure(path, 'open', error);
    }
    const descriptor = new Descriptor(fd);
    try {
      const status = fstatSync(fd);
      if (status.isDirectory()) throw new BpfError('EISDIR', `${path} is a directory, not a program`);
      if (!status.isFile()) throw new BpfError('ENOEXEC', `${path} is not a regular file, so not a program`);
      if (status.size > MAX_SIZE)
        throw new BpfError('E2BIG', `${path} is ${status.size} bytes long; files under 4 GiB can be read`);
      // Memory of this size comes from the kernel untouched: a page costs nothing until it is read into.
      return new FileBytes(path, Buffer.alloc(status.size), descriptor);
    } catch (error) {
      descriptor.close();
      if (error instanceof BpfError) throw error;
      if (error instanceof RangeError)
        throw new BpfError('ENOMEM', `${path} can't be read: there is not enough memory for it`);
      throw systemFailure(path, 'read', error);
    }
  }

  /**
   * The bytes from `offset` on; `undefined` when they are not all inside the file. Throws EIO when the file got
   * shorter since it was opened, EBADF when they were not read before `close()`.
   */
  view(offset: number, length: number): Buffer | undefined {
    if (!(offset >= 0 && length >= 0 && offset + length <= this.size)) return undefined;
    if (length > 0) this.#load(Math.floor(offset / CHUNK), Math.floor((offset + length - 1) / CHUNK));
    return this.#bytes.subarray(offset, offset + length);
  }

  /** Closes the file. What was read stays readable. */
  close(): void {
    dropped.unregister(this);
    this.#descriptor?.close();
  }

  #load(first: number, last: number): void {
    const present = this.#present;
    for (let chunk = first; chunk <= last; chunk++) {
      if (present[chunk]) continue;
      let end = chunk + 1;
      while (end <= last && !present[end]) end++;
      this.#read(chunk * CHUNK, Math.min(end * CHUNK, this.size));
      present.fill(1, chunk, end);
      chunk = end;
    }
  }

  #read(start: number, end: number): void {
    const fd = this.#descriptor?.fd;
    if (fd === undefined)
      throw new BpfError('EBADF', `${this.path} was closed before all that is needed was read`);
    let position = start;
    while (position < end) {
      let count: number;
      try {
        count = readSync(fd, this.#bytes, position, end - position, position);
      } catch (error) {
        throw systemFailure(this.path, 'read', error);
      }
      if (count === 0)
        throw new BpfError(
          'EIO',
          `${this.path} got shorter while it was being read; try again once it is whole`,
        );
      position += count;
    }
  }
}

const REASONS: Partial<Record<ErrnoName, string>> = {
  ENOENT: 'there is no such file',
  ENOTDIR: 'a part of its path is not a directory',
  EACCES: 'permission denied; run as a user who may read it',
  EPERM: 'permission denied; run as a user who may read it',
  ELOOP: 'its symbolic links form a loop',
  EIO: 'the disk reported an error',
};

function systemFailure(path: string, action: string, error: unknown): BpfError {
  const code = (error as NodeJS.ErrnoException).code as ErrnoName | undefined;
  const reason = code === undefined ? undefined : REASONS[code];
  if (code !== undefined && reason !== undefined)
    return new BpfError(code, `can't ${action} ${path}: ${reason}`, { cause: error });
  const text = error instanceof Error ? error.message : String(error);
  return new BpfError('EIO', `can't ${action} ${path}: ${text}`, { cause: error });
}

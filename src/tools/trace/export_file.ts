/** A file that a trace is exported to: which format, and writing it piece by piece. */

import { closeSync, openSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { BpfError } from '../../kernel/errno.js';

export const EXPORT_FORMATS = ['chrome', 'speedscope'] as const;
export type ExportFormat = (typeof EXPORT_FORMATS)[number];

/** By the file's name: `….speedscope.json` is speedscope's, other `.json` Chrome's. Throws EINVAL where it says nothing. */
export function formatOf(path: string): ExportFormat {
  const name = basename(path);
  if (name.endsWith('.speedscope.json')) return 'speedscope';
  if (name.endsWith('.json')) return 'chrome';
  throw new BpfError(
    'EINVAL',
    `the format of ${path} can't be told: end it in .json (Chrome, Perfetto) or .speedscope.json, or say --format`,
  );
}

/** Bytes that are collected before they are written. */
const CHUNK = 1 << 16;

export class ExportFile {
  readonly path: string;
  readonly #fd: number;
  #chunks: string[] = [];
  #length = 0;

  /** Throws EIO where the file can't be made. */
  constructor(path: string) {
    this.path = path;
    try {
      this.#fd = openSync(path, 'w');
    } catch (cause) {
      throw this.#failed(cause);
    }
  }

  write(text: string): void {
    this.#chunks.push(text);
    this.#length += text.length;
    if (this.#length >= CHUNK) this.#flush();
  }

  close(): void {
    this.#flush();
    closeSync(this.#fd);
  }

  #flush(): void {
    const bytes = Buffer.from(this.#chunks.join(''), 'utf8');
    this.#chunks = [];
    this.#length = 0;
    try {
      for (let done = 0; done < bytes.length; ) done += writeSync(this.#fd, bytes, done);
    } catch (cause) {
      throw this.#failed(cause);
    }
  }

  #failed(cause: unknown): BpfError {
    return new BpfError('EIO', `${this.path} can't be written: ${(cause as Error).message}`, { cause });
  }
}

/** A trace that is written to a file. */
export interface TraceExport {
  /** The trace is over. */
  finish(): void;
}

/**
 * Types that pahole made of debug information, kept on disk by build-id: making them takes seconds, and the library is
 * the same tomorrow. Nothing here fails: without a directory to keep them in they are made again.
 */

import { lstatSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';

/** More than this is not BTF of one file: a kernel's is 6 MB. */
const MAX_BYTES = 256 * 1024 * 1024;
/** How long it is believed that a file has no types that pahole can make, ms. */
const FAILURE_MS = 24 * 3600 * 1000;

export class TypeCache {
  readonly #directory: string | undefined;

  /** `directory` is for tests; by default XDG_CACHE_HOME or ~/.cache, or a private directory in /tmp. */
  constructor(directory?: string) {
    this.#directory = directory === undefined ? defaultDirectory() : privateDirectory(directory);
  }

  #path(key: string, suffix: string): string | undefined {
    return this.#directory === undefined ? undefined : join(this.#directory, `${key}${suffix}`);
  }

  /** The types; `null` where making them failed not long ago. */
  get(key: string): Uint8Array | null | undefined {
    const path = this.#path(key, '.btf');
    if (path === undefined) return undefined;
    try {
      if (statSync(path).size <= MAX_BYTES) return readFileSync(path);
    } catch {
      // It was not made yet.
    }
    try {
      const age = Date.now() - statSync(this.#path(key, '.none')!).mtimeMs;
      if (age < FAILURE_MS) return null;
    } catch {
      // It was never tried.
    }
    return undefined;
  }

  /** `null`: there are none. */
  put(key: string, bytes: Uint8Array | null): void {
    const path = this.#path(key, bytes ? '.btf' : '.none');
    if (path === undefined) return;
    const temporary = `${path}.${process.pid}`;
    try {
      writeFileSync(temporary, bytes ?? '', { mode: 0o600 });
      renameSync(temporary, path);
    } catch {
      rmSync(temporary, { force: true });
    }
  }

  /** Forgets types that turned out to be damaged. */
  drop(key: string): void {
    const path = this.#path(key, '.btf');
    if (path !== undefined) rmSync(path, { force: true });
  }
}

function defaultDirectory(): string | undefined {
  const base = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  return (
    (base.startsWith('/') ? privateDirectory(join(base, 'multitrace', 'types')) : undefined) ??
    privateDirectory(join(tmpdir(), `multitrace-${process.getuid?.() ?? 0}`))
  );
}

/** The directory, made where it is missing; `undefined` where it is not ours alone: others could put types in. */
function privateDirectory(path: string): string | undefined {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    const { uid, mode } = lstatSync(path);
    const isOurs = uid === process.getuid?.() && (mode & 0o022) === 0;
    return isOurs && lstatSync(path).isDirectory() ? path : undefined;
  } catch {
    return undefined;
  }
}

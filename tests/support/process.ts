/** A live process as the kernel shows it: its memory map and its code, compared with the files it came from. */

import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

export interface Mapping {
  readonly start: number;
  readonly end: number;
  readonly protection: string;
  readonly offset: number;
  readonly inode: number;
  readonly path: string;
}

/** /proc/PID/maps. */
export function mappings(pid: number): Mapping[] {
  const found: Mapping[] = [];
  for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ (\d+)\s*(.*)$/.exec(line);
    if (match === null) continue;
    const [, start, end, protection, offset, inode, path] = match;
    found.push({
      start: Number.parseInt(start, 16),
      end: Number.parseInt(end, 16),
      protection,
      offset: Number.parseInt(offset, 16),
      inode: Number(inode),
      path,
    });
  }
  return found;
}

/** Memory of a process, read through /proc/PID/mem: no ptrace, the process runs on. */
export function readMemory(pid: number, address: number, length: number): Buffer {
  const file = openSync(`/proc/${pid}/mem`, 'r');
  try {
    const bytes = Buffer.alloc(length);
    const got = readSync(file, bytes, 0, length, address);
    if (got !== length)
      throw new Error(`${got} of ${length} bytes at ${address.toString(16)} of process ${pid}`);
    return bytes;
  } finally {
    closeSync(file);
  }
}

/** Every byte of mapped code that is not what the file has there: `path+offset: file byte, memory byte`. */
export function changedCode(pid: number): { readonly compared: number; readonly changed: string[] } {
  const changed: string[] = [];
  let compared = 0;
  for (const mapping of mappings(pid)) {
    if (
      !mapping.protection.includes('x') ||
      !mapping.path.startsWith('/') ||
      mapping.path.startsWith('/memfd:')
    )
      continue;
    const file = readFileSync(mapping.path).subarray(mapping.offset);
    const length = Math.min(file.length, mapping.end - mapping.start);
    const memory = readMemory(pid, mapping.start, length);
    compared += length;
    if (memory.equals(file.subarray(0, length))) continue;
    for (let i = 0; i < length; i++) {
      if (memory[i] === file[i]) continue;
      changed.push(
        `${mapping.path}+${(mapping.offset + i).toString(16)}: ${file[i].toString(16)}, ${memory[i].toString(16)}`,
      );
    }
  }
  return { compared, changed };
}

/** Where a process has the first byte of `path`, for addresses that its symbols give. */
export function loadBias(pid: number, path: string): number {
  const first = mappings(pid).find(mapping => mapping.path === path && mapping.offset === 0);
  if (first === undefined) throw new Error(`process ${pid} does not map ${path}`);
  return first.start;
}

/** State letter of /proc/PID/stat (R, S, T, t, Z …), or `undefined` where there is no such process. */
export function processState(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3);
  } catch {
    return undefined;
  }
}

/** The tracer of a process: 0 for none. */
export function tracerOf(pid: number): number {
  return Number(/^TracerPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);
}

/** Waits till `holds`, looking every few milliseconds; fails with `what` after the limit. */
export async function until(what: string, holds: () => boolean, timeoutMs = 20_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await new Promise(resolve => setTimeout(resolve, 2));
  }
}

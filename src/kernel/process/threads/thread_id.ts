/**
 * Where the C library keeps a thread's id: at a fixed offset behind the thread pointer, the same for all threads
 * (glibc, musl). It is found by looking: no symbol needs to be there.
 */

import { readdirSync, readFileSync } from 'node:fs';
import type { StoppedThread, TracedProcess } from '../../../process/process.js';
import { R } from '../../../process/registers.js';

/** A thread's own structure is searched so far. */
const SEARCHED = 0x1000;
/** Offsets seen: glibc 2.36 and its neighbours, musl. A process of one thread may have its id at several. */
const KNOWN: readonly number[] = [0x2d0, 0x2d4, 0x30, 0x34, 0x38];

/** Ids of the threads of process `pid` as it sees them itself, and as we do. */
export function readThreadIds(pid: number): Map<number, number> {
  const ids = new Map<number, number>();
  for (const name of readdirSync(`/proc/${pid}/task`)) {
    try {
      const status = readFileSync(`/proc/${pid}/task/${name}/status`, 'latin1');
      const own = /^NSpid:\s+(.*)$/m.exec(status)?.[1].trim().split(/\s+/).at(-1) ?? name;
      ids.set(Number(own), Number(name));
    } catch {
      // It ended.
    }
  }
  return ids;
}

/**
 * The offset from the thread pointer at which every thread of a stopped process has its id. `undefined` where there is
 * none: the threads are not the C library's, or it has not begun.
 */
export function findThreadIdOffset(
  process: TracedProcess,
  threads: readonly StoppedThread[],
): number | undefined {
  const own = new Map([...readThreadIds(process.pid)].map(([id, tid]) => [tid, id]));
  let candidates: number[] | undefined;
  for (const { tid, registers } of threads) {
    const base = registers[R.fs_base];
    const id = own.get(tid);
    // A thread that begins or ends has none; it is no argument against the others'.
    if (base === 0n || id === undefined) continue;
    const bytes = process.readMapped(base, SEARCHED);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (bytes.length < 8 || view.getBigUint64(0, true) !== base) continue;
    const has = (offset: number): boolean =>
      offset + 4 <= bytes.length && view.getUint32(offset, true) === id;
    if (candidates === undefined) {
      candidates = [];
      for (let offset = 8; offset + 4 <= bytes.length; offset += 4) if (has(offset)) candidates.push(offset);
    } else {
      // The set-up of a new thread writes its id first, before it can run any code of the program.
      const rest = candidates.filter(has);
      if (rest.length > 0) candidates = rest;
    }
  }
  if (candidates === undefined || candidates.length === 0) return undefined;
  return KNOWN.find(offset => candidates.includes(offset)) ?? candidates[0];
}

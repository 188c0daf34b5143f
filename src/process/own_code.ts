/**
 * Machine code of ours in our own process: what must run without node in between. Made once, never writable and
 * executable at once, and kept.
 */

import { MAP, mmap, PROT, SYS, systemCall, viewMemory } from '../ffi/libc.js';
import { Assembler } from '../x86/assembler.js';

const PAGE = 4096;

/** Assembles what `emit` writes and returns where it is, for `callCode`. */
export function ownCode(emit: (a: Assembler) => void): bigint {
  const a = new Assembler();
  emit(a);
  const size = (a.length + PAGE - 1) & -PAGE;
  const address = mmap(0n, size, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
  new Uint8Array(viewMemory(address, size)).set(a.finish(address));
  systemCall('mprotect', SYS.mprotect, address, size, PROT.READ | PROT.EXEC);
  return address;
}

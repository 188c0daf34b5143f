/**
 * Memory that the traced process and this one share: a memfd mapped by both. The process sees data readable and
 * writable, code readable and executable, never both; we see either readable and writable.
 *
 * Each region has a memfd of its own, made by the process (so that no path, no permission and no namespace stands
 * between us) and closed there as soon as it is mapped: the program never meets a file descriptor of ours.
 */

import { closeSync, openSync } from 'node:fs';
import { ftruncate, MAP, MFD_CLOEXEC, mmap, munmap, PROT, SYS, viewMemory } from '../../../ffi/libc.js';
import { findFreeRange, REGION_NAME, readMappings } from '../../../process/mappings.js';
import type { TracedProcess } from '../../../process/process.js';
import type { RemoteThread } from '../../../process/remote.js';
import { BpfError } from '../../errno.js';

export const PAGE_SIZE = 4096;

/** What the process may do with a region. */
export type RegionUse = 'data' | 'code';

export class SharedRegion {
  /** Where the process sees it. */
  readonly address: bigint;
  readonly size: number;
  /** The same memory, in ours. */
  readonly bytes: Uint8Array;
  readonly #local: bigint;

  private constructor(address: bigint, size: number, local: bigint) {
    this.address = address;
    this.size = size;
    this.#local = local;
    this.bytes = new Uint8Array(viewMemory(local, size));
  }

  /**
   * Maps a new region of `size` bytes (a multiple of the page size) at exactly `address` of the process, whose
   * threads must be stopped. Throws EEXIST where something is mapped there, EPERM where the process may not.
   */
  static map(remote: RemoteThread, pid: number, use: RegionUse, address: bigint, size: number): SharedRegion {
    const name = remote.scratchString(`${REGION_NAME}-${process.pid}`);
    const fd = Number(remote.call('memfd_create', SYS.memfd_create, name, MFD_CLOEXEC));
    let ours = -1;
    try {
      ours = openSync(`/proc/${pid}/fd/${fd}`, 'r+');
      ftruncate(ours, size);
      const local = mmap(0n, size, PROT.READ | PROT.WRITE, MAP.SHARED, ours, 0);
      const prot = PROT.READ | (use === 'code' ? PROT.EXEC : PROT.WRITE);
      try {
        const got = remote.call(
          'mmap',
          SYS.mmap,
          address,
          size,
          prot,
          MAP.SHARED | MAP.FIXED_NOREPLACE,
          fd,
          0,
        );
        // A kernel before 4.17 takes the address for a hint only.
        if (BigInt.asUintN(64, got) !== address) {
          remote.call('munmap', SYS.munmap, got, size);
          throw new BpfError(
            'EEXIST',
            `process ${pid} mapped something where multitrace was about to; try again`,
          );
        }
      } catch (cause) {
        munmap(local, size);
        throw cause;
      }
      return new SharedRegion(address, size, local);
    } finally {
      if (ours >= 0) closeSync(ours);
      remote.call('close', SYS.close, fd);
    }
  }

  /** Unmaps it in the process; its code must run nowhere, its data be read nowhere. */
  unmapRemote(remote: RemoteThread): void {
    remote.call('munmap', SYS.munmap, this.address, this.size);
  }

  /** Unmaps it here. Its views must not be used any more. */
  unmapLocal(): void {
    munmap(this.#local, this.size);
  }
}

/** A relative jump reaches ±2 GiB; a little less, so that every byte of both ends is within it. */
const REACH = 0x7ff0_0000n;

/** A free range of the process for `size` bytes from where a relative jump reaches [`low`, `high`). */
export function planCodeAddress(
  process: TracedProcess,
  size: number,
  low: bigint,
  high: bigint,
  taken: readonly { address: bigint; size: number }[],
): bigint {
  const at = findFreeRange(withTaken(process.task, taken), size, low, high, REACH);
  if (at === undefined)
    throw new BpfError(
      'ENOMEM',
      `process ${process.pid} has no free ${size >> 10} KiB within 2 GiB of 0x${low.toString(16)} for trampolines`,
    );
  return at;
}

/** Where data goes: anywhere; low in the middle of the address space, far from what grows. */
const DATA_LOW = 0x1000_0000_0000n;
const DATA_REACH = 0x1000_0000_0000n;

/** A free range of the process for `size` bytes of data. */
export function planDataAddress(process: TracedProcess, size: number): bigint {
  const at = findFreeRange(readMappings(process.task), size, DATA_LOW, DATA_LOW, DATA_REACH);
  if (at === undefined)
    throw new BpfError('ENOMEM', `process ${process.pid} has no free ${size >> 20} MiB in its address space`);
  return at;
}

function withTaken(
  pid: number,
  taken: readonly { address: bigint; size: number }[],
): ReturnType<typeof readMappings> {
  const mappings = readMappings(pid);
  for (const { address, size } of taken)
    mappings.push({
      start: address,
      end: address + BigInt(size),
      readable: true,
      writable: false,
      executable: true,
      shared: true,
      offset: 0,
      inode: 0,
      path: '',
      deleted: false,
    });
  return mappings.sort((a, b) => (a.start < b.start ? -1 : 1));
}

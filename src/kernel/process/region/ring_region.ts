/**
 * The memory of a ring buffer: a memfd whose pages are mapped twice in a row, in the process and here, so that a
 * record that runs over the end goes on at the start and is one piece to whoever reads or writes it.
 */

import { closeSync, openSync } from 'node:fs';
import {
  ftruncate,
  MAP,
  MFD_CLOEXEC,
  memfdCreate,
  mmap,
  munmap,
  PROT,
  SYS,
  viewMemory,
} from '../../../ffi/libc.js';
import { REGION_NAME } from '../../../process/mappings.js';
import type { RemoteThread } from '../../../process/remote.js';
import { BpfError } from '../../errno.js';

/** Memory of a ring, as the map that lies in it sees it. */
export interface RingMemory {
  /** Where the traced process sees the first of the two copies. */
  readonly address: bigint;
  /** Bytes of one copy. */
  readonly size: number;
  /** Both copies, seen by us: `2 * size` bytes. */
  readonly bytes: Uint8Array;
  /** No program uses the ring any more. */
  free(): void;
}

/** Maps the memory of a ring of `size` bytes: a power of two, and a multiple of the page size. */
export type MapRing = (size: number) => RingMemory;

/** Maps `fd` twice in a row in this process: the address. */
function mapTwiceHere(fd: number, size: number): bigint {
  const at = mmap(0n, 2 * size, PROT.NONE, MAP.PRIVATE | MAP.ANONYMOUS | MAP.NORESERVE, -1, 0);
  try {
    for (const half of [at, at + BigInt(size)])
      mmap(half, size, PROT.READ | PROT.WRITE, MAP.SHARED | MAP.FIXED, fd, 0);
  } catch (cause) {
    munmap(at, 2 * size);
    throw cause;
  }
  return at;
}

/** Memory of a ring in a traced process. */
export class RingRegion {
  /** Where the process sees the first copy. */
  readonly address: bigint;
  readonly size: number;
  /** Both copies, in our memory. */
  readonly bytes: Uint8Array;
  readonly #local: bigint;

  private constructor(address: bigint, size: number, local: bigint) {
    this.address = address;
    this.size = size;
    this.#local = local;
    this.bytes = new Uint8Array(viewMemory(local, 2 * size));
  }

  /**
   * Maps a new ring of `size` bytes at exactly `address` of the process, where `2 * size` bytes are free
   * (`planDataAddress`), and whose threads must be stopped. Throws EEXIST where something is mapped there meanwhile.
   */
  static map(remote: RemoteThread, pid: number, address: bigint, size: number): RingRegion {
    const name = remote.scratchString(`${REGION_NAME}-${process.pid}`);
    const fd = Number(remote.call('memfd_create', SYS.memfd_create, name, MFD_CLOEXEC));
    let ours = -1;
    let local: bigint | undefined;
    const mapped: bigint[] = [];
    try {
      ours = openSync(`/proc/${pid}/fd/${fd}`, 'r+');
      ftruncate(ours, size);
      local = mapTwiceHere(ours, size);
      for (const half of [address, address + BigInt(size)]) {
        const flags = MAP.SHARED | MAP.FIXED_NOREPLACE;
        const got = BigInt.asUintN(
          64,
          remote.call('mmap', SYS.mmap, half, size, PROT.READ | PROT.WRITE, flags, fd, 0),
        );
        mapped.push(got);
        // A kernel before 4.17 takes the address for a hint only.
        if (got !== half)
          throw new BpfError(
            'EEXIST',
            `process ${pid} mapped something where multitrace was about to; try again`,
          );
      }
      return new RingRegion(address, size, local);
    } catch (cause) {
      for (const at of mapped) remote.call('munmap', SYS.munmap, at, size);
      if (local !== undefined) munmap(local, 2 * size);
      throw cause;
    } finally {
      if (ours >= 0) closeSync(ours);
      remote.call('close', SYS.close, fd);
    }
  }

  /** Unmaps it in the process, where no code uses it any more. */
  unmapRemote(remote: RemoteThread): void {
    remote.call('munmap', SYS.munmap, this.address, 2 * this.size);
  }

  /** Unmaps it here. Its views must not be used any more. */
  unmapLocal(): void {
    munmap(this.#local, 2 * this.size);
  }
}

/** Memory of a ring for programs that run in this very process; `fd` can be mapped by others too. */
export function mapRingHere(size: number): RingMemory & { readonly fd: number } {
  const fd = memfdCreate(REGION_NAME);
  ftruncate(fd, size);
  const address = mapTwiceHere(fd, size);
  return {
    address,
    size,
    fd,
    bytes: new Uint8Array(viewMemory(address, 2 * size)),
    free: () => {
      munmap(address, 2 * size);
      closeSync(fd);
    },
  };
}

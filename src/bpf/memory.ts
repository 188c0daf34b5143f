/** Byte arrays at addresses, as the memory of an interpreted program. */

import type { BpfMemory } from './interpreter.js';
import type { AccessSize } from './operation.js';

/** Bytes, and where a program sees them. */
export interface MemoryRegion {
  readonly address: bigint;
  readonly bytes: Uint8Array;
}

/** The regions as memory; anything else is not there, and touching it a `RangeError`. */
export function memoryOf(regions: readonly MemoryRegion[]): BpfMemory {
  const find = (address: bigint, size: AccessSize): { view: DataView; at: number } => {
    for (const region of regions) {
      const at = address - region.address;
      if (at >= 0n && at + BigInt(size) <= BigInt(region.bytes.length)) {
        return { view: new DataView(region.bytes.buffer, region.bytes.byteOffset), at: Number(at) };
      }
    }
    throw new RangeError(`the program touched 0x${address.toString(16)}, which is not its memory`);
  };
  return {
    load(address, size) {
      const { view, at } = find(address, size);
      if (size === 8) return view.getBigUint64(at, true);
      return BigInt(
        size === 4 ? view.getUint32(at, true) : size === 2 ? view.getUint16(at, true) : view.getUint8(at),
      );
    },
    store(address, size, value) {
      const { view, at } = find(address, size);
      if (size === 8) view.setBigUint64(at, BigInt.asUintN(64, value), true);
      else if (size === 4) view.setUint32(at, Number(BigInt.asUintN(32, value)), true);
      else if (size === 2) view.setUint16(at, Number(BigInt.asUintN(16, value)), true);
      else view.setUint8(at, Number(BigInt.asUintN(8, value)));
    },
  };
}

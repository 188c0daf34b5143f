/**
 * The table by which the programs of one link hand something on from the entry of a call to its return: an array, in which
 * programs find their places without a lock, as they may run inside of any function, of the kernel's locks too.
 */

import { MAP_TYPE } from '../../bpf/map_type.js';
import type { SavedState } from './context/rewrite.js';
import type { LinuxHost } from './host.js';
import type { LinuxMap } from './map.js';

export class SavedCalls {
  readonly #host: LinuxHost;
  #map: LinuxMap | undefined;
  #lostAt = 0;

  constructor(host: LinuxHost) {
    this.#host = host;
  }

  /** Made when a program first needs it; the programs of a link need the same. */
  map({ valueSize, entries, lost }: SavedState): LinuxMap {
    this.#lostAt = lost;
    this.#map ??= this.#host.mapCreate({
      type: MAP_TYPE.ARRAY,
      name: 'calls',
      keySize: 4,
      valueSize,
      maxEntries: entries,
    });
    return this.#map;
  }

  /** Calls that found no place, whose returns were not seen. */
  get lost(): bigint {
    const key = new Uint8Array(Uint32Array.of(this.#lostAt).buffer);
    const value = this.#map?.lookup(key);
    return value === undefined ? 0n : new DataView(value.buffer, value.byteOffset).getBigUint64(0, true);
  }

  close(): void {
    this.#map?.free();
    this.#map = undefined;
  }
}

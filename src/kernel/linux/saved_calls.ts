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

  constructor(host: LinuxHost) {
    this.#host = host;
  }

  /** Made when a program first needs it; the programs of a link need the same. */
  map({ valueSize, entries }: SavedState): LinuxMap {
    this.#map ??= this.#host.mapCreate({
      type: MAP_TYPE.ARRAY,
      name: 'calls',
      keySize: 4,
      valueSize,
      maxEntries: entries,
    });
    return this.#map;
  }

  close(): void {
    this.#map?.free();
    this.#map = undefined;
  }
}

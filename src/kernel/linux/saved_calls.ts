/**
 * The map by which the programs of one link hand something on from the entry of a call to its return. Least recently used
 * entries make room: those of calls that never returned go so.
 */

import { MAP_TYPE } from '../../bpf/map_type.js';
import type { SavedState } from './context/rewrite.js';
import type { LinuxHost } from './host.js';
import type { LinuxMap } from './map.js';

/** Calls under way at a time. */
const MOST_CALLS = 1 << 15;

export class SavedCalls {
  readonly #host: LinuxHost;
  #map: LinuxMap | undefined;

  constructor(host: LinuxHost) {
    this.#host = host;
  }

  /** Made when a program first needs it; the programs of a link need the same. */
  map(state: SavedState): LinuxMap {
    this.#map ??= this.#host.mapCreate({
      type: MAP_TYPE.LRU_HASH,
      name: 'calls',
      maxEntries: MOST_CALLS,
      ...state,
    });
    return this.#map;
  }

  close(): void {
    this.#map?.free();
    this.#map = undefined;
  }
}

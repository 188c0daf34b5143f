/** The maps that the programs of `trace` share. */

export interface MapId {
  readonly id: number;
}

/** What the programs share. */
export interface TraceMaps {
  /** Ring buffer. */
  readonly records: MapId & { readonly maxEntries: number };
  /** Array of one value: the numbers of `LOST`. */
  readonly lost: MapId;
  /** Hash: tgid << 32 | tid to the frame of the call that the thread's tree begins with. Only where trees have chosen roots. */
  readonly roots?: MapId;
}

/** Counters of what found no room: calls, and returns of calls that had found some. */
export const LOST = { calls: 0, returns: 8, size: 16 } as const;

/**
 * Threads that stand inside bytes that are about to be replaced, between two instructions: moved to the same instruction
 * where it will be.
 */

import type { StoppedThread } from '../../../process/process.js';
import { R, setRegisters } from '../../../process/registers.js';
import { patchSize } from '../ftrace/patch_site.js';
import type { Hook } from './hooks.js';
import { siteAddress } from './site_edits.js';
import type { Slot } from './slots.js';

/** Addresses inside replaced bytes at which an instruction begins: no thread may go on there. */
export interface InsidePoints {
  readonly points: ReadonlyMap<number, { readonly hook: Hook; readonly to: bigint }>;
  readonly low: number;
  readonly high: number;
}

/** The points of the hooks that are patched for the first time. */
export function insidePoints(
  changes: readonly { readonly hook: Hook; readonly next: Slot | undefined }[],
): InsidePoints {
  const points = new Map<number, { hook: Hook; to: bigint }>();
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  for (const { hook, next } of changes) {
    if (hook.slot !== undefined || next === undefined) continue;
    const site = siteAddress(hook);
    const add = (from: number, to: bigint): void => {
      const at = Number(site) + from;
      points.set(at, { hook, to });
      if (at < low) low = at;
      if (at >= high) high = at + 1;
    };
    const { kind, length, displaced } = hook.site;
    // Nothing is lost of a nop sled: behind it.
    if (kind === 'nop-sled') for (let from = 1; from < length; from++) add(from, site + BigInt(length));
    else
      for (const { from, to } of displaced.boundaries)
        if (from > 0 && from < patchSize(hook.site)) add(from, next.displaced + BigInt(to));
  }
  return { points, low, high };
}

/** Moves a thread that stands at one of the points. */
export function moveOut(thread: StoppedThread, inside: InsidePoints): void {
  const point = inside.points.get(Number(thread.registers[R.rip]));
  if (point === undefined) return;
  thread.registers[R.rip] = point.to;
  setRegisters(thread.tid, thread.registers);
}

/**
 * Which code region each new slot goes to: one within reach of its module that has a free block of its size, or room at
 * its end; else a new region. Nothing is taken here: what slots were promised before is minded.
 */

import type { Module } from '../../../process/image.js';
import type { TracedProcess } from '../../../process/process.js';
import { CodeRegion, roundedSize } from '../region/code_region.js';
import type { PlannedCode } from './slot_plan.js';

/** Room that the region of programs keeps for them, and others for the trampolines of later links. */
const PROGRAM_ROOM = 256 << 10;
const TRAMPOLINE_ROOM = 8 << 10;
/** A region is not made for fewer bytes. */
const MIN_REGION = 64 << 10;
/** One region serves modules that lie no further apart than this. */
const CLUSTER_SPAN = 0x6000_0000n;

/** A slot that wants a place. */
export interface Wanting {
  readonly module: Module;
  /** Bytes. */
  readonly size: number;
  /** What must be in the same region, once for all. */
  readonly shared: PlannedCode | undefined;
}

/** What slots were promised of one region. */
interface Promised {
  bytes: number;
  readonly blocks: Map<number, number>;
  readonly shared: Set<string>;
}

/**
 * The region of each slot that wants one. New ones are planned and put behind `regions`; `hasShared` tells what is in a region already.
 */
export function placeSlots(
  process: TracedProcess,
  regions: CodeRegion[],
  wanting: readonly (Wanting | undefined)[],
  hasShared: (region: CodeRegion, code: PlannedCode) => boolean,
): (CodeRegion | undefined)[] {
  const promised = new Map<CodeRegion, Promised>();
  const promisedOf = (region: CodeRegion): Promised => {
    let known = promised.get(region);
    if (known === undefined) {
      known = { bytes: 0, blocks: new Map(), shared: new Set() };
      promised.set(region, known);
    }
    return known;
  };
  const take = (region: CodeRegion, { size, shared }: Wanting): boolean => {
    const mine = promisedOf(region);
    const rounded = roundedSize(size);
    const blocks = mine.blocks.get(rounded) ?? 0;
    const reused = region.freeBlocks(rounded) > blocks;
    const fresh = shared !== undefined && !mine.shared.has(shared.key) && !hasShared(region, shared);
    const bytes = (reused ? 0 : rounded) + (fresh ? roundedSize(shared.code.length) : 0);
    const kept = region === regions[0] ? PROGRAM_ROOM : TRAMPOLINE_ROOM;
    if (bytes > 0 && region.room - mine.bytes < bytes + kept) return false;
    mine.bytes += bytes;
    if (reused) mine.blocks.set(rounded, blocks + 1);
    if (fresh) mine.shared.add(shared.key);
    return true;
  };
  const inReach = new Map<Module, CodeRegion[]>();
  const reaching = (module: Module): CodeRegion[] => {
    let known = inReach.get(module);
    if (known === undefined) {
      known = regions.filter(r => r.reaches(module.start, module.end));
      inReach.set(module, known);
    }
    return known;
  };
  const homeless: Wanting[] = [];
  const regionOf = wanting.map(wish => {
    if (wish === undefined) return undefined;
    const region = reaching(wish.module).find(r => take(r, wish));
    if (region === undefined) homeless.push(wish);
    return region;
  });
  const planned = planRegions(process, regions, homeless);
  return wanting.map((wish, i) => wish && (regionOf[i] ?? planned.get(wish.module)!));
}

/** Plans regions for slots that have no place, by module. */
function planRegions(
  process: TracedProcess,
  regions: CodeRegion[],
  homeless: readonly Wanting[],
): ReadonlyMap<Module, CodeRegion> {
  const needs = new Map<Module, { bytes: number; shared: Set<string> }>();
  for (const { module, size, shared } of homeless) {
    const need = needs.get(module) ?? { bytes: 0, shared: new Set() };
    needs.set(module, need);
    need.bytes += roundedSize(size);
    if (shared === undefined || need.shared.has(shared.key)) continue;
    need.shared.add(shared.key);
    need.bytes += roundedSize(shared.code.length);
  }
  const modules = [...needs.keys()].sort((a, b) => (a.start < b.start ? -1 : 1));
  const regionOf = new Map<Module, CodeRegion>();
  for (let first = 0; first < modules.length; ) {
    let last = first;
    let { bytes } = needs.get(modules[first])!;
    const low = modules[first].start;
    while (last + 1 < modules.length && modules[last + 1].end - low < CLUSTER_SPAN)
      bytes += needs.get(modules[++last])!.bytes;
    // Half as much again: the next links on the same modules find room. The more there is, the more will be wanted.
    const all = regions.slice(1).reduce((sum, region) => sum + region.size, 0);
    const size = Math.max(MIN_REGION, bytes + (bytes >> 1) + TRAMPOLINE_ROOM, all >> 1);
    const unmapped = regions.filter(region => !region.mapped);
    const region = CodeRegion.plan(process, size, low, modules[last].end, unmapped);
    regions.push(region);
    for (const module of modules.slice(first, last + 1)) regionOf.set(module, region);
    first = last + 1;
  }
  return regionOf;
}

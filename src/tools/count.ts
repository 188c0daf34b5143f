/**
 * The BPF program behind `count`, and its map: one slot for each function, found by the link's cookie, added to
 * atomically so that threads that call the same function lose nothing.
 */

import { ProgramBuilder, R0, R1, R2, R10 } from '../bpf/builder.js';
import { HELPER } from '../bpf/helpers.js';
import type { BpfInsn } from '../bpf/instruction.js';
import { MAP_TYPE } from '../bpf/map_type.js';
import type { BpfMap, Kernel, LinkTarget, SkippedFunction, TracingMultiLink } from '../kernel/kernel.js';
import type { SelectorSet } from '../process/symbols/selector.js';
import { attempted, type NewTarget, SelectedTargets } from './targets.js';

/** Slots of the map for functions of libraries that are loaded later. Memory of slots that nobody touches costs nothing. */
const LATER_FUNCTIONS = 1 << 17;
const KEY_BYTES = 4;
const VALUE_BYTES = 8;

/**
 * The program:
 *
 *     slot = counts[bpf_get_attach_cookie()];
 *     if (slot) __sync_fetch_and_add(slot, 1);
 *     return 0;
 */
export function countProgram(counts: { readonly id: number }): BpfInsn[] {
  const b = new ProgramBuilder();
  const out = b.label();
  b.call(HELPER.get_attach_cookie);
  b.store(4, R10, -4, R0);
  b.mov(R2, R10);
  b.add(R2, -4);
  b.ldMap(R1, counts);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, out);
  b.mov(R1, 1);
  b.atomicAdd(8, R0, 0, R1);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

/** A function and how often it was called. */
export interface FunctionCount {
  readonly module: string;
  readonly function: string;
  readonly address: bigint;
  readonly count: bigint;
}

/** Counts calls of the functions that selectors match, on one machine. */
export class Counter {
  readonly #targets: SelectedTargets;
  readonly #map: BpfMap;
  readonly #link: TracingMultiLink;
  #attachMs = 0;

  /**
   * Loads the program and attaches it to what matches now; throws only where that is impossible as a whole.
   * `attaching` is told how many functions there are, before.
   */
  constructor(kernel: Kernel, selectors: SelectorSet, attaching: (functions: number) => void = () => {}) {
    this.#targets = new SelectedTargets(kernel, selectors);
    const now = this.#targets.find(new Set());
    this.#map = kernel.mapCreate({
      type: MAP_TYPE.ARRAY,
      name: 'counts',
      keySize: KEY_BYTES,
      valueSize: VALUE_BYTES,
      maxEntries: now.length + LATER_FUNCTIONS,
    });
    const prog = kernel.progLoad({
      name: 'count',
      attachType: 'fentry',
      insns: countProgram(this.#map),
      maps: [this.#map],
    });
    attaching(now.length);
    const from = performance.now();
    this.#link = kernel.linkCreate({ prog, targets: now.map(asLinkTarget), skipInvalid: true });
    this.#attachMs = performance.now() - from;
  }

  /** How long attaching took once the functions were known, ms. */
  get attachMs(): number {
    return this.#attachMs;
  }

  /** Functions that matched so far. */
  get matched(): number {
    return this.#targets.matched;
  }

  /** Those of them that were counted, at least for as long as their library was there. */
  get attached(): number {
    return this.#targets.functions.length - this.#link.skipped.length;
  }

  /** The others, and why. */
  get skipped(): readonly SkippedFunction[] {
    return [...this.#link.skipped, ...this.#targets.unresolved];
  }

  get pauseMs(): number {
    return this.#link.pauseMs;
  }

  get missed(): bigint {
    return this.#link.missed;
  }

  /** Attaches to what matches now and did not before: libraries that were just loaded. */
  extend(): void {
    const targets = this.#targets.find(attempted([this.#link]), this.#map.maxEntries);
    if (targets.length === 0) return;
    const from = performance.now();
    this.#link.add(targets.map(asLinkTarget));
    this.#attachMs += performance.now() - from;
  }

  /** How often each function was called so far; functions that could not be attached are not in it. */
  read(): FunctionCount[] {
    const skipped = new Set(this.#link.skipped.map(s => s.address));
    const key = new Uint8Array(KEY_BYTES);
    const keyView = new DataView(key.buffer);
    const counts: FunctionCount[] = [];
    for (const [slot, { module, name, address }] of this.#targets.functions.entries()) {
      if (skipped.has(address)) continue;
      keyView.setUint32(0, slot, true);
      const value = this.#map.lookup(key)!;
      const count = new DataView(value.buffer, value.byteOffset).getBigUint64(0, true);
      counts.push({ module, function: name, address, count });
    }
    return counts;
  }

  detach(): void {
    this.#link.detach();
  }

  /** Detaches, and gives the map back: it can't be read any more. */
  close(): void {
    this.detach();
    this.#map.free();
  }
}

function asLinkTarget({ target, slot }: NewTarget): LinkTarget {
  return { target, cookie: BigInt(slot) };
}

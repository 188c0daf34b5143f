/** `latency` on one program of a process: its maps, its link, and what they hold. */

import { MAP_TYPE } from '../../bpf/map_type.js';
import type {
  BpfMap,
  BpfProg,
  Kernel,
  LinkTarget,
  SkippedFunction,
  TracingMultiLink,
} from '../../kernel/kernel.js';
import type { SelectorSet } from '../../process/symbols/selector.js';
import { resultSize, signatureOf } from '../signature.js';
import { attempted, type NewTarget, SelectedTargets } from '../targets.js';
import { BUCKETS, type Histogram } from './histogram.js';
import { HISTOGRAM_BYTES, type LatencyFilters, latencyCookie, latencyProgram, STATS } from './program.js';

/** Room for functions of libraries that are loaded later. Memory of those that nobody calls costs nothing. */
const LATER_FUNCTIONS = 1 << 14;
const KEY_BYTES = 4;

/** A function that was called, and how long its calls took. */
export interface FunctionLatency {
  readonly module: string;
  readonly function: string;
  readonly address: bigint;
  readonly calls: number;
  /** ns */
  readonly total: number;
  /** ns */
  readonly max: number;
  readonly histogram: Histogram;
}

export class Latency {
  readonly #kernel: Kernel;
  readonly #filters: LatencyFilters;
  readonly #targets: SelectedTargets;
  readonly #stats: BpfMap;
  readonly #histograms: BpfMap;
  readonly #prog: BpfProg;
  readonly #link: TracingMultiLink;
  #attachMs = 0;

  /**
   * Loads the program and attaches it to what matches now; throws only where that is impossible as a whole.
   * `attaching` is told how many functions there are, before.
   */
  constructor(
    kernel: Kernel,
    selectors: SelectorSet,
    filters: LatencyFilters,
    attaching: (functions: number) => void = () => {},
  ) {
    this.#kernel = kernel;
    this.#filters = filters;
    this.#targets = new SelectedTargets(kernel, selectors);
    const now = this.#targets.find(new Set());
    const array = (name: string, valueSize: number): BpfMap =>
      kernel.mapCreate({
        type: MAP_TYPE.ARRAY,
        name,
        keySize: KEY_BYTES,
        valueSize,
        maxEntries: now.length + LATER_FUNCTIONS,
      });
    this.#stats = array('stats', STATS.size);
    this.#histograms = array('histograms', HISTOGRAM_BYTES);
    const maps = { stats: this.#stats, histograms: this.#histograms };
    this.#prog = kernel.progLoad({
      name: 'latency',
      attachType: 'fsession',
      insns: latencyProgram(maps, filters),
      maps: [this.#stats, this.#histograms],
    });
    attaching(now.length);
    const from = performance.now();
    this.#link = kernel.linkCreate({
      prog: this.#prog,
      targets: now.map(target => this.#linkTarget(target)),
      skipInvalid: true,
    });
    this.#attachMs = performance.now() - from;
  }

  #linkTarget({ target, slot }: NewTarget): LinkTarget {
    // Results matter to a filter alone; types may take seconds.
    if (this.#filters.result === undefined) return { target, cookie: latencyCookie(slot, undefined) };
    const signature = signatureOf(this.#kernel, target);
    const result = signature === undefined ? undefined : (resultSize(signature) ?? null);
    return { target, cookie: latencyCookie(slot, result) };
  }

  get matched(): number {
    return this.#targets.matched;
  }
  get attached(): number {
    return this.#targets.functions.length - this.#link.skipped.length;
  }
  get skipped(): readonly SkippedFunction[] {
    return [...this.#link.skipped, ...this.#targets.unresolved];
  }
  /** How long attaching took once the functions were known, ms. */
  get attachMs(): number {
    return this.#attachMs;
  }
  get pauseMs(): number {
    return this.#link.pauseMs;
  }
  get missed(): bigint {
    return this.#link.missed + (this.#prog.missed ?? 0n);
  }

  /** Attaches to what libraries brought. */
  extend(): void {
    const targets = this.#targets.find(attempted([this.#link]), this.#stats.maxEntries);
    if (targets.length === 0) return;
    const from = performance.now();
    this.#link.add(targets.map(target => this.#linkTarget(target)));
    this.#attachMs += performance.now() - from;
  }

  /** The functions that were called so far. */
  read(): FunctionLatency[] {
    const key = new Uint8Array(KEY_BYTES);
    const keyView = new DataView(key.buffer);
    const functions: FunctionLatency[] = [];
    for (const [slot, { module, name, address }] of this.#targets.functions.entries()) {
      keyView.setUint32(0, slot, true);
      const stats = words(this.#stats.lookup(key)!);
      const total = Number(stats[STATS.total / 8]);
      if (total === 0) continue;
      const counts = words(this.#histograms.lookup(key)!);
      const histogram = new Float64Array(BUCKETS);
      let calls = 0;
      for (let i = 0; i < BUCKETS; i++) {
        histogram[i] = Number(counts[i]);
        calls += histogram[i];
      }
      // A call that is just being counted has its total before its bucket.
      if (calls === 0) continue;
      const max = Number(stats[STATS.max / 8]);
      functions.push({ module, function: name, address, calls, total, max, histogram });
    }
    return functions;
  }
}

function words({ buffer, byteOffset, byteLength }: Uint8Array): BigUint64Array {
  return new BigUint64Array(buffer.slice(byteOffset, byteOffset + byteLength));
}

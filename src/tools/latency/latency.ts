/** `latency` on one program of a process: its maps, its link, and what they hold. */

import { MAP_TYPE } from '../../bpf/map_type.js';
import type {
  BpfMap,
  BpfProg,
  Kernel,
  SkippedFunction,
  TargetFunction,
  TracingMultiLink,
} from '../../kernel/kernel.js';
import type { SelectorSet } from '../../process/symbols/selector.js';
import { LICENSE } from '../license.js';
import { type ResultSize, resultSize, signatureOf } from '../signature.js';
import { FunctionSlots } from '../targets.js';
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
  readonly #slots: FunctionSlots;
  readonly #stats: BpfMap;
  readonly #histograms: BpfMap;
  readonly #prog: BpfProg;
  readonly #link: TracingMultiLink;

  /**
   * Loads the program and attaches it to what matches now and later; throws only where that is impossible as a whole.
   * `attaching` is told how many functions there are, before.
   */
  constructor(
    kernel: Kernel,
    selectors: SelectorSet,
    filters: LatencyFilters,
    attaching: (functions: number) => void = () => {},
  ) {
    const now = kernel.functions(selectors);
    const maxEntries = now.length + (kernel.growing === false ? 1 : LATER_FUNCTIONS);
    this.#slots = new FunctionSlots(maxEntries);
    const array = (name: string, valueSize: number): BpfMap =>
      kernel.mapCreate({ type: MAP_TYPE.ARRAY, name, keySize: KEY_BYTES, valueSize, maxEntries });
    this.#stats = array('stats', STATS.size);
    this.#histograms = array('histograms', HISTOGRAM_BYTES);
    this.#prog = kernel.progLoad({
      name: 'latency',
      attachType: 'fsession',
      multi: true,
      license: LICENSE,
      insns: latencyProgram({ stats: this.#stats, histograms: this.#histograms }, filters),
      maps: [this.#stats, this.#histograms],
    });
    attaching(now.filter(({ unresolved }) => unresolved === undefined).length);
    const cookie = (target: TargetFunction): bigint =>
      // Results matter to a filter alone; types may take seconds.
      latencyCookie(
        this.#slots.slotOf(target),
        filters.result === undefined ? undefined : sizeOfResult(kernel, target),
      );
    const targets = now.map(target => ({
      target,
      cookie: target.unresolved === undefined ? cookie(target) : 0n,
    }));
    this.#link = kernel.linkCreate({
      prog: this.#prog,
      targets,
      pattern: { selectors, cookie },
      skipInvalid: true,
    });
  }

  get matched(): number {
    return this.attached + this.skipped.length;
  }
  get attached(): number {
    return this.#slots.without(this.skipped);
  }
  get skipped(): readonly SkippedFunction[] {
    return this.#link.skipped;
  }
  /** How long attaching took once the functions were known, ms. */
  get attachMs(): number {
    return this.#link.attachMs;
  }
  get links(): readonly TracingMultiLink[] {
    return [this.#link];
  }
  get pauseMs(): number {
    return this.#link.pauseMs;
  }
  get missed(): bigint {
    return this.#link.missed + (this.#prog.missed ?? 0n);
  }

  /** The functions that were called so far. */
  read(): FunctionLatency[] {
    const key = new Uint8Array(KEY_BYTES);
    const keyView = new DataView(key.buffer);
    const functions: FunctionLatency[] = [];
    for (const [slot, { module, name, address }] of this.#slots.functions.entries()) {
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

function sizeOfResult(kernel: Kernel, target: TargetFunction): ResultSize | null | undefined {
  const signature = signatureOf(kernel, target);
  return signature === undefined ? undefined : (resultSize(signature) ?? null);
}

function words({ buffer, byteOffset, byteLength }: Uint8Array): BigUint64Array {
  return new BigUint64Array(buffer.slice(byteOffset, byteOffset + byteLength));
}

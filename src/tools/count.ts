/**
 * The BPF program behind `count`, and its map: one slot for each function, found by the link's cookie, added to
 * atomically so that threads that call the same function lose nothing.
 */

import { ProgramBuilder, R0, R1, R2, R6, R10 } from '../bpf/builder.js';
import { HELPER } from '../bpf/helpers.js';
import type { BpfInsn } from '../bpf/instruction.js';
import { MAP_TYPE } from '../bpf/map_type.js';
import type { BpfMap, Kernel, SkippedFunction, TargetFunction, TracingMultiLink } from '../kernel/kernel.js';
import type { SelectorSet } from '../process/symbols/selector.js';
import { LICENSE } from './license.js';
import { FunctionSlots } from './targets.js';
import { choosesThreads, emitChoice, type ThreadChoice } from './thread_choice.js';

/** Slots of the map for functions of libraries that are loaded later. Memory of slots that nobody touches costs nothing. */
const LATER_FUNCTIONS = 1 << 17;
const KEY_BYTES = 4;
const VALUE_BYTES = 8;

/**
 * The program, where every thread's calls count:
 *
 *     slot = counts[bpf_get_attach_cookie()];
 *     if (slot) __sync_fetch_and_add(slot, 1);
 *     return result;
 */
export function countProgram(
  counts: { readonly id: number },
  result = 0,
  threads: ThreadChoice = {},
): BpfInsn[] {
  const b = new ProgramBuilder();
  const out = b.label();
  if (choosesThreads(threads)) {
    b.mov(R6, R1);
    emitChoice(b, threads, out);
    b.mov(R1, R6);
  }
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
  b.mov(R0, result);
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
  readonly #map: BpfMap;
  readonly #link: TracingMultiLink;
  readonly #slots: FunctionSlots;

  /**
   * Loads the program and attaches it to what matches now; throws only where that is impossible as a whole.
   * `attaching` is told how many functions there are, before; `threads`: whose calls count.
   */
  constructor(
    kernel: Kernel,
    selectors: SelectorSet,
    attaching: (functions: number) => void = () => {},
    threads: ThreadChoice = {},
  ) {
    const now = kernel.functions(selectors);
    this.#map = kernel.mapCreate({
      type: MAP_TYPE.ARRAY,
      name: 'counts',
      keySize: KEY_BYTES,
      valueSize: VALUE_BYTES,
      maxEntries: now.length + (kernel.growing === false ? 1 : LATER_FUNCTIONS),
    });
    const prog = kernel.progLoad({
      name: 'count',
      attachType: 'fentry',
      multi: true,
      license: LICENSE,
      insns: countProgram(this.#map, 0, threads),
      maps: [this.#map],
    });
    this.#slots = new FunctionSlots(this.#map.maxEntries);
    attaching(now.filter(({ unresolved }) => unresolved === undefined).length);
    const cookie = (target: TargetFunction): bigint => BigInt(this.#slots.slotOf(target));
    const targets = now.map(target => ({
      target,
      cookie: target.unresolved === undefined ? cookie(target) : 0n,
    }));
    this.#link = kernel.linkCreate({
      prog,
      targets,
      pattern: { selectors, cookie },
      skipInvalid: true,
    });
    // The link has it.
    prog.free();
  }

  /** How long attaching took once the functions were known, ms. */
  get attachMs(): number {
    return this.#link.attachMs;
  }

  /** Functions that matched so far. */
  get matched(): number {
    return this.attached + this.skipped.length;
  }

  /** Those of them that were counted, at least for as long as their library was there. */
  get attached(): number {
    return this.#slots.without(this.skipped);
  }

  /** The others, and why. */
  get skipped(): readonly SkippedFunction[] {
    return this.#link.skipped;
  }

  get links(): readonly TracingMultiLink[] {
    return [this.#link];
  }

  get pauseMs(): number {
    return this.#link.pauseMs;
  }

  get missed(): bigint {
    return this.#link.missed;
  }

  /** How often each function was called so far; functions that could not be attached are not in it. */
  read(): FunctionCount[] {
    const skipped = new Set(this.#link.skipped.map(s => s.address));
    const key = new Uint8Array(KEY_BYTES);
    const keyView = new DataView(key.buffer);
    const counts: FunctionCount[] = [];
    for (const [slot, { module, name, address }] of this.#slots.functions.entries()) {
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

/** Programs at the return of functions, for the tests: how often each returned, and the sum of what it returned. */

import { ProgramBuilder, R0, R1, R2, R6, R7, R10 } from '../../src/bpf/builder.js';
import { HELPER } from '../../src/bpf/helpers.js';
import { MAP_TYPE } from '../../src/bpf/map_type.js';
import type { AttachType, BpfMap, LinkTarget, TracingMultiLink } from '../../src/kernel/kernel.js';
import type { ProcessKernel } from '../../src/kernel/process/machine.js';
import { SelectorSet } from '../../src/process/symbols/selector.js';

/** Behind six arguments. */
const RETURN_VALUE = 48;
const COUNT = 0;
const SUM = 8;
const FIRST = 16;
const VALUE_BYTES = 24;

/** { count, sum of results, sum of first arguments } of each target, by its cookie. */
export function tallyProgram(map: BpfMap, attachType: AttachType): ReturnType<ProgramBuilder['build']> {
  const b = new ProgramBuilder();
  const out = b.label();
  b.load(8, R6, R1, 0);
  if (attachType === 'fentry') b.mov(R7, 0);
  else b.load(8, R7, R1, RETURN_VALUE);
  b.call(HELPER.get_attach_cookie);
  b.store(4, R10, -4, R0);
  b.mov(R2, R10);
  b.add(R2, -4);
  b.ldMap(R1, map);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, out);
  b.mov(R1, 1);
  b.atomicAdd(8, R0, COUNT, R1);
  b.atomicAdd(8, R0, SUM, R7);
  b.atomicAdd(8, R0, FIRST, R6);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

export interface Tally {
  readonly count: number;
  readonly sum: bigint;
  readonly first: bigint;
}

/** One tallying program on what selectors match. */
export class Tallies {
  readonly link: TracingMultiLink;
  readonly #map: BpfMap;

  constructor(
    kernel: ProcessKernel,
    selectors: readonly string[],
    attachType: AttachType,
    skipInvalid = false,
  ) {
    const functions = kernel
      .functions(SelectorSet.parse([...selectors]))
      .filter(f => f.unresolved === undefined);
    this.#map = kernel.mapCreate({
      type: MAP_TYPE.ARRAY,
      name: 'tallies',
      keySize: 4,
      valueSize: VALUE_BYTES,
      maxEntries: functions.length,
    });
    const prog = kernel.progLoad({
      name: 'tally',
      attachType,
      insns: tallyProgram(this.#map, attachType),
      maps: [this.#map],
    });
    const targets: LinkTarget[] = functions.map((target, i) => ({ target, cookie: BigInt(i) }));
    this.link = kernel.linkCreate({ prog, targets, skipInvalid });
  }

  /** By function name. */
  read(): Map<string, Tally> {
    const tallies = new Map<string, Tally>();
    for (const { target, cookie } of this.link.targets) {
      const key = new Uint8Array(4);
      new DataView(key.buffer).setUint32(0, Number(cookie), true);
      const value = this.#map.lookup(key)!;
      const view = new DataView(value.buffer, value.byteOffset);
      tallies.set(target.name, {
        count: Number(view.getBigUint64(COUNT, true)),
        sum: view.getBigInt64(SUM, true),
        first: view.getBigInt64(FIRST, true),
      });
    }
    return tallies;
  }
}

/**
 * Our kernel on the process of one round, as the rows use it: programs on a function, by a plain link or a multi-link.
 */

import { ProgramBuilder, R0, R1, R2, R10 } from '../bpf/builder.js';
import { HELPER } from '../bpf/helpers.js';
import type { BpfInsn } from '../bpf/instruction.js';
import { MAP_TYPE } from '../bpf/map_type.js';
import type { AttachType, BpfMap, BpfProg, TracingLink } from '../kernel/kernel.js';
import { ProcessKernel } from '../kernel/process/machine.js';
import type { ProcessTarget } from '../kernel/process/targets.js';
import { openProcess } from '../process/process.js';
import { SelectorSet } from '../process/symbols/selector.js';
import { countProgram } from '../tools/count.js';
import { type Attached, NotHere } from './row.js';

/** What a modify-return program of a row returns in the place of the function, as the kernel's own benchmark does. */
export const MODIFIED = -22;
/** Slots of the counting map: one for each function of the process. */
const SLOTS = 1 << 16;

/** What "every function" must be at least. */
const FEWEST_FUNCTIONS = 8000;

/** How a program is attached. */
export type Through = 'plain' | 'multi' | 'multi-all';

export class OurMachine {
  readonly kernel: ProcessKernel;
  #all: readonly ProcessTarget[] | undefined;

  constructor(pid: number) {
    this.kernel = new ProcessKernel(openProcess(pid));
    this.kernel.allowModifyReturn = SelectorSet.parse(['*']);
  }

  /** A function of the traced program. */
  function(name: string): ProcessTarget {
    return this.kernel.functions(SelectorSet.parse([name]))[0];
  }

  /** Every function of the process that can be attached. */
  attachable(): readonly ProcessTarget[] {
    if (this.#all === undefined) {
      const all = this.kernel.functions(SelectorSet.parse(['*:*'])).filter(f => f.unresolved === undefined);
      const checks = this.kernel.check(all);
      this.#all = all.filter((_, i) => checks[i].refused === undefined);
    }
    return this.#all;
  }

  /** Counts events of a function. */
  count(attachType: AttachType, name: string, through: Through): Attached {
    const map = this.counts();
    const prog = this.kernel.progLoad({
      name: 'count',
      attachType,
      insns: countProgram(map, attachType === 'fmod_ret' ? MODIFIED : 0),
      maps: [map],
    });
    return this.link(prog, name, through, () => slotOf(map, 0));
  }

  /** Counts every function of the process; the count is that of `name`. */
  countAll(name: string): Attached {
    const functions = this.attachable().length;
    if (functions < FEWEST_FUNCTIONS)
      throw new NotHere(
        `the process has only ${functions} functions that can be attached, of ${FEWEST_FUNCTIONS}: libraries that it would load are not installed`,
      );
    return { ...this.count('fentry', name, 'multi-all'), functions };
  }

  /** Counts by a map that has a value for each thread. */
  countPerThread(attachType: AttachType, name: string): Attached {
    const map = this.countsPerThread();
    const prog = this.kernel.progLoad({
      name: 'count_percpu',
      attachType,
      insns: countPerThreadProgram(map),
      maps: [map],
    });
    const functions = name === 'different' ? ['ordinary', 'other'] : [name];
    return this.link(prog, functions, 'multi', () => {
      const values = map.lookup(new Uint8Array(4))!;
      const view = new DataView(values.buffer, values.byteOffset, values.length);
      let sum = 0n;
      for (let at = 0; at < values.length; at += 8) sum += view.getBigUint64(at, true);
      map.free();
      return Number(sum);
    });
  }

  countsPerThread(): BpfMap {
    return this.kernel.mapCreate({
      type: MAP_TYPE.PERCPU_ARRAY,
      name: 'counts',
      keySize: 4,
      valueSize: 8,
      maxEntries: 1,
    });
  }

  counts(slots = SLOTS): BpfMap {
    return this.kernel.mapCreate({
      type: MAP_TYPE.ARRAY,
      name: 'counts',
      keySize: 4,
      valueSize: 8,
      maxEntries: slots,
    });
  }

  /** Links a program; functions have the cookies 0, 1, …. `count` is asked after the link is gone. */
  link(prog: BpfProg, names: string | readonly string[], through: Through, count: () => number): Attached {
    const [first, ...others] = [names].flat().map(name => this.function(name));
    const rest =
      through === 'multi-all' ? this.attachable().filter(f => f.address !== first.address) : others;
    const targets = [first, ...rest].map((target, i) => ({ target, cookie: BigInt(i) }));
    const link =
      through === 'plain'
        ? this.plain(prog, first, 0n)
        : this.kernel.linkCreate({ prog, targets, skipInvalid: through === 'multi-all' });
    // The link keeps it as long as it needs it.
    prog.free();
    return { count, detach: () => link.detach() };
  }

  /** A plain link. */
  plain(prog: BpfProg, target: ProcessTarget, cookie: bigint): TracingLink {
    return this.kernel.linkCreate({ prog, target, cookie });
  }

  close(): void {
    this.kernel.close();
  }
}

/** Value of a slot of an array that has one u64 each; the map is given back. */
export function slotOf(map: BpfMap, index: number): number {
  const key = new Uint8Array(4);
  new DataView(key.buffer).setUint32(0, index, true);
  const value = map.lookup(key)!;
  map.free();
  return Number(new DataView(value.buffer, value.byteOffset).getBigUint64(0, true));
}

/**
 * The program:
 *
 *     value = bpf_map_lookup_elem(counts, 0);
 *     if (value) __sync_fetch_and_add(value, 1);
 *
 * Every thread has a value of its own: here the addition is one instruction without a lock.
 */
export function countPerThreadProgram(map: { readonly id: number }): BpfInsn[] {
  const b = new ProgramBuilder();
  const out = b.label();
  b.store(4, R10, -4, 0);
  b.mov(R2, R10);
  b.add(R2, -4);
  b.ldMap(R1, map);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, out);
  b.mov(R1, 1);
  b.atomicAdd(8, R0, 0, R1);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

/** Random programs: functions, called by the program and by helpers, with statements in them. */

import { type ProgramLabel, R0, R1, R2, R3, R4, R5, R7, R8, R9, R10 } from '../../src/bpf/builder.js';
import { HELPER } from '../../src/bpf/helpers.js';
import { MAPS } from '../../src/kernel/process/verifier/rules_fixture.js';
import { AREA, STACK_AREA, type Writer } from './writer.js';

/** Calls in one program. */
const MOST_CALLS = 3;

/** bpf_loop() or bpf_for_each_map_elem(), over the numbers on the stack. */
export function callBack(w: Writer): void {
  const { p, random } = w;
  if (w.calls >= MOST_CALLS) return;
  w.calls++;
  const callback = p.label();
  const each = random.once(3);
  const map = random.pick([MAPS.counts, MAPS.wide]);
  if (each) p.ldMap(R1, map);
  else if (random.once(2)) p.mov(R1, random.below(6));
  else w.number(R1);
  p.ldFunction(R2, callback).mov(R3, R10).add(R3, AREA.low).mov(R4, 0);
  p.call(each ? HELPER.for_each_map_elem : HELPER.loop);
  if (w.free.length > 0 && random.once(2)) p.mov(random.pick(w.free), R0);
  const budget = 1 + random.below(3);
  w.functions.push(() => {
    p.bind(callback);
    if (each) p.load(4, R7, R2, 0).mov(R8, 0);
    else p.mov(R7, R1).mov(R8, R1);
    if (each && random.once(2)) p.mov(R9, R3);
    else p.mov(R9, each ? R4 : R2);
    w.begin(each ? { ...STACK_AREA, size: Math.min(map.valueSize, AREA.size) } : STACK_AREA);
    w.calls = MOST_CALLS;
    w.budget = budget;
    w.statements();
    w.finish(() => {
      if (random.once(3)) p.mov(R0, w.numbered()).and(R0, 1);
      else p.mov(R0, random.once(4) ? 1 : 0);
    });
  });
}

/** A function of the program's own: numbers and a pointer in, a number out. The number in slot `small` is small. */
export function callFunction(w: Writer, small?: number): void {
  const { p, random, region } = w;
  if (w.calls >= MOST_CALLS) return;
  w.calls++;
  const name: ProgramLabel = p.label();
  const handed = small === undefined && region !== undefined && random.once(2) ? region : STACK_AREA;
  w.number(R1);
  if (handed === STACK_AREA) p.mov(R2, R10).add(R2, AREA.low);
  else p.mov(R2, R9);
  w.number(R3);
  p.callSubprogram(name);
  const most = random.pick([0, 7, 15]);
  if (most > 0 && handed === region && region.size >= most + 1) {
    // The function says that its result is at most that.
    p.mov(R2, R9).add(R2, R0).load(1, R3, R2, 0);
  }
  if (w.free.length > 0 && random.once(2)) p.mov(random.pick(w.free), R0);
  // What it left in the slot is small too.
  if (small !== undefined)
    p.load(8, R3, R10, small).mov(R5, R10).add(R5, AREA.low).add(R5, R3).load(1, R4, R5, 0);
  const budget = 1 + random.below(4);
  w.functions.push(() => {
    p.bind(name).mov(R7, R1).mov(R8, R3).mov(R9, R2);
    w.begin(handed);
    w.budget = budget;
    if (small !== undefined) {
      p.load(8, R3, R9, small - AREA.low)
        .mov(R5, R9)
        .add(R5, R3)
        .load(1, R4, R5, 0);
      if (random.once(2)) p.store(8, R9, small - AREA.low, random.once(24) ? 50 : random.below(8));
    }
    w.statements();
    w.finish(() => {
      const out = p.label();
      p.mov(R0, w.numbered());
      if (most > 0) {
        p.jump('eq', w.numbered(), 77, out);
        w.bound(R0, most, out);
        p.exit()
          .bind(out)
          .mov(R0, random.below(most + 1));
      } else if (random.once(2)) p.and(R0, 0xff);
    });
  });
}

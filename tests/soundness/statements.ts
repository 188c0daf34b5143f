/** Random programs: statements, blocks, loops, functions. */

import {
  type ProgramLabel,
  R0,
  R1,
  R2,
  R3,
  R4,
  R5,
  R6,
  R7,
  R8,
  R9,
  R10,
  type Register,
} from '../../src/bpf/builder.js';
import { HELPER } from '../../src/bpf/helpers.js';
import type { BpfInsn } from '../../src/bpf/instruction.js';
import { KFUNC } from '../../src/bpf/kfuncs.js';
import type { AccessSize } from '../../src/bpf/operation.js';
import { MAPS } from '../../src/kernel/process/verifier/rules_fixture.js';
import { callHelper, lookUp } from './helper_calls.js';
import { wild } from './wild.js';
import { AREA, ASIDE, OBJECTS, type Random, type Region, SLOTS, Writer } from './writer.js';

const DEEPEST = 3;
const MOST_CALLS = 3;
const STACK_AREA: Region = { size: AREA.size, writable: true, stack: true, map: false };

/** A whole program; `result` free: it may return anything. */
export function randomProgram(random: Random, freeResult: boolean): BpfInsn[] {
  const w = new Writer(random, 2 + random.below(14));
  const { p } = w;
  p.mov(R6, R1).load(8, R7, R6, 0).load(8, R8, R6, 8);
  for (const slot of SLOTS) if (!random.once(8)) p.store(8, R10, slot, random.pick([R7, R8, 0, 5]));
  if (!random.once(6)) lookUp(w);
  while (w.budget > 0) statement(w);
  w.finish(() => {
    if (freeResult && random.once(2)) p.mov(R0, w.numbered());
    else p.mov(R0, 0);
  });
  for (let write = w.functions.shift(); write !== undefined; write = w.functions.shift()) write();
  return p.build();
}

function statement(w: Writer): void {
  const { random } = w;
  w.budget--;
  if (random.once(80)) {
    wild(w);
    return;
  }
  const roll = random.below(38);
  if (roll < 7) arithmetic(w);
  else if (roll < 11) spill(w);
  else if (roll < 17) access(w);
  else if (roll < 21) branch(w);
  else if (roll < 23) giveUp(w);
  else if (roll < 26) loop(w);
  else if (roll < 28) callFunction(w);
  else if (roll < 29) otherPointer(w);
  else if (roll < 32) diamond(w);
  else if (roll < 34) linked(w);
  else callHelper(w, body);
}

/** Some statements, as the body of another. */
function body(w: Writer, most = 3): void {
  w.block(() => {
    for (let n = w.depth > DEEPEST ? 1 : 1 + w.random.below(most); n > 0; n--) {
      if (w.depth > DEEPEST) arithmetic(w);
      else statement(w);
    }
  });
}

function arithmetic(w: Writer): void {
  const { random } = w;
  if (w.free.length === 0) return;
  const to = random.pick(w.free);
  if (random.once(3)) w.number(to);
  for (let n = 1 + random.below(3); n > 0; n--) w.compute(to);
}

/** Numbers to the stack and back, whole and in parts. */
function spill(w: Writer): void {
  const { p, random } = w;
  const slot = random.pick(SLOTS);
  const size = random.pick<AccessSize>([1, 2, 4, 8, 8]);
  const at = slot + size * random.below(8 / size);
  if (random.once(4)) p.store(size, R10, at, w.constant());
  else p.store(size, R10, at, w.numbered());
  if (random.once(8)) p.mov(R3, w.numbered()).atomicAdd(size === 4 ? 4 : 8, R10, size === 4 ? at : slot, R3);
  if (w.free.length > 0 && random.once(2)) {
    const back = random.pick<AccessSize>([4, 8, size]);
    p.load(back, random.pick(w.free), R10, back === size ? at : slot);
  }
}

function access(w: Writer): void {
  const { p, random, region } = w;
  if (region === undefined || random.once(5)) {
    if (random.once(4)) w.indexed(R10, -16, 16, STACK_AREA);
    else w.indexed(R10, AREA.low, AREA.size, STACK_AREA);
    return;
  }
  if (!random.once(3)) {
    w.indexed(R9, 0, region.size, region);
    return;
  }
  const size = random.pick<AccessSize>([1, 2, 4, 8]);
  const at = size * random.below(Math.max(1, Math.floor(region.size / size)));
  if (region.map && size >= 4 && random.once(3)) {
    p.mov(R3, w.numbered());
    if (random.once(3)) p.mov(R0, w.numbered()).atomicCmpxchg(size as 4 | 8, R9, at, R3);
    else p[random.pick(['atomicFetchAdd', 'atomicXchg', 'atomicOr'] as const)](size as 4 | 8, R9, at, R3);
    if (w.free.length > 0) p.mov(random.pick(w.free), R3);
  } else if (region.writable && random.once(2)) p.store(size, R9, at, w.numbered());
  else if (w.free.length > 0) p.load(size, random.pick(w.free), R9, at);
}

function branch(w: Writer): void {
  const { p, random } = w;
  const over = p.label();
  w.condition(over);
  body(w);
  if (random.once(2)) {
    const join = p.label();
    p.goto(join).bind(over);
    body(w);
    p.bind(join);
  } else p.bind(over);
}

/** One number or another by which way was gone, and then something that rests on its being small. */
function diamond(w: Writer): void {
  const { p, random } = w;
  const join = p.label();
  const out = p.label();
  const small = (): number => (random.once(24) ? 48 : random.pick([0, 1, 2, 5, 7]));
  const slot = random.pick(SLOTS);
  const inSlot = w.free.length === 0 || random.once(2);
  const register = inSlot ? R2 : random.pick(w.free);
  const put = (): void => {
    if (inSlot) p.store(random.once(8) ? 4 : 8, R10, slot, small());
    else p.mov(register, small());
  };
  if (inSlot) p.store(8, R10, slot, small());
  else p.mov(register, small());
  w.condition(join);
  put();
  p.bind(join);
  if (random.once(3)) {
    callFunction(w, inSlot ? slot : undefined);
    return;
  }
  if (inSlot) p.load(8, R2, R10, slot);
  else p.mov(R2, register);
  if (random.once(2)) {
    // It bounds another, or a copy of that.
    w.number(R3);
    if (random.once(2)) p.and(R3, 15);
    const copy = random.pick([R3, R4]);
    if (copy === R4) p.mov(R4, R3);
    p.jump(random.pick(['gt', 'ge'] as const), copy, R2, out).mov(R2, random.pick([R3, R3, copy]));
  }
  const base = w.region !== undefined && w.region.size >= 8 && random.once(2) ? R9 : R10;
  p.mov(R5, base);
  if (base === R10) p.add(R5, AREA.low);
  p.add(R5, R2).load(1, R4, R5, 0).bind(out);
}

/** A copy of a number, at a distance or on the stack, on one way or on both; what is learnt of one serves the other. */
function linked(w: Writer): void {
  const { p, random } = w;
  const other = p.label();
  const join = p.label();
  const out = p.label();
  const slot = random.pick(SLOTS);
  const x = w.free.length > 0 ? random.pick(w.free) : R1;
  const distance = random.pick([0, 0, 1, 4, -1, -8]);
  const size = random.pick<AccessSize>([4, 8, 8]);
  const onStack = random.once(2);
  const put = (from: Register): void => {
    if (random.once(6)) p.mov(R3, from);
    if (onStack) p.store(size, R10, slot, from);
    else p.mov(R2, from).add(R2, distance);
  };
  w.number(x);
  if (size === 4 && !random.once(6)) p.mov32(x, x);
  if (random.once(2)) {
    put(x);
    p.mov(R3, 0);
  } else {
    // Mostly both ways have the copy: else it is a mistake, which must be seen.
    p.mov(R4, w.numbered()).jump('eq', R4, random.below(4), other);
    put(x);
    p.mov(R3, 0).goto(join).bind(other);
    if (random.once(6)) put(w.numbered());
    else put(x);
    p.mov(R3, 0).mov(R4, 0).bind(join);
  }
  const least = Math.max(0, -distance);
  p.jump('gt', x, 7 - Math.max(0, distance), out);
  if (least > 0) p.jump('lt', x, least, out);
  if (onStack) p.load(size, R2, R10, slot);
  p.mov(R5, R10).add(R5, AREA.low).add(R5, R2).load(1, R4, R5, 0).bind(out);
}

/** `if (…) return`. */
function giveUp(w: Writer): void {
  if (w.held > 0) arithmetic(w);
  else w.condition(w.end);
}

/** r9 becomes something else, on one way or on both. */
function otherPointer(w: Writer): void {
  const { p, random } = w;
  const region = w.region;
  const slot = ASIDE[w.depth];
  if (region === undefined || slot === undefined || w.depth > DEEPEST) return;
  p.store(8, R10, slot, R9);
  const join = p.label();
  if (random.once(2)) w.condition(join);
  const by = 8 * random.below(3);
  if (random.once(2) && !region.stack) p.mov(R9, R10).add(R9, AREA.low);
  else if (by < region.size) p.add(R9, by);
  p.bind(join);
  // Whichever it is, this much is there.
  const size = Math.min(region.size - by, AREA.size);
  if (size >= 8) {
    w.region = { size, writable: region.writable, stack: true, map: false };
    body(w, 2);
    w.region = region;
  }
  p.load(8, R9, R10, slot);
}

function loop(w: Writer): void {
  const { random } = w;
  if (w.depth >= DEEPEST) {
    arithmetic(w);
    return;
  }
  switch (random.below(6)) {
    case 0:
      iterate(w);
      return;
    case 1:
      mayGoto(w);
      return;
    case 2:
      callBack(w);
      return;
    default:
      count(w);
  }
}

/** A counter in a register or on the stack, with a bound that is a constant or a bounded number. */
function count(w: Writer): void {
  const { p, random } = w;
  const again = p.label();
  const out = p.label();
  const free = w.free;
  const step = random.pick([1, 1, 1, 2, 3]);
  const most = random.pick([2, 3, 4, 8]);
  if (free.length > 0 && random.once(2)) {
    const counter = random.pick(free);
    w.free = free.filter(register => register !== counter);
    if (random.once(2)) {
      p.mov(counter, random.below(3)).bind(again);
      body(w);
      p.add(counter, step);
      if (random.once(3)) p.jump32(random.pick(['lt', 'slt'] as const), counter, most, again);
      else p.jump(random.pick(['lt', 'slt', 'le'] as const), counter, most, again);
    } else {
      // Down, from a number that is not known.
      w.number(counter);
      p.and(counter, most < 8 ? 3 : 7)
        .bind(again)
        .jump('eq', counter, 0, out);
      body(w);
      p.sub(counter, 1).goto(again).bind(out);
    }
  } else {
    const slot = ASIDE[w.depth] as number;
    p.store(8, R10, slot, 0).bind(again);
    body(w);
    p.load(8, R3, R10, slot).add(R3, step).store(8, R10, slot, R3).jump('lt', R3, most, again);
  }
  w.free = free;
}

/** bpf_for(number, start, end) */
function iterate(w: Writer): void {
  const { p, random } = w;
  const at = OBJECTS[w.depth] as number;
  const next = p.label();
  const done = p.label();
  w.number(R2);
  w.number(R3);
  p.mov(R1, R10).add(R1, at).callKfunc(KFUNC.bpf_iter_num_new);
  p.bind(next).mov(R1, R10).add(R1, at).callKfunc(KFUNC.bpf_iter_num_next).jump('eq', R0, 0, done);
  if (w.free.length > 0 && random.once(2)) p.load(4, random.pick(w.free), R0, 0);
  w.held++;
  if (random.once(4)) w.condition(done);
  body(w);
  w.held--;
  p.goto(next).bind(done).mov(R1, R10).add(R1, at).callKfunc(KFUNC.bpf_iter_num_destroy);
}

function mayGoto(w: Writer): void {
  const { p, random } = w;
  const again = p.label();
  const out = p.label();
  p.bind(again).mayGoto(out);
  if (random.once(2)) w.condition(out);
  body(w);
  p.goto(again).bind(out);
}

/** bpf_loop() or bpf_for_each_map_elem(), over the numbers on the stack. */
function callBack(w: Writer): void {
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
    while (w.budget > 0) statement(w);
    w.finish(() => {
      if (random.once(3)) p.mov(R0, w.numbered()).and(R0, 1);
      else p.mov(R0, random.once(4) ? 1 : 0);
    });
  });
}

/** A function of the program's own: numbers and a pointer in, a number out. The number in slot `small` is small. */
function callFunction(w: Writer, small?: number): void {
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
    while (w.budget > 0) statement(w);
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

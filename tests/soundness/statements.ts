/** Random programs: a whole one, and each kind of statement in it. */

import { R0, R1, R3, R6, R7, R8, R9, R10 } from '../../src/bpf/builder.js';
import type { BpfInsn } from '../../src/bpf/instruction.js';
import type { AccessSize } from '../../src/bpf/operation.js';
import { callFunction } from './functions.js';
import { callHelper, lookUp } from './helper_calls.js';
import { diamond, linked } from './links.js';
import { loop } from './loops.js';
import type { Random } from './random.js';
import { wild } from './wild.js';
import { AREA, ASIDE, DEEPEST, SLOTS, STACK_AREA, Writer } from './writer.js';

/** A whole program; `result` free: it may return anything. */
export function randomProgram(random: Random, freeResult: boolean): BpfInsn[] {
  const w = new Writer(random, 2 + random.below(14), statement);
  const { p } = w;
  p.mov(R6, R1).load(8, R7, R6, 0).load(8, R8, R6, 8);
  for (const slot of SLOTS) if (!random.once(8)) p.store(8, R10, slot, random.pick([R7, R8, 0, 5]));
  if (!random.once(6)) lookUp(w);
  w.statements();
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
  if (roll < 7) w.arithmetic();
  else if (roll < 11) spill(w);
  else if (roll < 17) access(w);
  else if (roll < 21) branch(w);
  else if (roll < 23) giveUp(w);
  else if (roll < 26) loop(w);
  else if (roll < 28) callFunction(w);
  else if (roll < 29) otherPointer(w);
  else if (roll < 32) diamond(w);
  else if (roll < 34) linked(w);
  else callHelper(w);
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
  w.body();
  if (random.once(2)) {
    const join = p.label();
    p.goto(join).bind(over);
    w.body();
    p.bind(join);
  } else p.bind(over);
}

/** `if (…) return`. */
function giveUp(w: Writer): void {
  if (w.held > 0) w.arithmetic();
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
    w.body(2);
    w.region = region;
  }
  p.load(8, R9, R10, slot);
}

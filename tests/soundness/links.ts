/** Random programs: what is known of one number through another, and on one way only. */

import { R1, R2, R3, R4, R5, R7, R8, R9, R10, type Register } from '../../src/bpf/builder.js';
import type { AccessSize } from '../../src/bpf/operation.js';
import { callFunction } from './functions.js';
import { AREA, SLOTS, type Writer } from './writer.js';

/** One number or another by which way was gone, and then something that rests on its being small. */
export function diamond(w: Writer): void {
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
export function linked(w: Writer): void {
  const { p, random } = w;
  const other = p.label();
  const join = p.label();
  const out = p.label();
  const slot = random.pick(SLOTS);
  const x = w.free.length > 0 ? random.pick(w.free) : R1;
  const distance = random.pick([0, 0, 1, 4, -1, -8]);
  const size = random.pick<AccessSize>([4, 8, 8]);
  const narrow = random.once(3);
  const onStack = random.once(2);
  const put = (from: Register): void => {
    if (random.once(size === 4 ? 2 : 6)) p.mov(R3, from);
    if (onStack) p.store(size, R10, slot, from);
    else if (narrow) p.mov(R2, from).add32(R2, distance);
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
    if (random.once(5)) put(x === R8 ? R7 : R8);
    else put(x);
    p.mov(R3, 0).mov(R4, 0).bind(join);
  }
  const least = Math.max(0, -distance);
  p.jump('gt', x, 7 - Math.max(0, distance), out);
  if (least > 0) p.jump('lt', x, least, out);
  if (onStack) p.load(size, R2, R10, slot);
  p.mov(R5, R10).add(R5, AREA.low).add(R5, R2).load(1, R4, R5, 0).bind(out);
}

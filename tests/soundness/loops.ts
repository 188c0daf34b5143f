/** Random programs: loops of every kind, with statements in them. */

import { R0, R1, R2, R3, R10 } from '../../src/bpf/builder.js';
import { KFUNC } from '../../src/bpf/kfuncs.js';
import { callBack } from './functions.js';
import { ASIDE, DEEPEST, OBJECTS, type Writer } from './writer.js';

export function loop(w: Writer): void {
  const { random } = w;
  if (w.depth >= DEEPEST) {
    w.arithmetic();
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
      w.body();
      p.add(counter, step);
      if (random.once(3)) p.jump32(random.pick(['lt', 'slt'] as const), counter, most, again);
      else p.jump(random.pick(['lt', 'slt', 'le'] as const), counter, most, again);
    } else {
      // Down, from a number that is not known.
      w.number(counter);
      p.and(counter, most < 8 ? 3 : 7)
        .bind(again)
        .jump('eq', counter, 0, out);
      w.body();
      p.sub(counter, 1).goto(again).bind(out);
    }
  } else {
    const slot = ASIDE[w.depth] as number;
    p.store(8, R10, slot, 0).bind(again);
    w.body();
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
  w.body();
  w.held--;
  p.goto(next).bind(done).mov(R1, R10).add(R1, at).callKfunc(KFUNC.bpf_iter_num_destroy);
}

function mayGoto(w: Writer): void {
  const { p, random } = w;
  const again = p.label();
  const out = p.label();
  p.bind(again).mayGoto(out);
  if (random.once(2)) w.condition(out);
  w.body();
  p.goto(again).bind(out);
}

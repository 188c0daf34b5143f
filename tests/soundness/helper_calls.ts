/** Random programs: calls of helpers, with what has to be around them. */

import { R0, R1, R2, R3, R4, R5, R6, R9, R10, type Register } from '../../src/bpf/builder.js';
import { HELPER } from '../../src/bpf/helpers.js';
import { MAPS } from '../../src/kernel/process/verifier/rules_fixture.js';
import { AREA, ARGUMENTS, ASIDE, KEY, OBJECTS, SLOTS, type Writer } from './writer.js';

const KEPT = [MAPS.counts, MAPS.wide, MAPS.global, MAPS.perCpu] as const;

/** Looks a key up: r9 points to what is there, or the function ends. */
export function lookUp(w: Writer): void {
  const { p, random } = w;
  const map = random.pick(KEPT);
  key(w, map.keySize);
  p.ldMap(R1, map)
    .mov(R2, R10)
    .add(R2, map.keySize === 16 ? SLOTS[0] - 8 : KEY)
    .call(HELPER.map_lookup_elem);
  // Almost nobody forgets.
  if (!random.once(40)) p.jump('eq', R0, 0, w.end);
  p.mov(R9, R0);
  w.region = { size: map.valueSize, writable: true, stack: false, map: true };
}

function key(w: Writer, size: number): void {
  if (size === 4) w.p.store(4, R10, KEY, w.random.once(2) ? w.random.below(4) : w.numbered());
}

/** A pointer to numbers on the stack. */
function area(w: Writer, to: Register): void {
  w.p.mov(to, R10).add(to, AREA.low);
}

/** A size in `to`, at most that of the numbers on the stack, as it is written most often. */
function size(w: Writer, to: Register): void {
  const { p, random } = w;
  if (random.once(2)) p.mov(to, 8 * (1 + random.below(AREA.size / 8)));
  else {
    w.number(to);
    p.and(to, random.pick([7, 15, 31]));
  }
}

function keep(w: Writer): void {
  if (w.free.length > 0 && w.random.once(2)) w.p.mov(w.random.pick(w.free), R0);
}

export function callHelper(w: Writer): void {
  const { p, random } = w;
  switch (random.below(13)) {
    case 12:
      twoLookUps(w);
      return;
    case 0:
      if (w.held === 0 && w.depth === 0) lookUp(w);
      return;
    case 1:
      p.call(random.pick([HELPER.get_prandom_u32, HELPER.ktime_get_ns, HELPER.get_smp_processor_id]));
      keep(w);
      return;
    case 2:
      if (!w.hasContext) return;
      p.mov(R1, R6).mov(R2, random.below(ARGUMENTS + 1));
      if (random.once(3)) w.number(R2);
      p.mov(R3, R10).add(R3, random.pick(SLOTS)).call(HELPER.get_func_arg);
      keep(w);
      return;
    case 3: {
      w.number(R3);
      size(w, R2);
      area(w, R1);
      p.call(random.pick([HELPER.probe_read_kernel, HELPER.probe_read_user]));
      keep(w);
      return;
    }
    case 4: {
      // A length that becomes an index.
      w.number(R3);
      const out = p.label();
      area(w, R1);
      p.mov(R2, AREA.size).call(HELPER.probe_read_user_str);
      if (random.once(2)) p.jump('slt', R0, 0, out);
      else p.jump('sle', R0, 0, out).sub(R0, 1);
      p.jump('ge', R0, AREA.size, out);
      p.mov(R1, R10).add(R1, AREA.low).add(R1, R0).store(1, R1, 0, 0).bind(out);
      return;
    }
    case 5:
      reserve(w);
      return;
    case 6:
      dynptr(w);
      return;
    case 7:
      lock(w);
      return;
    case 8: {
      const map = random.pick([MAPS.counts, MAPS.alike, MAPS.perCpu]);
      key(w, 4);
      p.mov(R2, R10).add(R2, KEY);
      if (random.once(3)) p.ldMap(R1, map).call(HELPER.map_delete_elem);
      else {
        area(w, R3);
        p.ldMap(R1, map).mov(R4, 0).call(HELPER.map_update_elem);
      }
      keep(w);
      return;
    }
    case 9:
      p.ldMap(R1, MAPS.queue).mov(R2, R10).add(R2, random.pick(SLOTS));
      if (random.once(2)) p.mov(R3, 0).call(HELPER.map_push_elem);
      else p.call(HELPER.map_pop_elem);
      keep(w);
      return;
    case 10:
      size(w, R3);
      area(w, R2);
      p.ldMap(R1, MAPS.events).mov(R4, 0).call(HELPER.ringbuf_output);
      return;
    default:
      if (!w.hasContext || w.held > 0) return;
      if (random.once(2)) {
        p.mov(R1, R6).ldMap(R2, MAPS.programs);
        w.number(R3);
        p.call(HELPER.tail_call);
      } else {
        size(w, R3);
        area(w, R2);
        p.mov(R1, R6).mov(R4, 0).call(HELPER.get_stack);
        keep(w);
      }
  }
}

/** A record of a ring buffer, with statements that fill it. */
function reserve(w: Writer): void {
  const { p, random } = w;
  const aside = ASIDE[w.depth];
  if (aside === undefined) return;
  const out = p.label();
  const { region } = w;
  const room = random.pick([8, 16, 24]);
  if (region !== undefined) p.store(8, R10, aside, R9);
  p.ldMap(R1, MAPS.events).mov(R2, room).mov(R3, 0).call(HELPER.ringbuf_reserve);
  p.jump('eq', R0, 0, out).mov(R9, R0);
  w.region = { size: room, writable: true, stack: false, map: false };
  w.held++;
  w.body();
  w.held--;
  w.region = region;
  p.mov(R1, R9).mov(R2, 0);
  if (!random.once(30)) p.call(random.pick([HELPER.ringbuf_submit, HELPER.ringbuf_discard]));
  if (random.once(30)) p.store(8, R9, 0, 1);
  p.bind(out);
  if (region !== undefined) p.load(8, R9, R10, aside);
  else p.mov(R9, 0);
}

function dynptr(w: Writer): void {
  const { p, random, region } = w;
  const at = OBJECTS[w.depth];
  if (at === undefined) return;
  const done = p.label();
  const out = p.label();
  /** Its memory is used after it was given back. */
  const late = random.once(12);
  if (late) p.store(8, R10, KEY, 0);
  const reserved = !region?.map || random.once(2);
  if (reserved) p.ldMap(R1, MAPS.events).mov(R2, 32).mov(R3, 0).mov(R4, R10).add(R4, at);
  else p.mov(R1, R9).mov(R2, region.size).mov(R3, 0).mov(R4, R10).add(R4, at);
  p.call(reserved ? HELPER.ringbuf_reserve_dynptr : HELPER.dynptr_from_mem);
  switch (random.below(3)) {
    case 0:
      size(w, R2);
      area(w, R1);
      p.mov(R3, R10).add(R3, at).mov(R4, random.below(8)).mov(R5, 0).call(HELPER.dynptr_read);
      break;
    case 1:
      size(w, R4);
      area(w, R3);
      p.mov(R1, R10).add(R1, at).mov(R2, random.below(8)).mov(R5, 0).call(HELPER.dynptr_write);
      break;
    default:
      p.mov(R1, R10).add(R1, at).mov(R2, 0).mov(R3, 16).call(HELPER.dynptr_data).jump('eq', R0, 0, done);
      if (late) p.store(8, R10, KEY, R0);
      p.mov(R3, w.numbered())
        .and(R3, 7)
        .add(R0, R3)
        .store(1, R0, random.once(30) ? 9 : 8, R3);
  }
  p.bind(done);
  if (!reserved) return;
  p.mov(R1, R10).add(R1, at).mov(R2, 0);
  p.call(random.pick([HELPER.ringbuf_submit_dynptr, HELPER.ringbuf_discard_dynptr]));
  if (late) p.load(8, R1, R10, KEY).jump('eq', R1, 0, out).load(8, R1, R1, 0);
  p.bind(out);
}

/** Two look-ups, of which one or both are there; seldom the wrong one is believed to be. */
function twoLookUps(w: Writer): void {
  const { p, random } = w;
  const out = p.label();
  const aside = ASIDE[w.depth];
  if (aside === undefined) return;
  const one = (): void => {
    key(w, 4);
    p.ldMap(R1, random.pick([MAPS.counts, MAPS.perCpu, MAPS.counts]))
      .mov(R2, R10)
      .add(R2, KEY);
    p.call(HELPER.map_lookup_elem);
  };
  one();
  p.store(8, R10, aside, R0);
  one();
  // A copy is as good as what it is a copy of.
  const copy = random.pick([R0, R3]);
  if (copy === R3) p.mov(R3, R0);
  if (random.once(8)) p.load(8, R4, R10, aside).jump('eq', random.pick([R0, R4]), 0, out);
  else if (random.once(2)) p.jump('eq', copy, 0, out).load(8, R4, R10, aside).jump('eq', R4, 0, out);
  else p.load(8, R4, R10, aside).jump('eq', R4, 0, out).mov(R0, R4);
  p.load(8, R1, random.pick([R0, R0, R4]), 0);
  if (random.once(2)) p.load(8, R4, R10, aside).load(8, R4, R4, 0);
  p.bind(out);
}

function lock(w: Writer): void {
  const { p, random, region } = w;
  const out = p.label();
  const aside = ASIDE[w.depth];
  if (aside === undefined) return;
  if (region !== undefined) p.store(8, R10, aside, R9);
  key(w, 4);
  p.ldMap(R1, MAPS.locked).mov(R2, R10).add(R2, KEY).call(HELPER.map_lookup_elem).jump('eq', R0, 0, out);
  p.mov(R9, R0).mov(R1, R9).add(R1, 8).call(HELPER.spin_lock);
  p.load(8, R3, R9, 0)
    .add(R3, w.numbered())
    .store(8, R9, random.once(30) ? 4 : 0, R3);
  p.mov(R1, R9).add(R1, 8).call(HELPER.spin_unlock).bind(out);
  if (region !== undefined) p.load(8, R9, R10, aside);
  else p.mov(R9, 0);
}

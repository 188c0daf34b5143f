/**
 * The rules of docs/verifier.md beyond those of straight programs (verifier.test.ts): each is a program that is refused
 * for it, and the nearest one that is accepted.
 */

import { describe, expect, test } from 'vitest';
import {
  type ProgramBuilder,
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
} from '../../../bpf/builder.js';
import { HELPER } from '../../../bpf/helpers.js';
import { KFUNC } from '../../../bpf/kfuncs.js';
import { BpfError } from '../../errno.js';
import { end, found, MAPS, type Rule, TARGET, verify } from './rules_fixture.js';
import { isVerified } from './verifier.js';

const typed = { prototype: { nargs: 3, btf: TARGET.btf, args: TARGET.args, returns: TARGET.returns } };

const reserve = (p: ProgramBuilder, size = 16): ProgramBuilder =>
  p.ldMap(R1, MAPS.events).mov(R2, size).mov(R3, 0).call(HELPER.ringbuf_reserve);

/** A record reserved, in r6; the program ends where there was no room. */
const reserved = (p: ProgramBuilder, size = 16): ProgramBuilder => {
  const there = p.label();
  return reserve(p, size).jump('ne', R0, 0, there).exit().bind(there).mov(R6, R0);
};
const submit = (p: ProgramBuilder): ProgramBuilder => p.mov(R1, R6).mov(R2, 0).call(HELPER.ringbuf_submit);

const startIterator = (p: ProgramBuilder): ProgramBuilder =>
  p.mov(R1, R10).add(R1, -8).mov(R2, 0).mov(R3, 10).callKfunc(KFUNC.bpf_iter_num_new);
const nextNumber = (p: ProgramBuilder): ProgramBuilder =>
  p.mov(R1, R10).add(R1, -8).callKfunc(KFUNC.bpf_iter_num_next);
const endIterator = (p: ProgramBuilder): ProgramBuilder =>
  p.mov(R1, R10).add(R1, -8).callKfunc(KFUNC.bpf_iter_num_destroy);

/** bpf_loop with a callback that `body` writes. */
function looped(
  p: ProgramBuilder,
  body: (p: ProgramBuilder) => ProgramBuilder,
  context = true,
): ProgramBuilder {
  const callback = p.label();
  p.store(8, R10, -8, 0).mov(R1, 10).ldFunction(R2, callback);
  if (context) p.mov(R3, R10).add(R3, -8);
  else p.mov(R3, 0);
  end(p.mov(R4, 0).call(HELPER.loop));
  return body(p.bind(callback)).exit();
}

const locked = (p: ProgramBuilder): ProgramBuilder => found(p, MAPS.locked).mov(R6, R0);
const lock = (p: ProgramBuilder, offset = 8): ProgramBuilder =>
  p.mov(R1, R6).add(R1, offset).call(HELPER.spin_lock);
const unlock = (p: ProgramBuilder): ProgramBuilder => p.mov(R1, R6).add(R1, 8).call(HELPER.spin_unlock);

/** r7 is bounded by r8, which differs by the way; `compared` is r7 or a copy of it. */
function joinedBound(p: ProgramBuilder, bound: number, compared: Register, used: Register): ProgramBuilder {
  const join = p.label();
  const out = p.label();
  found(p.mov(R6, R1), MAPS.wide).mov(R9, R0).load(8, R7, R6).mov(R4, R7).load(8, R3, R6, 8).mov(R8, bound);
  p.jump('eq', R3, 0, join).mov(R8, 16).bind(join).jump('gt', compared, R8, out);
  return p.add(R9, used).load(1, R2, R9).bind(out);
}

/** r8 is a copy of r7, on one way or on both. */
function joinedCopy(p: ProgramBuilder, both: boolean): ProgramBuilder {
  const join = p.label();
  const out = p.label();
  found(p.mov(R6, R1), MAPS.wide).mov(R9, R0).load(8, R7, R6).load(8, R8, R6, 8).load(8, R3, R6, 16);
  if (both) p.mov(R8, R7);
  p.jump('eq', R3, 0, join).mov(R8, R7).bind(join).jump('gt', R7, 16, out);
  return p.add(R9, R8).load(1, R2, R9).bind(out);
}

/** r8 goes round in a loop that ends by itself. */
function changedInLoop(p: ProgramBuilder, mask: number): ProgramBuilder {
  const again = p.label();
  const out = p.label();
  found(p, MAPS.wide)
    .mov(R9, R0)
    .mov(R8, 0)
    .bind(again)
    .mayGoto(out)
    .add(R8, 8)
    .and(R8, mask)
    .goto(again)
    .bind(out);
  return p.add(R9, R8).load(1, R2, R9);
}

/** A loop by a counter on the stack, in which a callback leaves the counter alone, or sets it to zero. */
function countedCalls(p: ProgramBuilder, spare: number): ProgramBuilder {
  const callback = p.label();
  const again = p.label();
  p.store(8, R10, -8, 0).store(8, R10, -16, 0).bind(again).mov(R1, 3).ldFunction(R2, callback).mov(R3, R10);
  p.add(R3, -16).mov(R4, 0).call(HELPER.loop).load(8, R2, R10, -8).add(R2, 1).store(8, R10, -8, R2);
  end(p.jump('lt', R2, 4, again));
  return p
    .bind(callback)
    .store(8, R2, spare === 1 ? 0 : 8, 0)
    .mov(R0, 0)
    .exit();
}

const RULES: readonly Rule[] = [
  // Loops
  {
    name: 'a loop by a counter ends',
    accept: p => {
      const again = p.label();
      return end(p.mov(R2, 0).bind(again).add(R2, 1).jump('lt', R2, 1000, again));
    },
    refuse: p => {
      const again = p.label();
      return end(p.mov(R2, 0).bind(again).add(R2, 0).jump('lt', R2, 1000, again));
    },
    because: /infinite loop detected|too large|too complex/,
  },
  {
    name: 'a loop by a bounded number of rounds from outside',
    accept: p => {
      const again = p.label();
      const out = p.label();
      p.load(8, R3, R1)
        .and(R3, 63)
        .mov(R2, 0)
        .bind(again)
        .jump('ge', R2, R3, out)
        .add(R2, 1)
        .goto(again)
        .bind(out);
      return end(p);
    },
    refuse: p => {
      const again = p.label();
      const out = p.label();
      p.load(8, R3, R1).bind(again).jump('eq', R3, 0, out).add(R3, -1).goto(again).bind(out);
      return end(p);
    },
    because: /infinite loop detected|too large|too complex/,
  },
  {
    name: 'may_goto ends any loop',
    accept: p => {
      const again = p.label();
      const out = p.label();
      return end(p.bind(again).mayGoto(out).goto(again).bind(out));
    },
    refuse: p => {
      const again = p.label();
      const out = p.label();
      return end(p.mayGoto(out).bind(again).goto(again).bind(out));
    },
    because: 'infinite loop detected',
  },
  {
    name: 'may_goto ends only the run of the function that it is in',
    accept: p => {
      const f = p.label();
      const again = p.label();
      const out = p.label();
      end(p.bind(again).mayGoto(out).callSubprogram(f).goto(again).bind(out));
      const done = p.label();
      return p.bind(f).mayGoto(done).bind(done).mov(R0, 0).exit();
    },
    refuse: p => {
      const f = p.label();
      const again = p.label();
      p.bind(again).callSubprogram(f).goto(again);
      const done = p.label();
      return p.bind(f).mayGoto(done).bind(done).mov(R0, 0).exit();
    },
    because: /infinite loop detected|too large/,
  },
  {
    name: 'a callback that turns its caller’s counter back does not end the caller’s loop',
    accept: p => countedCalls(p, 1),
    refuse: p => countedCalls(p, 0),
    because: /infinite loop detected|too large|too complex/,
  },
  {
    name: 'an index that a loop counts is bounded in it',
    accept: p => {
      const again = p.label();
      found(p, MAPS.wide).mov(R7, 0).bind(again).mov(R2, R0).add(R2, R7).load(1, R3, R2);
      return end(p.add(R7, 1).jump('lt', R7, 32, again));
    },
    refuse: p => {
      const again = p.label();
      found(p, MAPS.wide).mov(R7, 0).bind(again).mov(R2, R0).add(R2, R7).load(1, R3, R2);
      return end(p.add(R7, 1).jump('le', R7, 32, again));
    },
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },

  // Numbers
  {
    name: 'copies of a number are bounded together',
    accept: p => {
      const out = p.label();
      found(p.load(8, R7, R1), MAPS.wide)
        .mov(R8, R7)
        .jump('gt', R7, 31, out)
        .add(R0, R8)
        .load(1, R2, R0);
      return end(p.bind(out));
    },
    refuse: p => {
      const out = p.label();
      found(p.load(8, R7, R1), MAPS.wide)
        .mov(R8, R7)
        .add(R8, 1)
        .jump('gt', R7, 31, out)
        .add(R0, R8)
        .load(1, R2, R0);
      return end(p.bind(out));
    },
    because: 'value_size=32 off=32 size=1',
  },
  {
    name: 'a bound goes through the stack',
    accept: p => {
      const out = p.label();
      found(p.load(8, R7, R1), MAPS.wide)
        .store(8, R10, -24, R7)
        .jump('gt', R7, 31, out)
        .load(8, R8, R10, -24);
      return end(p.add(R0, R8).load(1, R2, R0).bind(out));
    },
    refuse: p => {
      const out = p.label();
      found(p.load(8, R7, R1), MAPS.wide)
        .store(8, R10, -24, R7)
        .store(1, R10, -24, R7)
        .jump('gt', R7, 31, out);
      return end(p.load(8, R8, R10, -24).add(R0, R8).load(1, R2, R0).bind(out));
    },
    because: 'register with unbounded min value is not allowed',
  },
  {
    name: 'a signed range of both ends',
    accept: p => {
      const out = p.label();
      found(p.load(8, R7, R1), MAPS.wide)
        .jump('sgt', R7, 7, out)
        .jump('slt', R7, -8, out);
      return end(p.add(R0, 8).add(R0, R7).load(1, R2, R0).bind(out));
    },
    refuse: p => {
      const out = p.label();
      found(p.load(8, R7, R1), MAPS.wide)
        .jump('sgt', R7, 7, out)
        .jump('slt', R7, -9, out);
      return end(p.add(R0, 8).add(R0, R7).load(1, R2, R0).bind(out));
    },
    because: 'value_size=32 off=-1 size=1',
  },
  {
    name: 'a bound by another register',
    accept: p => {
      const out = p.label();
      found(p.load(8, R7, R1).load(8, R8, R1, 8).and(R8, 31), MAPS.wide)
        .jump('gt', R7, R8, out)
        .add(R0, R7);
      return end(p.load(1, R2, R0).bind(out));
    },
    refuse: p => {
      const out = p.label();
      found(p.load(8, R7, R1).load(8, R8, R1, 8).and(R8, 63), MAPS.wide)
        .jump('gt', R7, R8, out)
        .add(R0, R7);
      return end(p.load(1, R2, R0).bind(out));
    },
    because: 'value_size=32 off=63 size=1',
  },
  {
    name: 'a 32-bit range, sign-extended by shifts',
    accept: p => {
      const out = p.label();
      found(p.load(8, R7, R1), MAPS.wide)
        .jump32('sgt', R7, 31, out)
        .jump32('slt', R7, 0, out)
        .lsh(R7, 32)
        .arsh(R7, 32);
      return end(p.add(R0, R7).load(1, R2, R0).bind(out));
    },
    refuse: p => {
      const out = p.label();
      found(p.load(8, R7, R1), MAPS.wide)
        .jump32('sgt', R7, 31, out)
        .lsh(R7, 32)
        .arsh(R7, 32);
      return end(p.add(R0, R7).load(1, R2, R0).bind(out));
    },
    because: /makes map_value pointer be out of bounds|value_size=32 off=-/,
  },

  // Subprograms
  {
    name: 'a function returns what it computed',
    accept: p => {
      const f = p.label();
      found(p.mov(R6, R1), MAPS.wide).mov(R7, R0).load(8, R1, R6).callSubprogram(f).add(R7, R0);
      return end(p.load(1, R2, R7))
        .bind(f)
        .mov(R0, R1)
        .and(R0, 31)
        .exit();
    },
    refuse: p => {
      const f = p.label();
      found(p.mov(R6, R1), MAPS.wide).mov(R7, R0).load(8, R1, R6).callSubprogram(f).add(R7, R0);
      return end(p.load(1, R2, R7))
        .bind(f)
        .mov(R0, R1)
        .and(R0, 63)
        .exit();
    },
    because: 'value_size=32 off=63 size=1',
  },
  {
    name: 'r6 to r9 are the caller’s',
    accept: p => {
      const f = p.label();
      return end(p.mov(R6, R1).callSubprogram(f).load(8, R2, R6))
        .bind(f)
        .mov(R6, 0)
        .mov(R0, R6)
        .exit();
    },
    refuse: p => {
      const f = p.label();
      return end(p.mov(R6, R1).callSubprogram(f)).bind(f).mov(R0, R6).exit();
    },
    because: 'R6 !read_ok',
  },
  {
    name: 'no pointer to a stack that is gone is returned',
    accept: p => {
      const f = p.label();
      return end(p.mov(R1, R10).callSubprogram(f)).bind(f).mov(R0, R1).exit();
    },
    refuse: p => {
      const f = p.label();
      return end(p.callSubprogram(f)).bind(f).mov(R0, R10).exit();
    },
    because: 'cannot return stack pointer to the caller',
  },
  {
    name: 'no pointer to a stack that will be gone is left with the caller',
    accept: p => {
      const f = p.label();
      p.mov(R1, R10).add(R1, -8).callSubprogram(f);
      return end(p).bind(f).store(8, R1, 0, R1).mov(R0, 0).exit();
    },
    refuse: p => {
      const f = p.label();
      p.mov(R1, R10).add(R1, -8).callSubprogram(f);
      return end(p).bind(f).store(8, R1, 0, R10).mov(R0, 0).exit();
    },
    because: 'cannot spill pointers to stack into stack frame of the caller',
  },
  {
    name: 'a chain of calls uses 512 bytes at most',
    accept: p => {
      const f = p.label();
      return end(p.store(8, R10, -256, 1).callSubprogram(f))
        .bind(f)
        .store(8, R10, -256, 1)
        .mov(R0, 0)
        .exit();
    },
    refuse: p => {
      const f = p.label();
      return end(p.store(8, R10, -256, 1).callSubprogram(f))
        .bind(f)
        .store(8, R10, -264, 1)
        .mov(R0, 0)
        .exit();
    },
    because: 'combined stack size of calls is 544',
  },
  {
    name: 'calls do not recurse',
    accept: p => {
      const f = p.label();
      return end(p.callSubprogram(f)).bind(f).mov(R0, 0).exit();
    },
    refuse: p => {
      const f = p.label();
      return end(p.callSubprogram(f)).bind(f).callSubprogram(f).mov(R0, 0).exit();
    },
    because: 'frames is too deep',
  },
  {
    name: 'jumps stay in their function',
    accept: p => {
      const f = p.label();
      const out = p.label();
      return end(p.callSubprogram(f).goto(out).bind(out)).bind(f).mov(R0, 0).exit();
    },
    refuse: p => {
      const f = p.label();
      return end(p.callSubprogram(f).jump('eq', R0, 0, f))
        .bind(f)
        .mov(R0, 0)
        .exit();
    },
    because: 'jump out of range',
  },

  // Callbacks
  {
    name: 'a callback writes what it was handed',
    accept: p => looped(p, q => q.load(8, R3, R2).add(R3, R1).store(8, R2, 0, R3).mov(R0, 0)),
    refuse: p => looped(p, q => q.load(8, R3, R2, 8).mov(R0, 0)),
    because: 'invalid read from stack R2 off=0 size=8',
  },
  {
    name: 'a callback returns 0 or 1',
    accept: p => looped(p, q => q.mov(R0, R1).and(R0, 1)),
    refuse: p => looped(p, q => q.mov(R0, 2)),
    because: 'At callback return the register R0 should have been in [0, 1]',
  },
  {
    name: 'a callback gets null where null is handed on',
    accept: p => looped(p, q => q.mov(R0, 0), false),
    refuse: p => looped(p, q => q.load(8, R3, R2).mov(R0, 0), false),
    because: "R2 invalid mem access 'scalar'",
  },
  {
    name: 'what a callback acquires it gives back',
    accept: p => looped(p, q => submit(reserved(q.mov(R0, 0))).mov(R0, 0)),
    refuse: p => looped(p, q => reserved(q.mov(R0, 0)).mov(R0, 0)),
    because: 'Unreleased reference',
  },
  {
    name: 'a callback is a function of the program',
    accept: p => looped(p, q => q.mov(R0, 0)),
    refuse: p => end(p.mov(R1, 1).mov(R2, 0).mov(R3, 0).mov(R4, 0).call(HELPER.loop)),
    because: 'R2 type=scalar expected=func',
  },
  {
    name: 'each element’s value has its size',
    accept: p => {
      const f = p.label();
      end(p.ldMap(R1, MAPS.counts).ldFunction(R2, f).mov(R3, 0).mov(R4, 0).call(HELPER.for_each_map_elem));
      return p.bind(f).load(8, R1, R3).mov(R0, 0).exit();
    },
    refuse: p => {
      const f = p.label();
      end(p.ldMap(R1, MAPS.counts).ldFunction(R2, f).mov(R3, 0).mov(R4, 0).call(HELPER.for_each_map_elem));
      return p.bind(f).load(8, R1, R3, 4).mov(R0, 0).exit();
    },
    because: 'invalid access to map value, value_size=8 off=4 size=8',
  },
  {
    name: 'each element’s key is only read',
    accept: p => {
      const f = p.label();
      end(p.ldMap(R1, MAPS.counts).ldFunction(R2, f).mov(R3, 0).mov(R4, 0).call(HELPER.for_each_map_elem));
      return p.bind(f).load(4, R1, R2).mov(R0, 0).exit();
    },
    refuse: p => {
      const f = p.label();
      end(p.ldMap(R1, MAPS.counts).ldFunction(R2, f).mov(R3, 0).mov(R4, 0).call(HELPER.for_each_map_elem));
      return p.bind(f).store(4, R2, 0, 1).mov(R0, 0).exit();
    },
    because: 'cannot write into map_key',
  },

  // Iterators
  {
    name: 'an iterator is destroyed',
    accept: p => end(endIterator(startIterator(p))),
    refuse: p => end(startIterator(p)),
    because: 'Unreleased reference',
  },
  {
    name: 'an iterator gives a number or nothing',
    accept: p => {
      const again = p.label();
      const out = p.label();
      nextNumber(startIterator(p).bind(again)).jump('eq', R0, 0, out).load(4, R2, R0).goto(again).bind(out);
      return end(endIterator(p));
    },
    refuse: p => {
      const again = p.label();
      nextNumber(startIterator(p).bind(again)).load(4, R2, R0).goto(again);
      return p;
    },
    because: "R0 invalid mem access 'scalar'",
  },
  {
    name: 'an iterator is there before it is asked',
    accept: p => end(endIterator(nextNumber(startIterator(p)))),
    refuse: p => end(nextNumber(p)),
    because: 'expected an initialized iter_num',
  },
  {
    name: 'an iterator is not written',
    accept: p => end(endIterator(startIterator(p).store(8, R10, -16, 1))),
    refuse: p => end(endIterator(startIterator(p).store(8, R10, -8, 1))),
    because: 'cannot overwrite an iterator',
  },

  // References
  {
    name: 'what is reserved is submitted',
    accept: p => end(submit(reserved(p).store(8, R6, 8, 1))),
    refuse: p => end(reserved(p).store(8, R6, 8, 1)),
    because: 'Unreleased reference id=1 alloc_insn=4',
  },
  {
    name: 'a reservation may fail',
    accept: p => end(submit(reserved(p))),
    refuse: p => end(submit(reserve(p).mov(R6, R0))),
    because: 'R1 type=ringbuf_mem_or_null expected=ringbuf_mem',
  },
  {
    name: 'a record is as long as it was reserved',
    accept: p => end(submit(reserved(p).store(8, R6, 8, 1))),
    refuse: p => end(submit(reserved(p).store(8, R6, 12, 1))),
    because: 'invalid access to memory, mem_size=16 off=12 size=8',
  },
  {
    name: 'a record is gone when it is submitted',
    accept: p => end(submit(reserved(p).store(8, R6, 0, 1))),
    refuse: p => end(submit(reserved(p)).store(8, R6, 0, 1)),
    because: 'R6 !read_ok',
  },
  {
    name: 'a record is submitted by its beginning',
    accept: p => end(submit(reserved(p))),
    refuse: p => end(submit(reserved(p).add(R6, 8))),
    because: 'must have zero offset when passed to release func',
  },
  {
    name: 'the size of a reservation is a constant',
    accept: p => end(submit(reserved(p, 32))),
    refuse: p =>
      end(p.load(8, R2, R1).and(R2, 31).ldMap(R1, MAPS.events).mov(R3, 0).call(HELPER.ringbuf_reserve)),
    because: 'R2 is not a known constant',
  },
  {
    name: 'no tail call with something acquired',
    accept: p => end(p.ldMap(R2, MAPS.programs).mov(R3, 0).call(HELPER.tail_call)),
    refuse: p =>
      end(
        submit(
          reserved(p.mov(R7, R1)).mov(R1, R7).ldMap(R2, MAPS.programs).mov(R3, 0).call(HELPER.tail_call),
        ),
      ),
    because: 'tail_call would lead to reference leak',
  },

  // Dynptrs
  {
    name: 'a dynptr is made before it is read',
    accept: p => {
      p.ldMapValue(R1, MAPS.global)
        .mov(R2, 64)
        .mov(R3, 0)
        .mov(R4, R10)
        .add(R4, -16)
        .call(HELPER.dynptr_from_mem);
      p.mov(R1, R10).add(R1, -24).mov(R2, 8).mov(R3, R10).add(R3, -16).mov(R4, 0).mov(R5, 0);
      return end(p.call(HELPER.dynptr_read));
    },
    refuse: p => {
      p.mov(R1, R10).add(R1, -24).mov(R2, 8).mov(R3, R10).add(R3, -16).mov(R4, 0).mov(R5, 0);
      return end(p.call(HELPER.dynptr_read));
    },
    because: 'Expected an initialized dynptr as arg #2',
  },
  {
    name: 'a ring buffer’s dynptr is given back',
    accept: p => {
      p.ldMap(R1, MAPS.events)
        .mov(R2, 8)
        .mov(R3, 0)
        .mov(R4, R10)
        .add(R4, -16)
        .call(HELPER.ringbuf_reserve_dynptr);
      return end(p.mov(R1, R10).add(R1, -16).mov(R2, 0).call(HELPER.ringbuf_discard_dynptr));
    },
    refuse: p => {
      p.ldMap(R1, MAPS.events)
        .mov(R2, 8)
        .mov(R3, 0)
        .mov(R4, R10)
        .add(R4, -16)
        .call(HELPER.ringbuf_reserve_dynptr);
      return end(p);
    },
    because: 'Unreleased reference',
  },
  {
    name: 'a dynptr is not read as memory',
    accept: p => {
      p.ldMapValue(R1, MAPS.global)
        .mov(R2, 64)
        .mov(R3, 0)
        .mov(R4, R10)
        .add(R4, -16)
        .call(HELPER.dynptr_from_mem);
      return end(p.store(8, R10, -24, 1).load(8, R2, R10, -24));
    },
    refuse: p => {
      p.ldMapValue(R1, MAPS.global)
        .mov(R2, 64)
        .mov(R3, 0)
        .mov(R4, R10)
        .add(R4, -16)
        .call(HELPER.dynptr_from_mem);
      return end(p.load(8, R2, R10, -16));
    },
    because: 'a dynptr is there',
  },

  // Locks
  {
    name: 'a lock is given back',
    accept: p => end(unlock(lock(locked(p)).store(4, R6, 0, 1))),
    refuse: p => end(lock(locked(p)).store(4, R6, 0, 1)),
    because: 'BPF_EXIT instruction cannot be used inside bpf_spin_lock-ed region',
  },
  {
    name: 'no calls under a lock',
    accept: p => end(unlock(lock(locked(p))).call(HELPER.ktime_get_ns)),
    refuse: p => end(unlock(lock(locked(p)).call(HELPER.ktime_get_ns))),
    because: 'function calls are not allowed while holding a lock',
  },
  {
    name: 'a lock is not data',
    accept: p => end(locked(p).load(4, R2, R6, 0)),
    refuse: p => end(locked(p).load(4, R2, R6, 8)),
    because: 'bpf_spin_lock cannot be accessed directly by load/store',
  },
  {
    name: 'the lock is where the type says',
    accept: p => end(unlock(lock(locked(p)))),
    refuse: p => end(unlock(lock(locked(p), 4))),
    because: "doesn't point to 'struct bpf_spin_lock' that is at 8",
  },
  {
    name: 'a map has a lock if its type says so',
    accept: p => end(unlock(lock(locked(p)))),
    refuse: p => end(lock(found(p, MAPS.wide).mov(R6, R0))),
    because: "map 'wide' has no valid bpf_spin_lock",
  },

  // Memory and sizes
  {
    name: 'memory is as large as the size says',
    accept: p => end(p.mov(R1, R10).add(R1, -16).mov(R2, 16).call(HELPER.get_current_comm)),
    refuse: p => end(p.mov(R1, R10).add(R1, -16).mov(R2, 24).call(HELPER.get_current_comm)),
    because: 'invalid write to stack R1 off=-16 size=24',
  },
  {
    name: 'a size is bounded',
    accept: p =>
      end(p.load(8, R2, R1).and(R2, 15).mov(R1, R10).add(R1, -16).mov(R3, 0).call(HELPER.probe_read)),
    refuse: p =>
      end(p.load(8, R2, R1).rsh(R2, 1).mov(R1, R10).add(R1, -16).mov(R3, 0).call(HELPER.probe_read)),
    because: 'R2 unbounded memory access',
  },
  {
    name: 'a size is not negative',
    accept: p => {
      const out = p.label();
      p.load(8, R2, R1).jump('gt', R2, 16, out).mov(R1, R10).add(R1, -16).mov(R3, 0).call(HELPER.probe_read);
      return end(p.bind(out));
    },
    refuse: p => {
      const out = p.label();
      p.load(8, R2, R1).jump('sgt', R2, 16, out).mov(R1, R10).add(R1, -16).mov(R3, 0).call(HELPER.probe_read);
      return end(p.bind(out));
    },
    because: 'R2 min value is negative',
  },
  {
    name: 'a size is not zero where that makes no sense',
    accept: p => end(p.mov(R1, R10).add(R1, -16).mov(R2, 1).call(HELPER.get_current_comm)),
    refuse: p => end(p.mov(R1, R10).add(R1, -16).mov(R2, 0).call(HELPER.get_current_comm)),
    because: 'R2 invalid zero-sized read',
  },
  {
    name: 'constants are not written',
    accept: p => end(p.ldMapValue(R2, MAPS.rodata).load(1, R3, R2)),
    refuse: p => end(p.ldMapValue(R2, MAPS.rodata).store(1, R2, 0, 1)),
    because: 'write into map forbidden',
  },
  {
    name: 'maps that are only written are not read',
    accept: p => end(p.ldMapValue(R2, MAPS.writeOnly).store(8, R2, 0, 1)),
    refuse: p => end(p.ldMapValue(R2, MAPS.writeOnly).load(8, R3, R2)),
    because: 'read from map forbidden',
  },
  {
    name: 'constants are known, and what they rule out is not walked',
    accept: p => {
      const out = p.label();
      return end(
        p.ldMapValue(R2, MAPS.rodata, 9).load(1, R3, R2).jump('eq', R3, 3, out).mov(R4, R9).bind(out),
      );
    },
    refuse: p => {
      const out = p.label();
      return end(
        p.ldMapValue(R2, MAPS.rodata, 9).load(1, R3, R2).jump('eq', R3, 4, out).mov(R4, R9).bind(out),
      );
    },
    because: 'R9 !read_ok',
  },
  {
    name: 'a format fits its arguments',
    accept: p => end(p.mov(R3, 1).ldMapValue(R1, MAPS.rodata).mov(R2, 9).call(HELPER.trace_printk)),
    refuse: p => end(p.ldMapValue(R1, MAPS.rodata).mov(R2, 9).call(HELPER.trace_printk)),
    because: 'the format has 1 conversions and 0 arguments',
  },
  {
    name: 'a string to compare with is a constant',
    accept: p => {
      p.store(8, R10, -8, 0).mov(R1, R10).add(R1, -8).mov(R2, 8).ldMapValue(R3, MAPS.rodata, 17);
      return end(p.call(HELPER.strncmp));
    },
    refuse: p => {
      p.store(8, R10, -8, 0).mov(R1, R10).add(R1, -8).mov(R2, 8).ldMapValue(R3, MAPS.global);
      return end(p.call(HELPER.strncmp));
    },
    because: 'does not point to a readonly map',
  },

  // Maps
  {
    name: 'a helper is for some types of map',
    accept: p => end(p.mov(R2, R10).add(R2, -8).ldMap(R1, MAPS.queue).call(HELPER.map_pop_elem)),
    refuse: p => end(p.mov(R2, R10).add(R2, -8).ldMap(R1, MAPS.counts).call(HELPER.map_pop_elem)),
    because: 'cannot pass map_type 2 into func bpf_map_pop_elem#88',
  },
  {
    name: 'a map out of a map may not be there',
    accept: p => {
      const there = p.label();
      p.store(4, R10, -4, 0)
        .mov(R2, R10)
        .add(R2, -4)
        .ldMap(R1, MAPS.outer)
        .call(1)
        .jump('ne', R0, 0, there)
        .exit();
      return end(p.bind(there).mov(R1, R0).mov(R2, R10).add(R2, -4).call(1));
    },
    refuse: p => {
      p.store(4, R10, -4, 0).mov(R2, R10).add(R2, -4).ldMap(R1, MAPS.outer).call(1);
      return end(p.mov(R1, R0).mov(R2, R10).add(R2, -4).call(1));
    },
    because: 'R1 type=map_ptr_or_null expected=map_ptr',
  },
  {
    name: 'one call may be for maps of one shape',
    accept: p => {
      const other = p.label();
      p.store(4, R10, -4, 0).load(8, R3, R1).mov(R2, R10).add(R2, -4).ldMap(R1, MAPS.counts);
      return end(p.jump('eq', R3, 0, other).ldMap(R1, MAPS.alike).bind(other).call(1));
    },
    refuse: p => {
      const other = p.label();
      p.store(4, R10, -4, 0).load(8, R3, R1).mov(R2, R10).add(R2, -4).ldMap(R1, MAPS.counts);
      return end(p.jump('eq', R3, 0, other).ldMap(R1, MAPS.perCpu).bind(other).call(1));
    },
    because: 'this call is for map',
  },
  {
    name: 'storage is the running thread’s',
    accept: p => end(p.ldMap(R1, MAPS.storage).mov(R2, 0).mov(R3, 0).mov(R4, 1).call(156)),
    refuse: p => end(p.ldMap(R1, MAPS.storage).mov(R2, 1).mov(R3, 0).mov(R4, 1).call(156)),
    because: 'must be the constant 0: the only task that a process knows',
  },

  // The traced function's types
  {
    name: 'members are read through an argument',
    accept: p => end(p.load(8, R2, R1).load(8, R3, R2, 8).load(4, R4, R3)),
    refuse: p => end(p.load(8, R2, R1).load(8, R3, R2, 8).load(8, R4, R3, 4)),
    because: 'access beyond struct inner at off 4 size 8',
    env: typed,
  },
  {
    name: 'an argument that is no pointer to a struct is a number',
    accept: p => end(p.load(8, R2, R1, 8).add(R2, 1)),
    refuse: p => end(p.load(8, R2, R1, 16).load(1, R3, R2)),
    because: "R2 invalid mem access 'scalar'",
    env: typed,
  },
  {
    name: 'the traced process’s data is not written',
    accept: p => end(p.load(8, R2, R1).load(8, R3, R2)),
    refuse: p => end(p.load(8, R2, R1).store(8, R2, 0, 1)),
    because: 'only read is supported',
    env: typed,
  },
  {
    name: 'pointer members are read whole',
    accept: p => end(p.load(8, R2, R1).load(8, R3, R2, 8)),
    refuse: p => end(p.load(8, R2, R1).load(4, R3, R2, 8)),
    because: 'cannot access ptr member of outer with size 4',
    env: typed,
  },
  {
    name: 'nothing before an object',
    accept: p => end(p.load(8, R2, R1).add(R2, 32).load(4, R3, R2)),
    refuse: p => end(p.load(8, R2, R1).load(8, R3, R2, -8)),
    because: 'R2 is ptr_outer invalid negative access: off=-8',
    env: typed,
  },
  {
    name: 'one load is through pointers of one kind',
    accept: p => end(p.load(8, R2, R1).load(8, R3, R2)),
    refuse: p => {
      const skip = p.label();
      p.store(8, R10, -8, 1)
        .load(8, R2, R1)
        .load(8, R4, R1, 8)
        .jump('eq', R4, 0, skip)
        .mov(R2, R10)
        .add(R2, -8);
      return end(p.bind(skip).load(8, R3, R2));
    },
    because: 'same insn cannot be used with different pointers',
    env: typed,
  },

  // What matters where paths come together: each of these found a mistake that was made on purpose
  {
    name: 'what bounds a number matters with it',
    accept: p => end(joinedBound(p, 31, R7, R7)),
    refuse: p => end(joinedBound(p, 40, R7, R7)),
    because: 'value_size=32 off=40 size=1',
    env: { rememberOften: true },
  },
  {
    name: 'what bounds a copy of a number matters with it',
    accept: p => end(joinedBound(p, 31, R4, R7)),
    refuse: p => end(joinedBound(p, 40, R4, R7)),
    because: 'value_size=32 off=40 size=1',
    env: { rememberOften: true },
  },
  {
    name: 'what is a copy on one way is one on the other',
    accept: p => end(joinedCopy(p, true)),
    refuse: p => end(joinedCopy(p, false)),
    because: 'register with unbounded min value is not allowed',
    env: { rememberOften: true },
  },
  {
    name: 'what a loop changed matters behind it',
    accept: p => end(changedInLoop(p, 24)),
    refuse: p => end(changedInLoop(p, 56)),
    because: /value_size=32 off=(32|40|48|56) size=1/,
    env: { rememberOften: true },
  },

  // Where it is attached
  {
    name: 'the return value is asked for where there is one',
    accept: p => end(p.mov(R2, R10).add(R2, -8).call(HELPER.get_func_ret)),
    refuse: p => end(p.mov(R2, R10).add(R2, -8).call(HELPER.get_func_arg_cnt).call(HELPER.get_func_ret)),
    because: 'R1 !read_ok',
    attach: 'fexit',
  },
  {
    name: 'a session is for session programs',
    accept: p => p.callKfunc(KFUNC.bpf_session_is_return).mov(R0, 1).exit(),
    refuse: p => p.callKfunc(KFUNC.bpf_session_is_return).mov(R0, 2).exit(),
    because: 'should have been in [0, 1] for fsession',
    attach: 'fsession',
  },
  {
    name: 'only sleepable programs sleep',
    accept: p => end(p.mov(R1, R10).add(R1, -8).mov(R2, 8).mov(R3, 0).call(HELPER.probe_read_user)),
    refuse: p => end(p.mov(R1, R10).add(R1, -8).mov(R2, 8).mov(R3, 0).call(HELPER.copy_from_user)),
    because: 'helper call might sleep in a non-sleepable prog',
  },
  {
    name: 'timers need a thread of ours, and there is none',
    accept: p => end(p.call(HELPER.ktime_get_ns)),
    refuse: p => end(p.call(169)),
    because: 'no thread of ours runs in the process',
  },
  {
    name: 'memory in place of a context',
    accept: p => p.load(8, R0, R1, 56).exit(),
    refuse: p => p.load(8, R0, R1, 57).exit(),
    because: 'invalid access to memory, mem_size=64 off=57 size=8',
    env: { context: { kind: 'memory', size: 64 } },
  },
];

describe('rules: what is refused, and the nearest that is accepted', () => {
  test.each(RULES.map(rule => [rule.name, rule] as const))('%s', (_name, rule) => {
    const accepted = verify(rule.accept, rule.attach, rule.env);
    expect(isVerified(accepted)).toBe(true);
    const refused = (): unknown => verify(rule.refuse, rule.attach, rule.env);
    expect(refused).toThrow(BpfError);
    expect(refused).toThrow(rule.because);
  });
});

describe('what a verified program says of itself', () => {
  test('loads through the traced process’s pointers may fault, and others may not', () => {
    const program = verify(p => end(p.load(8, R2, R1).load(8, R3, R2, 8).load(4, R4, R3)), 'fentry', typed);
    expect([...program.probeLoads]).toEqual([0, 1, 1, 0, 0]);
    expect(program.needs.faults).toBe(true);
    expect(program.accessedArgs).toEqual([0]);
  });

  test('its functions, and how much stack each uses', () => {
    const program = verify(p => looped(p, q => q.store(4, R10, -20, 1).mov(R0, 0)));
    expect(program.subprograms).toEqual([
      { start: 0, end: 9, stackDepth: 8, isCallback: false },
      { start: 9, end: 12, stackDepth: 24, isCallback: true },
    ]);
  });

  test('what it needs of the thread', () => {
    expect(verify(end).needs).toEqual({
      stack: false,
      record: false,
      thread: false,
      guard: false,
      faults: false,
      tailCalls: false,
    });
    const perCpu = verify(p => end(found(p, MAPS.perCpu).store(8, R0, 0, 1)));
    expect(perCpu.needs).toMatchObject({ thread: true, guard: true });
    const atomic = verify(p => end(found(p, MAPS.perCpu).mov(R1, 1).atomicAdd(8, R0, 0, R1)));
    expect(atomic.needs).toMatchObject({ thread: true, guard: false });
  });

  test('a log of the path that was refused, with registers and source lines', () => {
    const lineInfo = [{ slot: 0, file: '/src/a.bpf.c', text: '  x = read();', line: 7, column: 3 }];
    try {
      verify(p => end(p.load(8, R2, R1).load(8, R3, R2)), 'fentry', { logLevel: 1, lineInfo });
      expect.fail('it was accepted');
    } catch (error) {
      const { log, message } = error as BpfError & { log: string };
      expect(log).toContain('; x = read(); @ a.bpf.c:7');
      expect(log).toContain('0: r2 = *(u64 *)(r1 +0)');
      expect(log).toContain('R2=scalar()');
      expect(log.endsWith("R2 invalid mem access 'scalar'")).toBe(true);
      expect(message).toContain('a.bpf.c:7: x = read();');
    }
  });
});

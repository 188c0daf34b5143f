/** What is acquired and given back: dynptrs, records of ring buffers, iterators, locks; and what callbacks may do. */

import { type ProgramBuilder, R0, R1, R2, R3, R4, R5, R6, R7, R10 } from '../../../../bpf/builder.js';
import { HELPER } from '../../../../bpf/helpers.js';
import { KFUNC } from '../../../../bpf/kfuncs.js';
import { end, found, MAPS, type Rule } from '../rules_fixture.js';
import {
  at,
  discardDynptr,
  localDynptr,
  reserved,
  reservedDynptr,
  submit,
  testPairs,
  there,
} from './fixture.js';

/** 8 bytes are read out of the dynptr at `offset` of the stack. */
const readDynptr = (p: ProgramBuilder, offset = -16): ProgramBuilder =>
  at(at(p, R1, -24).mov(R2, 8), R3, offset)
    .mov(R4, 0)
    .mov(R5, 0)
    .call(HELPER.dynptr_read);
const data = (p: ProgramBuilder, size = 8): ProgramBuilder =>
  at(p, R1, -16).mov(R2, 0).mov(R3, size).call(HELPER.dynptr_data);
const startIterator = (p: ProgramBuilder, offset = -8): ProgramBuilder =>
  at(p, R1, offset).mov(R2, 0).mov(R3, 10).callKfunc(KFUNC.bpf_iter_num_new);
const endIterator = (p: ProgramBuilder): ProgramBuilder =>
  at(p, R1, -8).callKfunc(KFUNC.bpf_iter_num_destroy);
const nextNumber = (p: ProgramBuilder): ProgramBuilder => at(p, R1, -8).callKfunc(KFUNC.bpf_iter_num_next);
const locked = (p: ProgramBuilder): ProgramBuilder => found(p, MAPS.locked).mov(R6, R0);
const lock = (p: ProgramBuilder): ProgramBuilder => p.mov(R1, R6).add(R1, 8).call(HELPER.spin_lock);
const unlock = (p: ProgramBuilder): ProgramBuilder => p.mov(R1, R6).add(R1, 8).call(HELPER.spin_unlock);

/** The first number of an iterator is used by `body`. */
const numbered = (p: ProgramBuilder, body: (p: ProgramBuilder) => unknown): ProgramBuilder => {
  const out = p.label();
  nextNumber(startIterator(p)).jump('eq', R0, 0, out);
  body(p);
  return end(endIterator(p.bind(out)));
};

/** bpf_loop with what `context` puts into r3, and a callback that `body` writes. */
const looped = (
  p: ProgramBuilder,
  context: (p: ProgramBuilder) => unknown,
  body: (p: ProgramBuilder) => ProgramBuilder,
): ProgramBuilder => {
  const f = p.label();
  context(p.mov(R1, 10).ldFunction(R2, f));
  end(p.mov(R4, 0).call(HELPER.loop));
  return body(p.bind(f)).exit();
};
const nothing = (p: ProgramBuilder): ProgramBuilder => p.mov(R3, 0);
const zero = (p: ProgramBuilder): ProgramBuilder => p.mov(R0, 0);

/** The same, where the caller has a record, whose address the callback is handed. */
const loopedWithRecord = (p: ProgramBuilder, body: (p: ProgramBuilder) => ProgramBuilder): ProgramBuilder => {
  const f = p.label();
  at(reserved(p).store(8, R10, -24, R6).mov(R1, 10).ldFunction(R2, f), R3, -24);
  end(submit(p.mov(R4, 0).call(HELPER.loop)));
  return body(p.bind(f)).exit();
};

const DYNPTRS: readonly Rule[] = [
  {
    name: 'a dynptr of memory is of a map’s value',
    accept: p => end(localDynptr(p)),
    refuse: p => end(at(at(p, R1, -32).mov(R2, 8).mov(R3, 0), R4, -16).call(HELPER.dynptr_from_mem)),
    because: 'R1 type=fp expected=map_value',
  },
  {
    name: 'a dynptr is as large as its memory',
    accept: p => end(localDynptr(p)),
    refuse: p =>
      end(at(p.ldMapValue(R1, MAPS.global).mov(R2, 65).mov(R3, 0), R4, -16).call(HELPER.dynptr_from_mem)),
    because: 'value_size=64 off=0 size=65',
  },
  {
    name: 'a dynptr is on the stack',
    accept: p => end(localDynptr(p)),
    refuse: p =>
      end(
        p
          .ldMapValue(R1, MAPS.global)
          .mov(R2, 8)
          .mov(R3, 0)
          .ldMapValue(R4, MAPS.global)
          .call(HELPER.dynptr_from_mem),
      ),
    because: 'R4 type=map_value expected=fp',
  },
  {
    name: 'a dynptr is aligned',
    accept: p => end(localDynptr(p, -24)),
    refuse: p => end(localDynptr(p, -20)),
    because: 'cannot pass in dynptr at an offset=-20',
  },
  {
    name: 'a dynptr has sixteen bytes',
    accept: p => end(localDynptr(p, -16)),
    refuse: p => end(localDynptr(p, -8)),
    because: 'invalid write to stack R4 off=-8 size=16',
  },
  {
    name: 'the place of a dynptr is known',
    accept: p => end(readDynptr(localDynptr(p))),
    refuse: p =>
      end(
        at(at(localDynptr(p.mov(R6, R1)).load(8, R6, R6).and(R6, 8), R1, -24).mov(R2, 8), R3, -16)
          .add(R3, R6)
          .mov(R4, 0)
          .mov(R5, 0)
          .call(HELPER.dynptr_read),
      ),
    because: 'dynptr has to be at a constant offset',
  },
  {
    name: 'a dynptr is used by its beginning',
    accept: p => end(readDynptr(localDynptr(p))),
    refuse: p => end(readDynptr(localDynptr(p, -40), -32)),
    because: 'Expected an initialized dynptr as arg #2',
  },
  {
    name: 'a dynptr is no map',
    accept: p => end(readDynptr(localDynptr(p))),
    refuse: p =>
      end(
        at(localDynptr(p), R1, -24)
          .mov(R2, 8)
          .ldMap(R3, MAPS.counts)
          .mov(R4, 0)
          .mov(R5, 0)
          .call(HELPER.dynptr_read),
      ),
    because: 'arg#2 expected pointer to stack or const struct bpf_dynptr',
  },
  {
    name: 'a dynptr that was overwritten is none',
    accept: p => end(readDynptr(localDynptr(p).store(8, R10, -24, 1))),
    refuse: p => end(readDynptr(localDynptr(p).store(8, R10, -8, 1))),
    because: 'Expected an initialized dynptr as arg #2',
  },
  {
    name: 'a dynptr that must be given back is not overwritten',
    accept: p => end(discardDynptr(reservedDynptr(p).store(8, R10, -24, 1))),
    refuse: p => end(discardDynptr(reservedDynptr(p).store(8, R10, -16, 1))),
    because: 'cannot overwrite referenced dynptr',
  },
  {
    name: 'a dynptr is given back once',
    accept: p => end(discardDynptr(reservedDynptr(p))),
    refuse: p => end(discardDynptr(discardDynptr(reservedDynptr(p)))),
    because: 'Expected an initialized dynptr as arg #0',
  },
  {
    name: 'a dynptr of a value is not given back',
    accept: p => end(readDynptr(localDynptr(p))),
    refuse: p => end(discardDynptr(localDynptr(p))),
    because: 'is an unacquired reference: the dynptr is of local memory',
  },
  {
    name: 'what a dynptr is filled from is there',
    accept: p =>
      end(
        at(at(localDynptr(p), R1, -16).mov(R2, 0), R3, -24)
          .mov(R4, 8)
          .mov(R5, 0)
          .call(HELPER.dynptr_write),
      ),
    refuse: p =>
      end(
        at(at(localDynptr(p), R1, -16).mov(R2, 0), R3, -16)
          .mov(R4, 8)
          .mov(R5, 0)
          .call(HELPER.dynptr_write),
      ),
    because: 'R3 cannot pass in dynptr at an offset=-16',
  },
  {
    name: 'memory of a dynptr may not be there',
    accept: p => end(there(data(localDynptr(p))).load(8, R2, R0)),
    refuse: p => end(data(localDynptr(p)).load(8, R2, R0)),
    because: "R0 invalid mem access 'mem_or_null'",
  },
  {
    name: 'memory of a dynptr is as long as was asked for',
    accept: p => end(there(data(localDynptr(p))).load(8, R2, R0)),
    refuse: p => end(there(data(localDynptr(p), 4)).load(8, R2, R0)),
    because: 'invalid access to memory, mem_size=4 off=0 size=8',
  },
  {
    name: 'how much memory of a dynptr is asked for is known',
    accept: p => end(data(localDynptr(p))),
    refuse: p =>
      end(
        at(localDynptr(p.load(8, R6, R1).and(R6, 7)), R1, -16)
          .mov(R2, 0)
          .mov(R3, R6)
          .call(HELPER.dynptr_data),
      ),
    because: 'R3 is not a known constant',
  },
  {
    name: 'memory of a dynptr goes with it',
    accept: p => {
      const out = p.label();
      data(reservedDynptr(p)).jump('eq', R0, 0, out).store(8, R0, 0, 1).bind(out);
      return end(discardDynptr(p));
    },
    refuse: p => {
      const out = p.label();
      data(reservedDynptr(p)).mov(R6, R0).jump('ne', R0, 0, out);
      end(discardDynptr(p)).bind(out);
      return end(discardDynptr(p).store(8, R6, 0, 1));
    },
    because: "R6 invalid mem access 'scalar'",
  },
];

const RECORDS: readonly Rule[] = [
  {
    name: 'a record is discarded once',
    accept: p => end(reserved(p).mov(R1, R6).mov(R2, 0).call(HELPER.ringbuf_discard)),
    refuse: p => end(submit(reserved(p).mov(R1, R6).mov(R2, 0).call(HELPER.ringbuf_discard))),
    because: 'R6 !read_ok',
  },
  {
    name: 'only records are submitted',
    accept: p => end(submit(reserved(p))),
    refuse: p => end(submit(p.ldMapValue(R6, MAPS.global))),
    because: 'R1 type=map_value expected=ringbuf_mem',
  },
  {
    name: 'each of two records is given back',
    accept: p => end(submit(reserved(submit(reserved(p))))),
    refuse: p => end(submit(reserved(reserved(p)))),
    because: 'Unreleased reference',
  },
  {
    name: 'addresses do not go into records',
    accept: p => end(submit(reserved(p).store(8, R6, 0, 1))),
    refuse: p => end(submit(reserved(p).store(8, R6, 0, R10))),
    because: 'R10 leaks addr into mem',
  },
  {
    name: 'nothing before a record',
    accept: p => end(submit(reserved(p).load(8, R2, R6))),
    refuse: p => end(submit(reserved(p).load(8, R2, R6, -8))),
    because: 'mem_size=16 off=-8 size=8',
  },
  {
    name: 'the flags of a record are a number',
    accept: p => end(submit(reserved(p))),
    refuse: p => end(reserved(p).mov(R1, R6).mov(R2, R10).call(HELPER.ringbuf_submit)),
    because: 'R2 type=fp expected=scalar',
  },
  {
    name: 'a record is a fixed number of bytes',
    accept: p => end(submit(reserved(p, 1))),
    refuse: p => end(submit(reserved(p, 1 << 29))),
    because: 'R2 size 536870912 is too large',
  },
  {
    name: 'output is as long as it says',
    accept: p =>
      end(
        at(p.store(8, R10, -8, 1).ldMap(R1, MAPS.events), R2, -8)
          .mov(R3, 8)
          .mov(R4, 0)
          .call(HELPER.ringbuf_output),
      ),
    refuse: p =>
      end(
        at(p.store(8, R10, -8, 1).ldMap(R1, MAPS.events), R2, -8)
          .mov(R3, 9)
          .mov(R4, 0)
          .call(HELPER.ringbuf_output),
      ),
    because: 'invalid read from stack R2 off=-8 size=9',
  },
  {
    name: 'output gives no address away',
    accept: p =>
      end(
        at(p.store(8, R10, -8, 1).ldMap(R1, MAPS.events), R2, -8)
          .mov(R3, 8)
          .mov(R4, 0)
          .call(HELPER.ringbuf_output),
      ),
    refuse: p =>
      end(
        at(p.store(8, R10, -8, R10).ldMap(R1, MAPS.events), R2, -8)
          .mov(R3, 8)
          .mov(R4, 0)
          .call(HELPER.ringbuf_output),
      ),
    because: 'R2 leaks addr into map',
  },
];

const ITERATORS: readonly Rule[] = [
  {
    name: 'an iterator is begun once',
    accept: p => end(endIterator(startIterator(p))),
    refuse: p => end(endIterator(startIterator(startIterator(p)))),
    because: 'expected uninitialized iter_num as arg #0',
  },
  {
    name: 'an iterator is aligned',
    accept: p => end(endIterator(startIterator(p))),
    refuse: p => end(endIterator(startIterator(p, -12))),
    because: 'arg#0 expected pointer to an iterator on stack',
  },
  {
    name: 'an iterator is on the stack',
    accept: p => end(endIterator(startIterator(p))),
    refuse: p => end(p.ldMapValue(R1, MAPS.global).mov(R2, 0).mov(R3, 1).callKfunc(KFUNC.bpf_iter_num_new)),
    because: 'arg#0 expected pointer to an iterator on stack',
  },
  {
    name: 'an iterator ends once',
    accept: p => end(endIterator(startIterator(p))),
    refuse: p => end(endIterator(endIterator(startIterator(p)))),
    because: 'expected an initialized iter_num as arg #0',
  },
  {
    name: 'an iterator goes from number to number',
    accept: p => end(endIterator(startIterator(p))),
    refuse: p => end(at(p, R1, -8).mov(R2, R10).mov(R3, 1).callKfunc(KFUNC.bpf_iter_num_new)),
    because: 'R2 type must be a number',
  },
  {
    name: 'an iterator’s number is only read',
    accept: p => numbered(p, q => q.load(4, R2, R0)),
    refuse: p => numbered(p, q => q.store(4, R0, 0, 1)),
    because: 'R0 cannot write into rdonly_mem',
  },
  {
    name: 'an iterator’s number has four bytes',
    accept: p => numbered(p, q => q.load(4, R2, R0)),
    refuse: p => numbered(p, q => q.load(8, R2, R0)),
    because: 'invalid access to memory, mem_size=4 off=0 size=8',
  },
  {
    name: 'an iterator’s number is not bounded by itself',
    accept: p =>
      numbered(p, q => q.load(4, R2, R0).and(R2, 63).ldMapValue(R3, MAPS.global).add(R3, R2).load(1, R4, R3)),
    refuse: p => numbered(p, q => q.load(4, R2, R0).ldMapValue(R3, MAPS.global).add(R3, R2).load(1, R4, R3)),
    because: 'value_size=64 off=4294967295 size=1',
  },
  {
    name: 'an iterator is not read',
    accept: p => end(endIterator(startIterator(p).load(8, R2, R10, -16))),
    refuse: p => end(endIterator(startIterator(p).load(8, R2, R10, -8))),
    because: 'invalid read from stack off -8: a iter is there',
  },
  {
    name: 'an iterator is not handed on as memory',
    accept: p =>
      end(
        endIterator(
          startIterator(p).store(8, R10, -16, 1).ldMap(R1, MAPS.counts).mov(R2, R10).add(R2, -16).call(1),
        ),
      ),
    refuse: p => end(endIterator(at(startIterator(p).ldMap(R1, MAPS.counts), R2, -8).call(1))),
    because: 'R2 cannot pass in iter at an offset=-8',
  },
];

const CALLBACKS: readonly Rule[] = [
  {
    name: 'a callback is handed stack, or 0',
    accept: p => looped(p, q => at(q, R3, -8), zero),
    refuse: p => looped(p, q => q.mov(R3, 1), zero),
    because: 'R3 type=scalar expected=fp, or 0',
  },
  {
    name: 'a callback is not handed a map’s value',
    accept: p => looped(p, q => at(q, R3, -8), zero),
    refuse: p => looped(p, q => q.ldMapValue(R3, MAPS.global), zero),
    because: 'R3 type=map_value expected=fp, or 0',
  },
  {
    name: 'a callback has registers of its own',
    accept: p => looped(p, nothing, q => q.mov(R6, 0).mov(R0, R6)),
    refuse: p => looped(p.mov(R6, 0), nothing, q => q.mov(R0, R6)),
    because: 'R6 !read_ok',
  },
  {
    name: 'a callback returns a number',
    accept: p => looped(p, nothing, zero),
    refuse: p => looped(p, nothing, q => q.mov(R0, R10)),
    because: 'At callback return the register R0 should have been in [0, 1]',
  },
  {
    name: 'a callback’s index is any number',
    accept: p =>
      looped(p, nothing, q =>
        q.and(R1, 63).ldMapValue(R3, MAPS.global).add(R3, R1).load(1, R4, R3).mov(R0, 0),
      ),
    refuse: p =>
      looped(p, nothing, q => q.ldMapValue(R3, MAPS.global).add(R3, R1).load(1, R4, R3).mov(R0, 0)),
    because: 'register with unbounded min value is not allowed',
  },
  {
    name: 'a callback does not give back what its caller acquired',
    accept: p => loopedWithRecord(p, zero),
    refuse: p =>
      loopedWithRecord(p, q => q.load(8, R1, R2).mov(R2, 0).call(HELPER.ringbuf_submit).mov(R0, 0)),
    because: 'a callback must not give back what its caller acquired',
  },
  {
    name: 'the rounds of a loop are a number',
    accept: p => looped(p, nothing, zero),
    refuse: p => looped(p, q => q.mov(R3, 0).mov(R1, R10), zero),
    because: 'R1 type=fp expected=scalar',
  },
  {
    name: 'a function’s address is no memory',
    accept: p => looped(p, nothing, zero),
    refuse: p => looped(p, q => q.load(8, R3, R2).mov(R3, 0), zero),
    because: "R2 invalid mem access 'func'",
  },
  {
    name: 'a function’s address is not changed',
    accept: p => looped(p, nothing, zero),
    refuse: p => looped(p, q => q.add(R2, 8).mov(R3, 0), zero),
    because: 'R2 pointer arithmetic on func prohibited',
  },
  {
    name: 'a function’s address is not stored in a map',
    accept: p => looped(p, q => q.store(8, R10, -8, R2).mov(R3, 0), zero),
    refuse: p => looped(p, q => q.ldMapValue(R5, MAPS.global).store(8, R5, 0, R2).mov(R3, 0), zero),
    because: 'R2 leaks addr into map',
  },
];

const LOCKS: readonly Rule[] = [
  {
    name: 'a lock is taken before it is given back',
    accept: p => end(unlock(lock(locked(p)))),
    refuse: p => end(unlock(locked(p))),
    because: 'bpf_spin_unlock without taking a lock',
  },
  {
    name: 'one lock at a time',
    accept: p => end(unlock(lock(unlock(lock(locked(p)))))),
    refuse: p => end(unlock(lock(lock(locked(p))))),
    because: 'function calls are not allowed while holding a lock',
  },
  {
    name: 'the lock that was taken is given back',
    accept: p => end(unlock(lock(locked(locked(p).mov(R7, R6))))),
    refuse: p =>
      end(
        lock(locked(locked(p).mov(R7, R0)))
          .mov(R1, R7)
          .add(R1, 8)
          .call(HELPER.spin_unlock),
      ),
    because: 'bpf_spin_unlock of different lock',
  },
  {
    name: 'no kernel functions under a lock',
    accept: p => end(endIterator(startIterator(unlock(lock(locked(p)))))),
    refuse: p => end(unlock(endIterator(startIterator(lock(locked(p)))))),
    because: 'function calls are not allowed while holding a lock',
  },
  {
    name: 'the place of a lock is known',
    accept: p => end(unlock(lock(locked(p)))),
    refuse: p =>
      end(
        locked(p.load(8, R7, R1).and(R7, 8))
          .mov(R1, R6)
          .add(R1, R7)
          .call(HELPER.spin_lock),
      ),
    because: "R1 doesn't have constant offset",
  },
  {
    name: 'a lock is in a map',
    accept: p => end(unlock(lock(locked(p)))),
    refuse: p => end(at(p, R1, -8).call(HELPER.spin_lock)),
    because: 'R1 type=fp expected=map_value',
  },
  {
    name: 'a value is there before it is locked',
    accept: p => end(unlock(lock(locked(p)))),
    refuse: p =>
      end(
        p
          .store(8, R10, -8, 1)
          .ldMap(R1, MAPS.locked)
          .mov(R2, R10)
          .add(R2, -8)
          .call(1)
          .mov(R1, R0)
          .call(HELPER.spin_lock),
      ),
    because: 'R1 type=map_value_or_null expected=map_value',
  },
  {
    name: 'helpers do not fill a lock',
    accept: p => end(locked(p).mov(R1, R6).mov(R2, 8).mov(R3, 0).call(HELPER.probe_read)),
    refuse: p => end(locked(p).mov(R1, R6).mov(R2, 16).mov(R3, 0).call(HELPER.probe_read)),
    because: 'bpf_spin_lock cannot be accessed directly',
  },
  {
    name: 'a lock is not stored to',
    accept: p => end(locked(p).store(4, R6, 12, 1)),
    refuse: p => end(locked(p).store(4, R6, 8, 1)),
    because: 'bpf_spin_lock cannot be accessed directly',
  },
];

testPairs('dynptrs', DYNPTRS);
testPairs('records of ring buffers', RECORDS);
testPairs('iterators', ITERATORS);
testPairs('callbacks', CALLBACKS);
testPairs('locks', LOCKS);

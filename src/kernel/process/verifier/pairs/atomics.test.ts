/** Atomics: what they may work on, and what is known of the numbers that they fetch. */

import { R0, R1, R2, R3, R4, R6, R7, R10 } from '../../../../bpf/builder.js';
import { HELPER } from '../../../../bpf/helpers.js';
import { KFUNC } from '../../../../bpf/kfuncs.js';
import { end, found, MAPS, type Rule } from '../rules_fixture.js';
import { at, reserved, submit, TYPED, testPairs, there } from './fixture.js';

const PAIRS: readonly Rule[] = [
  {
    name: 'an atomic of 4 bytes is at a multiple of 4',
    accept: p => end(found(p, MAPS.wide).mov(R2, 1).atomicOr(4, R0, 28, R2)),
    refuse: p => end(found(p, MAPS.wide).mov(R2, 1).atomicOr(4, R0, 26, R2)),
    because: 'misaligned atomic access, size 4',
  },
  {
    name: 'an atomic ends inside the value',
    accept: p => end(found(p, MAPS.wide).mov(R2, 1).atomicAnd(8, R0, 24, R2)),
    refuse: p => end(found(p, MAPS.wide).mov(R2, 1).atomicAnd(8, R0, 32, R2)),
    because: 'value_size=32 off=32 size=8',
  },
  {
    name: 'an atomic ends inside a record',
    accept: p => end(submit(reserved(p).mov(R2, 1).atomicXor(8, R6, 8, R2))),
    refuse: p => end(submit(reserved(p).mov(R2, 1).atomicXor(8, R6, 16, R2))),
    because: 'invalid access to memory, mem_size=16 off=16 size=8',
  },
  {
    name: 'what is fetched is no longer the number that was added',
    accept: p => end(found(p, MAPS.wide).mov(R2, 8).atomicAdd(8, R0, 0, R2).add(R0, R2).load(8, R3, R0)),
    refuse: p => end(found(p, MAPS.wide).mov(R2, 8).atomicFetchAdd(8, R0, 0, R2).add(R0, R2).load(8, R3, R0)),
    because: 'register with unbounded min value is not allowed',
  },
  {
    name: 'four bytes fetched are not more than 32 bits',
    accept: p =>
      end(found(p, MAPS.wide).mov(R2, 8).atomicFetchOr(4, R0, 0, R2).rsh(R2, 27).add(R0, R2).load(1, R3, R0)),
    refuse: p =>
      end(found(p, MAPS.wide).mov(R2, 8).atomicFetchOr(4, R0, 0, R2).rsh(R2, 26).add(R0, R2).load(1, R3, R0)),
    because: 'value_size=32 off=63 size=1',
  },
  {
    name: 'an exchange swaps numbers only',
    accept: p => end(found(p, MAPS.wide).mov(R2, 1).atomicXchg(8, R0, 0, R2)),
    refuse: p => end(found(p, MAPS.wide).mov(R2, R0).atomicXchg(8, R0, 0, R2)),
    because: 'R2 leaks addr into mem',
  },
  {
    name: 'compare and exchange overwrites r0 and not its operand',
    accept: p => {
      found(p, MAPS.wide).mov(R6, R0).mov(R0, 0).mov(R2, 8).atomicCmpxchg(8, R6, 0, R2);
      return end(p.add(R6, R2).load(8, R3, R6));
    },
    refuse: p => {
      found(p, MAPS.wide).mov(R6, R0).mov(R0, 0).mov(R2, 8).atomicCmpxchg(8, R6, 0, R2);
      return end(p.add(R6, R0).load(8, R3, R6));
    },
    because: 'register with unbounded min value is not allowed',
  },
  {
    name: 'compare and exchange needs a number in r0 to compare with',
    accept: p => end(p.store(8, R10, -8, 0).mov(R2, 1).mov(R0, 0).atomicCmpxchg(8, R10, -8, R2)),
    refuse: p => end(p.store(8, R10, -8, 0).mov(R2, 1).atomicCmpxchg(8, R10, -8, R2)),
    because: 'R0 !read_ok',
  },
  {
    name: 'constants are not changed by atomics',
    accept: p => end(p.ldMapValue(R3, MAPS.global).mov(R2, 1).atomicAdd(8, R3, 0, R2)),
    refuse: p => end(p.ldMapValue(R3, MAPS.rodata).mov(R2, 1).atomicAdd(8, R3, 0, R2)),
    because: 'write into map forbidden',
  },
  {
    name: 'a map that is only written has no atomics, which read',
    accept: p => end(p.ldMapValue(R3, MAPS.global).mov(R2, 1).atomicXor(8, R3, 0, R2)),
    refuse: p => end(p.ldMapValue(R3, MAPS.writeOnly).mov(R2, 1).atomicXor(8, R3, 0, R2)),
    because: 'read from map forbidden',
  },
  {
    name: 'atomics on the stack do not change a spilled pointer',
    accept: p => end(p.store(8, R10, -8, 1).mov(R2, 1).atomicAdd(8, R10, -8, R2)),
    refuse: p => end(p.store(8, R10, -8, R1).mov(R2, 1).atomicAdd(8, R10, -8, R2)),
    because: 'attempt to corrupt spilled pointer on stack',
  },
  {
    name: 'atomics on the stack are at a known place',
    accept: p =>
      end(
        at(p.store(8, R10, -16, 0), R3, -16)
          .mov(R2, 1)
          .atomicAdd(8, R3, 0, R2),
      ),
    refuse: p => {
      at(p.load(8, R4, R1).and(R4, 8), R3, -16)
        .add(R3, R4)
        .store(8, R3, 0, 0);
      return end(p.mov(R2, 1).atomicAdd(8, R3, 0, R2));
    },
    because: 'atomics on the stack need a constant offset',
  },
  {
    name: 'atomics on the stack are aligned',
    accept: p => end(p.store(8, R10, -8, 0).store(8, R10, -16, 0).mov(R2, 1).atomicAdd(8, R10, -16, R2)),
    refuse: p => end(p.store(8, R10, -8, 0).store(8, R10, -16, 0).mov(R2, 1).atomicAdd(8, R10, -12, R2)),
    because: 'misaligned stack access off -12 size 8',
  },
  {
    name: 'no atomic before the null check',
    accept: p =>
      end(
        there(p.ldMap(R1, MAPS.storage).mov(R2, 0).mov(R3, 0).mov(R4, 1).call(156))
          .mov(R2, 1)
          .atomicAdd(8, R0, 0, R2),
      ),
    refuse: p =>
      end(
        p
          .ldMap(R1, MAPS.storage)
          .mov(R2, 0)
          .mov(R3, 0)
          .mov(R4, 1)
          .call(156)
          .mov(R2, 1)
          .atomicAdd(8, R0, 0, R2),
      ),
    because: 'BPF_ATOMIC stores into R0 map_value_or_null is not allowed',
  },
  {
    name: 'no atomic on the traced process’s objects',
    accept: p => end(p.load(8, R3, R1).load(8, R2, R3)),
    refuse: p => end(p.load(8, R3, R1).mov(R2, 1).atomicAdd(8, R3, 0, R2)),
    because: 'BPF_ATOMIC stores into R3 trusted_ptr_outer is not allowed',
    env: TYPED,
  },
  {
    name: 'no atomic on the number that an iterator gives',
    accept: p => {
      const out = p.label();
      at(p, R1, -8).mov(R2, 0).mov(R3, 10).callKfunc(KFUNC.bpf_iter_num_new);
      at(p, R1, -8).callKfunc(KFUNC.bpf_iter_num_next).jump('eq', R0, 0, out).load(4, R7, R0).bind(out);
      return end(at(p, R1, -8).callKfunc(KFUNC.bpf_iter_num_destroy));
    },
    refuse: p => {
      const out = p.label();
      at(p, R1, -8).mov(R2, 0).mov(R3, 10).callKfunc(KFUNC.bpf_iter_num_new);
      at(p, R1, -8)
        .callKfunc(KFUNC.bpf_iter_num_next)
        .jump('eq', R0, 0, out)
        .mov(R7, 1)
        .atomicAdd(4, R0, 0, R7)
        .bind(out);
      return end(at(p, R1, -8).callKfunc(KFUNC.bpf_iter_num_destroy));
    },
    because: 'BPF_ATOMIC stores into R0 rdonly_mem is not allowed',
  },
  {
    name: 'no atomic on a key that a callback is handed',
    accept: p => {
      const f = p.label();
      end(p.ldMap(R1, MAPS.counts).ldFunction(R2, f).mov(R3, 0).mov(R4, 0).call(HELPER.for_each_map_elem));
      return p.bind(f).mov(R1, 1).atomicAdd(8, R3, 0, R1).mov(R0, 0).exit();
    },
    refuse: p => {
      const f = p.label();
      end(p.ldMap(R1, MAPS.counts).ldFunction(R2, f).mov(R3, 0).mov(R4, 0).call(HELPER.for_each_map_elem));
      return p.bind(f).mov(R1, 1).atomicAdd(4, R2, 0, R1).mov(R0, 0).exit();
    },
    because: 'BPF_ATOMIC stores into R2 map_key is not allowed',
  },
];

testPairs('atomics', PAIRS);

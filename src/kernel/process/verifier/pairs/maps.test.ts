/** Which operation is for which type of map, and what keys and values must be. */

import { type ProgramBuilder, R0, R1, R2, R3, R4, R6, R10 } from '../../../../bpf/builder.js';
import { HELPER } from '../../../../bpf/helpers.js';
import type { MapSpec } from '../environment.js';
import { end, MAPS, type Rule } from '../rules_fixture.js';
import { at, keyed, MORE, reserved, submit, testPairs, there } from './fixture.js';

const lookup = (p: ProgramBuilder, map: MapSpec): ProgramBuilder =>
  keyed(p, map).call(HELPER.map_lookup_elem);
const update = (p: ProgramBuilder, map: MapSpec): ProgramBuilder =>
  at(keyed(p, map), R3, -16).mov(R4, 0).call(HELPER.map_update_elem);
const remove = (p: ProgramBuilder, map: MapSpec): ProgramBuilder =>
  keyed(p, map).call(HELPER.map_delete_elem);
const push = (p: ProgramBuilder, map: MapSpec): ProgramBuilder =>
  keyed(p, map).mov(R3, 0).call(HELPER.map_push_elem);
const perCpu = (p: ProgramBuilder, map: MapSpec): ProgramBuilder =>
  keyed(p, map).mov(R3, 0).call(HELPER.map_lookup_percpu_elem);
const storage = (p: ProgramBuilder): ProgramBuilder =>
  p.ldMap(R1, MAPS.storage).mov(R2, 0).mov(R3, 0).mov(R4, 1).call(HELPER.task_storage_get);

/** A value is pushed, or asked for: the bytes at r10-8 hold a number or an address. */
const asked = (p: ProgramBuilder, map: MapSpec, spilled: boolean): ProgramBuilder =>
  at(p.store(8, R10, -8, spilled ? R1 : 1).ldMap(R1, map), R2, -8).call(HELPER.map_peek_elem);

const iterate = (p: ProgramBuilder, map: MapSpec): ProgramBuilder => {
  const f = p.label();
  end(p.ldMap(R1, map).ldFunction(R2, f).mov(R3, 0).mov(R4, 0).call(HELPER.for_each_map_elem));
  return p.bind(f).mov(R0, 0).exit();
};

const PAIRS: readonly Rule[] = [
  {
    name: 'look-up in a trie, not in a queue',
    accept: p => end(lookup(p, MORE.trie)),
    refuse: p => end(lookup(p, MAPS.queue)),
    because: 'cannot pass map_type 22 into func bpf_map_lookup_elem#1',
  },
  {
    name: 'look-up in a hash of LRU, not in a map of stacks',
    accept: p => end(lookup(p, MORE.lru)),
    refuse: p => end(lookup(p, MAPS.stacks)),
    because: 'cannot pass map_type 7 into func bpf_map_lookup_elem#1',
  },
  {
    name: 'look-up in a hash, not in a ring buffer',
    accept: p => end(lookup(p, MORE.hash)),
    refuse: p => end(lookup(p, MAPS.events)),
    because: 'cannot pass map_type 27 into func bpf_map_lookup_elem#1',
  },
  {
    name: 'look-up in an array, not in an array of programs',
    accept: p => end(lookup(p, MAPS.counts)),
    refuse: p => end(lookup(p, MAPS.programs)),
    because: 'cannot pass map_type 3 into func bpf_map_lookup_elem#1',
  },
  {
    name: 'update of a trie, not of a map of maps',
    accept: p => end(update(p, MORE.trie)),
    refuse: p => end(update(p, MAPS.outer)),
    because: 'cannot pass map_type 12 into func bpf_map_update_elem#2',
  },
  {
    name: 'update of a per-CPU hash, not of task storage',
    accept: p => end(update(p, MORE.perCpuHash)),
    refuse: p => end(update(p, MAPS.storage)),
    because: 'cannot pass map_type 29 into func bpf_map_update_elem#2',
  },
  {
    name: 'delete from an LRU hash, not from a stack',
    accept: p => end(remove(p, MORE.lru)),
    refuse: p => end(remove(p, MORE.stack)),
    because: 'cannot pass map_type 23 into func bpf_map_delete_elem#3',
  },
  {
    name: 'push on a stack, not into a hash',
    accept: p => end(push(p, MORE.stack)),
    refuse: p => end(push(p, MORE.hash)),
    because: 'cannot pass map_type 1 into func bpf_map_push_elem#87',
  },
  {
    name: 'pop from a stack, not from a bloom filter',
    accept: p => end(at(p.ldMap(R1, MORE.stack), R2, -8).call(HELPER.map_pop_elem)),
    refuse: p => end(at(p.ldMap(R1, MAPS.bloom), R2, -8).call(HELPER.map_pop_elem)),
    because: 'cannot pass map_type 30 into func bpf_map_pop_elem#88',
  },
  {
    name: 'a bloom filter is asked for a value, a queue fills it',
    accept: p => end(asked(p, MAPS.queue, true)),
    refuse: p => end(asked(p, MAPS.bloom, true)),
    because: 'R2 leaks addr into map',
  },
  {
    name: 'a popped value has room',
    accept: p => end(at(p.ldMap(R1, MAPS.queue), R2, -8).call(HELPER.map_pop_elem)),
    refuse: p => end(at(p.ldMap(R1, MAPS.queue), R2, -4).call(HELPER.map_pop_elem)),
    because: 'invalid write to stack R2 off=-4 size=8',
  },
  {
    name: 'a pushed value is whole',
    accept: p => end(at(p.ldMap(R1, MAPS.queue), R2, -8).mov(R3, 0).call(HELPER.map_push_elem)),
    refuse: p => end(at(p.ldMap(R1, MAPS.queue), R2, -4).mov(R3, 0).call(HELPER.map_push_elem)),
    because: 'invalid read from stack R2 off=-4 size=8',
  },
  {
    name: 'flags of a push are a number',
    accept: p => end(push(p, MAPS.queue)),
    refuse: p => end(at(p.ldMap(R1, MAPS.queue), R2, -8).mov(R3, R10).call(HELPER.map_push_elem)),
    because: 'R3 type=fp expected=scalar',
  },
  {
    name: 'another CPU’s value is in a per-CPU map',
    accept: p => end(perCpu(p, MAPS.perCpu)),
    refuse: p => end(perCpu(p, MAPS.counts)),
    because: 'cannot pass map_type 2 into func bpf_map_lookup_percpu_elem#195',
  },
  {
    name: 'another CPU’s value may not be there',
    accept: p => end(there(perCpu(p, MORE.perCpuHash)).load(8, R2, R0)),
    refuse: p => end(perCpu(p, MORE.perCpuHash).load(8, R2, R0)),
    because: "R0 invalid mem access 'map_value_or_null'",
  },
  {
    name: 'each element of a hash, not of a trie',
    accept: p => iterate(p, MORE.lru),
    refuse: p => iterate(p, MORE.trie),
    because: 'cannot pass map_type 11 into func bpf_for_each_map_elem#164',
  },
  {
    name: 'storage may not be there',
    accept: p => end(there(storage(p)).load(8, R2, R0)),
    refuse: p => end(storage(p).load(8, R2, R0)),
    because: "R0 invalid mem access 'map_value_or_null'",
  },
  {
    name: 'storage is as large as its value',
    accept: p => end(there(storage(p)).load(8, R2, R0)),
    refuse: p => end(there(storage(p)).load(8, R2, R0, 4)),
    because: 'value_size=8 off=4 size=8',
  },
  {
    name: 'storage begins with a whole value, or with zeros',
    accept: p =>
      end(at(p.ldMap(R1, MAPS.storage).mov(R2, 0), R3, -8).mov(R4, 1).call(HELPER.task_storage_get)),
    refuse: p =>
      end(at(p.ldMap(R1, MAPS.storage).mov(R2, 0), R3, -4).mov(R4, 1).call(HELPER.task_storage_get)),
    because: 'invalid read from stack R3 off=-4 size=8',
  },
  {
    name: 'storage is of maps of storage',
    accept: p => end(storage(p)),
    refuse: p => end(p.ldMap(R1, MORE.hash).mov(R2, 0).mov(R3, 0).mov(R4, 1).call(HELPER.task_storage_get)),
    because: 'cannot pass map_type 1 into func bpf_task_storage_get#156',
  },
  {
    name: 'storage of the running thread is deleted',
    accept: p => end(p.ldMap(R1, MAPS.storage).mov(R2, 0).call(HELPER.task_storage_delete)),
    refuse: p => end(p.mov(R2, R1).ldMap(R1, MAPS.storage).call(HELPER.task_storage_delete)),
    because: 'R2 must be the constant 0',
  },
  {
    name: 'output is for ring buffers',
    accept: p =>
      end(
        at(p.store(8, R10, -8, 1).ldMap(R1, MAPS.events), R2, -8)
          .mov(R3, 8)
          .mov(R4, 0)
          .call(HELPER.ringbuf_output),
      ),
    refuse: p =>
      end(
        at(p.store(8, R10, -8, 1).ldMap(R1, MAPS.queue), R2, -8)
          .mov(R3, 8)
          .mov(R4, 0)
          .call(HELPER.ringbuf_output),
      ),
    because: 'cannot pass map_type 22 into func bpf_ringbuf_output#130',
  },
  {
    name: 'a ring buffer is asked how full it is',
    accept: p => end(p.ldMap(R1, MAPS.events).mov(R2, 0).call(HELPER.ringbuf_query)),
    refuse: p => end(p.ldMap(R1, MORE.perf).mov(R2, 0).call(HELPER.ringbuf_query)),
    because: 'cannot pass map_type 4 into func bpf_ringbuf_query#134',
  },
  {
    name: 'a value of an inner map is that map’s',
    accept: p =>
      end(there(at(there(lookup(p, MORE.hashOfMaps)).mov(R1, R0), R2, -16).call(1)).load(8, R2, R0, 24)),
    refuse: p =>
      end(there(at(there(lookup(p, MORE.hashOfMaps)).mov(R1, R0), R2, -16).call(1)).load(8, R2, R0, 28)),
    because: 'value_size=32 off=28 size=8',
  },
  {
    name: 'a map out of a map is no memory',
    accept: p => end(there(lookup(p, MORE.hashOfMaps))),
    refuse: p => end(there(lookup(p, MORE.hashOfMaps)).load(4, R2, R0)),
    because: "R0 invalid mem access 'map_ptr'",
  },
  {
    name: 'a map of maps says what is in it',
    accept: p => end(lookup(p, MAPS.outer)),
    refuse: p => end(lookup(p, MORE.shapeless)),
    because: "map 'shapeless' does not say what its maps look like",
  },
  {
    name: 'a key may be in a record',
    accept: p => end(submit(reserved(p).ldMap(R1, MAPS.wide).mov(R2, R6).call(1))),
    refuse: p => end(submit(reserved(p, 8).ldMap(R1, MAPS.wide).mov(R2, R6).call(1))),
    because: 'invalid access to memory, mem_size=8 off=0 size=16',
  },
  {
    name: 'a map is not moved',
    accept: p => end(p.ldMap(R2, MAPS.counts)),
    refuse: p => end(p.ldMap(R2, MAPS.counts).add(R2, 8)),
    because: 'R2 pointer arithmetic on map_ptr prohibited',
  },
  {
    name: 'a map’s address stays here',
    accept: p => end(p.ldMapValue(R2, MAPS.global).store(8, R2, 0, 1)),
    refuse: p => end(p.ldMapValue(R2, MAPS.global).ldMap(R3, MAPS.counts).store(8, R2, 0, R3)),
    because: 'R3 leaks addr into map',
  },
];

testPairs('operations and types of maps', PAIRS);

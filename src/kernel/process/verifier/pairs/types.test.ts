/** Pointers of the traced process by their types, variable offsets, global functions, limits, and results by attach type. */

import { type ProgramBuilder, R0, R1, R2, R3, R4, R5, R6, R10 } from '../../../../bpf/builder.js';
import { HELPER } from '../../../../bpf/helpers.js';
import { KFUNC } from '../../../../bpf/kfuncs.js';
import { end, MAPS, type Rule, TARGET } from '../rules_fixture.js';
import { at, TYPED, testPairs } from './fixture.js';

/** `depth` functions that call one another, each with `stack` bytes of its own. */
const chained = (p: ProgramBuilder, depth: number, stack: number): ProgramBuilder => {
  for (let i = 1; i < depth; i++) {
    const next = p.label();
    end(p.store(8, R10, -stack, 1).callSubprogram(next)).bind(next);
  }
  return end(p.store(8, R10, -stack, 1));
};
/** Goes round `rounds` times, which the walk counts out. */
const counted = (p: ProgramBuilder, rounds: number): ProgramBuilder => {
  const again = p.label();
  return end(p.mov(R2, 0).bind(again).add(R2, 1).jump('lt', R2, rounds, again));
};

const OBJECTS: readonly Rule[] = [
  {
    name: 'an element of an array is read whole',
    accept: p => end(p.load(8, R2, R1).load(4, R3, R2, 28)),
    refuse: p => end(p.load(8, R2, R1).load(8, R3, R2, 28)),
    because: 'access beyond the end of member of type',
    env: TYPED,
  },
  {
    name: 'an embedded struct is part of its object',
    accept: p => end(p.load(8, R2, R1).load(4, R3, R2, 32)),
    refuse: p => end(p.load(8, R2, R1).load(8, R3, R2, 36)),
    because: 'access beyond struct outer at off 36 size 8',
    env: TYPED,
  },
  {
    name: 'an object is not indexed by a variable',
    accept: p => end(p.load(8, R2, R1).mov(R3, 16).add(R2, R3).load(4, R4, R2)),
    refuse: p => end(p.load(8, R2, R1).load(8, R3, R1, 8).and(R3, 8).add(R2, R3)),
    because: 'invalid variable offset: copy it with a helper',
    env: TYPED,
  },
  {
    name: 'helpers read objects by their address',
    accept: p =>
      end(
        at(p.load(8, R3, R1), R1, -8)
          .mov(R2, 8)
          .call(HELPER.probe_read),
      ),
    refuse: p => end(at(p.load(8, R1, R1).mov(R2, 8).mov(R3, 0), R4, -8).call(HELPER.strtol)),
    because: 'R1 type=trusted_ptr_outer expected=fp, map_key, map_value, mem',
    env: TYPED,
  },
  {
    name: 'a cast is to a known struct',
    accept: p =>
      end(p.load(8, R1, R1, 16).mov(R2, TARGET.outer).callKfunc(KFUNC.bpf_rdonly_cast).load(8, R3, R0)),
    refuse: p => end(p.load(8, R1, R1, 16).mov(R2, 1).callKfunc(KFUNC.bpf_rdonly_cast).load(8, R3, R0)),
    because: 'type ID argument must be of a struct, and 1 is not',
    env: TYPED,
  },
  {
    name: 'a cast says how large the object is',
    accept: p =>
      end(p.load(8, R1, R1, 16).mov(R2, TARGET.outer).callKfunc(KFUNC.bpf_rdonly_cast).load(4, R3, R0, 32)),
    refuse: p =>
      end(p.load(8, R1, R1, 16).mov(R2, TARGET.outer).callKfunc(KFUNC.bpf_rdonly_cast).load(4, R3, R0, 40)),
    because: 'access beyond struct outer at off 40 size 4',
    env: TYPED,
  },
  {
    name: 'a cast is of an address, not of our stack',
    accept: p => end(p.load(8, R1, R1, 16).mov(R2, TARGET.outer).callKfunc(KFUNC.bpf_rdonly_cast)),
    refuse: p => end(p.mov(R1, R10).mov(R2, TARGET.outer).callKfunc(KFUNC.bpf_rdonly_cast)),
    because: 'R1 type=fp expected=scalar, ptr_',
    env: TYPED,
  },
  {
    name: 'a cast object is not written',
    accept: p =>
      end(p.load(8, R1, R1, 16).mov(R2, TARGET.outer).callKfunc(KFUNC.bpf_rdonly_cast).load(8, R3, R0)),
    refuse: p =>
      end(p.load(8, R1, R1, 16).mov(R2, TARGET.outer).callKfunc(KFUNC.bpf_rdonly_cast).store(8, R0, 0, 1)),
    because: 'only read is supported',
    env: TYPED,
  },
];

const OFFSETS: readonly Rule[] = [
  {
    name: 'a variable read stays within the stack',
    accept: p =>
      end(
        at(p.load(8, R3, R1).and(R3, 8), R2, -16)
          .add(R2, R3)
          .load(8, R4, R2),
      ),
    refuse: p =>
      end(
        at(p.load(8, R3, R1).and(R3, 8), R2, -8)
          .add(R2, R3)
          .load(8, R4, R2),
      ),
    because: 'invalid variable-offset read from stack R2 min_off=-8 max_off=0 size=8',
  },
  {
    name: 'a variable read finds no pointer',
    accept: p =>
      end(
        at(p.load(8, R3, R1).and(R3, 8).store(8, R10, -24, R10), R2, -16)
          .add(R2, R3)
          .load(8, R4, R2),
      ),
    refuse: p =>
      end(
        at(p.load(8, R3, R1).and(R3, 8).store(8, R10, -16, R10), R2, -16)
          .add(R2, R3)
          .load(8, R4, R2),
      ),
    because: 'R2 variable-offset read of a spilled pointer',
  },
  {
    name: 'a variable write makes what was spilled unknown',
    accept: p =>
      end(
        at(p.load(8, R3, R1).and(R3, 8).mov(R4, 8).store(8, R10, -24, R4), R2, -16)
          .add(R2, R3)
          .store(8, R2, 0, 64)
          .load(8, R4, R10, -24)
          .ldMapValue(R5, MAPS.global)
          .add(R5, R4)
          .load(8, R0, R5),
      ),
    refuse: p =>
      end(
        at(p.load(8, R3, R1).and(R3, 8).mov(R4, 8).store(8, R10, -16, R4), R2, -16)
          .add(R2, R3)
          .store(8, R2, 0, 64)
          .load(8, R4, R10, -16)
          .ldMapValue(R5, MAPS.global)
          .add(R5, R4)
          .load(8, R0, R5),
      ),
    because: 'register with unbounded min value is not allowed',
  },
  {
    name: 'a variable offset is not below the stack',
    accept: p =>
      end(
        at(p.load(8, R3, R1).and(R3, 8), R2, -504)
          .sub(R2, R3)
          .store(8, R2, 0, 1),
      ),
    refuse: p =>
      end(
        at(p.load(8, R3, R1).and(R3, 8), R2, -512)
          .sub(R2, R3)
          .store(8, R2, 0, 1),
      ),
    because: 'invalid variable-offset write to stack R2 min_off=-520 max_off=-512 size=8',
  },
  {
    name: 'a variable size fits behind a variable offset',
    accept: p =>
      end(
        at(p.load(8, R3, R1).and(R3, 8), R1, -24)
          .add(R1, R3)
          .mov(R2, 16)
          .mov(R3, 0)
          .call(HELPER.probe_read),
      ),
    refuse: p =>
      end(
        at(p.load(8, R3, R1).and(R3, 8), R1, -16)
          .add(R1, R3)
          .mov(R2, 16)
          .mov(R3, 0)
          .call(HELPER.probe_read),
      ),
    because: 'invalid variable-offset write to stack R1 min_off=-16 max_off=-8 size=16',
  },
  {
    name: 'two variable offsets add up',
    accept: p =>
      end(p.load(8, R3, R1).and(R3, 31).ldMapValue(R2, MAPS.global).add(R2, R3).add(R2, R3).load(1, R4, R2)),
    refuse: p =>
      end(p.load(8, R3, R1).and(R3, 31).ldMapValue(R2, MAPS.global).add(R2, R3).add(R2, R3).load(4, R4, R2)),
    because: 'value_size=64 off=62 size=4',
  },
  {
    name: 'a constant offset counts with a variable one',
    accept: p =>
      end(p.load(8, R3, R1).and(R3, 31).ldMapValue(R2, MAPS.global, 32).add(R2, R3).load(1, R4, R2)),
    refuse: p =>
      end(p.load(8, R3, R1).and(R3, 31).ldMapValue(R2, MAPS.global, 32).add(R2, R3).load(1, R4, R2, 1)),
    because: 'value_size=64 off=64 size=1',
  },
];

const LIMITS: readonly Rule[] = [
  {
    name: 'eight frames',
    accept: p => chained(p, 8, 8),
    refuse: p => chained(p, 9, 8),
    because: 'the call stack of 9 frames is too deep',
  },
  {
    name: '512 bytes through three calls',
    accept: p => chained(p, 3, 160),
    refuse: p => chained(p, 3, 176),
    because: 'combined stack size of calls is 576',
  },
  {
    name: '512 bytes through eight calls',
    accept: p => chained(p, 8, 64),
    refuse: p => chained(p, 8, 72),
    because: 'combined stack size of calls is 768',
  },
  {
    name: 'a million instructions',
    accept: p => counted(p, 100_000),
    refuse: p => counted(p, 600_000),
    because: 'BPF program is too large. Processed 1000001 insn',
  },
];

const RESULTS: readonly Rule[] = [
  {
    name: 'a session returns 1 at most',
    accept: p => p.load(8, R0, R1).and(R0, 1).exit(),
    refuse: p => p.load(8, R0, R1).and(R0, 3).exit(),
    because: 'should have been in [0, 1] for fsession',
    attach: 'fsession',
  },
  {
    name: 'a session’s result is a number',
    accept: p => p.mov(R0, 1).exit(),
    refuse: p => p.mov(R0, R10).exit(),
    because: 'R0 leaks addr as return value',
    attach: 'fsession',
  },
  {
    name: 'fexit does not return what the function returned',
    accept: p => p.load(8, R0, R1, 24).and(R0, 0).exit(),
    refuse: p => p.load(8, R0, R1, 24).exit(),
    because: 'should have been in [0, 0] for fexit',
    attach: 'fexit',
  },
  {
    name: 'fentry does not return a negative number',
    accept: p => p.mov(R0, 0).exit(),
    refuse: p => p.mov(R0, -1).exit(),
    because: 'should have been in [0, 0] for fentry',
  },
  {
    name: 'modify-return returns any number that is there',
    accept: p => p.load(8, R0, R1).exit(),
    refuse: p => p.exit(),
    because: 'R0 !read_ok',
    attach: 'fmod_ret',
  },
  {
    name: 'modify-return reads the result behind the arguments',
    accept: p => p.load(8, R0, R1, 24).exit(),
    refuse: p => p.load(8, R0, R1, 32).exit(),
    because: 'invalid bpf_context access off=32 size=8',
    attach: 'fmod_ret',
  },
  {
    name: 'a session’s functions are for sessions',
    accept: p => p.mov(R6, R1).mov(R0, 0).exit(),
    refuse: p => end(p.callKfunc(KFUNC.bpf_session_cookie)),
    because: 'bpf_session_cookie is not allowed: it is for session programs',
    attach: 'fexit',
  },
  {
    name: 'a session’s cookie has eight bytes',
    accept: p => end(p.callKfunc(KFUNC.bpf_session_cookie).store(8, R0, 0, 1)),
    refuse: p => end(p.callKfunc(KFUNC.bpf_session_cookie).store(8, R0, 8, 1)),
    because: 'mem_size=8 off=8 size=8',
    attach: 'fsession',
  },
  {
    name: 'a session’s frame is a number',
    accept: p => end(p.callKfunc(KFUNC.bpf_session_frame).store(8, R10, -8, R0)),
    refuse: p => end(p.callKfunc(KFUNC.bpf_session_frame).store(8, R0, 0, 1)),
    because: "R0 invalid mem access 'scalar'",
    attach: 'fsession',
  },
  {
    name: 'a sleepable program’s copy fits',
    accept: p => end(at(p.mov(R2, 8).mov(R3, 0), R1, -8).call(HELPER.copy_from_user)),
    refuse: p => end(at(p.mov(R2, 16).mov(R3, 0), R1, -8).call(HELPER.copy_from_user)),
    because: 'invalid write to stack R1 off=-8 size=16',
    env: { sleepable: true },
  },
];

testPairs('objects of the traced process', OBJECTS);
testPairs('variable offsets', OFFSETS);
testPairs('limits', LIMITS);
testPairs('results and sleeping', RESULTS);

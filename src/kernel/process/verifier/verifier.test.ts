/** Programs that must be accepted, each beside its near twin that must be refused. */

import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 } from '../../../bpf/builder.js';
import { HELPER } from '../../../bpf/helpers.js';
import {
  type BpfInsn,
  CALL,
  CLASS,
  JMP,
  loadImmediate64,
  MODE,
  PSEUDO,
  SIZE,
  SOURCE,
} from '../../../bpf/instruction.js';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import type { AttachType, MapSpec } from './environment.js';
import { isVerified, type VerifiedProgram, verifyProgram } from './verifier.js';

const COUNTS: MapSpec = {
  id: 1,
  type: MAP_TYPE.ARRAY,
  name: 'counts',
  keySize: 4,
  valueSize: 8,
  maxEntries: 100,
};
const WIDE: MapSpec = {
  id: 2,
  type: MAP_TYPE.HASH,
  name: 'wide',
  keySize: 16,
  valueSize: 32,
  maxEntries: 10,
};
const GLOBAL: MapSpec = {
  id: 3,
  type: MAP_TYPE.ARRAY,
  name: 'global',
  keySize: 4,
  valueSize: 64,
  maxEntries: 1,
};
const maps = new Map([COUNTS, WIDE, GLOBAL].map(map => [map.id, map]));

type Write = (p: ProgramBuilder) => ProgramBuilder;

function verify(write: Write, attachType: AttachType = 'fentry', nargs = 3): VerifiedProgram {
  return verifyProgram(write(new ProgramBuilder()).build(), { attachType, nargs, maps });
}

/** Ends a program as fentry must. */
const end: Write = p => p.mov(R0, 0).exit();

/** r0 = lookup in `map` of the key at r10-16, all of it written. */
const lookup =
  (map: MapSpec): Write =>
  p =>
    p
      .store(8, R10, -16, 1)
      .store(8, R10, -8, 2)
      .ldMap(R1, map)
      .mov(R2, R10)
      .add(R2, -16)
      .call(HELPER.map_lookup_elem);

/** The same, and goes on only where there is a value. */
const found =
  (map: MapSpec): Write =>
  p => {
    const there = p.label();
    return lookup(map)(p).jump('ne', R0, 0, there).exit().bind(there);
  };

interface Pair {
  readonly name: string;
  readonly accept: Write;
  readonly refuse: Write;
  readonly because: string | RegExp;
  readonly attach?: AttachType;
}

const PAIRS: readonly Pair[] = [
  // Registers
  {
    name: 'r0 must be set at exit',
    accept: p => p.mov(R0, 0).exit(),
    refuse: p => p.exit(),
    because: 'R0 !read_ok',
  },
  {
    name: 'a register is read after it was written',
    accept: p => end(p.mov(R3, 1).mov(R2, R3)),
    refuse: p => end(p.mov(R2, R3)),
    because: 'insn 0: r2 = r3: R3 !read_ok',
  },
  {
    name: 'an operand is initialised',
    accept: p => end(p.mov(R2, 1).mov(R3, 1).add(R2, R3)),
    refuse: p => end(p.mov(R2, 1).add(R2, R3)),
    because: 'R3 !read_ok',
  },
  {
    name: 'a destination of arithmetic is initialised',
    accept: p => end(p.mov(R2, 0).neg(R2)),
    refuse: p => end(p.neg(R2)),
    because: 'R2 !read_ok',
  },
  {
    name: 'r10 is read only',
    accept: p => end(p.mov(R2, R10).add(R2, -8)),
    refuse: p => end(p.add(R10, -8)),
    because: 'frame pointer is read only',
  },
  {
    name: 'r10 is not loaded into',
    accept: p => end(p.load(8, R9, R1, 0)),
    refuse: p => end(p.load(8, R10, R1, 0)),
    because: 'frame pointer is read only',
  },
  {
    name: 'r10 is not given a constant',
    accept: p => end(p.ldImm64(R9, 1n)),
    refuse: p => end(p.ldImm64(R10, 1n)),
    because: 'frame pointer is read only',
  },
  {
    name: 'r6 to r9 survive a call, r1 to r5 do not',
    accept: p => end(p.mov(R6, R1).call(HELPER.get_func_ip).load(8, R2, R6, 0)),
    refuse: p => end(p.mov(R6, R1).call(HELPER.get_func_ip).load(8, R2, R1, 0)),
    because: 'R1 !read_ok',
  },
  {
    name: 'a register is initialised on every path',
    accept: p => {
      const skip = p.label();
      return end(p.load(8, R2, R1).mov(R3, 1).jump('eq', R2, 0, skip).mov(R3, 2).bind(skip).mov(R4, R3));
    },
    refuse: p => {
      const skip = p.label();
      return end(p.load(8, R2, R1).jump('eq', R2, 0, skip).mov(R3, 2).bind(skip).mov(R4, R3));
    },
    because: 'R3 !read_ok',
  },
  {
    name: 'fetching does not write the frame pointer',
    accept: p => end(p.mov(R2, 1).store(8, R10, -8, 0).atomicFetchAdd(8, R10, -8, R2)),
    refuse: p => end(p.store(8, R10, -8, 0).atomicFetchAdd(8, R10, -8, R10)),
    because: 'leaks addr',
  },

  // Context
  {
    name: 'an argument that is there',
    accept: p => end(p.load(8, R2, R1, 16)),
    refuse: p => end(p.load(8, R2, R1, 24)),
    because: /invalid bpf_context access off=24 size=8: the traced function has 3 arguments/,
  },
  {
    name: 'the return value is behind the arguments, at exit only',
    accept: p => end(p.load(8, R2, R1, 24)),
    refuse: p => end(p.load(8, R2, R1, 32)),
    because: 'invalid bpf_context access off=32 size=8',
    attach: 'fexit',
  },
  {
    name: 'an argument is read whole',
    accept: p => end(p.load(8, R2, R1, 8)),
    refuse: p => end(p.load(4, R2, R1, 8)),
    because: 'invalid bpf_context access off=8 size=4',
  },
  {
    name: 'an argument is read at its start',
    accept: p => end(p.load(8, R2, R1, 8)),
    refuse: p => end(p.load(8, R2, R1, 4)),
    because: 'invalid bpf_context access off=4 size=8',
  },
  {
    name: 'what the trampoline keeps before the context is not readable',
    accept: p => end(p.load(8, R2, R1, 0)),
    refuse: p => end(p.load(8, R2, R1, -8)),
    because: 'invalid bpf_context access off=-8 size=8',
  },
  {
    name: 'the context is not written',
    accept: p => end(p.store(8, R10, -8, 1)),
    refuse: p => end(p.store(8, R1, 0, 1)),
    because: 'cannot write into ctx',
  },
  {
    name: 'no atomics on the context',
    accept: p => end(p.mov(R2, 1).store(8, R10, -8, 1).atomicAdd(8, R10, -8, R2)),
    refuse: p => end(p.mov(R2, 1).atomicAdd(8, R1, 0, R2)),
    because: 'BPF_ATOMIC stores into R1 ctx is not allowed',
  },
  {
    name: 'the context is used as it was given',
    accept: p => end(p.add(R1, 8).add(R1, -8).load(8, R3, R1, 8)),
    refuse: p => end(p.add(R1, 8).load(8, R3, R1, 0)),
    because: 'dereference of modified ctx ptr R1 off=8 disallowed',
  },
  {
    name: 'helpers are handed the context as it was given',
    accept: p => end(p.call(HELPER.get_attach_cookie)),
    refuse: p => end(p.add(R1, 8).call(HELPER.get_attach_cookie)),
    because: 'dereference of modified ctx ptr R1 off=8 disallowed',
  },
  {
    name: 'the context is not moved by an unknown number',
    accept: p => end(p.mov(R2, 16).add(R1, R2)),
    refuse: p => end(p.load(8, R2, R1, 0).add(R1, R2)),
    because: 'R1 pointer arithmetic on ctx prohibited',
  },
  {
    name: 'an argument is a number, not memory',
    accept: p => end(p.load(8, R2, R1, 0).add(R2, 1)),
    refuse: p => end(p.load(8, R2, R1, 0).load(8, R3, R2, 0)),
    because: "R2 invalid mem access 'scalar'",
  },

  // Stack
  {
    name: 'the stack has 512 bytes',
    accept: p => end(p.store(8, R10, -512, 1)),
    refuse: p => end(p.store(8, R10, -520, 1)),
    because: 'invalid write to stack R10 off=-520 size=8',
  },
  {
    name: 'the stack ends at r10',
    accept: p => end(p.store(4, R10, -4, 1)),
    refuse: p => end(p.store(4, R10, 0, 1)),
    because: 'invalid write to stack R10 off=0 size=4',
  },
  {
    name: 'stack that was not written holds a number, and no pointer',
    accept: p => end(p.store(8, R10, -8, 1).load(8, R2, R10, -16)),
    refuse: p => end(p.load(8, R2, R10, -16).load(8, R3, R2)),
    because: "R2 invalid mem access 'scalar'",
  },
  {
    name: 'stack that was not written holds any number',
    accept: p => end(p.load(8, R2, R10, -16).and(R2, 7).ldMapValue(R3, GLOBAL).add(R3, R2).load(1, R4, R3)),
    refuse: p => end(p.load(8, R2, R10, -16).ldMapValue(R3, GLOBAL).add(R3, R2).load(1, R4, R3)),
    because: 'register with unbounded min value is not allowed',
  },
  {
    name: 'stack accesses are aligned',
    accept: p => end(p.store(4, R10, -12, 1)),
    refuse: p => end(p.store(4, R10, -10, 1)),
    because: 'misaligned stack access off -10 size 4',
  },
  {
    name: 'a spilled pointer comes back',
    accept: p => end(p.store(8, R10, -8, R1).load(8, R2, R10, -8).load(8, R3, R2, 0)),
    refuse: p => end(p.store(8, R10, -8, 5).load(8, R2, R10, -8).load(8, R3, R2, 0)),
    because: "R2 invalid mem access 'scalar'",
  },
  {
    name: 'a spilled pointer is not read in part',
    accept: p => end(p.store(8, R10, -8, 7).load(4, R2, R10, -8)),
    refuse: p => end(p.store(8, R10, -8, R1).load(4, R2, R10, -8)),
    because: 'invalid size of register fill',
  },
  {
    name: 'what is left of a spilled pointer that was overwritten in part is none',
    accept: p => end(p.store(8, R10, -8, R1).store(1, R10, -8, 1).load(8, R2, R10, -8)),
    refuse: p => end(p.store(8, R10, -8, R1).store(1, R10, -8, 1).load(8, R2, R10, -8).load(8, R3, R2, 0)),
    because: "R2 invalid mem access 'scalar'",
  },
  {
    name: 'a pointer is not spilled in part',
    accept: p => end(p.store(8, R10, -8, R1)),
    refuse: p => end(p.store(4, R10, -8, R1)),
    because: 'invalid size of register spill',
  },
  {
    name: 'a variable stack offset stays within the stack',
    accept: p => end(p.load(8, R3, R1).and(R3, 7).mov(R2, R10).add(R2, -16).add(R2, R3).store(8, R2, 0, 1)),
    refuse: p => end(p.load(8, R3, R1).and(R3, 15).mov(R2, R10).add(R2, -16).add(R2, R3).store(8, R2, 0, 1)),
    because: 'invalid variable-offset write to stack R2 min_off=-16 max_off=-1 size=8',
  },
  {
    name: 'a constant offset counts',
    accept: p => end(p.mov(R2, R10).sub(R2, 16).store(8, R2, 8, 1)),
    refuse: p => end(p.mov(R2, R10).sub(R2, 16).store(8, R2, 16, 1)),
    because: 'invalid write to stack R2 off=0 size=8',
  },

  // Map values
  {
    name: 'a lookup may find nothing',
    accept: p => end(found(COUNTS)(p).load(8, R2, R0)),
    refuse: p => end(lookup(COUNTS)(p).load(8, R2, R0)),
    because: "R0 invalid mem access 'map_value_or_null' (R0=map_value_or_null(id=1,map=counts,ks=4,vs=8))",
  },
  {
    name: 'the null check goes the right way',
    accept: p => {
      const absent = p.label();
      return end(lookup(COUNTS)(p).jump('eq', R0, 0, absent).store(8, R0, 0, 1).bind(absent));
    },
    refuse: p => {
      const absent = p.label();
      return end(lookup(COUNTS)(p).jump('ne', R0, 0, absent).store(8, R0, 0, 1).bind(absent));
    },
    because: "R0 invalid mem access 'scalar' (R0=0)",
  },
  {
    name: 'copies of a lookup are checked together',
    accept: p => {
      const there = p.label();
      return end(lookup(COUNTS)(p).mov(R6, R0).jump('ne', R0, 0, there).exit().bind(there).load(8, R2, R6));
    },
    refuse: p => {
      const there = p.label();
      lookup(COUNTS)(p).mov(R6, R0);
      return end(lookup(COUNTS)(p).jump('ne', R0, 0, there).exit().bind(there).load(8, R2, R6));
    },
    because: "R6 invalid mem access 'map_value_or_null'",
  },
  {
    name: 'a spilled lookup is checked with its copies',
    accept: p => {
      const there = p.label();
      lookup(COUNTS)(p).store(8, R10, -24, R0);
      return end(p.jump('ne', R0, 0, there).exit().bind(there).load(8, R6, R10, -24).load(8, R2, R6));
    },
    refuse: p => end(lookup(COUNTS)(p).store(8, R10, -24, R0).load(8, R6, R10, -24).load(8, R2, R6)),
    because: "R6 invalid mem access 'map_value_or_null'",
  },
  {
    name: 'a value is value_size bytes',
    accept: p => end(found(COUNTS)(p).load(8, R2, R0, 0)),
    refuse: p => end(found(COUNTS)(p).load(8, R2, R0, 8)),
    because: 'invalid access to map value, value_size=8 off=8 size=8',
  },
  {
    name: 'nothing before a value',
    accept: p => end(found(WIDE)(p).load(4, R2, R0, 28)),
    refuse: p => end(found(WIDE)(p).load(4, R2, R0, -4)),
    because: 'invalid access to map value, value_size=32 off=-4 size=4',
  },
  {
    name: 'an access does not hang over the end',
    accept: p => end(found(WIDE)(p).load(4, R2, R0, 28)),
    refuse: p => end(found(WIDE)(p).load(8, R2, R0, 28)),
    because: 'invalid access to map value, value_size=32 off=28 size=8',
  },
  {
    name: 'a bounded index',
    accept: p => end(p.load(8, R7, R1).and(R7, 3).lsh(R7, 3) && found(WIDE)(p).add(R0, R7).load(8, R2, R0)),
    refuse: p => end(p.load(8, R7, R1).and(R7, 7).lsh(R7, 3) && found(WIDE)(p).add(R0, R7).load(8, R2, R0)),
    because: 'invalid access to map value, value_size=32 off=56 size=8',
  },
  {
    name: 'an index bounded by a comparison',
    accept: p => {
      const out = p.label();
      found(WIDE)(p.load(8, R7, R1))
        .jump('ge', R7, 32, out)
        .add(R0, R7)
        .load(1, R2, R0);
      return end(p.bind(out));
    },
    refuse: p => {
      const out = p.label();
      found(WIDE)(p.load(8, R7, R1))
        .jump('gt', R7, 32, out)
        .add(R0, R7)
        .load(1, R2, R0);
      return end(p.bind(out));
    },
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'a 32-bit comparison bounds only a zero-extended number',
    accept: p => {
      const out = p.label();
      found(WIDE)(p.load(8, R7, R1).mov32(R7, R7))
        .jump32('ge', R7, 32, out)
        .add(R0, R7)
        .load(1, R2, R0);
      return end(p.bind(out));
    },
    refuse: p => {
      const out = p.label();
      found(WIDE)(p.load(8, R7, R1))
        .jump32('ge', R7, 32, out)
        .add(R0, R7)
        .load(1, R2, R0);
      return end(p.bind(out));
    },
    because: 'math between map_value pointer and register with unbounded min value is not allowed',
  },
  {
    name: 'a signed comparison does not bound a number that may be negative',
    accept: p => {
      const out = p.label();
      found(WIDE)(p.load(8, R7, R1))
        .jump('gt', R7, 31, out)
        .add(R0, R7)
        .load(1, R2, R0);
      return end(p.bind(out));
    },
    refuse: p => {
      const out = p.label();
      found(WIDE)(p.load(8, R7, R1))
        .jump('sgt', R7, 31, out)
        .add(R0, R7)
        .load(1, R2, R0);
      return end(p.bind(out));
    },
    because: 'math between map_value pointer and register with unbounded min value is not allowed',
  },
  {
    name: 'what is subtracted from a pointer is bounded',
    accept: p => end(p.load(8, R7, R1).and(R7, 7) && found(WIDE)(p).add(R0, 8).sub(R0, R7).load(1, R2, R0)),
    refuse: p => end(p.load(8, R7, R1).and(R7, 15) && found(WIDE)(p).add(R0, 8).sub(R0, R7).load(1, R2, R0)),
    because: 'invalid access to map value, value_size=32 off=-7 size=1',
  },
  {
    name: 'a number plus a pointer is that pointer',
    accept: p => end(found(WIDE)(p).mov(R2, 24).add(R2, R0).load(8, R3, R2)),
    refuse: p => end(found(WIDE)(p).mov(R2, 32).add(R2, R0).load(8, R3, R2)),
    because:
      'invalid access to map value, value_size=32 off=32 size=8 (R2=map_value(map=wide,ks=16,vs=32,off=32))',
  },
  {
    name: 'no arithmetic before the null check',
    accept: p => end(found(WIDE)(p).add(R0, 8).load(8, R2, R0)),
    refuse: p => end(lookup(WIDE)(p).add(R0, 8)),
    because: 'R0 pointer arithmetic on map_value_or_null prohibited, null-check it first',
  },
  {
    name: 'pointers do not go into maps',
    accept: p => end(found(WIDE)(p).mov(R2, 5).store(8, R0, 0, R2)),
    refuse: p => end(found(WIDE)(p).store(8, R0, 0, R10)),
    because: 'R10 leaks addr into map',
  },
  {
    name: 'atomics on values are aligned',
    accept: p => end(found(WIDE)(p).mov(R2, 1).atomicAdd(8, R0, 8, R2)),
    refuse: p => end(found(WIDE)(p).mov(R2, 1).atomicAdd(8, R0, 4, R2)),
    because: 'misaligned atomic access, size 8',
  },
  {
    name: 'atomics at a variable offset are proved aligned',
    accept: p =>
      end(
        p.load(8, R7, R1).and(R7, 3).lsh(R7, 3) &&
          found(WIDE)(p).mov(R2, 1).add(R0, R7).atomicAdd(8, R0, 0, R2),
      ),
    refuse: p =>
      end(p.load(8, R7, R1).and(R7, 15) && found(WIDE)(p).mov(R2, 1).add(R0, R7).atomicAdd(8, R0, 0, R2)),
    because: 'misaligned atomic access, size 8',
  },
  {
    name: 'atomics do not write pointers',
    accept: p => end(found(WIDE)(p).mov(R2, 1).atomicXchg(8, R0, 0, R2)),
    refuse: p => end(found(WIDE)(p).mov(R2, R10).atomicXchg(8, R0, 0, R2)),
    because: 'R2 leaks addr into mem',
  },
  {
    name: 'compare and exchange needs r0',
    accept: p => end(found(WIDE)(p).mov(R3, R0).mov(R0, 1).mov(R2, 1).atomicCmpxchg(8, R3, 0, R2)),
    refuse: p => end(found(WIDE)(p).mov(R3, R0).mov(R2, 1).atomicCmpxchg(8, R3, 0, R2)),
    because: 'R0 leaks addr into mem',
  },
  {
    name: 'direct access to the value of an array of one entry',
    accept: p => end(p.ldMapValue(R2, GLOBAL, 56).load(8, R3, R2)),
    refuse: p => end(p.ldMapValue(R2, GLOBAL, 60).load(8, R3, R2)),
    because: 'invalid access to map value, value_size=64 off=60 size=8',
  },
  {
    name: 'direct access to nothing else',
    accept: p => end(p.ldMapValue(R2, GLOBAL, 0)),
    refuse: p => end(p.ldMapValue(R2, COUNTS, 0)),
    because: 'direct value access needs an array map of one entry, and counts is not one',
  },
  {
    name: 'a map is not memory',
    accept: p => end(p.ldMap(R2, COUNTS)),
    refuse: p => end(p.ldMap(R2, COUNTS).load(8, R3, R2)),
    because: "R2 invalid mem access 'map_ptr'",
  },
  {
    name: 'a map must be known',
    accept: p => end(p.ldMap(R2, COUNTS)),
    refuse: p => end(p.ldMap(R2, { id: 99 })),
    because: 'fd 99 is not pointing to valid bpf_map',
  },

  // Pointers
  {
    name: 'no bitwise operations on pointers',
    accept: p => end(p.mov(R2, 7).and(R2, 3)),
    refuse: p => end(p.mov(R2, R10).and(R2, -8)),
    because: 'R2 pointer arithmetic with and operator prohibited',
  },
  {
    name: 'no 32-bit arithmetic on pointers',
    accept: p => end(p.mov(R2, R10).add(R2, -8)),
    refuse: p => end(p.mov(R2, R10).add32(R2, -8)),
    because: 'R2 32-bit pointer arithmetic prohibited',
  },
  {
    name: 'no half of a pointer',
    accept: p => end(p.mov(R2, R10)),
    refuse: p => end(p.mov32(R2, R10)),
    because: 'R10 partial copy of pointer',
  },
  {
    name: 'no sign extension of a pointer',
    accept: p => end(p.mov(R3, 300).movsx(8, R2, R3)),
    refuse: p => end(p.movsx(32, R2, R10)),
    because: 'R10 sign-extension part of pointer',
  },
  {
    name: 'no pointer minus a pointer to something else',
    accept: p => end(p.mov(R2, R10).sub(R2, R10)),
    refuse: p => end(p.mov(R2, R10).sub(R2, R1)),
    because: 'R2 pointer -= pointer prohibited',
  },
  {
    name: 'no number minus pointer',
    accept: p => end(p.mov(R2, 8).sub(R2, 8)),
    refuse: p => end(p.mov(R2, 8).sub(R2, R10)),
    because: 'R2 tried to subtract pointer from scalar',
  },
  {
    name: 'pointers are compared with anything, and only a comparison with zero says that there is one',
    accept: p => {
      const out = p.label();
      return end(p.jump('eq', R1, 5, out).jump('gt', R1, R10, out).jump('eq', R10, R1, out).bind(out));
    },
    refuse: p => {
      const out = p.label();
      return end(lookup(COUNTS)(p).jump('eq', R0, 5, out).load(8, R1, R0, 0).bind(out));
    },
    because: "R0 invalid mem access 'map_value_or_null'",
  },
  {
    name: 'r10 is not written where the program comes',
    accept: p => {
      const out = p.label();
      return end(p.mov(R2, 0).jump('eq', R2, 0, out).mov(R10, 1).bind(out));
    },
    refuse: p => end(p.mov(R10, 1)),
    because: 'frame pointer is read only',
  },
  {
    name: 'memory of no bytes is memory all the same',
    accept: p => end(p.mov(R1, R10).mov(R2, 0).mov(R3, 0).call(HELPER.probe_read_kernel)),
    refuse: p => end(p.mov(R1, 0).mov(R2, 0).mov(R3, 0).call(HELPER.probe_read_kernel)),
    because: 'R1 type=scalar expected=fp',
  },
  {
    name: 'memory of no bytes lies in the stack too',
    accept: p => end(p.mov(R1, R10).add(R1, -512).mov(R2, 0).mov(R3, 0).call(HELPER.probe_read_kernel)),
    refuse: p => end(p.mov(R1, R10).add(R1, 8).mov(R2, 0).mov(R3, 0).call(HELPER.probe_read_kernel)),
    because: 'invalid write to stack R1 off=8 size=0',
  },
  {
    name: 'pointers are compared whole',
    accept: p => {
      const out = p.label();
      return end(lookup(COUNTS)(p).jump('eq', R0, 0, out).bind(out));
    },
    refuse: p => {
      const out = p.label();
      return end(lookup(COUNTS)(p).jump32('eq', R0, 0, out).bind(out));
    },
    because: 'R0 pointer comparison prohibited',
  },
  {
    name: 'a pointer goes no further than the kernel allows',
    accept: p => end(p.mov(R2, R10).add(R2, 2 ** 29 - 1)),
    refuse: p => end(p.mov(R2, R10).add(R2, 2 ** 29 + 1)),
    because: 'math between fp pointer and 536870913 is not allowed',
  },

  // Helpers
  {
    name: 'a lookup wants a map',
    accept: p => end(lookup(COUNTS)(p)),
    refuse: p => end(p.store(8, R10, -8, 1).mov(R1, 5).mov(R2, R10).add(R2, -8).call(HELPER.map_lookup_elem)),
    because: 'R1 type=scalar expected=map_ptr (R1=5)',
  },
  {
    name: 'a lookup wants a key in memory',
    accept: p => end(lookup(COUNTS)(p)),
    refuse: p => end(p.ldMap(R1, COUNTS).mov(R2, 0).call(HELPER.map_lookup_elem)),
    because: 'R2 type=scalar expected=fp, map_value (R2=0)',
  },
  {
    name: 'the key ends inside the stack',
    accept: p =>
      end(p.store(4, R10, -4, 0).ldMap(R1, COUNTS).mov(R2, R10).add(R2, -4).call(HELPER.map_lookup_elem)),
    refuse: p =>
      end(p.store(4, R10, -4, 0).ldMap(R1, COUNTS).mov(R2, R10).add(R2, -2).call(HELPER.map_lookup_elem)),
    because: 'invalid read from stack R2 off=-2 size=4',
  },
  {
    name: 'no pointer in a key',
    accept: p => end(lookup(WIDE)(p)),
    refuse: p =>
      end(
        p
          .store(8, R10, -16, R10)
          .store(8, R10, -8, 2)
          .ldMap(R1, WIDE)
          .mov(R2, R10)
          .add(R2, -16)
          .call(HELPER.map_lookup_elem),
      ),
    because: 'R2 leaks addr into map',
  },
  {
    name: 'a key inside a map value',
    accept: p => end(found(WIDE)(p).ldMap(R1, WIDE).mov(R2, R0).add(R2, 16).call(HELPER.map_lookup_elem)),
    refuse: p => end(found(WIDE)(p).ldMap(R1, WIDE).mov(R2, R0).add(R2, 17).call(HELPER.map_lookup_elem)),
    because: 'invalid access to map value, value_size=32 off=17 size=16',
  },
  {
    name: 'an update wants flags',
    accept: p => {
      p.store(8, R10, -8, 1).ldMap(R1, COUNTS).mov(R2, R10).add(R2, -8).mov(R3, R2).mov(R4, 0);
      return end(p.call(HELPER.map_update_elem));
    },
    refuse: p => {
      p.store(8, R10, -8, 1).ldMap(R1, COUNTS).mov(R2, R10).add(R2, -8).mov(R3, R2);
      return end(p.call(HELPER.map_update_elem));
    },
    because: 'R4 !read_ok',
  },
  {
    name: 'an update wants a whole value',
    accept: p => {
      found(WIDE)(p).mov(R3, R0).ldMap(R1, WIDE).mov(R2, R10).add(R2, -16).mov(R4, 0);
      return end(p.call(HELPER.map_update_elem));
    },
    refuse: p => {
      found(WIDE)(p).mov(R3, R10).add(R3, -16).ldMap(R1, WIDE).mov(R2, R10).add(R2, -16).mov(R4, 0);
      return end(p.call(HELPER.map_update_elem));
    },
    because: 'invalid read from stack R3 off=-16 size=32',
  },
  {
    name: 'a delete returns a number',
    accept: p => {
      p.store(8, R10, -16, 1).store(8, R10, -8, 1).ldMap(R1, WIDE).mov(R2, R10).add(R2, -16);
      return end(p.call(HELPER.map_delete_elem).add(R0, 1));
    },
    refuse: p => {
      p.store(8, R10, -16, 1).store(8, R10, -8, 1).ldMap(R1, WIDE).mov(R2, R10).add(R2, -16);
      return end(p.call(HELPER.map_delete_elem).load(8, R2, R0));
    },
    because: "R0 invalid mem access 'scalar'",
  },
  {
    name: 'the cookie wants the context',
    accept: p => end(p.call(HELPER.get_attach_cookie)),
    refuse: p => end(p.mov(R1, R10).call(HELPER.get_attach_cookie)),
    because: 'R1 type=fp expected=ctx (R1=fp0)',
  },
  {
    name: 'get_func_arg writes 8 aligned bytes',
    accept: p => end(p.mov(R2, 0).mov(R3, R10).add(R3, -8).call(HELPER.get_func_arg).load(8, R2, R10, -8)),
    refuse: p => end(p.mov(R2, 0).mov(R3, R10).add(R3, -12).call(HELPER.get_func_arg)),
    because: 'misaligned stack access off -12 size 8',
  },
  {
    name: 'get_func_arg stays inside the stack',
    accept: p => end(p.mov(R2, 0).mov(R3, R10).add(R3, -512).call(HELPER.get_func_arg)),
    refuse: p => end(p.mov(R2, 0).mov(R3, R10).call(HELPER.get_func_arg)),
    because: 'invalid write to stack R3 off=0 size=8',
  },
  {
    name: 'get_func_arg overwrites a spilled pointer',
    accept: p => {
      p.mov(R6, R1).store(8, R10, -8, R6).mov(R2, 0).mov(R3, R10).add(R3, -16);
      return end(p.call(HELPER.get_func_arg).load(8, R6, R10, -8).load(8, R2, R6));
    },
    refuse: p => {
      p.mov(R6, R1).store(8, R10, -8, R6).mov(R2, 0).mov(R3, R10).add(R3, -8);
      return end(p.call(HELPER.get_func_arg).load(8, R6, R10, -8).load(8, R2, R6));
    },
    because: "R6 invalid mem access 'scalar'",
  },
  {
    name: 'a helper that is there',
    accept: p => end(p.call(HELPER.get_func_ip)),
    refuse: p => end(p.call(HELPER.get_current_task_btf)),
    because:
      'program of this type cannot use helper bpf_get_current_task_btf#158: a process has no task_struct',
  },
  {
    name: 'a helper that exists',
    accept: p => end(p.call(HELPER.get_func_arg_cnt)),
    refuse: p => end(p.call(99999)),
    because: 'invalid func unknown#99999',
  },
  {
    name: 'one call is for one map',
    accept: p => {
      const other = p.label();
      const out = p.label();
      p.store(8, R10, -8, 1)
        .store(8, R10, -16, 1)
        .mov(R2, R10)
        .add(R2, -16)
        .load(8, R3, R1)
        .jump('eq', R3, 0, other);
      p.ldMap(R1, COUNTS).call(HELPER.map_lookup_elem).goto(out);
      return end(p.bind(other).ldMap(R1, WIDE).call(HELPER.map_lookup_elem).bind(out));
    },
    refuse: p => {
      const other = p.label();
      p.store(8, R10, -8, 1)
        .store(8, R10, -16, 1)
        .mov(R2, R10)
        .add(R2, -16)
        .load(8, R3, R1)
        .ldMap(R1, COUNTS);
      p.jump('eq', R3, 0, other).ldMap(R1, WIDE).bind(other);
      return end(p.call(HELPER.map_lookup_elem));
    },
    because: /this call is for map \w+ on one path and map \w+ on another/,
  },

  // Paths that come together: what was proved on the first does not speak for the second
  {
    name: 'a stack slot holds a pointer on every path',
    accept: p => {
      const skip = p.label();
      p.store(8, R10, -8, R1).load(8, R2, R1).jump('eq', R2, 0, skip).store(8, R10, -8, R1).bind(skip);
      return end(p.load(8, R3, R10, -8).load(8, R4, R3));
    },
    refuse: p => {
      const skip = p.label();
      p.load(8, R2, R1).jump('eq', R2, 0, skip).store(8, R10, -8, R1).bind(skip);
      return end(p.load(8, R3, R10, -8).load(8, R4, R3));
    },
    because: "R3 invalid mem access 'scalar'",
  },
  {
    name: 'a stack slot holds a number on every path',
    accept: p => {
      const skip = p.label();
      p.store(8, R10, -8, 2).load(8, R2, R1).jump('eq', R2, 0, skip).store(4, R10, -8, 1).bind(skip);
      return end(p.load(4, R3, R10, -8));
    },
    refuse: p => {
      const skip = p.label();
      p.store(8, R10, -8, R1)
        .load(8, R2, R1)
        .jump('eq', R2, 0, skip)
        .store(8, R10, -8, 1)
        .store(1, R10, -8, 1);
      return end(p.bind(skip).load(4, R3, R10, -8));
    },
    because: 'invalid size of register fill',
  },
  {
    name: 'a number is bounded on every path',
    accept: p => {
      const skip = p.label();
      p.mov(R8, R1);
      found(WIDE)(p)
        .load(8, R7, R8)
        .load(8, R2, R8, 8)
        .and(R7, 31)
        .jump('eq', R2, 0, skip)
        .and(R7, 7)
        .bind(skip);
      return end(p.add(R0, R7).load(1, R2, R0));
    },
    refuse: p => {
      const skip = p.label();
      p.mov(R8, R1);
      found(WIDE)(p).load(8, R7, R8).load(8, R2, R8, 8).jump('eq', R2, 0, skip).and(R7, 7).bind(skip);
      return end(p.add(R0, R7).load(1, R2, R0));
    },
    because: 'register with unbounded min value is not allowed',
  },
  {
    name: 'two registers hold the same lookup on every path',
    accept: p => {
      const join = p.label();
      const there = p.label();
      lookup(COUNTS)(p.mov(R8, R1))
        .mov(R6, R0)
        .load(8, R2, R8)
        .jump('eq', R2, 0, join)
        .mov(R6, R0)
        .bind(join);
      return end(p.jump('ne', R0, 0, there).exit().bind(there).load(8, R3, R6));
    },
    refuse: p => {
      const join = p.label();
      const other = p.label();
      const there = p.label();
      lookup(COUNTS)(p.mov(R8, R1)).mov(R7, R0);
      lookup(COUNTS)(p).mov(R6, R0).load(8, R2, R8).jump('eq', R2, 0, other).goto(join);
      p.bind(other).mov(R6, R7).bind(join);
      return end(p.jump('ne', R0, 0, there).exit().bind(there).load(8, R3, R6));
    },
    because: "R6 invalid mem access 'map_value_or_null'",
  },
  {
    name: 'a pointer is into a large enough value on every path',
    accept: p => {
      const join = p.label();
      found(COUNTS)(p.mov(R8, R1)).mov(R7, R0);
      found(WIDE)(p).mov(R9, R0).load(8, R2, R8).jump('eq', R2, 0, join).mov(R9, R7).bind(join);
      return end(p.load(8, R3, R9));
    },
    refuse: p => {
      const join = p.label();
      found(WIDE)(p.mov(R8, R1)).mov(R7, R0);
      found(COUNTS)(p).mov(R9, R0).load(8, R2, R8).jump('eq', R2, 0, join).mov(R9, R7).bind(join);
      return end(p.load(8, R3, R9, 24));
    },
    because: 'invalid access to map value, value_size=8 off=24 size=8',
  },
  {
    name: 'a number on the stack is bounded on every path',
    accept: p => {
      const join = p.label();
      found(WIDE)(p.mov(R8, R1)).mov(R9, R0).store(8, R10, -8, 5).load(8, R2, R8).jump('eq', R2, 0, join);
      return end(p.store(8, R10, -8, 3).bind(join).load(8, R7, R10, -8).add(R9, R7).load(1, R3, R9));
    },
    refuse: p => {
      const join = p.label();
      found(WIDE)(p.mov(R8, R1)).mov(R9, R0).load(8, R2, R8).store(4, R10, -8, R2).store(4, R10, -4, R2);
      p.jump('eq', R2, 0, join).store(8, R10, -8, 3).bind(join);
      return end(p.load(8, R7, R10, -8).add(R9, R7).load(1, R3, R9));
    },
    because: 'register with unbounded min value is not allowed',
  },

  // Results
  {
    name: 'fentry returns 0',
    accept: p => p.mov(R0, 0).exit(),
    refuse: p => p.mov(R0, 1).exit(),
    because: 'At program exit the register R0 should have been in [0, 0] for fentry (R0=1)',
  },
  {
    name: 'fexit returns 0',
    accept: p => p.mov(R0, 0).exit(),
    refuse: p => p.load(8, R0, R1).exit(),
    because: 'At program exit the register R0 should have been in [0, 0] for fexit',
    attach: 'fexit',
  },
  {
    name: 'modify-return returns any number, and no pointer',
    accept: p => p.load(8, R0, R1).exit(),
    refuse: p => p.mov(R0, R10).exit(),
    because: 'R0 leaks addr as return value (R0=fp0)',
    attach: 'fmod_ret',
  },
  {
    name: 'a result proved zero by a comparison',
    accept: p => {
      const zero = p.label();
      return p.load(8, R0, R1).jump('eq', R0, 0, zero).mov(R0, 0).exit().bind(zero).exit();
    },
    refuse: p => {
      const zero = p.label();
      return p.load(8, R0, R1).jump('ne', R0, 0, zero).mov(R0, 0).exit().bind(zero).exit();
    },
    because: /should have been in \[0, 0\]/,
  },

  // Shape
  {
    name: 'no loop',
    accept: p => {
      const out = p.label();
      return p.mov(R0, 0).goto(out).bind(out).exit();
    },
    refuse: p => {
      const again = p.label();
      return end(p.load(8, R2, R1).bind(again).add(R2, 1).jump('ne', R2, 5, again));
    },
    because: 'infinite loop detected at insn 1',
  },
  {
    name: 'a jump backwards that is no loop',
    accept: p => {
      const one = p.label();
      const two = p.label();
      return p.mov(R0, 0).goto(two).bind(one).exit().bind(two).goto(one);
    },
    refuse: p => {
      const one = p.label();
      const two = p.label();
      return p.mov(R0, 0).goto(two).bind(one).goto(two).bind(two).goto(one);
    },
    because: /infinite loop detected at insn \d/,
  },
  {
    name: 'everything can be reached',
    accept: p => p.mov(R0, 0).exit(),
    refuse: p => p.mov(R0, 0).exit().mov(R0, 1).exit(),
    because: 'unreachable insn 2',
  },
  {
    name: 'the end is an exit',
    accept: p => p.mov(R0, 0).exit(),
    refuse: p => p.mov(R0, 0),
    because: 'last insn is not an exit or jmp',
  },
  {
    name: 'no division by a constant zero',
    accept: p => end(p.mov(R2, 1).mov(R3, 0).div(R2, R3)),
    refuse: p => end(p.mov(R2, 1).div(R2, 0)),
    because: 'div by zero',
  },
  {
    name: 'no shift by 64',
    accept: p => end(p.mov(R2, 1).lsh(R2, 63)),
    refuse: p => end(p.mov(R2, 1).lsh(R2, 64)),
    because: 'invalid shift 64',
  },
  {
    name: 'no 32-bit shift by 32',
    accept: p => end(p.mov(R2, 1).arsh32(R2, 31)),
    refuse: p => end(p.mov(R2, 1).arsh32(R2, 32)),
    because: 'invalid shift 32',
  },
];

describe('what is accepted, and what is refused', () => {
  test('there are at least 60 pairs', () => {
    expect(PAIRS.length).toBeGreaterThanOrEqual(60);
  });

  test.each(PAIRS.map(pair => [pair.name, pair] as const))('%s', (_name, pair) => {
    const accepted = verify(pair.accept, pair.attach);
    expect(isVerified(accepted)).toBe(true);
    expect(() => verify(pair.refuse, pair.attach)).toThrow(BpfError);
    expect(() => verify(pair.refuse, pair.attach)).toThrow(pair.because);
  });
});

/** Instructions that the builder does not write. */
describe('instructions written by hand', () => {
  const insn = (opcode: number, fields: Partial<BpfInsn> = {}): BpfInsn => ({
    opcode,
    dst: 0,
    src: 0,
    offset: 0,
    imm: 0,
    ...fields,
  });
  const load = (...insns: BpfInsn[]): VerifiedProgram =>
    verifyProgram(insns, { attachType: 'fentry', nargs: 3, maps });
  const zero = insn(CLASS.ALU64 | 0xb0, { imm: 0 });
  const exit = insn(CLASS.JMP | JMP.EXIT);

  test.each<[string, BpfInsn[], string]>([
    ['no instruction', [], 'a program has 1 to 1000000 instructions, not 0'],
    ['an opcode that does not exist', [insn(0xff), exit], 'insn 0: unknown opcode ff'],
    ['a register that does not exist', [insn(CLASS.ALU64 | 0xb0, { dst: 11 }), exit], 'R11 is invalid'],
    ['a negative register', [insn(CLASS.ALU64 | 0xb0, { dst: -1 }), exit], 'R-1 is invalid'],
    [
      'a field that must be zero',
      [insn(CLASS.ALU64 | 0xb0, { offset: 3 }), exit],
      'BPF_MOV uses reserved fields',
    ],
    ['an offset too large', [insn(CLASS.JMP | JMP.JEQ, { offset: 40000 }), exit], 'does not fit 16 bits'],
    ['an immediate too large', [insn(CLASS.ALU64 | 0xb0, { imm: 2 ** 31 }), exit], 'does not fit 32 bits'],
    [
      'a jump out of the program',
      [insn(CLASS.JMP | JMP.JA, { offset: 5 }), exit],
      'jump out of range from insn 0 to 6',
    ],
    [
      'a jump before the program',
      [insn(CLASS.JMP | JMP.JA, { offset: -2 }), exit],
      'jump out of range from insn 0 to -1',
    ],
    ['a jump to itself', [insn(CLASS.JMP | JMP.JA, { offset: -1 })], 'infinite loop detected at insn 0'],
    [
      'a jump into a 16-byte load',
      [insn(CLASS.JMP | JMP.JA, { offset: 1 }), loadImmediate64(1, PSEUDO.IMM, 1n), zero, exit],
      'jump into the middle of ldimm64 insn 1',
    ],
    [
      'a long jump out of the program',
      [insn(CLASS.JMP32 | JMP.JA, { imm: 70000 }), exit],
      'jump out of range from insn 0 to 70001',
    ],
    ['half a 16-byte load', [insn(0x18), exit], 'it has no 64-bit immediate'],
    ['a kernel variable', [loadImmediate64(1, PSEUDO.BTF_ID, 1n), zero, exit], '16-byte loads of kind 3'],
    [
      'an unknown kind of 16-byte load',
      [loadImmediate64(1, 9, 1n), zero, exit],
      'unrecognized bpf_ld_imm64 insn',
    ],
    [
      'a packet',
      [insn(CLASS.LD | MODE.ABS | SIZE.W, { imm: 14 }), exit],
      'BPF_LD_[ABS|IND] instructions not allowed',
    ],
    [
      'a kernel function',
      [insn(CLASS.JMP | JMP.CALL, { src: CALL.KFUNC, imm: 500 }), exit],
      'calling kernel function #500',
    ],
    ['an atomic of 2 bytes', [insn(CLASS.STX | MODE.ATOMIC | SIZE.H), exit], 'unknown opcode cb'],
    [
      'an atomic that does not exist',
      [insn(CLASS.STX | MODE.ATOMIC | SIZE.DW, { imm: 0x20 }), exit],
      'invalid atomic opcode 20',
    ],
    ['a 32-bit call', [insn(CLASS.JMP32 | JMP.CALL), exit], 'unknown opcode 86'],
    ['a jump by register', [insn(CLASS.JMP | JMP.JA | SOURCE.X), exit], 'unknown opcode 0d'],
  ])('%s is refused', (_name, insns, because) => {
    expect(() => load(...insns)).toThrow(BpfError);
    expect(() => load(...insns)).toThrow(because);
  });

  test('a long jump is a jump', () => {
    expect(load(zero, insn(CLASS.JMP32 | JMP.JA, { imm: 0 }), exit).processed).toBe(3);
  });
});

describe('what a verified program says of itself', () => {
  test('the arguments that it reads, whichever path reads them', () => {
    const program = verify(p => {
      const skip = p.label();
      return end(p.load(8, R2, R1, 16).jump('eq', R2, 0, skip).load(8, R3, R1, 0).bind(skip));
    });
    expect(program.accessedArgs).toEqual([0, 2]);
    expect(program.readsReturnValue).toBe(false);
  });

  test('get_func_arg reads the argument asked for, or any', () => {
    const arg = (write: Write): readonly number[] =>
      verify(p => end(write(p.mov(R3, R10).add(R3, -8)).call(HELPER.get_func_arg))).accessedArgs;
    expect(arg(p => p.mov(R2, 1))).toEqual([1]);
    expect(arg(p => p.mov(R2, 7))).toEqual([]);
    expect(arg(p => p.load(8, R2, R1, 0))).toEqual([0, 1, 2]);
  });

  test('the return value', () => {
    expect(verify(p => end(p.load(8, R2, R1, 24)), 'fexit').readsReturnValue).toBe(true);
  });

  test('stack, helpers and maps', () => {
    const program = verify(p => end(found(COUNTS)(p.mov(R6, R1)).mov(R1, R6).call(HELPER.get_func_ip)));
    expect(program.stackDepth).toBe(16);
    expect(program.usedHelpers).toEqual([HELPER.map_lookup_elem, HELPER.get_func_ip]);
    expect(program.usedMaps).toEqual([COUNTS]);
  });

  test('code behind a comparison that always holds is not reached', () => {
    const program = verify(p => {
      const always = p.label();
      return end(p.mov(R2, 5).jump('gt', R2, 3, always).mov(R3, R9).bind(always));
    });
    expect([...program.reached]).toEqual([1, 1, 0, 1, 1]);
  });

  test('changing the instructions afterwards changes nothing', () => {
    const insns = end(new ProgramBuilder().mov(R2, 1)).build();
    const program = verifyProgram(insns, { attachType: 'fentry', nargs: 0, maps });
    insns[0] = { ...(insns[1] as BpfInsn), dst: 10 };
    expect(program.insns[0]?.dst).toBe(2);
    expect(Object.isFrozen(program.insns) && Object.isFrozen(program.insns[0])).toBe(true);
  });

  test('nothing else passes for one', () => {
    const program = verify(end);
    expect(isVerified({ ...program })).toBe(false);
    expect(isVerified(Object.create(Object.getPrototypeOf(program) as object) as object)).toBe(false);
  });
});

describe('how long it takes', () => {
  test('forty comparisons in a row are not 2^40 paths', () => {
    const program = verify(p => {
      p.load(8, R2, R1);
      for (let i = 0; i < 40; i++) {
        const skip = p.label();
        p.mov(R3, i)
          .jump('eq', R2, 1000 + i, skip)
          .mov(R3, 2)
          .bind(skip);
      }
      return end(p);
    });
    expect(program.processed).toBeLessThan(2000);
  });

  test('paths that do not come together are given up after a million instructions', () => {
    const refuse = (): VerifiedProgram =>
      verify(p => {
        p.load(8, R2, R1).mov(R4, 0);
        for (let i = 0; i < 22; i++) {
          const skip = p.label();
          p.mov(R3, R2)
            .and(R3, 2 ** i)
            .jump('eq', R3, 0, skip)
            .add(R4, 2 ** i)
            .bind(skip);
        }
        // Every path has another constant here, and the program needs it.
        const out = p.label();
        return p
          .jump('gt', R4, 2 ** 23, out)
          .mov(R0, 0)
          .exit()
          .bind(out)
          .mov(R0, R9)
          .exit();
      });
    expect(refuse).toThrow('BPF program is too large. Processed 1000001 insn');
  });

  test('a long straight program is read once', () => {
    const program = verify(p => {
      p.load(8, R5, R1).mov(R8, 1);
      for (let i = 0; i < 20_000; i++) p.add(R8, R5);
      return end(p);
    });
    expect(program.processed).toBe(20_004);
  });
});

/** What arithmetic, sign-extending loads and moves say of a number: one bit further, and it is no index any more. */

import { type ProgramBuilder, R0, R1, R2, R7, R8, R10 } from '../../../../bpf/builder.js';
import { end, found, MAPS, type Rule, type Write } from '../rules_fixture.js';
import { testPairs } from './fixture.js';

/** Byte `base` + r7 of 32 is read, where r7 is made of an argument. */
const index =
  (make: (p: ProgramBuilder) => unknown, base = 0): Write =>
  p => {
    p.load(8, R7, R1).load(8, R8, R1, 8);
    make(p);
    return end(found(p, MAPS.wide).add(R0, base).add(R0, R7).load(1, R2, R0));
  };

const PAIRS: readonly Rule[] = [
  {
    name: 'and keeps the bits of its mask',
    accept: index(p => p.and(R7, 31)),
    refuse: index(p => p.and(R7, 47)),
    because: 'value_size=32 off=47 size=1',
  },
  {
    name: 'a shift to the right leaves the upper bits',
    accept: index(p => p.rsh(R7, 59)),
    refuse: index(p => p.rsh(R7, 58)),
    because: 'value_size=32 off=63 size=1',
  },
  {
    name: 'a shift to the right at 32 bits',
    accept: index(p => p.rsh32(R7, 27)),
    refuse: index(p => p.rsh32(R7, 26)),
    because: 'value_size=32 off=63 size=1',
  },
  {
    name: 'a shift to the left multiplies',
    accept: index(p => p.and(R7, 3).lsh(R7, 3)),
    refuse: index(p => p.and(R7, 3).lsh(R7, 4)),
    because: 'value_size=32 off=48 size=1',
  },
  {
    name: 'a signed shift keeps the sign',
    accept: index(p => p.arsh(R7, 60), 8),
    refuse: index(p => p.arsh(R7, 58), 8),
    because: 'value_size=32 off=-24 size=1',
  },
  {
    name: 'a remainder is less than what divides',
    accept: index(p => p.mod(R7, 32)),
    refuse: index(p => p.mod(R7, 33)),
    because: 'value_size=32 off=32 size=1',
  },
  {
    name: 'a remainder by an unknown number is not bounded',
    accept: index(p => p.and(R8, 7).and(R7, 31).mod(R7, R8)),
    refuse: index(p => p.and(R8, 7).mod(R7, R8)),
    because: 'register with unbounded min value is not allowed',
  },
  {
    name: 'a quotient is as much less',
    accept: index(p => p.and(R7, 255).div(R7, 8)),
    refuse: index(p => p.and(R7, 255).div(R7, 4)),
    because: 'value_size=32 off=63 size=1',
  },
  {
    name: 'a product grows',
    accept: index(p => p.and(R7, 7).mul(R7, 4)),
    refuse: index(p => p.and(R7, 7).mul(R7, 5)),
    because: 'value_size=32 off=35 size=1',
  },
  {
    name: 'or sets bits',
    accept: index(p => p.and(R7, 7).or(R7, 24)),
    refuse: index(p => p.and(R7, 7).or(R7, 32)),
    because: 'value_size=32 off=39 size=1',
  },
  {
    name: 'xor turns bits',
    accept: index(p => p.and(R7, 15).xor(R7, 16)),
    refuse: index(p => p.and(R7, 15).xor(R7, 32)),
    because: 'value_size=32 off=47 size=1',
  },
  {
    name: 'a sum has the bounds of both',
    accept: index(p => p.and(R7, 15).and(R8, 15).add(R7, R8)),
    refuse: index(p => p.and(R7, 15).and(R8, 31).add(R7, R8)),
    because: 'value_size=32 off=46 size=1',
  },
  {
    name: 'a difference may be negative',
    accept: index(p => p.and(R7, 7).sub(R7, 8), 8),
    refuse: index(p => p.and(R7, 7).sub(R7, 9), 8),
    because: 'value_size=32 off=-1 size=1',
  },
  {
    name: 'a negated number is below zero',
    accept: index(p => p.and(R7, 7).neg(R7), 8),
    refuse: index(p => p.and(R7, 15).neg(R7), 8),
    because: 'value_size=32 off=-7 size=1',
  },
  {
    name: 'a 32-bit difference wraps to a large number, not to a negative one',
    accept: index(p => p.and(R7, 31).add32(R7, 0)),
    refuse: index(p => p.and(R7, 7).sub32(R7, 1)),
    because: 'value_size=32 off=4294967295 size=1',
  },
  {
    name: 'a move of 32 bits clears the upper half',
    accept: index(p => p.lsh(R7, 32).or(R7, 31).mov32(R7, R7)),
    refuse: index(p => p.lsh(R7, 32).or(R7, 31)),
    because: 'makes map_value pointer be out of bounds',
  },
  {
    name: 'bytes swapped are 16 bits',
    accept: index(p => p.be(16, R7).rsh(R7, 11)),
    refuse: index(p => p.be(16, R7).rsh(R7, 10)),
    because: 'value_size=32 off=63 size=1',
  },
  {
    name: 'little-endian of 16 bits is a cut',
    accept: index(p => p.le(16, R7).rsh(R7, 11)),
    refuse: index(p => p.le(32, R7).rsh(R7, 11)),
    because: 'value_size=32 off=2097151 size=1',
  },
  {
    name: 'a move that extends 8 bits',
    accept: index(p => p.movsx(8, R7, R7).arsh(R7, 4), 8),
    refuse: index(p => p.movsx(8, R7, R7).arsh(R7, 3), 8),
    because: 'value_size=32 off=-8 size=1',
  },
  {
    name: 'a move that extends 16 bits',
    accept: index(p => p.movsx(16, R7, R7).arsh(R7, 12), 8),
    refuse: index(p => p.movsx(16, R7, R7).arsh(R7, 11), 8),
    because: 'value_size=32 off=-8 size=1',
  },
  {
    name: 'a move that extends 32 bits',
    accept: index(p => p.movsx(32, R7, R7).arsh(R7, 28), 8),
    refuse: index(p => p.movsx(32, R7, R7).arsh(R7, 27), 8),
    because: 'value_size=32 off=-8 size=1',
  },
  {
    name: 'a move that extends to 32 bits only',
    accept: index(p => p.and(R7, 31).movsx32(8, R7, R7)),
    refuse: index(p => p.movsx32(8, R7, R7)),
    because: 'value_size=32 off=4294967295 size=1',
  },
  {
    name: 'a number that is small enough is not changed by extension',
    accept: index(p => p.and(R7, 31).movsx(8, R7, R7)),
    refuse: index(p => p.and(R7, 255).movsx(8, R7, R7)),
    because: 'value_size=32 off=-128 size=1',
  },
  {
    name: 'a load that extends a byte',
    accept: index(p => p.store(8, R10, -24, R7).loadSigned(1, R7, R10, -24).arsh(R7, 4), 8),
    refuse: index(p => p.store(8, R10, -24, R7).loadSigned(1, R7, R10, -24).arsh(R7, 3), 8),
    because: 'value_size=32 off=-8 size=1',
  },
  {
    name: 'a load that extends two bytes',
    accept: index(p => p.store(8, R10, -24, R7).loadSigned(2, R7, R10, -24).arsh(R7, 12), 8),
    refuse: index(p => p.store(8, R10, -24, R7).loadSigned(2, R7, R10, -24).arsh(R7, 11), 8),
    because: 'value_size=32 off=-8 size=1',
  },
  {
    name: 'a load that extends four bytes',
    accept: index(p => p.store(8, R10, -24, R7).loadSigned(4, R7, R10, -24).arsh(R7, 28), 8),
    refuse: index(p => p.store(8, R10, -24, R7).loadSigned(4, R7, R10, -24).arsh(R7, 27), 8),
    because: 'value_size=32 off=-8 size=1',
  },
  {
    name: 'a byte loaded is at most 255',
    accept: index(p => p.store(8, R10, -24, R7).load(1, R7, R10, -24).rsh(R7, 3)),
    refuse: index(p => p.store(8, R10, -24, R7).load(2, R7, R10, -24).rsh(R7, 3)),
    because: 'value_size=32 off=8191 size=1',
  },
  {
    name: 'a part of what was spilled is known from below',
    accept: index(p => p.and(R7, 31).store(8, R10, -24, R7).load(8, R7, R10, -24)),
    refuse: index(p => p.and(R7, 31).store(4, R10, -24, R7).load(8, R7, R10, -24)),
    because: 'register with unbounded min value is not allowed',
  },
];

testPairs('what is known of numbers', PAIRS);

/** Every conditional jump narrows what it compares, at 64 and at 32 bits: each bound by one too far is refused. */

import { R0, R1, R2, R7 } from '../../../../bpf/builder.js';
import type { Condition } from '../../../../bpf/operation.js';
import { end, found, MAPS, type Rule, type Write } from '../rules_fixture.js';
import { testPairs } from './fixture.js';

type Width = 32 | 64;

/** Byte r7 of 32 is read where the jump is taken, or where it is not. */
const unsigned =
  (width: Width, way: 'taken' | 'fallen', condition: Condition, bound: number): Write =>
  p => {
    const go = p.label();
    const out = p.label();
    p.load(8, R7, R1);
    if (width === 32) p.mov32(R7, R7);
    found(p, MAPS.wide);
    const jump = width === 32 ? p.jump32.bind(p) : p.jump.bind(p);
    jump(condition, R7, bound, way === 'taken' ? go : out);
    if (way === 'taken') p.goto(out);
    return end(p.bind(go).add(R0, R7).load(1, R2, R0).bind(out));
  };

/** Byte r7 + 24 of 32 is read: r7 is from -8 on already. */
const signed =
  (width: Width, way: 'taken' | 'fallen', condition: Condition, bound: number): Write =>
  p => {
    const go = p.label();
    const out = p.label();
    p.load(8, R7, R1);
    if (width === 32) p.movsx32(8, R7, R7);
    else p.movsx(8, R7, R7);
    found(p, MAPS.wide);
    const jump = width === 32 ? p.jump32.bind(p) : p.jump.bind(p);
    jump('slt', R7, -8, out);
    jump(condition, R7, bound, way === 'taken' ? go : out);
    if (way === 'taken') p.goto(out);
    p.bind(go);
    if (width === 32) p.movsx(32, R7, R7);
    return end(p.add(R0, 24).add(R0, R7).load(1, R2, R0).bind(out));
  };

const PAIRS: readonly Rule[] = [
  {
    name: 'eq at 64 bits narrows where it is taken',
    accept: unsigned(64, 'taken', 'eq', 31),
    refuse: unsigned(64, 'taken', 'eq', 32),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'ne at 64 bits narrows where it is not taken',
    accept: unsigned(64, 'fallen', 'ne', 31),
    refuse: unsigned(64, 'fallen', 'ne', 32),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'gt at 64 bits narrows where it is not taken',
    accept: unsigned(64, 'fallen', 'gt', 31),
    refuse: unsigned(64, 'fallen', 'gt', 32),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'ge at 64 bits narrows where it is not taken',
    accept: unsigned(64, 'fallen', 'ge', 32),
    refuse: unsigned(64, 'fallen', 'ge', 33),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'lt at 64 bits narrows where it is taken',
    accept: unsigned(64, 'taken', 'lt', 32),
    refuse: unsigned(64, 'taken', 'lt', 33),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'le at 64 bits narrows where it is taken',
    accept: unsigned(64, 'taken', 'le', 31),
    refuse: unsigned(64, 'taken', 'le', 32),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'set at 64 bits narrows where it is not taken',
    accept: unsigned(64, 'fallen', 'set', -32),
    refuse: unsigned(64, 'fallen', 'set', -64),
    because: 'invalid access to map value, value_size=32 off=63 size=1',
  },
  {
    name: 'sgt at 64 bits narrows where it is not taken',
    accept: signed(64, 'fallen', 'sgt', 7),
    refuse: signed(64, 'fallen', 'sgt', 8),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'sge at 64 bits narrows where it is not taken',
    accept: signed(64, 'fallen', 'sge', 8),
    refuse: signed(64, 'fallen', 'sge', 9),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'slt at 64 bits narrows where it is taken',
    accept: signed(64, 'taken', 'slt', 8),
    refuse: signed(64, 'taken', 'slt', 9),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'sle at 64 bits narrows where it is taken',
    accept: signed(64, 'taken', 'sle', 7),
    refuse: signed(64, 'taken', 'sle', 8),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'eq at 32 bits narrows where it is taken',
    accept: unsigned(32, 'taken', 'eq', 31),
    refuse: unsigned(32, 'taken', 'eq', 32),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'ne at 32 bits narrows where it is not taken',
    accept: unsigned(32, 'fallen', 'ne', 31),
    refuse: unsigned(32, 'fallen', 'ne', 32),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'gt at 32 bits narrows where it is not taken',
    accept: unsigned(32, 'fallen', 'gt', 31),
    refuse: unsigned(32, 'fallen', 'gt', 32),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'ge at 32 bits narrows where it is not taken',
    accept: unsigned(32, 'fallen', 'ge', 32),
    refuse: unsigned(32, 'fallen', 'ge', 33),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'lt at 32 bits narrows where it is taken',
    accept: unsigned(32, 'taken', 'lt', 32),
    refuse: unsigned(32, 'taken', 'lt', 33),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'le at 32 bits narrows where it is taken',
    accept: unsigned(32, 'taken', 'le', 31),
    refuse: unsigned(32, 'taken', 'le', 32),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'set at 32 bits narrows where it is not taken',
    accept: unsigned(32, 'fallen', 'set', -32),
    refuse: unsigned(32, 'fallen', 'set', -64),
    because: 'invalid access to map value, value_size=32 off=63 size=1',
  },
  {
    name: 'sgt at 32 bits narrows where it is not taken',
    accept: signed(32, 'fallen', 'sgt', 7),
    refuse: signed(32, 'fallen', 'sgt', 8),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'sge at 32 bits narrows where it is not taken',
    accept: signed(32, 'fallen', 'sge', 8),
    refuse: signed(32, 'fallen', 'sge', 9),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'slt at 32 bits narrows where it is taken',
    accept: signed(32, 'taken', 'slt', 8),
    refuse: signed(32, 'taken', 'slt', 9),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
  {
    name: 'sle at 32 bits narrows where it is taken',
    accept: signed(32, 'taken', 'sle', 7),
    refuse: signed(32, 'taken', 'sle', 8),
    because: 'invalid access to map value, value_size=32 off=32 size=1',
  },
];

testPairs('each conditional jump narrows', PAIRS);

/** For tests of rules: maps and types of every kind, and the form of a pair: a program refused, and the nearest accepted. */

import { ProgramBuilder, R0, R1, R2, R10 } from '../../../bpf/builder.js';
import { MAP_FLAG, MAP_TYPE } from '../../../bpf/map_type.js';
import { Btf } from '../../../btf/btf.js';
import { BtfBuilder } from '../../../btf/builder.js';
import type { AttachType, MapSpec, VerifierEnv } from './environment.js';
import { type VerifiedProgram, verifyProgram } from './verifier.js';

function spec(id: number, name: string, fields: Partial<MapSpec>): MapSpec {
  return { id, name, type: MAP_TYPE.ARRAY, keySize: 4, valueSize: 8, maxEntries: 16, ...fields };
}

/** Types of the program: a value with a lock in it. */
function programTypes(): { btf: Btf; locked: number } {
  const b = new BtfBuilder();
  const int = b.addInt('int', 4, { signed: true });
  const lock = b.addStruct('bpf_spin_lock', 4, [{ name: 'val', type: int, bitOffset: 0, bitSize: 0 }]);
  const locked = b.addStruct('locked', 16, [
    { name: 'count', type: int, bitOffset: 0, bitSize: 0 },
    { name: 'lock', type: lock, bitOffset: 64, bitSize: 0 },
  ]);
  return { btf: Btf.parse(b.build()), locked };
}

/** Types of a traced function: `long f(struct outer *, int, char *)`. */
function targetTypes(): { btf: Btf; args: number[]; returns: number; outer: number } {
  const b = new BtfBuilder();
  const int = b.addInt('int', 4, { signed: true });
  const long = b.addInt('long', 8, { signed: true });
  const char = b.addInt('char', 1, { signed: true });
  const inner = b.addStruct('inner', 8, [{ name: 'answer', type: int, bitOffset: 0, bitSize: 0 }]);
  const pointer = b.addPtr(inner);
  const numbers = b.addArray(int, 4, int);
  const outer = b.addStruct('outer', 40, [
    { name: 'id', type: long, bitOffset: 0, bitSize: 0 },
    { name: 'inner', type: pointer, bitOffset: 64, bitSize: 0 },
    { name: 'numbers', type: numbers, bitOffset: 128, bitSize: 0 },
    { name: 'embedded', type: inner, bitOffset: 256, bitSize: 0 },
  ]);
  const args = [b.addPtr(outer), int, b.addPtr(char)];
  return { btf: Btf.parse(b.build()), args, returns: long, outer };
}

const types = programTypes();
export const CONSTANTS = new TextEncoder().encode('value %d\0\u0003\0\0\0\0\0\0\0text\0');

export const MAPS = {
  counts: spec(1, 'counts', { maxEntries: 100 }),
  wide: spec(2, 'wide', { type: MAP_TYPE.HASH, keySize: 16, valueSize: 32 }),
  global: spec(3, 'global', { valueSize: 64, maxEntries: 1 }),
  events: spec(4, 'events', { type: MAP_TYPE.RINGBUF, keySize: 0, valueSize: 0, maxEntries: 4096 }),
  rodata: spec(5, 'rodata', {
    valueSize: CONSTANTS.length,
    maxEntries: 1,
    flags: MAP_FLAG.RDONLY_PROG,
    frozen: true,
    readConstant: (offset, size) => CONSTANTS.subarray(offset, offset + size),
  }),
  outer: spec(6, 'outer', { type: MAP_TYPE.ARRAY_OF_MAPS, valueSize: 4, innerMap: spec(60, 'inner', {}) }),
  programs: spec(7, 'programs', { type: MAP_TYPE.PROG_ARRAY, valueSize: 4 }),
  locked: spec(8, 'locked', {
    type: MAP_TYPE.HASH,
    valueSize: 16,
    btf: types.btf,
    btfValueTypeId: types.locked,
  }),
  storage: spec(9, 'storage', { type: MAP_TYPE.TASK_STORAGE }),
  queue: spec(10, 'queue', { type: MAP_TYPE.QUEUE, keySize: 0 }),
  stacks: spec(11, 'stacks', { type: MAP_TYPE.STACK_TRACE, valueSize: 1016 }),
  perCpu: spec(12, 'per_cpu', { type: MAP_TYPE.PERCPU_ARRAY }),
  alike: spec(13, 'alike', { maxEntries: 7 }),
  writeOnly: spec(14, 'write_only', { maxEntries: 1, flags: MAP_FLAG.WRONLY_PROG }),
  bloom: spec(15, 'bloom', { type: MAP_TYPE.BLOOM_FILTER, keySize: 0 }),
} satisfies Record<string, MapSpec>;

/** What the traced function takes. */
export const TARGET = targetTypes();

export type Write = (p: ProgramBuilder) => unknown;

export interface Rule {
  readonly name: string;
  readonly accept: Write;
  readonly refuse: Write;
  readonly because: string | RegExp;
  readonly attach?: AttachType;
  readonly env?: Partial<VerifierEnv>;
}

/** Verifies what `write` writes, for a function of three opaque arguments unless `env` says otherwise. */
export function verify(
  write: Write,
  attachType: AttachType = 'fentry',
  env: Partial<VerifierEnv> = {},
): VerifiedProgram {
  const p = new ProgramBuilder();
  write(p);
  const maps = new Map(Object.values(MAPS).map(map => [map.id, map as MapSpec]));
  return verifyProgram(p.build(), { attachType, nargs: 3, maps, ...env });
}

/** Ends a program as fentry must. */
export const end = (p: ProgramBuilder): ProgramBuilder => p.mov(R0, 0).exit();

/** Goes on only where a lookup in `map` found something: r0 points to it. */
export function found(p: ProgramBuilder, map: MapSpec): ProgramBuilder {
  const there = p.label();
  return p
    .store(8, R10, -16, 1)
    .store(8, R10, -8, 2)
    .ldMap(R1, map)
    .mov(R2, R10)
    .add(R2, -16)
    .call(1)
    .jump('ne', R0, 0, there)
    .exit()
    .bind(there);
}

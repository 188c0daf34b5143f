/** Programs on maps of every type: verified, compiled, and run in this process with the maps' own routines. */

import { describe, expect, test } from 'vitest';
import { ProgramBuilder, type ProgramLabel, R0, R1, R2, R3, R4, R6, R7, R10 } from '../../../bpf/builder.js';
import { HELPER } from '../../../bpf/helpers.js';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import type { MapAttributes } from '../maps/attributes.js';
import { type BpfMap, createMap } from '../maps/map.js';
import { emitMapRoutines, type MapRoutines } from '../maps/routines.js';
import type { Arena } from '../region/arena.js';
import { BLOCK_SIZE, POSSIBLE_CPUS, SHARED, TABLE, TABLE_BYTES, THREAD } from '../threads/layout.js';
import { verifyProgram } from '../verifier/verifier.js';
import { compileProgram } from './compile.js';
import type { JitEnv } from './environment.js';
import { Bench } from './fixture.js';

const bench = new Bench(1 << 22);
const arena: Arena = {
  alloc: (size, align = 8) => {
    const { address, bytes } = bench.alloc(size + align);
    const skip = (align - Number(address % BigInt(align))) % align;
    return { address: address + BigInt(skip), bytes: bytes.subarray(skip, skip + size), size };
  },
  free: () => undefined,
};

const offsets = new Map<keyof MapRoutines, number>();
const routines = bench.placeWith(a => {
  for (const [name, label] of Object.entries(emitMapRoutines(a)))
    offsets.set(name as keyof MapRoutines, a.offsetOf(label));
});

const SLOT = 5;
const table = bench.alloc(TABLE_BYTES);
const shared = bench.alloc(SHARED.size);
const missed = bench.alloc(8);
// One slot is free: it becomes this thread's.
shared.bytes[SHARED.free] = 1 << SLOT;

let id = 0;
const maps = new Map<number, BpfMap>();
function create(type: number, keySize: number, valueSize: number, more: Partial<MapAttributes> = {}): BpfMap {
  const map = createMap({ type, name: 'map', keySize, valueSize, maxEntries: 8, ...more }, ++id, arena);
  maps.set(map.id, map);
  return map;
}

const env: JitEnv = {
  maps,
  routine(name) {
    const offset = offsets.get(name as keyof MapRoutines);
    if (offset === undefined) throw new RangeError(`no ${name} here`);
    return routines + BigInt(offset);
  },
  thread: { table: table.address, shared: shared.address },
  missed: missed.address,
};

type Write = (p: ProgramBuilder, out: ProgramLabel) => ProgramBuilder;

/** r0 of a program that is given two numbers. `out` ends it with 99. */
function run(write: Write, first = 0n, second = 0n): bigint {
  const p = new ProgramBuilder();
  const out = p.label();
  // Something must lead to `out`, also where `write` does not use it.
  p.mov(R6, R1).load(8, R7, R6, 8).jump('eq', R7, 0x7777_7777, out);
  write(p, out);
  p.bind(out).mov(R0, 99).exit();
  return runProgram(p, first, second);
}

function runProgram(p: ProgramBuilder, first = 0n, second = 0n): bigint {
  const program = verifyProgram(p.build(), { attachType: 'fmod_ret', nargs: 2, maps });
  const code = compileProgram(program, env);
  const { result, changed } = bench.run(code, { args: [first, second], cookie: 0n, functionAddress: 0n });
  expect(changed & ~code.clobbers).toBe(0);
  return result;
}

function u64(...values: bigint[]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(values).buffer);
}
function u32(value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(value).buffer);
}
function word(bytes: Uint8Array | undefined, at = 0): bigint | undefined {
  return bytes && new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at, true);
}

/** The first argument on the stack as a key of 8 bytes, the second as a value; r1 to r3 point there. */
const keyAndValue = (p: ProgramBuilder, map: BpfMap): ProgramBuilder =>
  p
    .load(8, R2, R6)
    .store(8, R10, -8, R2)
    .load(8, R3, R6, 8)
    .store(8, R10, -16, R3)
    .ldMap(R1, map)
    .mov(R2, R10)
    .add(R2, -8)
    .mov(R3, R10)
    .add(R3, -16);

const update =
  (map: BpfMap, flags = 0): Write =>
  p =>
    keyAndValue(p, map).mov(R4, flags).call(HELPER.map_update_elem).exit();
const lookup =
  (map: BpfMap): Write =>
  (p, out) =>
    keyAndValue(p, map).call(HELPER.map_lookup_elem).jump('eq', R0, 0, out).load(8, R0, R0).exit();
const remove =
  (map: BpfMap): Write =>
  p =>
    keyAndValue(p, map).call(HELPER.map_delete_elem).exit();

const minus = (errno: number): bigint => BigInt.asUintN(64, BigInt(-errno));

describe.each([
  ['hash', MAP_TYPE.HASH],
  ['LRU hash', MAP_TYPE.LRU_HASH],
] as const)('%s', (_, type) => {
  test('programs and we see the same', () => {
    const map = create(type, 8, 8);
    expect(run(lookup(map), 7n)).toBe(99n);
    expect(run(update(map), 7n, 1234n)).toBe(0n);
    expect(word(map.lookup(u64(7n)))).toBe(1234n);
    map.update(u64(8n), u64(5n));
    expect(run(lookup(map), 8n)).toBe(5n);
    expect(run(update(map, 1), 8n, 6n)).toBe(minus(17));
    expect(run(remove(map), 7n)).toBe(0n);
    expect(run(remove(map), 7n)).toBe(minus(2));
    expect(map.lookup(u64(7n))).toBeUndefined();
  });
});

describe.each([
  ['per-CPU hash', MAP_TYPE.PERCPU_HASH],
  ['per-CPU LRU hash', MAP_TYPE.LRU_PERCPU_HASH],
] as const)('%s', (_, type) => {
  test("a program works on its thread's value", () => {
    const map = create(type, 8, 8);
    expect(run(update(map), 7n, 1234n)).toBe(0n);
    const values = map.lookup(u64(7n));
    expect(values).toHaveLength(8 * POSSIBLE_CPUS);
    expect(word(values, 8 * SLOT)).toBe(1234n);
    expect(values?.filter(byte => byte !== 0)).toHaveLength(2);
    expect(run(lookup(map), 7n)).toBe(1234n);
    expect(run(remove(map), 7n)).toBe(0n);
    expect(run(lookup(map), 7n)).toBe(99n);
  });
});

test("a per-CPU array: a program works on its thread's value, in place and by number", () => {
  const map = create(MAP_TYPE.PERCPU_ARRAY, 4, 16);
  const count: Write = (p, out) =>
    p
      .load(8, R2, R6)
      .store(4, R10, -4, R2)
      .ldMap(R1, map)
      .mov(R2, R10)
      .add(R2, -4)
      .call(HELPER.map_lookup_elem)
      .jump('eq', R0, 0, out)
      .load(8, R7, R0, 8)
      .add(R7, 1)
      .store(8, R0, 8, R7)
      .mov(R0, 0)
      .exit();
  for (let n = 0; n < 3; n++) expect(run(count, 6n)).toBe(0n);
  expect(run(count, 8n)).toBe(99n);
  const values = map.lookup(u32(6));
  expect(word(values, 16 * SLOT + 8)).toBe(3n);
  expect(values?.filter(byte => byte !== 0)).toHaveLength(1);
  const of: Write = (p, out) =>
    p
      .store(4, R10, -4, 6)
      .ldMap(R1, map)
      .mov(R2, R10)
      .add(R2, -4)
      .load(8, R3, R6)
      .call(HELPER.map_lookup_percpu_elem)
      .jump('eq', R0, 0, out)
      .load(8, R0, R0, 8)
      .exit();
  expect(run(of, BigInt(SLOT))).toBe(3n);
  expect(run(of, 0n)).toBe(0n);
  expect(run(of, 128n)).toBe(99n);
});

test('maps of maps: what is looked up is looked up in', () => {
  const inner = [1, 2].map(() => create(MAP_TYPE.ARRAY, 4, 8));
  const values = [111n, 222n];
  inner.forEach((map, i) => {
    map.update(u32(3), u64(values[i] as bigint));
  });
  const innerMap = inner[0] as BpfMap;
  for (const type of [MAP_TYPE.ARRAY_OF_MAPS, MAP_TYPE.HASH_OF_MAPS]) {
    const outer = create(type, 4, 4, { innerMap });
    inner.forEach((map, i) => {
      outer.updateObject?.(u32(i), map);
    });
    const write: Write = (p, out) =>
      p
        .load(8, R2, R6)
        .store(4, R10, -4, R2)
        .ldMap(R1, outer)
        .mov(R2, R10)
        .add(R2, -4)
        .call(HELPER.map_lookup_elem)
        .jump('eq', R0, 0, out)
        .store(4, R10, -4, 3)
        .mov(R1, R0)
        .mov(R2, R10)
        .add(R2, -4)
        .call(HELPER.map_lookup_elem)
        .jump('eq', R0, 0, out)
        .load(8, R0, R0)
        .exit();
    expect(run(write, 0n)).toBe(111n);
    expect(run(write, 1n)).toBe(222n);
    expect(run(write, 5n)).toBe(99n);
  }
});

test.each([
  ['queue', MAP_TYPE.QUEUE, [1n, 2n]],
  ['stack', MAP_TYPE.STACK, [2n, 1n]],
] as const)('a %s', (_, type, order) => {
  const map = create(type, 0, 8);
  const value = (p: ProgramBuilder): ProgramBuilder =>
    p.load(8, R2, R6).store(8, R10, -8, R2).ldMap(R1, map).mov(R2, R10).add(R2, -8);
  const push: Write = p => value(p).mov(R3, 0).call(HELPER.map_push_elem).exit();
  const take =
    (helper: number): Write =>
    (p, out) =>
      value(p).call(helper).jump('ne', R0, 0, out).load(8, R0, R10, -8).exit();
  expect(run(take(HELPER.map_pop_elem))).toBe(99n);
  expect(run(push, 1n)).toBe(0n);
  expect(run(push, 2n)).toBe(0n);
  expect(run(take(HELPER.map_peek_elem))).toBe(order[0]);
  expect(run(take(HELPER.map_pop_elem))).toBe(order[0]);
  expect(run(take(HELPER.map_pop_elem))).toBe(order[1]);
  expect(run(take(HELPER.map_pop_elem))).toBe(99n);
});

test.each([
  ['array', MAP_TYPE.ARRAY, 4],
  ['hash', MAP_TYPE.HASH, 8],
  ['per-CPU hash', MAP_TYPE.PERCPU_HASH, 8],
  ['per-CPU array', MAP_TYPE.PERCPU_ARRAY, 4],
] as const)('bpf_for_each_map_elem over a %s visits each element', (_, type, keySize) => {
  const map = create(type, keySize, 8);
  const perCpu = type === MAP_TYPE.PERCPU_ARRAY || type === MAP_TYPE.PERCPU_HASH;
  let expected = 0n;
  for (let n = 0; n < 5; n++) {
    const key = keySize === 4 ? u32(n) : u64(BigInt(n));
    const value = perCpu ? new Uint8Array(8 * POSSIBLE_CPUS) : new Uint8Array(8);
    value.set(u64(BigInt(10 * n)), perCpu ? 8 * SLOT : 0);
    map.update(key, value);
    expected += BigInt(n) + BigInt(10 * n);
  }
  const array = type === MAP_TYPE.ARRAY || type === MAP_TYPE.PERCPU_ARRAY;
  const visited = array ? 8n : 5n;
  if (array) expected += 5n + 6n + 7n;
  const p = new ProgramBuilder();
  const each = p.label();
  p.store(8, R10, -8, 0).ldMap(R1, map).ldFunction(R2, each).mov(R3, R10).add(R3, -8).mov(R4, 0);
  p.call(HELPER.for_each_map_elem).load(8, R1, R10, -8).lsh(R0, 32).add(R0, R1).exit();
  p.bind(each).load(keySize, R0, R2).load(8, R1, R3).add(R0, R1);
  p.load(8, R1, R4).add(R1, R0).store(8, R4, 0, R1).mov(R0, 0).exit();
  const result = runProgram(p);
  expect(result).toBe((visited << 32n) + expected);
});

test('the thread has one block, and left every program', () => {
  const taken: DataView[] = [];
  for (let at = TABLE.blocks; at + BLOCK_SIZE <= table.bytes.length; at += BLOCK_SIZE) {
    const view = new DataView(table.bytes.buffer, table.bytes.byteOffset + at, BLOCK_SIZE);
    if (view.getBigUint64(THREAD.key, true) !== 0n) taken.push(view);
  }
  expect(taken).toHaveLength(1);
  expect(taken[0]?.getUint32(THREAD.slot, true)).toBe(SLOT);
  expect(taken[0]?.getBigUint64(THREAD.active, true)).toBe(0n);
  expect(word(missed.bytes)).toBe(0n);
});

/** Maps of the running kernel, wherever it lets us have them: every type's operations, batches, memory, records. */

import { afterAll, describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R3, R4, R5, R6, R7, R10 } from '../../bpf/builder.js';
import { HELPER } from '../../bpf/helpers.js';
import type { BpfInsn } from '../../bpf/instruction.js';
import { MAP_FLAG, MAP_TYPE, UPDATE } from '../../bpf/map_type.js';
import { BpfError } from '../errno.js';
import type { MapCreateAttr } from '../kernel.js';
import { Attr, bpf, type Fd } from './bpf.js';
import { possibleCpus } from './cpus.js';
import { LinuxMap } from './map.js';
import { PerfEventMap } from './perf_event_map.js';
import { loadProgram } from './program.js';
import { RingBufferMap } from './ring_buffer_map.js';

const CPUS = possibleCpus();
const made: { free(): void }[] = [];
afterAll(() => {
  for (const one of made) one.free();
});

function kept<T extends { free(): void }>(map: T): T {
  made.push(map);
  return map;
}
function create(attr: Partial<MapCreateAttr>): LinuxMap {
  const name = 'test_map';
  return kept(
    new LinuxMap({ type: MAP_TYPE.HASH, name, keySize: 4, valueSize: 8, maxEntries: 16, ...attr }, CPUS),
  );
}

/** Why this kernel has no maps for us. */
function refused(): string | undefined {
  try {
    create({ type: MAP_TYPE.ARRAY });
    return undefined;
  } catch (cause) {
    if (cause instanceof BpfError) return cause.message;
    throw cause;
  }
}

/** A program that nothing is attached to, run once by the kernel on a packet of ours (BPF_PROG_TEST_RUN). */
const SOCKET_FILTER = 1;
const PACKET = Buffer.alloc(64);
class Runnable {
  readonly #fd: Fd;
  constructor(insns: readonly BpfInsn[], map: LinuxMap) {
    const none = (number: number): never => {
      throw new Error(`kernel function ${number}`);
    };
    const request = { name: 'producer', type: SOCKET_FILTER, attachType: 0, insns, license: 'GPL' };
    this.#fd = loadProgram(request, { mapFd: () => map.fd.number, kernelFunction: none }).fd;
    made.push({ free: () => this.#fd.close() });
  }
  run(times: number): void {
    const attr = new Attr().u32(0, this.#fd.number).u32(8, PACKET.length).pointer(16, PACKET).u32(32, times);
    bpf('PROG_TEST_RUN', attr);
  }
}

function u32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return Uint8Array.from(bytes);
}
function u64(value: bigint): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return Uint8Array.from(bytes);
}

const lacking = refused();
if (lacking !== undefined) console.log(`skipped: ${lacking}`);

describe.skipIf(lacking !== undefined)('maps of the kernel', () => {
  test('a hash: values, flags, deletion, what is not there', () => {
    const map = create({});
    expect(map.lookup(u32(1))).toBeUndefined();
    map.update(u32(1), u64(10n));
    map.update(u32(2), u64(20n), UPDATE.NOEXIST);
    expect(map.lookup(u32(1))).toEqual(u64(10n));
    expect(() => map.update(u32(1), u64(1n), UPDATE.NOEXIST)).toThrowError(
      /test_map: an update: the key is there/,
    );
    expect(() => map.update(u32(9), u64(1n), UPDATE.EXIST)).toThrowError(/the key is not there/);
    expect([...map.entries()].map(({ key }) => key[0]).sort()).toEqual([1, 2]);
    map.delete(u32(1));
    expect(() => map.delete(u32(1))).toThrowError(expect.objectContaining({ code: 'ENOENT' }));
    expect(map.lookupAndDelete(u32(2))).toEqual(u64(20n));
    expect([...map.entries()]).toEqual([]);
    expect(map.nextKey()).toBeUndefined();
  });

  test('sizes are checked before the kernel sees them', () => {
    const map = create({});
    expect(() => map.lookup(new Uint8Array(3))).toThrowError(/its keys have 4 bytes, and 3 are given/);
    expect(() => map.update(u32(1), new Uint8Array(4))).toThrowError(
      /its values have 8 bytes, and 4 are given/,
    );
  });

  test('a full hash says so', () => {
    const map = create({ maxEntries: 2 });
    map.update(u32(1), u64(1n));
    map.update(u32(2), u64(1n));
    expect(() => map.update(u32(3), u64(1n))).toThrowError(expect.objectContaining({ code: 'E2BIG' }));
  });

  test('more entries than a batch has, each once', () => {
    const map = create({ maxEntries: 20_000 });
    for (let i = 0; i < 10_000; i++) map.update(u32(i), u64(BigInt(i) * 3n));
    const entries = [...map.entries()];
    expect(entries.length).toBe(10_000);
    expect(new Set(entries.map(({ key }) => Buffer.from(key).readUInt32LE())).size).toBe(10_000);
    for (const { key, value } of entries.slice(0, 100))
      expect(Buffer.from(value).readBigUInt64LE()).toBe(BigInt(Buffer.from(key).readUInt32LE()) * 3n);
  });

  test('an array: all its entries, none can be deleted, no index beyond', () => {
    const map = create({ type: MAP_TYPE.ARRAY, maxEntries: 5000 });
    map.update(u32(4999), u64(7n));
    const entries = [...map.entries()];
    expect(entries.length).toBe(5000);
    expect(entries[4999].value).toEqual(u64(7n));
    expect(() => map.delete(u32(1))).toThrowError(expect.objectContaining({ code: 'EINVAL' }));
    expect(map.lookup(u32(5000))).toBeUndefined();
  });

  test('a per-CPU array has a value for each CPU, rounded up to eight bytes', () => {
    const map = create({ type: MAP_TYPE.PERCPU_ARRAY, valueSize: 4, maxEntries: 2 });
    const value = new Uint8Array(8 * CPUS);
    value[0] = 1;
    value[8 * (CPUS - 1)] |= 2;
    map.update(u32(1), value);
    expect(map.lookup(u32(1))).toEqual(value);
    expect([...map.entries()][1].value).toEqual(value);
  });

  test('a queue and a stack give what they were given, and are empty then', () => {
    for (const [type, order] of [
      [MAP_TYPE.QUEUE, [1n, 2n]],
      [MAP_TYPE.STACK, [2n, 1n]],
    ] as const) {
      const map = create({ type, keySize: 0 });
      const nothing = new Uint8Array(0);
      map.update(nothing, u64(1n));
      map.update(nothing, u64(2n));
      expect(map.lookup(nothing)).toEqual(u64(order[0]));
      for (const value of order) expect(map.lookupAndDelete(nothing)).toEqual(u64(value));
      expect(map.lookupAndDelete(nothing)).toBeUndefined();
    }
  });

  test('the longest prefix is found', () => {
    const type = MAP_TYPE.LPM_TRIE;
    const map = create({ type, keySize: 8, flags: MAP_FLAG.NO_PREALLOC });
    const prefix = (bits: number, ...bytes: number[]) => Uint8Array.from([...u32(bits), ...bytes]);
    map.update(prefix(8, 10, 0, 0, 0), u64(8n));
    map.update(prefix(16, 10, 1, 0, 0), u64(16n));
    expect(map.lookup(prefix(32, 10, 1, 2, 3))).toEqual(u64(16n));
    expect(map.lookup(prefix(32, 10, 2, 2, 3))).toEqual(u64(8n));
    expect([...map.entries()].length).toBe(2);
  });

  test('memory is the values themselves; frozen it can be read alone', () => {
    const map = create({ type: MAP_TYPE.ARRAY, flags: MAP_FLAG.MMAPABLE, maxEntries: 3 });
    map.update(u32(1), u64(5n));
    const memory = map.memory as Uint8Array;
    expect(memory.length).toBe(24);
    expect(memory.subarray(8, 16)).toEqual(u64(5n));
    memory.set(u64(6n), 16);
    expect(map.lookup(u32(2))).toEqual(u64(6n));
    map.freeze();
    expect(map.frozen).toBe(true);
    expect(() => map.update(u32(1), u64(1n))).toThrowError(/it is frozen/);
    expect((map.memory as Uint8Array).subarray(16, 24)).toEqual(u64(6n));
  });

  test('a map of maps holds maps of its shape, and no others', () => {
    const inner = create({ type: MAP_TYPE.ARRAY, maxEntries: 4 });
    const type = MAP_TYPE.ARRAY_OF_MAPS;
    const outer = create({ type, valueSize: 4, maxEntries: 2, innerMap: inner });
    outer.updateObject(u32(0), inner);
    expect(Buffer.from(outer.lookup(u32(0)) ?? []).readUInt32LE()).toBe(inner.id);
    const other = create({ type: MAP_TYPE.HASH });
    expect(() => outer.updateObject(u32(1), other)).toThrowError(expect.objectContaining({ code: 'EINVAL' }));
  });

  test('what the kernel does not make is told with its name and type', () => {
    expect(() => create({ maxEntries: 0, name: 'empty' })).toThrowError(/refuses map empty \(hash\): EINVAL/);
  });

  test('let go of, it answers no more', () => {
    const map = create({});
    map.free();
    expect(() => map.lookup(u32(1))).toThrowError(expect.objectContaining({ code: 'EBADF' }));
    map.free();
  });
});

/** `rounds` records of 8 bytes: how many there were, counted on the program's stack frame's packet. */
function ringProgram(map: LinuxMap): BpfInsn[] {
  const b = new ProgramBuilder();
  const full = b.label();
  // Each run: one record that is submitted, one that is discarded, one that is output.
  b.ldMap(R1, map);
  b.mov(R2, 8);
  b.mov(R3, 0);
  b.call(HELPER.ringbuf_reserve);
  b.jump('eq', R0, 0, full);
  b.mov(R6, R0);
  b.store(8, R6, 0, 1);
  b.mov(R1, R6);
  b.mov(R2, 0);
  b.call(HELPER.ringbuf_submit);
  b.ldMap(R1, map);
  b.mov(R2, 16);
  b.mov(R3, 0);
  b.call(HELPER.ringbuf_reserve);
  b.jump('eq', R0, 0, full);
  b.mov(R1, R0);
  b.mov(R2, 0);
  b.call(HELPER.ringbuf_discard);
  b.store(4, R10, -16, 0x01020304);
  b.store(4, R10, -12, 0x05060708);
  b.store(4, R10, -8, 0x090a0b0c);
  b.ldMap(R1, map);
  b.mov(R2, R10);
  b.add(R2, -16);
  b.mov(R3, 12);
  b.mov(R4, 0);
  b.call(HELPER.ringbuf_output);
  b.bind(full);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

function perfProgram(map: LinuxMap): BpfInsn[] {
  const b = new ProgramBuilder();
  b.mov(R7, R1);
  b.store(8, R10, -16, 0x11);
  b.store(8, R10, -8, 0x22);
  b.mov(R1, R7);
  b.ldMap(R2, map);
  b.ldImm64(R3, 0xffff_ffffn);
  b.mov(R4, R10);
  b.add(R4, -16);
  b.mov(R5, 16);
  b.call(HELPER.perf_event_output);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

describe.skipIf(lacking !== undefined)('records of the kernel', () => {
  const ring = (): RingBufferMap =>
    kept(
      new RingBufferMap(
        { type: MAP_TYPE.RINGBUF, name: 'ring', keySize: 0, valueSize: 0, maxEntries: 4096 },
        CPUS,
      ),
    );

  test('come in order, without the discarded ones, over the end of the buffer', async () => {
    const map = ring();
    const producer = new Runnable(ringProgram(map), map);
    const expected = [
      Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]),
      Buffer.from('0403020108070605 0c0b0a09'.replace(' ', ''), 'hex'),
    ];
    for (let round = 0; round < 40; round++) {
      producer.run(10);
      expect(await map.wait(1000)).toBe(true);
      const records: Buffer[] = [];
      expect(map.consume(bytes => records.push(Buffer.from(bytes)), 7)).toBe(7);
      expect(map.consume(bytes => records.push(Buffer.from(bytes)))).toBe(13);
      for (const [i, record] of records.entries()) expect(record.equals(expected[i % 2])).toBe(true);
    }
    expect(await map.wait(1)).toBe(false);
  });

  test('a full ring keeps what it has', () => {
    const map = ring();
    new Runnable(ringProgram(map), map).run(500);
    let taken = 0;
    map.consume(() => taken++);
    expect(taken).toBeGreaterThan(100);
    expect(taken).toBeLessThan(300);
    new Runnable(ringProgram(map), map).run(1);
    expect(map.consume(() => {})).toBe(2);
  });

  test('what the reader throws ends it after its record', () => {
    const map = ring();
    new Runnable(ringProgram(map), map).run(2);
    expect(() =>
      map.consume(() => {
        throw new Error('reader');
      }),
    ).toThrowError('reader');
    expect(map.consume(() => {})).toBe(3);
    map.free();
    expect(() => map.consume(() => {})).toThrowError(/is closed/);
  });

  test('a wait does not hold up node', async () => {
    const map = ring();
    let ticks = 0;
    const timer = setInterval(() => ticks++, 10);
    expect(await map.wait(200)).toBe(false);
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(3);
  });

  test('of a perf event array, from whichever CPU, over the end of a buffer', async ({ skip }) => {
    let map: PerfEventMap;
    try {
      const attr = { type: MAP_TYPE.PERF_EVENT_ARRAY, name: 'perf', keySize: 4, valueSize: 4, maxEntries: 0 };
      map = kept(new PerfEventMap(attr, CPUS));
    } catch (cause) {
      skip(`perf_event_open is refused: ${(cause as Error).message}`);
      return;
    }
    const producer = new Runnable(perfProgram(map), map);
    let taken = 0;
    for (let round = 0; round < 30; round++) {
      producer.run(500);
      expect(await map.wait(1000)).toBe(true);
      taken += map.consume(bytes => {
        expect(Buffer.from(bytes.subarray(0, 16)).toString('hex')).toBe('11000000000000002200000000000000');
      });
    }
    expect(BigInt(taken) + map.dropped).toBe(15_000n);
    expect(map.dropped).toBe(0n);
  });
});

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_FLAG, MAP_TYPE } from '../../../bpf/map_type.js';
import {
  callCode,
  ftruncate,
  MAP as MMAP,
  memfdCreate,
  mmap,
  munmap,
  PROT,
  viewMemory,
} from '../../../ffi/libc.js';
import { Assembler } from '../../../x86/assembler.js';
import { keyOfIndex } from '../maps/array.js';
import { randomNumbers, SharedMemory } from '../maps/fixture.js';
import { ARRAY, STORAGE } from '../maps/layout.js';
import { createMap } from '../maps/map.js';
import { BLOCK_SIZE, BLOCKS, SHARED, TABLE, TABLE_BYTES, THREAD } from '../threads/layout.js';
import { DYNPTR, DYNPTR_MAX_SIZE, DYNPTR_RDONLY, DYNPTR_TYPE, DYNPTR_TYPE_SHIFT } from './dynptr_layout.js';
import { emitMapHelperRoutines } from './map_helpers.js';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const CODE_BYTES = 1 << 16;

let memory: SharedMemory;
let base: bigint;
let table: bigint;
let shared: bigint;
let addresses: Map<string, bigint>;

beforeAll(() => {
  memory = new SharedMemory(1 << 20);
  table = memory.alloc(TABLE_BYTES, 4096).address;
  const words = memory.alloc(SHARED.size, 64);
  shared = words.address;
  words.bytes.fill(0xff, SHARED.free, SHARED.free + 16);
  const a = new Assembler();
  const labels = [...emitMapHelperRoutines(a, { thread: { table, shared } }).routines];
  const fd = memfdCreate('multitrace-test-code');
  ftruncate(fd, CODE_BYTES);
  const writable = mmap(0n, CODE_BYTES, PROT.READ | PROT.WRITE, MMAP.SHARED, fd, 0);
  base = mmap(0n, CODE_BYTES, PROT.READ | PROT.EXEC, MMAP.SHARED, fd, 0);
  new Uint8Array(viewMemory(writable, CODE_BYTES)).set(a.finish(base));
  munmap(writable, CODE_BYTES);
  addresses = new Map(labels.map(([name, label]) => [name, base + BigInt(a.offsetOf(label))]));
});

afterAll(() => {
  munmap(base, CODE_BYTES);
  memory[Symbol.dispose]();
});

function helper(number: number, ...args: (bigint | number)[]): bigint {
  return BigInt.asIntN(64, callCode(addresses.get(`helper_${number}`)!, ...args));
}

describe('dynptr helpers', () => {
  it(`read and write what an array would, and refuse what is outside: seed ${seed}`, () => {
    const random = randomNumbers(seed);
    const size = 61;
    const behind = memory.alloc(128);
    const data = behind.bytes.subarray(0, size);
    const dynptr = memory.alloc(DYNPTR.BYTES);
    const other = memory.alloc(128);
    expect(helper(197, behind.address, size, 0, dynptr.address)).toBe(0n);
    for (let i = 0; i < 1_500; i++) {
      const offset = random(70);
      const length = random(70);
      const fits = offset + length <= size;
      const bytes = Uint8Array.from({ length: 70 }, () => random(256));
      other.bytes.set(bytes);
      const before = data.slice();
      switch (random(3)) {
        case 0:
          expect(helper(201, other.address, length, dynptr.address, offset, 0)).toBe(fits ? 0n : -7n);
          if (fits) bytes.set(before.subarray(offset, offset + length));
          expect(other.bytes.slice(0, 70)).toEqual(bytes);
          break;
        case 1:
          expect(helper(202, dynptr.address, offset, other.address, length, 0)).toBe(fits ? 0n : -7n);
          if (fits) before.set(bytes.subarray(0, length), offset);
          expect(data.slice()).toEqual(before);
          break;
        default:
          expect(helper(203, dynptr.address, offset, length)).toBe(
            fits ? behind.address + BigInt(offset) : 0n,
          );
      }
      expect(behind.bytes.slice(size)).toEqual(new Uint8Array(128 - size));
    }
  });

  it('copy within one memory as memmove does', () => {
    const block = memory.alloc(64);
    const dynptr = memory.alloc(DYNPTR.BYTES);
    helper(197, block.address, 64, 0, dynptr.address);
    for (const [from, to, length] of [
      [0, 3, 29],
      [3, 0, 29],
      [0, 8, 48],
      [8, 0, 48],
      [5, 5, 20],
    ] as const) {
      for (let i = 0; i < 64; i++) block.bytes[i] = i;
      const wanted = block.bytes.slice().copyWithin(to, from, from + length);
      expect(helper(202, dynptr.address, to, block.address + BigInt(from), length, 0)).toBe(0n);
      expect(block.bytes.slice()).toEqual(wanted);
    }
  });

  it('refuse flags, null dynptrs, writes to read-only ones, and more than 16 MiB', () => {
    const dynptr = memory.alloc(DYNPTR.BYTES);
    const at = memory.alloc(64).address;
    expect(helper(197, at, 64, 1, dynptr.address)).toBe(-22n);
    expect(helper(201, at, 1, dynptr.address, 0, 0)).toBe(-22n);
    expect(helper(203, dynptr.address, 0, 1)).toBe(0n);
    expect(helper(197, at, DYNPTR_MAX_SIZE + 1, 0, dynptr.address)).toBe(-7n);
    expect(helper(202, dynptr.address, 0, at, 1, 0)).toBe(-22n);
    expect(helper(197, at, 64, 0, dynptr.address)).toBe(0n);
    const view = new DataView(dynptr.bytes.buffer, dynptr.bytes.byteOffset);
    expect(view.getUint32(DYNPTR.SIZE, true)).toBe((DYNPTR_TYPE.LOCAL << DYNPTR_TYPE_SHIFT) | 64);
    expect(helper(201, at, 1, dynptr.address, 0, 1)).toBe(-22n);
    expect(helper(201, at, 0xffffffff, dynptr.address, 0xffffffff, 0)).toBe(-7n);
    view.setUint32(DYNPTR.SIZE, (DYNPTR_RDONLY | 64) >>> 0, true);
    expect(helper(202, dynptr.address, 0, at, 1, 0)).toBe(-22n);
    expect(helper(203, dynptr.address, 0, 1)).toBe(0n);
    expect(helper(201, at, 1, dynptr.address, 0, 0)).toBe(0n);
  });
});

describe('spin locks', () => {
  it('are held until they are unlocked', () => {
    const lock = memory.alloc(8);
    const word = new Uint32Array(lock.bytes.buffer, lock.bytes.byteOffset, 2);
    expect(helper(93, lock.address)).toBe(0n);
    expect([...word]).toEqual([1, 0]);
    expect(helper(94, lock.address)).toBe(0n);
    expect([...word]).toEqual([0, 0]);
  });

  it('are taken over from a holder that never comes back, within seconds', () => {
    const lock = memory.alloc(8);
    lock.bytes[0] = 1;
    const start = performance.now();
    expect(helper(93, lock.address)).toBe(0n);
    expect(performance.now() - start).toBeLessThan(5_000);
    expect(lock.bytes[0]).toBe(1);
  });
});

describe('task storage', () => {
  const create = (valueSize: number) =>
    createMap(
      {
        type: MAP_TYPE.TASK_STORAGE,
        keySize: 4,
        valueSize,
        maxEntries: 0,
        flags: MAP_FLAG.NO_PREALLOC,
        name: 't',
      },
      1,
      memory,
    );

  it('gives a thread its value once it made it, and the reader too, until one of them deletes it', () => {
    const first = memory.alloc(32);
    for (const valueSize of [1, 8, 12]) {
      const map = create(valueSize);
      expect(helper(156, map.address, 0, 0, 0)).toBe(0n);
      expect(helper(156, map.address, 0, 0, 2)).toBe(0n);
      first.bytes.fill(7);
      const at = helper(156, map.address, 0, first.address, 1);
      expect(at).toBeGreaterThan(0n);
      expect(helper(156, map.address, 0, 0, 0)).toBe(at);
      expect(helper(156, map.address, 0, first.address, 1)).toBe(at);
      const [entry] = [...map.entries()];
      expect(entry!.value).toEqual(new Uint8Array(valueSize).fill(7));
      map.update(entry!.key, new Uint8Array(valueSize).fill(9));
      expect(memory.bytesFrom(at).slice(0, valueSize)).toEqual(new Uint8Array(valueSize).fill(9));
      expect(helper(157, map.address, 0)).toBe(0n);
      expect(helper(157, map.address, 0)).toBe(-2n);
      expect([...map.entries()]).toEqual([]);
      expect(helper(156, map.address, 0, 0, 1)).toBe(at);
      expect(map.lookup(entry!.key)).toEqual(new Uint8Array(valueSize));
      map.delete(entry!.key);
      expect(helper(156, map.address, 0, 0, 0)).toBe(0n);
      expect(() => map.delete(keyOfIndex(1))).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    }
  });

  it('gives a thread nothing of the one that had its slot before', () => {
    const map = create(8);
    const at = helper(156, map.address, 0, 0, 1);
    // As if another thread had claimed the block since.
    const bytes = memory.bytesFrom(table + BigInt(TABLE.blocks));
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    let changed = 0;
    for (let i = 0; i < BLOCKS; i++) {
      const claim = view.getBigUint64(i * BLOCK_SIZE + THREAD.claim, true);
      if (claim === 0n) continue;
      view.setBigUint64(i * BLOCK_SIZE + THREAD.claim, claim + 100n, true);
      changed++;
    }
    expect(changed).toBe(1);
    expect(helper(156, map.address, 0, 0, 0)).toBe(0n);
    expect(helper(157, map.address, 0)).toBe(-2n);
    memory.bytesFrom(at)[0] = 42;
    expect(helper(156, map.address, 0, 0, 1)).toBe(at);
    expect(memory.bytesFrom(at)[0]).toBe(0);
    expect(at - map.address).toBeGreaterThanOrEqual(BigInt(ARRAY.VALUES + STORAGE.VALUE));
  });
});

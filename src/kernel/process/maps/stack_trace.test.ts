import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import { callCode } from '../../../ffi/libc.js';
import { keyOfIndex } from './array.js';
import { RoutinesInMemory, randomNumbers, SharedMemory } from './fixture.js';
import { type BpfMap, createMap } from './map.js';
import { STACKID } from './stack_trace_code.js';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const EFAULT = -14n;
const EEXIST = -17n;

let code: RoutinesInMemory;
let memory: SharedMemory;

beforeAll(() => {
  code = new RoutinesInMemory();
  memory = new SharedMemory(4 << 20);
});

afterAll(() => {
  memory[Symbol.dispose]();
  code[Symbol.dispose]();
});

function create(depth: number, maxEntries: number): BpfMap {
  const type = MAP_TYPE.STACK_TRACE;
  return createMap({ type, keySize: 4, valueSize: depth * 8, maxEntries, name: 's' }, 1, memory);
}

function store(map: BpfMap, ips: bigint[], flags = 0): bigint {
  const block = memory.alloc(8 * Math.max(1, ips.length));
  new BigUint64Array(block.bytes.buffer, block.bytes.byteOffset, ips.length).set(ips);
  const at = code.address(code.routines.stackMapStore);
  return BigInt.asIntN(64, callCode(at, map.address, block.address, ips.length, flags));
}

function value(ips: bigint[], depth: number): Uint8Array {
  const words = new BigUint64Array(depth);
  words.set(ips.slice(0, depth));
  return new Uint8Array(words.buffer);
}

describe('a stack trace map', () => {
  it(`gives each stack an id under which it is found: seed ${seed}`, () => {
    const random = randomNumbers(seed);
    const depth = 6;
    const map = create(depth, 256);
    const known = new Map<bigint, bigint[]>();
    let collisions = 0;
    for (let i = 0; i < 300; i++) {
      const ips = Array.from({ length: 1 + random(9) }, () => 0x7f00_0000_0000n + BigInt(random(1000)));
      const id = store(map, ips);
      if (id === EEXIST) {
        collisions++;
        continue;
      }
      expect(id).toBeGreaterThanOrEqual(0n);
      expect(id).toBeLessThan(256n);
      // The same addresses have the same id, others another.
      const same = known.get(id)?.slice(0, depth);
      if (same !== undefined) expect(same).toEqual(ips.slice(0, depth));
      known.set(id, ips);
      // Again, and without comparing: the same.
      expect(store(map, ips)).toBe(id);
      expect(store(map, ips, STACKID.FAST_STACK_CMP)).toBe(id);
    }
    expect(collisions).toBeGreaterThan(0);
    for (const [id, ips] of known) expect(map.lookup(keyOfIndex(Number(id)))).toEqual(value(ips, depth));
    expect([...map.entries()].length).toBe(known.size);
    for (const [id] of known) map.delete(keyOfIndex(Number(id)));
    expect(map.nextKey()).toBeUndefined();
    const [first] = known.keys();
    expect(() => map.delete(keyOfIndex(Number(first)))).toThrow(expect.objectContaining({ code: 'ENOENT' }));
  });

  it('replaces another stack where it is told to, as often as one likes', () => {
    const map = create(3, 1);
    for (let i = 1n; i < 500n; i++) {
      expect(store(map, [i], STACKID.REUSE_STACKID)).toBe(0n);
      expect(map.lookup(keyOfIndex(0))).toEqual(value([i], 3));
      expect(store(map, [i, i])).toBe(EEXIST);
    }
  });

  it('refuses an empty stack, writes, and keys beyond its ids', () => {
    const map = create(3, 5);
    expect(store(map, [])).toBe(EFAULT);
    expect(() => map.update(keyOfIndex(0), value([], 3))).toThrow(/bpf_get_stackid/);
    expect(map.lookup(keyOfIndex(8))).toBeUndefined();
    const bad = { type: MAP_TYPE.STACK_TRACE, keySize: 4, maxEntries: 5, name: 's' };
    expect(() => createMap({ ...bad, valueSize: 12 }, 1, memory)).toThrow(/multiple of 8/);
    expect(() => createMap({ ...bad, valueSize: 128 * 8 }, 1, memory)).toThrow(/127/);
  });
});

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_FLAG, MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import type { Arena, Block } from '../region/arena.js';
import { indexOfKey, keyOfIndex } from './array.js';
import { ProgramSide, RoutinesInMemory, SharedMemory } from './fixture.js';
import { type BpfMap, createMap, type MapAttributes } from './map.js';
import { ProgArray, type TailCallee } from './prog_array.js';

let code: RoutinesInMemory;
let memory: SharedMemory;
let program: ProgramSide;
let freed: bigint[];
let arena: Arena;

beforeAll(() => {
  code = new RoutinesInMemory();
  memory = new SharedMemory(4 << 20);
  program = new ProgramSide(code, memory);
  freed = [];
  arena = {
    alloc: (size, align) => memory.alloc(size, align),
    free: (block: Block) => {
      freed.push(block.address);
    },
  };
});

afterAll(() => {
  memory[Symbol.dispose]();
  code[Symbol.dispose]();
});

const inner: MapAttributes = { type: MAP_TYPE.HASH, keySize: 4, valueSize: 8, maxEntries: 4, name: 'inner' };
let id = 0;

function create(attr: Partial<MapAttributes>): BpfMap {
  id++;
  return createMap({ ...inner, ...attr }, id, arena);
}

for (const [type, what, lookup] of [
  [MAP_TYPE.ARRAY_OF_MAPS, 'an array of maps', 'arrayOfMapsLookup'],
  [MAP_TYPE.HASH_OF_MAPS, 'a hash of maps', 'hashOfMapsLookup'],
] as const) {
  describe(what, () => {
    const outerOf = (shape: BpfMap): BpfMap => create({ type, valueSize: 4, name: 'outer', innerMap: shape });

    it('gives programs the inner map, and readers its id', () => {
      const [a, b] = [create({}), create({})];
      const outer = outerOf(a!);
      const key = keyOfIndex(2);
      expect(program.lookupAddress(lookup, outer, { key })).toBe(0n);
      expect(outer.lookup(key)).toBeUndefined();
      for (const map of [a!, b!, a!]) {
        outer.updateObject!(key, map);
        expect(program.lookupAddress(lookup, outer, { key })).toBe(map.address);
        expect(indexOfKey(outer.lookup(key)!)).toBe(map.id);
      }
      expect([...outer.entries()].map(entry => indexOfKey(entry.value))).toEqual([a!.id]);
      outer.delete(key);
      expect(program.lookupAddress(lookup, outer, { key })).toBe(0n);
      expect(() => outer.delete(key)).toThrow(expect.objectContaining({ code: 'ENOENT' }));
      expect(program.lookupAddress(lookup, outer, { key: keyOfIndex(4) })).toBe(0n);
    });

    it('takes no map of another shape, and no bytes', () => {
      const outer = outerOf(create({}));
      for (const [other, message] of [
        [create({ keySize: 8 }), /key size is 8, not 4/],
        [create({ valueSize: 4 }), /value size/],
        [create({ type: MAP_TYPE.ARRAY }), /type/],
        [create({ flags: MAP_FLAG.NO_PREALLOC }), /flags/],
      ] as const) {
        expect(() => outer.updateObject!(keyOfIndex(0), other)).toThrow(message);
      }
      // The number of entries may differ, but for arrays.
      outer.updateObject!(keyOfIndex(0), create({ maxEntries: 100 }));
      const arrays = outerOf(create({ type: MAP_TYPE.ARRAY }));
      const longer = create({ type: MAP_TYPE.ARRAY, maxEntries: 5 });
      expect(() => arrays.updateObject!(keyOfIndex(0), longer)).toThrow(/number of entries/);
      expect(() => outer.update(keyOfIndex(0), keyOfIndex(1))).toThrow(/updateObject/);
      expect(() => outerOf(outer)).toThrow(/nest once/);
      expect(() => create({ type, valueSize: 4, name: 'outer' })).toThrow(
        expect.objectContaining({ code: 'EBADF' }),
      );
    });

    it('keeps an inner map for programs until it is out and the outer one freed', () => {
      const map = create({});
      const outer = outerOf(create({}));
      outer.updateObject!(keyOfIndex(0), map);
      outer.updateObject!(keyOfIndex(1), map);
      map.free();
      expect(freed).not.toContain(map.address);
      outer.delete(keyOfIndex(0));
      outer.delete(keyOfIndex(1));
      // A program may have looked it up just before.
      expect(freed).not.toContain(map.address);
      outer.free();
      expect(freed.filter(address => address === map.address)).toHaveLength(1);
      expect(freed.filter(address => address === outer.address)).toHaveLength(1);
      map.free();
      expect(freed.filter(address => address === map.address)).toHaveLength(1);
    });

    it('lets go of an inner map when told that no program can hold it', () => {
      const waiting: (() => void)[] = [];
      id++;
      const map = create({});
      const attr = { ...inner, type, valueSize: 4, name: 'outer', innerMap: create({}) };
      const outer = createMap(attr, id, arena, { retire: free => waiting.push(free) });
      outer.updateObject!(keyOfIndex(0), map);
      map.free();
      outer.updateObject!(keyOfIndex(0), create({}));
      expect(freed).not.toContain(map.address);
      for (const free of waiting) free();
      expect(freed).toContain(map.address);
    });
  });
}

describe('a program array', () => {
  const callee = (attr: Partial<TailCallee>): TailCallee => ({
    id: 9,
    name: 'callee',
    attachType: 'fentry',
    accessedArgs: [],
    jitedSize: 1,
    free: () => {},
    tailEntry: 0x1234n,
    context: { layout: 'prototype', words: 6 },
    ...attr,
  });

  it('holds entries for programs and ids for readers', () => {
    const map = createMap({ ...inner, type: MAP_TYPE.PROG_ARRAY, valueSize: 4 }, 1, arena) as ProgArray;
    const key = keyOfIndex(1);
    const entry = (): bigint => {
      const bytes = memory.bytesFrom(map.values);
      return new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(8, true);
    };
    expect(entry()).toBe(0n);
    map.updateObject(key, callee({}));
    expect(entry()).toBe(0x1234n);
    expect(indexOfKey(map.lookup(key)!)).toBe(9);
    expect(map.lookup(keyOfIndex(0))).toBeUndefined();
    map.delete(key);
    expect(entry()).toBe(0n);
    expect(() => map.delete(key)).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    expect(() => map.updateObject(keyOfIndex(4), callee({}))).toThrow(
      expect.objectContaining({ code: 'E2BIG' }),
    );
    expect(() => map.updateObject(key, callee({}), UPDATE.NOEXIST)).toThrow(
      expect.objectContaining({ code: 'EEXIST' }),
    );
  });

  it('takes programs of one kind only', () => {
    const map = createMap({ ...inner, type: MAP_TYPE.PROG_ARRAY, valueSize: 4 }, 1, arena) as ProgArray;
    map.accept({ name: 'caller', attachType: 'fentry', context: { layout: 'prototype', words: 6 } });
    map.updateObject(keyOfIndex(0), callee({}));
    expect(() => map.updateObject(keyOfIndex(1), callee({ attachType: 'fexit' }))).toThrow(/one kind/);
    expect(() =>
      map.updateObject(keyOfIndex(1), callee({ context: { layout: 'prototype', words: 2 } })),
    ).toThrow(/one kind/);
    expect(() => map.updateObject(keyOfIndex(1), createMap(inner, 2, arena))).toThrow(/must be a program/);
    expect(map).toBeInstanceOf(ProgArray);
  });
});

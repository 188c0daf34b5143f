import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_FLAG, MAP_TYPE, mapTypeName, UPDATE } from '../../../bpf/map_type.js';
import { Btf } from '../../../btf/btf.js';
import { BtfBuilder } from '../../../btf/builder.js';
import { BpfError, type ErrnoName } from '../../errno.js';
import type { ArrayMap } from './array.js';
import { keyOfIndex } from './array.js';
import { ProgramSide, RoutinesInMemory, SharedMemory } from './fixture.js';
import { createMap, type MapAttributes } from './map.js';
import { mapRoutineFor } from './routines.js';
import { spinLockOffset } from './value_fields.js';

const base: MapAttributes = { type: MAP_TYPE.HASH, keySize: 4, valueSize: 8, maxEntries: 4, name: 'm' };

let memory: SharedMemory;
let code: RoutinesInMemory;
let program: ProgramSide;

beforeAll(() => {
  memory = new SharedMemory(16 << 20);
  code = new RoutinesInMemory();
  program = new ProgramSide(code, memory);
});

afterAll(() => {
  memory[Symbol.dispose]();
  code[Symbol.dispose]();
});

function codeOf(operation: () => unknown): ErrnoName | undefined {
  try {
    operation();
    return undefined;
  } catch (error) {
    if (!(error instanceof BpfError)) throw error;
    expect(error.message).toMatch(/^[A-Z].*\.$/);
    return error.code;
  }
}

const {
  NO_PREALLOC,
  NO_COMMON_LRU,
  RDONLY,
  WRONLY,
  RDONLY_PROG,
  WRONLY_PROG,
  MMAPABLE,
  ZERO_SEED,
  INNER_MAP,
} = MAP_FLAG;

describe('creation, as the kernel does it', () => {
  const rows: [string, Partial<MapAttributes>, ErrnoName | undefined][] = [
    ['an LRU hash', { type: MAP_TYPE.LRU_HASH }, undefined],
    ['an LRU hash with BPF_F_NO_COMMON_LRU', { type: MAP_TYPE.LRU_HASH, flags: NO_COMMON_LRU }, undefined],
    ['an LRU hash with BPF_F_NO_PREALLOC', { type: MAP_TYPE.LRU_HASH, flags: NO_PREALLOC }, 'EINVAL'],
    ['a hash with BPF_F_NO_COMMON_LRU', { flags: NO_COMMON_LRU }, 'EINVAL'],
    ['a hash with BPF_F_ZERO_SEED', { flags: ZERO_SEED }, undefined],
    ['an array with BPF_F_ZERO_SEED', { type: MAP_TYPE.ARRAY, flags: ZERO_SEED }, 'EINVAL'],
    ['an array with BPF_F_INNER_MAP', { type: MAP_TYPE.ARRAY, flags: INNER_MAP }, undefined],
    ['a per-CPU array', { type: MAP_TYPE.PERCPU_ARRAY }, undefined],
    ['a per-CPU array that is mmapable', { type: MAP_TYPE.PERCPU_ARRAY, flags: MMAPABLE }, 'EINVAL'],
    ['a per-CPU array of 64-bit keys', { type: MAP_TYPE.PERCPU_ARRAY, keySize: 8 }, 'EINVAL'],
    ['a hash that is mmapable', { flags: MMAPABLE }, 'EINVAL'],
    ['a map that programs may neither read nor write', { flags: RDONLY_PROG | WRONLY_PROG }, 'EINVAL'],
    ['a queue with a key', { type: MAP_TYPE.QUEUE }, 'EINVAL'],
    ['a queue', { type: MAP_TYPE.QUEUE, keySize: 0 }, undefined],
    ['a stack', { type: MAP_TYPE.STACK, keySize: 0 }, undefined],
    ['a stack without entries', { type: MAP_TYPE.STACK, keySize: 0, maxEntries: 0 }, 'EINVAL'],
    ['a bloom filter with a key', { type: MAP_TYPE.BLOOM_FILTER }, 'EINVAL'],
    ['a hash with map_extra', { mapExtra: 1n }, 'EINVAL'],
    ['an LPM trie', { type: MAP_TYPE.LPM_TRIE, keySize: 8, flags: NO_PREALLOC }, undefined],
    ['an LPM trie that is preallocated', { type: MAP_TYPE.LPM_TRIE, keySize: 8 }, 'EINVAL'],
    ['an LPM trie without data', { type: MAP_TYPE.LPM_TRIE, keySize: 4, flags: NO_PREALLOC }, 'EINVAL'],
    ['an LPM trie with 257 bytes', { type: MAP_TYPE.LPM_TRIE, keySize: 261, flags: NO_PREALLOC }, 'EINVAL'],
    ['a program array', { type: MAP_TYPE.PROG_ARRAY, valueSize: 4 }, undefined],
    ['a program array of 64-bit values', { type: MAP_TYPE.PROG_ARRAY }, 'EINVAL'],
    [
      'a program array that programs can not write',
      { type: MAP_TYPE.PROG_ARRAY, valueSize: 4, flags: RDONLY_PROG },
      'EINVAL',
    ],
    ['task storage', { type: MAP_TYPE.TASK_STORAGE, maxEntries: 0, flags: NO_PREALLOC }, undefined],
    ['task storage with entries', { type: MAP_TYPE.TASK_STORAGE, flags: NO_PREALLOC }, 'EINVAL'],
    ['task storage that is preallocated', { type: MAP_TYPE.TASK_STORAGE, maxEntries: 0 }, 'EINVAL'],
    ['a map of maps without an inner map', { type: MAP_TYPE.HASH_OF_MAPS, valueSize: 4 }, 'EBADF'],
    ['a per-CPU array that is too large', { type: MAP_TYPE.PERCPU_ARRAY, maxEntries: 2 ** 23 }, 'E2BIG'],
    [
      'a ring buffer where none can be mapped',
      { type: MAP_TYPE.RINGBUF, keySize: 0, valueSize: 0, maxEntries: 4096 },
      'EOPNOTSUPP',
    ],
    ['a map of type 0', { type: 0 }, 'EINVAL'],
    ...(
      [
        MAP_TYPE.CGROUP_ARRAY,
        MAP_TYPE.SOCKMAP,
        MAP_TYPE.STRUCT_OPS,
        MAP_TYPE.INODE_STORAGE,
        MAP_TYPE.ARENA,
      ] as const
    ).map((type): [string, Partial<MapAttributes>, ErrnoName] => [
      `a ${mapTypeName(type)}`,
      { type },
      'EOPNOTSUPP',
    ]),
  ];
  for (const [what, attr, wanted] of rows) {
    it(`${wanted === undefined ? 'makes' : `refuses with ${wanted}`} ${what}`, () => {
      expect(codeOf(() => createMap({ ...base, ...attr }, 1, memory))).toBe(wanted);
    });
  }
});

describe('who may do what', () => {
  it('is nobody on our side who writes a frozen map; programs still do', () => {
    for (const type of [MAP_TYPE.ARRAY, MAP_TYPE.HASH, MAP_TYPE.PERCPU_ARRAY]) {
      const map = createMap({ ...base, type, maxEntries: 4 }, 1, memory);
      const value = new Uint8Array(map.lookup(keyOfIndex(0))?.length ?? 8);
      map.update(keyOfIndex(0), value);
      expect(map.frozen).toBe(false);
      map.freeze();
      expect(map.frozen).toBe(true);
      expect(codeOf(() => map.update(keyOfIndex(0), value))).toBe('EPERM');
      expect(codeOf(() => map.freeze())).toBe('EBUSY');
      expect(map.lookup(keyOfIndex(0))).toEqual(value);
      const args = { key: keyOfIndex(0), value: new Uint8Array(8).fill(3) };
      expect(program.change(mapRoutineFor(type, 'update')!, map, args)).toBe(0n);
      expect(map.lookup(keyOfIndex(0))!.slice(0, 8)).toEqual(args.value);
    }
    const hash = createMap(base, 1, memory);
    hash.freeze();
    expect(codeOf(() => hash.delete(keyOfIndex(0)))).toBe('EPERM');
    expect(codeOf(() => hash.lookupAndDelete(keyOfIndex(0)))).toBe('EPERM');
  });

  it('is said by BPF_F_RDONLY and BPF_F_WRONLY', () => {
    const readOnly = createMap({ ...base, flags: RDONLY }, 1, memory);
    expect(codeOf(() => readOnly.update(keyOfIndex(0), new Uint8Array(8)))).toBe('EPERM');
    expect(codeOf(() => readOnly.lookup(keyOfIndex(0)))).toBeUndefined();
    const writeOnly = createMap({ ...base, type: MAP_TYPE.ARRAY, flags: WRONLY }, 1, memory);
    expect(codeOf(() => writeOnly.update(keyOfIndex(0), new Uint8Array(8)))).toBeUndefined();
    expect(codeOf(() => writeOnly.lookup(keyOfIndex(0)))).toBe('EPERM');
  });

  it('reads constants of a frozen map that programs can not write, and of no other', () => {
    const attr = { ...base, type: MAP_TYPE.ARRAY, valueSize: 10, maxEntries: 2 };
    const map = createMap({ ...attr, flags: RDONLY_PROG }, 1, memory) as ArrayMap;
    const value = Uint8Array.from({ length: 10 }, (_, i) => i + 1);
    map.update(keyOfIndex(1), value);
    expect(map.readConstant(16, 4)).toBeUndefined();
    map.freeze();
    expect(map.readConstant(16, 4)).toEqual(value.slice(0, 4));
    expect(map.readConstant(24, 2)).toEqual(value.slice(8));
    for (const [offset, size] of [
      [24, 3],
      [8, 8],
      [30, 4],
      [32, 1],
      [-1, 1],
    ] as const) {
      expect(map.readConstant(offset, size)).toBeUndefined();
    }
    const writable = createMap(attr, 1, memory) as ArrayMap;
    writable.freeze();
    expect(writable.readConstant(0, 4)).toBeUndefined();
  });

  it('shares the memory of an mmapable array', () => {
    const map = createMap({ ...base, type: MAP_TYPE.ARRAY, flags: MMAPABLE }, 1, memory);
    map.memory![8] = 7;
    expect(map.lookup(keyOfIndex(1))![0]).toBe(7);
    expect(createMap({ ...base, type: MAP_TYPE.ARRAY }, 1, memory).memory).toBeUndefined();
  });
});

describe('a spin lock in a value', () => {
  function lockedTypes(lockFirst: boolean): { btf: Btf; id: number } {
    const builder = new BtfBuilder();
    const u32 = builder.addInt('unsigned int', 4);
    const member = (name: string, type: number, at: number) => ({
      name,
      type,
      bitOffset: at * 8,
      bitSize: 0,
    });
    const lock = builder.addStruct('bpf_spin_lock', 4, [member('val', u32, 0)]);
    const fields = lockFirst
      ? [member('lock', lock, 0), member('a', u32, 4), member('b', u32, 8)]
      : [member('a', u32, 0), member('lock', lock, 4), member('b', u32, 8)];
    const outer = builder.addStruct('element', 12, fields);
    return { btf: Btf.parse(builder.build()), id: outer };
  }

  for (const type of [MAP_TYPE.ARRAY, MAP_TYPE.HASH]) {
    for (const lockFirst of [true, false]) {
      it(`stays as it is when a value of type ${type} is written, and is not read: lock ${lockFirst ? 'first' : 'second'}`, () => {
        const { btf, id } = lockedTypes(lockFirst);
        const at = lockFirst ? 0 : 4;
        expect(spinLockOffset(btf, id)).toBe(at);
        const map = createMap({ ...base, type, valueSize: 12, btf, btfValueTypeId: id }, 1, memory);
        const key = keyOfIndex(1);
        const all = new Uint8Array(12).fill(0xff);
        const shown = all.slice().fill(0, at, at + 4);
        const lookup = mapRoutineFor(type, 'lookup')!;
        for (const side of ['reader', 'program'] as const) {
          if (side === 'reader') map.update(key, all);
          else expect(program.change(mapRoutineFor(type, 'update')!, map, { key, value: all })).toBe(0n);
          expect(map.lookup(key)).toEqual(shown);
          expect(program.lookup(lookup, map, { key }, 12)).toEqual(shown);
        }
        if (type !== MAP_TYPE.ARRAY) return;
        // Held by a program: it stays held.
        const value = program.lookupAddress(lookup, map, { key });
        memory.bytesFrom(value)[at] = 1;
        map.update(key, all);
        expect(program.change('arrayUpdate', map, { key, value: all, flags: UPDATE.EXIST })).toBe(0n);
        expect(memory.bytesFrom(value).slice(at, at + 4)).toEqual(Uint8Array.of(1, 0, 0, 0));
        expect(map.lookup(key)).toEqual(shown);
      });
    }
  }
});

it('the routines of all maps take a small part of the code region', () => {
  expect(code.size).toBeLessThanOrEqual(12 << 10);
});

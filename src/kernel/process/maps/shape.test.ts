/** A map that is only a shape is refused where the real one is, and says of its constants what the real one does. */

import { describe, expect, test } from 'vitest';
import { MAP_FLAG, MAP_TYPE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import type { BpfProg, MapCreateAttr } from '../../kernel.js';
import { mapRingHere } from '../region/ring_region.js';
import { SharedMemory } from './fixture.js';
import { createMap } from './map.js';
import { MapShape } from './shape.js';

const ATTR = { name: 'm', keySize: 4, valueSize: 8, maxEntries: 4, flags: 0 };
const KEY = new Uint8Array(4);

/** The errno with which `make` is refused; `undefined` where it is not. */
function codeOf(make: () => unknown): string | undefined {
  try {
    make();
    return undefined;
  } catch (cause) {
    if (cause instanceof BpfError) return cause.code;
    throw cause;
  }
}

function isInner(type: number): boolean {
  return type === MAP_TYPE.ARRAY_OF_MAPS || type === MAP_TYPE.HASH_OF_MAPS;
}

describe.each(Object.entries(MAP_TYPE))('%s', (_name, type) => {
  const variants: Partial<MapCreateAttr>[] = [
    {},
    { keySize: 0 },
    { keySize: 0, valueSize: 0, maxEntries: 4096 },
    { keySize: 0, valueSize: 0, maxEntries: 4097 },
    { keySize: 0, valueSize: 0, maxEntries: 2 ** 31 },
    { valueSize: 0 },
    { valueSize: 4 },
    { valueSize: 7 },
    { maxEntries: 0 },
    { maxEntries: 0, flags: MAP_FLAG.NO_PREALLOC },
    { flags: MAP_FLAG.NO_PREALLOC },
    { keySize: 12, flags: MAP_FLAG.NO_PREALLOC },
    { flags: MAP_FLAG.MMAPABLE },
    { flags: MAP_FLAG.RDONLY_PROG | MAP_FLAG.WRONLY_PROG },
    { flags: 1 << 30 },
    { name: 'a name that is far too long' },
    { valueSize: 8 << 20 },
    { mapExtra: 3n },
  ];

  test('takes and refuses what the real map does', () => {
    using memory = new SharedMemory(4 << 20);
    for (const variant of variants) {
      const attr: MapCreateAttr = { ...ATTR, type, ...variant };
      const inner = { ...ATTR, type: MAP_TYPE.ARRAY };
      const real = codeOf(() => {
        const innerMap = isInner(type) ? { innerMap: createMap(inner, 1, memory) } : {};
        createMap({ ...attr, ...innerMap }, 2, memory, { mapRing: mapRingHere }).free();
      });
      const shape = codeOf(() => {
        const innerMap = isInner(type) ? { innerMap: new MapShape(inner, 1) } : {};
        return new MapShape({ ...attr, ...innerMap }, 2);
      });
      expect(
        shape,
        JSON.stringify(variant, (_, v) => (typeof v === 'bigint' ? `${v}` : v)),
      ).toBe(real);
    }
  });
});

describe('global data', () => {
  const data = { ...ATTR, type: MAP_TYPE.ARRAY, maxEntries: 1, flags: MAP_FLAG.MMAPABLE };
  const constants = { ...data, flags: MAP_FLAG.MMAPABLE | MAP_FLAG.RDONLY_PROG };

  test('is constant once it is frozen and read-only for programs', () => {
    const map = new MapShape(constants, 1);
    map.update(KEY, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    expect(map.readConstant(0, 8)).toBeUndefined();
    map.freeze();
    expect(map.readConstant(2, 4)).toEqual(Uint8Array.of(3, 4, 5, 6));
    expect(map.readConstant(6, 4)).toBeUndefined();
    expect(map.readConstant(-1, 2)).toBeUndefined();
    expect(codeOf(() => map.update(KEY, new Uint8Array(8)))).toBe('EPERM');
  });

  test('that programs write is never constant', () => {
    const map = new MapShape(data, 1);
    map.freeze();
    expect(map.readConstant(0, 8)).toBeUndefined();
  });

  test('is the only thing that is held', () => {
    expect(codeOf(() => new MapShape({ ...data, maxEntries: 2 }, 1).update(KEY, new Uint8Array(8)))).toBe(
      'EOPNOTSUPP',
    );
  });
});

describe('values that are objects', () => {
  const inner = { ...ATTR, type: MAP_TYPE.ARRAY };
  const prog: BpfProg = {
    id: 9,
    name: 'p',
    attachType: 'fentry',
    accessedArgs: [],
    jitedSize: 0,
    free: () => {},
  };

  test('maps fit into maps of maps, or not', () => {
    const outer = new MapShape(
      { ...ATTR, type: MAP_TYPE.ARRAY_OF_MAPS, valueSize: 4, innerMap: new MapShape(inner, 1) },
      2,
    );
    outer.updateObject(KEY, new MapShape(inner, 3));
    expect(codeOf(() => outer.updateObject(KEY, new MapShape({ ...inner, valueSize: 16 }, 4)))).toBe(
      'EINVAL',
    );
    expect(codeOf(() => outer.updateObject(KEY, prog))).toBe('EINVAL');
    expect(codeOf(() => outer.updateObject(Uint8Array.of(4, 0, 0, 0), new MapShape(inner, 5)))).toBe('E2BIG');
  });

  test('programs of an array are of one kind', () => {
    const array = new MapShape({ ...ATTR, type: MAP_TYPE.PROG_ARRAY, valueSize: 4 }, 1);
    array.updateObject(KEY, prog);
    expect(codeOf(() => array.updateObject(KEY, { ...prog, attachType: 'fexit' }))).toBe('EINVAL');
    expect(codeOf(() => array.updateObject(KEY, new MapShape(inner, 2)))).toBe('EINVAL');
  });
});

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_FLAG, MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import { asErrno, ProgramSide, RoutinesInMemory, randomNumbers, SharedMemory } from './fixture.js';
import { type BpfMap, createMap } from './map.js';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const ENOENT = -2n;
const EEXIST = -17n;
const EINVAL = -22n;
const ENOSPC = -28n;

let code: RoutinesInMemory;
let memory: SharedMemory;
let program: ProgramSide;

beforeAll(() => {
  code = new RoutinesInMemory();
  memory = new SharedMemory(4 << 20);
  program = new ProgramSide(code, memory);
});

afterAll(() => {
  memory[Symbol.dispose]();
  code[Symbol.dispose]();
});

function create(dataSize: number, valueSize: number, maxEntries: number): BpfMap {
  const type = MAP_TYPE.LPM_TRIE;
  return createMap(
    { type, keySize: 4 + dataSize, valueSize, maxEntries, flags: MAP_FLAG.NO_PREALLOC, name: 't' },
    1,
    memory,
  );
}

function keyOf(length: number, data: Uint8Array): Uint8Array {
  const key = new Uint8Array(4 + data.length);
  new DataView(key.buffer).setUint32(0, length, true);
  key.set(data, 4);
  return key;
}

/** The first `length` bits of data, as text. */
function bits(data: Uint8Array, length: number): string {
  return [...data]
    .map(byte => byte.toString(2).padStart(8, '0'))
    .join('')
    .slice(0, length);
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('an LPM trie', () => {
  for (const dataSize of [1, 2, 4, 5, 16, 256]) {
    it(`finds the longest prefix, from both sides: keys of ${dataSize} bytes, seed ${seed}`, () => {
      const random = randomNumbers(seed + dataSize);
      const maxEntries = 30;
      const valueSize = 12;
      const map = create(dataSize, valueSize, maxEntries);
      const model = new Map<string, Uint8Array>();
      const longest = dataSize * 8;
      // Few different bytes, so that prefixes meet.
      const someData = (): Uint8Array =>
        Uint8Array.from({ length: dataSize }, () => [0, 0x80, 0xff, 0xa5][random(4)]!);
      const someLength = (): number =>
        [0, 1, 7, 8, 9, 63, 64, 65, longest, longest - 1, random(longest + 1)][random(11)]! % (longest + 1);
      for (let i = 0; i < 3_000; i++) {
        const data = someData();
        const length = someLength();
        const key = keyOf(length, data);
        const name = bits(data, length);
        const ours = random(2) === 0;
        switch (random(4)) {
          case 0:
            expect(ours ? asErrno(() => map.delete(key)) : program.change('lpmDelete', map, { key })).toBe(
              model.has(name) ? 0n : ENOENT,
            );
            model.delete(name);
            break;
          case 1: {
            let wanted: Uint8Array | undefined;
            for (let n = length; n >= 0 && wanted === undefined; n--) wanted = model.get(name.slice(0, n));
            const got = ours ? map.lookup(key) : program.lookup('lpmLookup', map, { key }, valueSize);
            expect(got === undefined ? undefined : hex(got)).toBe(
              wanted === undefined ? undefined : hex(wanted),
            );
            break;
          }
          default: {
            const value = Uint8Array.from({ length: valueSize }, () => random(256));
            const flags = [UPDATE.ANY, UPDATE.NOEXIST, UPDATE.EXIST][random(3)]!;
            const there = model.has(name);
            const wanted =
              flags === UPDATE.NOEXIST && there
                ? EEXIST
                : flags === UPDATE.EXIST && !there
                  ? ENOENT
                  : !there && model.size === maxEntries
                    ? ENOSPC
                    : 0n;
            expect(
              ours
                ? asErrno(() => map.update(key, value, flags))
                : program.change('lpmUpdate', map, { key, value, flags }),
            ).toBe(wanted);
            if (wanted === 0n) model.set(name, value);
          }
        }
      }
      const listed = [...map.entries()].map(({ key, value }) => {
        const length = new DataView(key.buffer, key.byteOffset).getUint32(0, true);
        return `${bits(key.subarray(4), length)} ${hex(value)}`;
      });
      expect(listed.sort()).toEqual([...model].map(([name, value]) => `${name} ${hex(value)}`).sort());
    });
  }

  it('refuses prefixes that are longer than its keys', () => {
    const map = create(4, 4, 4);
    map.update(keyOf(0, new Uint8Array(4)), new Uint8Array(4));
    const key = keyOf(33, new Uint8Array(4));
    expect(map.lookup(key)).toBeUndefined();
    expect(program.lookup('lpmLookup', map, { key }, 4)).toBeUndefined();
    expect(asErrno(() => map.update(key, new Uint8Array(4)))).toBe(EINVAL);
    expect(program.change('lpmUpdate', map, { key, value: new Uint8Array(4) })).toBe(EINVAL);
    expect(asErrno(() => map.delete(key))).toBe(EINVAL);
    expect(program.change('lpmDelete', map, { key })).toBe(EINVAL);
  });
});

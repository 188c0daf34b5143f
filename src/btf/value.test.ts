import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readFloat, writeFloat } from './bits.js';
import { Btf } from './btf.js';
import { BtfBuilder } from './builder.js';
import { hasGcc, hasPahole, sectionOf, Workshop } from './fixture.js';
import { type BtfValue, decodeValue, encodeValue, formatValue } from './value.js';

const workshop = new Workshop();
afterAll(() => workshop.remove());

const TYPES = `
#include <stdint.h>
#include <string.h>
enum color { RED, GREEN = 5, BLUE = -3 };
struct point { short x, y; };
struct record {
  int8_t small; uint16_t port; int32_t number; uint64_t wide; int64_t negative;
  _Bool yes; char name[8]; char raw[4]; unsigned char bytes[3];
  float single; double real; long double longer;
  unsigned flags : 5; int shifted : 6; uint64_t many : 45; enum color tint : 4;
  enum color color; enum color unknown;
  struct point points[2];
  union { int as_int; unsigned char as_bytes[4]; } both;
  struct { int inner; union { int left; short right; }; };
  void *pointer; const char *none;
};
struct record record;
`;

/** The record that a real compiler made of the values below. */
const FILL = `
int main(void) {
  struct record r; memset(&r, 0, sizeof r);
  r.small = -5; r.port = 65535; r.number = -70000; r.wide = 0xfedcba9876543210ULL; r.negative = -9000000000LL;
  r.yes = 1; strcpy(r.name, "trace"); memcpy(r.raw, "\\1\\2\\3\\4", 4); memcpy(r.bytes, "abc", 3);
  r.single = 1.5f; r.real = -0.1; r.longer = 1234.5L;
  r.flags = 21; r.shifted = -17; r.many = 0x123456789abULL; r.tint = BLUE;
  r.color = GREEN; r.unknown = 42;
  r.points[0].x = 1; r.points[1].y = -2;
  r.both.as_int = 0x04030201;
  r.inner = 7; r.left = -1;
  r.pointer = (void *)0x7f0012345678; r.none = 0;
  return fwrite(&r, sizeof r, 1, stdout) != 1;
}`;

const VALUE: BtfValue = {
  small: -5,
  port: 65535,
  number: -70000,
  wide: 0xfedcba9876543210n,
  negative: -9000000000n,
  yes: true,
  name: 'trace',
  raw: Uint8Array.of(1, 2, 3, 4),
  bytes: [97, 98, 99],
  single: 1.5,
  real: -0.1,
  longer: 1234.5,
  flags: 21,
  shifted: -17,
  many: 0x123456789abn,
  tint: 'BLUE',
  color: 'GREEN',
  unknown: 42,
  points: [
    { x: 1, y: 0 },
    { x: 0, y: -2 },
  ],
  both: { as_int: 0x04030201, as_bytes: [1, 2, 3, 4] },
  inner: 7,
  left: -1,
  right: -1,
  pointer: 0x7f0012345678n,
  none: 0n,
};

describe.skipIf(!hasGcc || !hasPahole)('a value that a C program made', () => {
  let btf: Btf;
  let bytes: Uint8Array;
  let id = 0;
  beforeAll(() => {
    btf = Btf.parse(
      sectionOf(workshop.pahole(`${TYPES}int user(struct record *r) { return r->small; }`), '.BTF'),
    );
    id = btf.find('record', 'struct')!;
    const source = join(workshop.folder, 'fill.c');
    writeFileSync(source, `#include <stdio.h>\n${TYPES}${FILL}`);
    execFileSync('gcc', ['-o', join(workshop.folder, 'fill'), source]);
    bytes = execFileSync(join(workshop.folder, 'fill'));
  });

  it('is read member by member', () => {
    expect(decodeValue(btf, id, bytes)).toEqual(VALUE);
  });

  it('is written back the same', () => {
    expect(Buffer.from(encodeValue(btf, id, VALUE)).toString('hex')).toBe(Buffer.from(bytes).toString('hex'));
  });

  it('is printed as C initializes it', () => {
    expect(formatValue(btf, id, bytes, { skipZero: true })).toBe(
      '{ .small = -5, .port = 65535, .number = -70000, .wide = 18364758544493064720, .negative = -9000000000, ' +
        `.yes = true, .name = "trace", .raw = { 1, 2, 3, 4 }, .bytes = { 97, 98, 99 }, .single = 1.5, ` +
        '.real = -0.1, .longer = 1234.5, .flags = 21, .shifted = -17, .many = 1250999896491, .tint = BLUE, ' +
        '.color = GREEN, .unknown = 42, .points = { { .x = 1 }, { .y = -2 } }, ' +
        '.both = { .as_int = 67305985, .as_bytes = { 1, 2, 3, 4 } }, .inner = 7, .left = -1, .right = -1, ' +
        '.pointer = 0x7f0012345678 }'.replace(
          '.points = { { .x = 1, .y = 0 }',
          '.points = { { .x = 1, .y = 0 }',
        ),
    );
    expect(formatValue(btf, btf.find('point')!, Uint8Array.of(1, 0, 2, 0), { indent: '  ' })).toBe(
      '{\n  .x = 1,\n  .y = 2,\n}',
    );
  });

  it('has zeros for what is left out', () => {
    expect(decodeValue(btf, id, encodeValue(btf, id, { port: 1, points: [{ y: 3 }] }))).toMatchObject({
      port: 1,
      number: 0,
      name: '',
      points: [
        { x: 0, y: 3 },
        { x: 0, y: 0 },
      ],
    });
  });

  const refusals: [string, BtfValue, string][] = [
    ['a member that there is not', { nope: 1 }, 'member nope is not one of struct record'],
    ['a number that is too large', { port: 65536 }, 'member port has 16 bits, which 65536 does not fit into'],
    ['a bitfield that is too large', { flags: 32 }, 'member flags has 5 bits'],
    ['no whole number', { number: 1.5 }, 'member number is a whole number, not 1.5'],
    ['text for a number', { number: 'x' }, 'member number is a whole number, not "x"'],
    ['text that is too long', { name: '12345678' }, 'member name has room for 8 bytes, and is given 9'],
    ['too many elements', { bytes: [1, 2, 3, 4] }, 'member bytes has 3 elements, and is given 4'],
    ['an enum without the name', { color: 'PINK' }, 'member color is "PINK", which enum color does not have'],
    ['a number for a struct', { points: [3] }, 'member points[0] is a struct, not 3'],
    ['no number in an array', { points: [{}, { y: 'a' }] }, 'member points[1].y is a whole number'],
    ['a struct', 7, 'the value is a struct, not 7'],
    ['a float', { real: 1n }, 'member real is a floating-point number'],
  ];
  it.each(refusals)('is refused: %s', (_, value, message) => {
    expect(() => encodeValue(btf, id, value)).toThrow(message);
  });

  it('needs all of its bytes', () => {
    expect(() => decodeValue(btf, id, bytes.subarray(1))).toThrow('there are only');
  });
});

describe('floats', () => {
  it.each([0, -0, 1, -1.25, 1e300, 5e-324, Number.MAX_VALUE, Infinity, -Infinity, Number.NaN, 2 ** -1030])(
    '%d is the same again in 80 bits',
    value => {
      const bytes = new Uint8Array(16);
      expect(writeFloat(bytes, value)).toBe(true);
      expect(readFloat(bytes)).toBe(value);
    },
  );

  it.each([
    [0x3c00, 1],
    [0xc000, -2],
    [0x7bff, 65504],
    [0x0001, 2 ** -24],
    [0x7c00, Infinity],
  ])('half 0x%x is %d', (bits, value) => {
    expect(readFloat(Uint8Array.of(bits & 0xff, bits >> 8))).toBe(value);
  });
});

describe('hostile types', () => {
  it('do not make more parts than their size justifies', () => {
    const builder = new BtfBuilder();
    const index = builder.addInt('int', 4);
    const empty = builder.addStruct('empty', 0, []);
    const endless = builder.addArray(empty, 0xffff_ffff, index);
    let last = builder.addInt('char', 1);
    const member = (name: string) => ({ name, type: last, bitOffset: 0, bitSize: 0 });
    for (let depth = 0; depth < 40; depth++) last = builder.addUnion('', 1, [member('a'), member('b')]);
    const btf = Btf.parse(builder.build());
    for (const id of [endless, last])
      for (const read of [decodeValue, formatValue])
        expect(() => read(btf, id, new Uint8Array(1))).toThrow('more parts than its size has room for');
  });

  it('may have a huge array in a section without a size', () => {
    const builder = new BtfBuilder();
    const index = builder.addInt('int', 4);
    const array = builder.addArray(index, 0x3fff_ffff, index);
    const variable = builder.add({ kind: 'var', name: 'v', type: array, linkage: 'global' });
    const id = builder.add({
      kind: 'datasec',
      name: '.bss',
      size: 0,
      vars: [{ type: variable, offset: 0, size: 0 }],
    });
    const btf = Btf.parse(builder.build());
    expect(formatValue(btf, id, new Uint8Array(0))).toBe('{ .v = { } }');
    expect(() => decodeValue(btf, id, new Uint8Array(0))).toThrow('more parts than its size has room for');
  });

  it('may call a member __proto__', () => {
    const builder = new BtfBuilder();
    const int = builder.addInt('int', 4);
    const id = builder.addStruct('s', 4, [{ name: '__proto__', type: int, bitOffset: 0, bitSize: 0 }]);
    const btf = Btf.parse(builder.build());
    const value = decodeValue(btf, id, Uint8Array.of(7, 0, 0, 0));
    expect(Object.entries(value as object)).toEqual([['__proto__', 7]]);
    expect(encodeValue(btf, id, value)).toEqual(Uint8Array.of(7, 0, 0, 0));
  });
});

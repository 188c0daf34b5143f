import { describe, expect, it } from 'vitest';
import { BpfError } from '../kernel/errno.js';
import { Btf } from './btf.js';
import { BtfBuilder } from './builder.js';
import type { BtfType } from './types.js';

/** int is type 1; what is under test begins at 2. */
function build(...types: BtfType[]): Uint8Array {
  const builder = new BtfBuilder();
  builder.addInt('int', 4, { signed: true });
  for (const type of types) builder.add(type);
  return builder.build();
}

const member = (type: number, bitOffset: number, bitSize = 0, name = 'm') => ({
  name,
  type,
  bitOffset,
  bitSize,
});
const struct = (size: number, ...members: ReturnType<typeof member>[]): BtfType => ({
  kind: 'struct',
  name: 's',
  size,
  members,
});
const plainInt = { size: 4, bits: 32, offset: 0, encoding: { signed: false, char: false, bool: false } };
const array = (type: number, nelems: number, indexType = 1): BtfType => ({
  kind: 'array',
  type,
  nelems,
  indexType,
});
const ptr = (type: number): BtfType => ({ kind: 'ptr', type });
const constant = (type: number): BtfType => ({ kind: 'const', type });
const proto = (returnType: number, ...params: number[]): BtfType => ({
  kind: 'func_proto',
  returnType,
  params: params.map(type => ({ name: type === 0 ? '' : 'p', type })),
});

const refused: [string, BtfType[], string][] = [
  ['an id that there is not', [ptr(9)], 'refers to type 9, and there are 2'],
  ['a pointer to itself', [ptr(2)], 'contains itself'],
  ['const of itself', [constant(3), constant(2)], 'contains itself'],
  ['a pointer that comes back through const', [ptr(3), constant(2)], 'contains itself'],
  ['a struct in itself', [struct(4, member(2, 0))], 'contains itself'],
  ['structs in each other', [struct(4, member(3, 0)), struct(4, member(2, 0))], 'contains itself'],
  ['an array of itself', [array(2, 1)], 'contains itself'],
  ['a struct in itself, as an array', [array(3, 1), struct(4, member(2, 0))], 'contains itself'],
  ['an array of void', [array(0, 1)], 'refers to no type'],
  ['an array that is too large', [array(1, 0x40000000)], 'bytes'],
  ['an array indexed by a pointer', [ptr(1), array(1, 1, 2)], 'index of a type that is no integer'],
  ['a member outside its struct', [struct(4, member(1, 32))], 'up to bit 64, and only 32'],
  ['a member far outside its struct', [struct(4, member(1, 4096))], 'outside its 4 bytes'],
  ['members out of order', [struct(8, member(1, 32), member(1, 0))], 'behind one at 32'],
  ['a member of a function', [proto(0), struct(4, member(2, 0))], 'has a member without a size'],
  [
    'a bitfield of a struct',
    [struct(4), struct(8, member(2, 0, 3))],
    'bitfield of a type that is no integer',
  ],
  [
    'a bitfield wider than its type',
    [struct(8, member(1, 0, 33))],
    'bitfield of 33 bits in a type of 4 bytes',
  ],
  ['a bitfield outside its struct', [struct(4, member(1, 30, 3))], 'up to bit 33, and only 32'],
  [
    'a union member at an offset',
    [{ kind: 'union', size: 8, members: [member(1, 8)] }],
    'has a member at bit 8',
  ],
  ['an int wider than its bytes', [{ kind: 'int', name: 'i', ...plainInt, bits: 33 }], '33 bits in 4 bytes'],
  [
    'an int of too many bits',
    [{ kind: 'int', name: 'i', ...plainInt, size: 32, bits: 200 }],
    'more than 128',
  ],
  [
    'an int with two encodings',
    [{ kind: 'int', name: 'i', ...plainInt, encoding: { signed: true, char: false, bool: true } }],
    'encoding 5',
  ],
  ['a float of three bytes', [{ kind: 'float', name: 'f', size: 3 }], 'size of 3 bytes'],
  [
    'an enum of three bytes',
    [{ kind: 'enum', name: 'e', size: 3, signed: false, values: [] }],
    'size of 3 bytes',
  ],
  [
    'an enumerator without a name',
    [{ kind: 'enum', name: 'e', size: 4, signed: false, values: [{ name: '', value: 1n }] }],
    'has no name',
  ],
  ['a typedef without a name', [{ kind: 'typedef', type: 1 }], 'has no name'],
  ['a name that C can not have', [{ kind: 'typedef', name: 'a b', type: 1 }], 'a byte 0x20'],
  ['a name that begins with a digit', [{ kind: 'typedef', name: '1a', type: 1 }], 'a byte 0x31'],
  ['a name that is too long', [{ kind: 'typedef', name: 'a'.repeat(600), type: 1 }], 'too long'],
  ['const with a name', [{ kind: 'const', name: 'c', type: 1 }], 'has a name, which its kind has not'],
  [
    'a function without a prototype',
    [{ kind: 'func', name: 'f', type: 1, linkage: 'static' }],
    'a int for a prototype',
  ],
  ['a void parameter', [proto(0, 0, 1)], 'parameter of type void'],
  ['a parameter of a function', [proto(0), proto(0, 2)], 'a parameter without a size'],
  ['a result of a function', [proto(0), proto(2)], 'a result without a size'],
  [
    'a pointer to a variable',
    [{ kind: 'var', name: 'v', type: 1, linkage: 'global' }, ptr(2)],
    'refers to a var',
  ],
  [
    'a variable of a function',
    [proto(0), { kind: 'var', name: 'v', type: 2, linkage: 'global' }],
    'without a size',
  ],
  [
    'a section of ints',
    [{ kind: 'datasec', name: '.data', size: 4, vars: [{ type: 1, offset: 0, size: 4 }] }],
    'has a int for a variable',
  ],
  [
    'variables that overlap',
    [
      { kind: 'var', name: 'v', type: 1, linkage: 'global' },
      {
        kind: 'datasec',
        name: '.data',
        size: 8,
        vars: [
          { type: 2, offset: 0, size: 4 },
          { type: 2, offset: 3, size: 4 },
        ],
      },
    ],
    'in front of where the last one ends',
  ],
  [
    'a variable outside its section',
    [
      { kind: 'var', name: 'v', type: 1, linkage: 'global' },
      { kind: 'datasec', name: '.data', size: 4, vars: [{ type: 2, offset: 2, size: 4 }] },
    ],
    'outside its 4',
  ],
  [
    'a variable larger than its place',
    [
      { kind: 'var', name: 'v', type: 1, linkage: 'global' },
      { kind: 'datasec', name: '.data', size: 4, vars: [{ type: 2, offset: 0, size: 2 }] },
    ],
    'a variable of 4 bytes in 2',
  ],
  ['a tag of an int', [{ kind: 'decl_tag', tag: 't', type: 1, component: -1 }], 'is on a int'],
  [
    'a tag of a member that there is not',
    [struct(4, member(1, 0)), { kind: 'decl_tag', tag: 't', type: 2, component: 1 }],
    'component 1, of 1',
  ],
  [
    'a tag of a part of a typedef',
    [
      { kind: 'typedef', name: 't', type: 1 },
      { kind: 'decl_tag', tag: 't', type: 2, component: 0 },
    ],
    'component 0, of 0',
  ],
  [
    'a tag with nothing in it',
    [struct(4), { kind: 'decl_tag', tag: '', type: 2, component: -1 }],
    'has no tag',
  ],
  ['a declaration without a name', [{ kind: 'fwd', of: 'struct' }], 'has no name'],
];

describe('types that contradict themselves', () => {
  it.each(refused)('%s', (_, types, message) => {
    const bytes = build(...types);
    expect(() => Btf.parse(bytes)).toThrow(message);
    expect(() => Btf.parse(bytes)).toThrow(BpfError);
  });
});

const accepted: [string, BtfType[]][] = [
  ['a struct with a pointer to itself', [struct(8, member(3, 0)), ptr(2)]],
  ['an array of pointers to its struct', [struct(16, member(3, 0)), array(4, 2), ptr(2)]],
  ['an array without elements at the end', [array(1, 0), struct(4, member(1, 0), member(2, 32))]],
  ['a function that takes itself', [ptr(3), proto(2, 2)]],
  ['int of 128 bits', [{ kind: 'int', name: 'wide', ...plainInt, size: 16, bits: 128 }]],
  [
    'an older bitfield',
    [{ kind: 'int', name: 'int', ...plainInt, offset: 3, bits: 5 }, struct(4, member(2, 0))],
  ],
  [
    'a section that is not linked',
    [
      { kind: 'var', name: 'v', type: 1, linkage: 'global' },
      { kind: 'datasec', name: '.data', size: 0, vars: [{ type: 2, offset: 0, size: 4 }] },
    ],
  ],
  [
    'an extern function in a section',
    [
      proto(0),
      { kind: 'func', name: 'f', type: 2, linkage: 'extern' },
      { kind: 'datasec', name: '.ksyms', size: 0, vars: [{ type: 3, offset: 0, size: 0 }] },
    ],
  ],
];

describe('types that only look odd', () => {
  it.each(accepted)('%s', (_, types) => expect(Btf.parse(build(...types)).typeCount).toBe(types.length + 1));
});

describe('deep types', () => {
  it.each([
    ['pointers', (last: number) => ptr(last)],
    ['structs', (last: number) => struct(4, member(last, 0))],
  ])('a hundred thousand %s within each other are refused without a stack overflow', (_, around) => {
    const builder = new BtfBuilder();
    let last = builder.addInt('int', 4);
    for (let depth = 0; depth < 100_000; depth++) last = builder.add(around(last));
    const bytes = builder.build();
    expect(() => Btf.parse(bytes)).toThrow('deeper than 256');
    // The other way round, each refers to one that comes later.
    const backwards = new BtfBuilder();
    for (let depth = 0; depth < 100_000; depth++) backwards.add(around(depth + 2));
    backwards.addInt('int', 4);
    expect(() => Btf.parse(backwards.build())).toThrow('deeper than 256');
  });
});

describe('headers', () => {
  const good = build(ptr(1));
  const changed = (at: number, value: number, width: 1 | 2 | 4 = 4) => {
    const bytes = Uint8Array.from(good);
    const view = new DataView(bytes.buffer);
    if (width === 4) view.setUint32(at, value, true);
    else if (width === 2) view.setUint16(at, value, true);
    else view.setUint8(at, value);
    return bytes;
  };
  const cases: [string, Uint8Array, string][] = [
    ['nothing', new Uint8Array(0), 'it has 0 bytes'],
    ['a cut header', good.subarray(0, 20), 'it has 20 bytes'],
    ['another magic', changed(0, 0x1234, 2), '0x1234'],
    ['big-endian', changed(0, 0x9feb, 2), 'big-endian'],
    ['another version', changed(2, 2, 1), 'its version is 2'],
    ['flags', changed(3, 1, 1), 'flags 0x1'],
    ['a short header', changed(4, 20), 'length is 20'],
    ['a long header', changed(4, 1_000_000), 'length is 1000000'],
    ['types that lie askew', changed(8, 2), 'multiple of four'],
    ['types outside', changed(12, 0xffff_fffc), 'and there are only'],
    ['names outside', changed(20, 0xffff_ffff), 'and there are only'],
    ['names on the types', changed(16, 0), 'overlap'],
    ['something behind', Uint8Array.of(...good, 0), 'something behind'],
    ['no names', changed(20, 0).subarray(0, 24 + new DataView(good.buffer).getUint32(12, true)), 'no names'],
  ];
  it.each(cases)('%s', (_, bytes, message) => expect(() => Btf.parse(bytes)).toThrow(message));

  it('must end their last name, and begin with the empty one', () => {
    const open = Uint8Array.from(good);
    open[open.length - 1] = 0x61;
    expect(() => Btf.parse(open)).toThrow('last name does not end');
    const begun = Uint8Array.from(good);
    begun[24 + new DataView(good.buffer).getUint32(12, true)] = 0x61;
    expect(() => Btf.parse(begun)).toThrow('first name is not the empty one');
  });

  it('may be longer than known, with zeros', () => {
    const longer = Uint8Array.of(...good.subarray(0, 24), 0, 0, 0, 0, ...good.subarray(24));
    new DataView(longer.buffer).setUint32(4, 28, true);
    expect(Btf.parse(longer).typeCount).toBe(2);
    longer[25] = 1;
    expect(() => Btf.parse(longer)).toThrow('longer than is known');
  });

  it('may stand at any address', () => {
    const shifted = new Uint8Array(good.length + 1);
    shifted.set(good, 1);
    expect(Btf.parse(shifted.subarray(1)).typeName(2)).toBe('int *');
  });
});

describe('relaxed', () => {
  it('takes names and members of any language, but no loops and nothing outside', () => {
    const names = build({ kind: 'typedef', name: 'std::vector<int>', type: 1 });
    expect(() => Btf.parse(names)).toThrow('a byte 0x3a');
    expect(Btf.parse(names, { relaxed: true }).find('std::vector<int>')).toBe(2);
    const unordered = build(struct(8, member(1, 32), member(1, 0)));
    expect(Btf.parse(unordered, { relaxed: true }).typeCount).toBe(2);
    expect(() => Btf.parse(build(ptr(2)), { relaxed: true })).toThrow('contains itself');
    expect(() => Btf.parse(build(struct(4, member(1, 32))), { relaxed: true })).toThrow('only 32');
  });

  it('does not decode names that overlap more than they may', () => {
    const builder = new BtfBuilder();
    builder.addName('a'.repeat(1_000_000));
    for (let index = 0; index < 1000; index++) builder.add({ kind: 'typedef', name: 'a', type: 0 });
    const bytes = builder.build();
    const view = new DataView(bytes.buffer);
    for (let index = 0; index < 1000; index++) view.setUint32(24 + 12 * index, 1 + index, true);
    const btf = Btf.parse(bytes, { relaxed: true });
    const all = () => {
      for (let id = 1; id <= btf.typeCount; id++) btf.type(id);
    };
    expect(all).toThrow('its names overlap');
  });
});

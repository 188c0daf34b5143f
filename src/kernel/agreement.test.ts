import { describe, expect, test } from 'vitest';
import { timed } from '../../tests/support/cpu_time.js';
import { Btf } from '../btf/btf.js';
import { BtfBuilder } from '../btf/builder.js';
import { disagreement } from './agreement.js';
import type { FunctionPrototype } from './kernel.js';

/** Types of one module; `shape` makes its structures differ from another module's. */
function module(
  shape: { readonly size?: number; readonly member?: string; readonly declared?: boolean } = {},
) {
  const b = new BtfBuilder();
  // Ids that other modules do not have.
  for (let i = 0; i < Math.round(Math.random() * 5); i++) b.addInt(`pad${i}`, 4);
  const int = b.addInt('int', 4, { signed: true });
  const unsigned = b.addInt('unsigned int', 4);
  const long = b.addInt('long', 8, { signed: true });
  const char = b.addInt('char', 1, { signed: true });
  const level = b.add({
    kind: 'enum',
    name: 'level',
    size: 4,
    signed: true,
    values: [{ name: 'A', value: -1n }],
  });
  const node = b.nextId;
  if (shape.declared) b.add({ kind: 'fwd', name: 'node', of: 'struct' });
  else
    b.add({
      kind: 'struct',
      name: 'node',
      size: shape.size ?? 16,
      members: [
        { name: shape.member ?? 'id', type: long, bitOffset: 0, bitSize: 0 },
        { name: 'next', type: node + 1, bitOffset: 64, bitSize: 0 },
      ],
    });
  const nodePointer = b.addPtr(node);
  const constNode = b.add({ kind: 'const', type: node });
  const constPointer = b.addPtr(constNode);
  const other = b.add({
    kind: 'struct',
    name: 'other',
    size: 16,
    members: [
      { name: 'id', type: long, bitOffset: 0, bitSize: 0 },
      { name: 'next', type: nodePointer, bitOffset: 64, bitSize: 0 },
    ],
  });
  const otherPointer = b.addPtr(other);
  const text = b.addPtr(char);
  const anything = b.addPtr(0);
  const double = b.add({ kind: 'float', name: 'double', size: 8 });
  const single = b.add({ kind: 'float', name: 'float', size: 4 });
  const count = b.add({ kind: 'typedef', name: 'count_t', type: int });
  const btf = Btf.parse(b.build());
  const ids = {
    int,
    unsigned,
    long,
    char,
    level,
    nodePointer,
    constPointer,
    otherPointer,
    text,
    anything,
    count,
    whole: node,
    alien: other,
    double,
    single,
  };
  type Name = keyof typeof ids;
  return (args: readonly Name[], returns?: Name | 'void'): FunctionPrototype => ({
    nargs: args.length,
    btf,
    args: args.map(name => ids[name]),
    ...(returns === undefined ? {} : { returns: returns === 'void' ? 0 : ids[returns] }),
  });
}

const here = module();
const there = module();
const first = { args: [0], result: false };

describe('arguments', () => {
  test.each([
    ['int', 'int'],
    ['int', 'count'],
    ['int', 'level'],
    ['level', 'int'],
    ['long', 'long'],
    ['nodePointer', 'nodePointer'],
    ['nodePointer', 'constPointer'],
    ['text', 'anything'],
    // It has only an address of it.
    ['anything', 'nodePointer'],
    ['whole', 'whole'],
    ['double', 'double'],
  ] as const)('%s agrees with %s of another module', (a, b) => {
    expect(disagreement(here([a]), there([b]), first)).toBeUndefined();
  });

  test.each([
    ['int', 'unsigned', 'its argument 1 is unsigned int, and the program was verified for int'],
    ['int', 'long', 'its argument 1 is long, and the program was verified for int'],
    ['int', 'char', 'its argument 1 is char, and the program was verified for int'],
    ['int', 'anything', 'its argument 1 is void *, and the program was verified for int'],
    ['long', 'anything', 'its argument 1 is void *, and the program was verified for long'],
    [
      'nodePointer',
      'otherPointer',
      'its argument 1 is struct other *, and the program was verified for struct node *',
    ],
    ['nodePointer', 'anything', 'its argument 1 is void *, and the program was verified for struct node *'],
    ['nodePointer', 'long', 'its argument 1 is long, and the program was verified for struct node *'],
    ['whole', 'alien', 'its argument 1 is struct other, and the program was verified for struct node'],
    ['double', 'long', 'its argument 1 is long, and the program was verified for double'],
    ['double', 'single', 'its argument 1 is float, and the program was verified for double'],
  ] as const)('%s does not agree with %s', (a, b, why) => {
    expect(disagreement(here([a]), there([b]), first)).toBe(why);
    // Of the same module neither.
    expect(disagreement(here([a]), here([b]), first)).toBe(why);
  });

  test('only those that are taken must agree', () => {
    const [a, b] = [here(['int', 'nodePointer', 'long']), there(['int', 'long'])];
    expect(disagreement(a, b, { args: [0], result: false })).toBeUndefined();
    expect(disagreement(a, b, { args: [], result: false })).toBeUndefined();
    expect(disagreement(a, b, { args: [0, 1], result: false })).toMatch(/argument 2 is long/);
    expect(disagreement(a, b, { args: [2], result: false })).toBe(
      'its argument 3 is none, and the program was verified for long',
    );
  });
});

describe('structures behind pointers', () => {
  test('one name with another shape does not agree', () => {
    for (const shape of [{ size: 24 }, { member: 'number' }])
      expect(disagreement(here(['nodePointer']), module(shape)(['nodePointer']), first)).toMatch(
        /struct node \*/,
      );
  });

  test('one that the other module only declares is known by its name', () => {
    const declared = module({ declared: true });
    expect(disagreement(here(['nodePointer']), declared(['nodePointer']), first)).toBeUndefined();
    // Declared where the program was verified: it has an address, and no more.
    expect(disagreement(declared(['nodePointer']), here(['nodePointer']), first)).toBeUndefined();
    expect(disagreement(declared(['nodePointer']), here(['otherPointer']), first)).toBeUndefined();
  });

  test('types that nest without end are compared for a while, and refused', () => {
    const doubling = (): FunctionPrototype => {
      const b = new BtfBuilder();
      let type = b.addInt('int', 4, { signed: true });
      for (let i = 0; i < 20; i++) {
        const size = 2 ** i * 4;
        type = b.add({
          kind: 'struct',
          name: `s${i}`,
          size: 2 * size,
          members: [
            { name: 'a', type, bitOffset: 0, bitSize: 0 },
            { name: 'b', type, bitOffset: 8 * size, bitSize: 0 },
          ],
        });
      }
      const pointer = b.addPtr(type);
      return { nargs: 1, btf: Btf.parse(b.build()), args: [pointer] };
    };
    const ms = timed(() => expect(disagreement(doubling(), doubling(), first)).toMatch(/struct s19/));
    expect(ms).toBeLessThan(2000);
  });

  test('structures that are told apart by what is embedded in them, at any depth', () => {
    const made = (depth: number, inner: string): FunctionPrototype => {
      const b = new BtfBuilder();
      const int = b.addInt('int', 4, { signed: true });
      let type = int;
      for (let i = depth; i >= 0; i--)
        type = b.add({
          kind: 'struct',
          name: `level${i}`,
          size: 4,
          members: [{ name: i === depth ? inner : 'in', type, bitOffset: 0, bitSize: 0 }],
        });
      const pointer = b.addPtr(type);
      return { nargs: 1, btf: Btf.parse(b.build()), args: [pointer], returns: int };
    };
    expect(disagreement(made(4, 'a'), made(4, 'a'), first)).toBeUndefined();
    expect(disagreement(made(4, 'a'), made(4, 'b'), first)).toMatch(/level0/);
    // Ends, however deep.
    expect(disagreement(made(200, 'a'), made(200, 'b'), first)).toBeDefined();
  });
});

describe('results', () => {
  const result = { args: [], result: true };
  test('must agree where the program takes or replaces them', () => {
    expect(disagreement(here([], 'int'), there(['long'], 'int'), result)).toBeUndefined();
    expect(disagreement(here([], 'int'), there([], 'long'), result)).toBe(
      'its result is long, and the program was verified for int',
    );
    expect(disagreement(here([], 'int'), there([], 'void'), result)).toBe(
      'its result is none, and the program was verified for int',
    );
    expect(disagreement(here([], 'void'), there([], 'void'), result)).toBeUndefined();
    expect(disagreement(here([], 'void'), there([], 'int'), result)).toBe(
      'its result is int, and the program was verified for none',
    );
    expect(disagreement(here([], 'int'), there([], 'long'), { args: [], result: false })).toBeUndefined();
  });
});

describe('opaque functions', () => {
  test('take a program that reads numbers, and none that follows a pointer', () => {
    for (const name of ['int', 'long', 'level', 'text', 'anything'] as const)
      expect(disagreement(here([name]), undefined, first), name).toBeUndefined();
    for (const name of ['whole', 'double'] as const)
      expect(disagreement(here([name]), undefined, first)).toMatch(/nothing is known of its types/);
    expect(disagreement(here(['nodePointer']), undefined, first)).toBe(
      'nothing is known of its types, and the program takes its argument 1 for struct node *',
    );
    expect(disagreement(here([], 'nodePointer'), undefined, { args: [], result: true })).toMatch(
      /its result for struct node/,
    );
    expect(disagreement(here(['nodePointer']), undefined, { args: [], result: false })).toBeUndefined();
  });

  test('a program that was verified for one runs on any', () => {
    for (const name of ['int', 'nodePointer', 'whole', 'double'] as const)
      expect(disagreement(undefined, here([name], 'int'), { args: [0], result: true })).toBeUndefined();
    expect(disagreement({ nargs: 2 }, here(['int']), { args: [0, 1], result: true })).toBeUndefined();
  });
});

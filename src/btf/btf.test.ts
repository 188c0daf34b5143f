import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Btf } from './btf.js';
import { BtfBuilder } from './builder.js';
import {
  btfOf,
  EVERY_KIND,
  hasBpftool,
  hasClang,
  hasGcc,
  hasPahole,
  hasVmlinux,
  sectionOf,
  VMLINUX,
  Workshop,
} from './fixture.js';
import { essentialName } from './name_index.js';
import type { BtfType } from './types.js';

const workshop = new Workshop();
afterAll(() => workshop.remove());

/** Every type as bpftool's raw dump prints it, from our objects. */
function rawDump(btf: Btf, from = 1): string {
  const lines: string[] = [];
  for (let id = from; id <= btf.typeCount; id++) lines.push(`[${id}] ${rawType(btf.type(id))}`);
  return `${lines.join('\n')}\n`;
}

function rawType(type: BtfType): string {
  const name = `'${type.name ?? '(anon)'}'`;
  switch (type.kind) {
    case 'int': {
      const { signed, char, bool } = type.encoding;
      const encoding = signed && char ? 'UNKN' : signed ? 'SIGNED' : bool ? 'BOOL' : char ? 'CHAR' : '(none)';
      return `INT ${name} size=${type.size} bits_offset=${type.offset} nr_bits=${type.bits} encoding=${encoding}`;
    }
    case 'array':
      return `ARRAY ${name} type_id=${type.type} index_type_id=${type.indexType} nr_elems=${type.nelems}`;
    case 'struct':
    case 'union':
      return [
        `${type.kind.toUpperCase()} ${name} size=${type.size} vlen=${type.members.length}`,
        ...type.members.map(
          member =>
            `\t'${member.name || '(anon)'}' type_id=${member.type} bits_offset=${member.bitOffset}${member.bitSize ? ` bitfield_size=${member.bitSize}` : ''}`,
        ),
      ].join('\n');
    case 'enum':
    case 'enum64':
      return [
        `${type.kind.toUpperCase()} ${name} encoding=${type.signed ? 'SIGNED' : 'UNSIGNED'} size=${type.size} vlen=${type.values.length}`,
        ...type.values.map(({ name: value, value: number }) => {
          const suffix = type.kind === 'enum64' ? (type.signed ? 'LL' : 'ULL') : '';
          return `\t'${value}' val=${number}${suffix}`;
        }),
      ].join('\n');
    case 'fwd':
      return `FWD ${name} fwd_kind=${type.of}`;
    case 'func':
      return `FUNC ${name} type_id=${type.type} linkage=${type.linkage}`;
    case 'func_proto':
      return [
        `FUNC_PROTO ${name} ret_type_id=${type.returnType} vlen=${type.params.length}`,
        ...type.params.map(param => `\t'${param.name || '(anon)'}' type_id=${param.type}`),
      ].join('\n');
    case 'var':
      return `VAR ${name} type_id=${type.type}, linkage=${type.linkage}`;
    case 'datasec':
      return [
        `DATASEC ${name} size=${type.size} vlen=${type.vars.length}`,
        ...type.vars.map(({ type: id, offset, size }) => `\ttype_id=${id} offset=${offset} size=${size}`),
      ].join('\n');
    case 'float':
      return `FLOAT ${name} size=${type.size}`;
    case 'decl_tag':
      return `DECL_TAG ${name} type_id=${type.type} component_idx=${type.component}`;
    case 'void':
      return '';
    default:
      return `${type.kind.toUpperCase()} ${name} type_id=${type.type}`;
  }
}

/** bpftool's dump, without what it adds about names of variables, and its other word for global variables. */
function normal(text: string): string {
  return text
    .replace(/ \(VAR .*\)$/gm, '')
    .replace(/ \(FUNC .*\)$/gm, '')
    .replace(/linkage=global-alloc/g, 'linkage=global');
}

/** A hundred thousand types: the long form compares them all. */
const soak = process.env.MULTITRACE_SOAK === '1';

const sources: [string, boolean, () => Uint8Array][] = [
  ['clang', hasClang, () => sectionOf(workshop.bpf(EVERY_KIND), '.BTF')],
  ['pahole', hasGcc && hasPahole, () => sectionOf(workshop.pahole(GCC_SOURCE), '.BTF')],
  ['gcc -gbtf', hasGcc, () => sectionOf(workshop.gcc(GCC_SOURCE, '-gbtf'), '.BTF')],
  ['the running kernel', hasVmlinux && soak, () => Uint8Array.from(readFileSync(VMLINUX))],
];

const GCC_SOURCE = `
struct point { int x, y; float z; long double w; };
union u { long l; double d; };
enum e { A, B = 7 };
struct bits { unsigned a : 3; int b : 9; struct point p; union u u; enum e e; _Bool flag; char text[9]; };
typedef struct bits bits_t;
int function(bits_t *b, const char *volatile name, ...) { return b->a; }
static __attribute__((noinline)) double other(struct point *p, int (*f)(int, struct bits *)) { return p->z + f(3, 0); }
double third(struct point *p, int (*f)(int, struct bits *)) { return other(p, f); }
`;

describe.each(sources)('BTF of %s', (source, available, make) => {
  // gcc 12 leaves out the names of some functions.
  const relaxed = source === 'gcc -gbtf';

  it.skipIf(!available || !hasBpftool)('is what bpftool says', () => {
    const bytes = make();
    expect(rawDump(Btf.parse(bytes, { relaxed }))).toBe(normal(workshop.bpftool(bytes)));
  });

  it.skipIf(!available)('can be written again', () => {
    const btf = Btf.parse(make(), { relaxed });
    const builder = new BtfBuilder();
    for (let id = 1; id <= btf.typeCount; id++) expect(builder.add(btf.type(id))).toBe(id);
    const again = Btf.parse(builder.build(), { relaxed });
    expect(again.typeCount).toBe(btf.typeCount);
    expect(rawDump(again)).toBe(rawDump(btf));
  });

  it.skipIf(!available)('finds every name', () => {
    const btf = Btf.parse(make(), { relaxed });
    const byName = new Map<string, number[]>();
    for (let id = 1; id <= btf.typeCount; id++) {
      const name = btf.name(id);
      if (name !== '') byName.set(name, [...(byName.get(name) ?? []), id]);
    }
    expect(byName.size).toBeGreaterThan(5);
    for (const [name, ids] of byName) {
      if (ids.length > 100) continue;
      expect(btf.findAll(name)).toEqual(ids);
      expect(btf.find(name, btf.kindOf(ids[ids.length - 1]))).toBeDefined();
      expect(btf.find(name)).toBe(ids[0]);
    }
    expect(btf.find('no such name')).toBeUndefined();
    expect(btf.find('')).toBeUndefined();
  });
});

describe.skipIf(!hasClang)('types that clang wrote', () => {
  let btf: Btf;
  beforeAll(() => {
    btf = btfOf(workshop.bpf(EVERY_KIND));
  });

  it('have every kind', () => {
    const kinds = new Set(Array.from({ length: btf.typeCount }, (_, index) => btf.kindOf(index + 1)));
    for (const kind of [
      'enum64',
      'decl_tag',
      'type_tag',
      'fwd',
      'datasec',
      'var',
      'func',
      'restrict',
      'float',
    ])
      expect(kinds).toContain(kind);
  });

  it('are spelled as C spells them', () => {
    const member = (struct: string, name: string) => {
      const type = btf.type(btf.find(struct, 'struct')!);
      const found = type.kind === 'struct' && type.members.find(({ name: own }) => own === name);
      return btf.typeName(found ? found.type : 0);
    };
    expect(member('outer', 'pointers')).toBe('const volatile int * const *[3]');
    expect(member('outer', 'matrix')).toBe('u8[2][3]');
    expect(member('outer', 'handler')).toBe('handler_t');
    expect(member('node', 'find')).toBe('struct node *(*)(struct node *, int)');
    expect(btf.typeName(btf.find('helper', 'func')!)).toBe('int helper(struct node * restrict n, int v)');
    const handler = btf.type(btf.find('handler_t', 'typedef')!);
    expect(btf.typeName(handler.kind === 'typedef' ? handler.type : 0)).toBe(
      'int (*)(struct fwd_only *, const char *, ...)',
    );
    expect(btf.typeName(0)).toBe('void');
  });

  it('have the sizes that the compiler gave them', () => {
    expect(btf.sizeOf(btf.find('outer', 'struct')!)).toBe(128);
    expect(btf.sizeOf(btf.find('handler_t')!)).toBe(8);
    expect(btf.sizeOf(btf.find('wide')!)).toBe(8);
    expect(() => btf.sizeOf(0)).toThrow('type 0 (void) has no size');
    expect(() => btf.sizeOf(btf.find('helper', 'func')!)).toThrow('has no size');
    expect(() => btf.type(btf.typeCount + 1)).toThrow(`there is no type ${btf.typeCount + 1}`);
  });
});

describe('split BTF', () => {
  const builder = new BtfBuilder();
  const int = builder.addInt('int', 4, { signed: true });
  builder.addStruct('shared', 4, [{ name: 'a', type: int, bitOffset: 0, bitSize: 0 }]);
  const base = Btf.parse(builder.build());

  it('continues the ids and the names of its base', () => {
    const more = new BtfBuilder({ base });
    expect(more.nextId).toBe(3);
    const pointer = more.addPtr(2);
    more.addStruct('own', 16, [
      { name: 'shared', type: pointer, bitOffset: 0, bitSize: 0 },
      { name: 'b', type: int, bitOffset: 64, bitSize: 0 },
    ]);
    more.add({ kind: 'fwd', name: 'shared', of: 'struct' });
    const split = Btf.parse(more.build(), { base });
    expect(split.typeCount).toBe(5);
    expect(split.firstId).toBe(3);
    expect(split.find('shared')).toBe(2);
    expect(split.find('shared', 'fwd')).toBe(5);
    expect(split.findAll('shared')).toEqual([2, 5]);
    expect(split.find('own')).toBe(4);
    expect(split.typeName(pointer)).toBe('struct shared *');
    expect(split.type(2)).toBe(base.type(2));
    expect(base.find('own')).toBeUndefined();
  });

  it('may name its types with names of the base', () => {
    const more = new BtfBuilder({ base });
    more.addTypedef('alias', 1);
    const bytes = more.build();
    // The typedef's name becomes the first of the base's names: "int", at 1.
    new DataView(bytes.buffer).setUint32(24, 1, true);
    const split = Btf.parse(bytes, { base });
    expect(split.name(3)).toBe('int');
    expect(split.findAll('int')).toEqual([1, 3]);
  });

  it('gives its own functions alone, with what they take and return', () => {
    const more = new BtfBuilder({ base });
    const pointer = more.addPtr(2);
    const proto = more.addFuncProto(pointer, [
      { name: 'a', type: int },
      { name: '', type: 0 },
    ]);
    const first = more.addFunc('first', proto);
    const second = more.addFunc('second', proto);
    const split = Btf.parse(more.build(), { base });
    const found: string[] = [];
    split.eachFunction((id, names, start, end) =>
      found.push(`${id} ${Buffer.from(names.subarray(start, end)).toString()}`),
    );
    expect(found).toEqual([`${first} first`, `${second} second`]);
    expect(split.findOwn('shared')).toEqual([]);
    expect(split.findOwn('second')).toEqual([second]);
    expect([split.referred(first), split.referred(proto), split.referred(pointer)]).toEqual([
      proto,
      pointer,
      2,
    ]);
    expect(split.referred(2)).toBe(0);
    expect(split.paramTypes(proto)).toEqual([int, 0]);
    expect(split.paramTypes(pointer)).toEqual([]);
  });

  it.skipIf(!hasVmlinux)('stands on the BTF of the running kernel', () => {
    const vmlinux = Btf.parse(Uint8Array.from(readFileSync(VMLINUX)));
    const more = new BtfBuilder({ base: vmlinux });
    const task = vmlinux.find('task_struct', 'struct')!;
    const id = more.addPtr(task);
    const split = Btf.parse(more.build(), { base: vmlinux });
    expect(split.typeName(id)).toBe('struct task_struct *');
    expect(split.typeCount).toBe(vmlinux.typeCount + 1);
  });
});

describe('essential names', () => {
  it.each([
    ['task', 'task'],
    ['task___old', 'task'],
    ['task___old___2', 'task___old'],
    ['___x', '___x'],
    ['a____b', 'a____b'],
    ['a___', 'a___'],
    ['a___b', 'a'],
  ])('%s is %s', (name, essential) => expect(essentialName(name)).toBe(essential));

  it('are found with every flavor', () => {
    const builder = new BtfBuilder();
    for (const name of ['task', 'task___old', 'tasks', 'task___older', 'ask']) builder.addStruct(name, 0, []);
    const btf = Btf.parse(builder.build());
    expect(btf.findEssential('task')).toEqual([1, 2, 4]);
    expect(btf.findEssential('task___old')).toEqual([2]);
  });
});

describe('trusted BTF', () => {
  it.skipIf(!hasVmlinux)('of the running kernel is what it is when it is checked', () => {
    const bytes = readFileSync(VMLINUX);
    const checked = Btf.parse(bytes);
    const trusted = Btf.parse(bytes, { trusted: true });
    expect(trusted.typeCount).toBe(checked.typeCount);
    for (let id = 1; id <= checked.typeCount; id += 97) expect(trusted.type(id)).toEqual(checked.type(id));
  });

  it('has its layout checked all the same', () => {
    const builder = new BtfBuilder();
    builder.addInt('int', 4, { signed: true });
    const bytes = builder.build();
    expect(() => Btf.parse(bytes.subarray(0, bytes.length - 1), { trusted: true })).toThrow(/bytes|end/);
    // The info of the first type, behind the header and its name.
    new DataView(bytes.buffer).setUint32(28, 31 << 24, true);
    expect(() => Btf.parse(bytes, { trusted: true })).toThrow(/kind 31/);
  });
});

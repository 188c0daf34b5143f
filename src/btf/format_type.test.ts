import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { Btf } from './btf.js';
import { BtfBuilder } from './builder.js';
import { btfOf, CLANG, EVERY_KIND, hasClang, hasVmlinux, VMLINUX, Workshop } from './fixture.js';
import { formatAllTypes, formatType } from './format_type.js';

/** A compiler takes seconds for a hundred thousand types. */
const SOAK = process.env.MULTITRACE_SOAK === '1';

const workshop = new Workshop();
afterAll(() => workshop.remove());

describe.skipIf(!hasClang)('one type as C', () => {
  const btf = hasClang ? btfOf(workshop.bpf(EVERY_KIND)) : undefined;
  const declaration = (name: string, kind?: Parameters<Btf['find']>[1]) =>
    formatType(btf!, btf!.find(name, kind)!);

  it('a struct with bitfields, unions and function pointers', () => {
    expect(declaration('node', 'struct')).toBe(`struct node {
	struct node *next;
	struct node *(*find)(struct node *, int);
	int value;
};`);
    expect(declaration('bits', 'struct')).toBe(`struct bits {
	u32 a: 3;
	char: 5;
	int b: 7;
	u64 c: 40;
	enum color d: 4;
	bool e: 1;
};`);
    expect(declaration('tight')).toBe(`struct tight {
	char c;
	u64 l;
	u16 s;
} __attribute__((packed));`);
    expect(declaration('number')).toBe(`union number {
	u64 whole;
	double real;
	struct {
		u32 low;
		u32 high;
	};
	u8 bytes[8];
};`);
  });

  it('enums, typedefs, functions, variables and declarations', () => {
    expect(declaration('color')).toBe('enum color {\n\tRED = 0,\n\tGREEN = 5,\n\tBLUE = -3,\n};');
    expect(declaration('wide')).toBe('enum wide {\n\tSMALL = 1,\n\tLARGE = 20015998343868LL,\n};');
    expect(declaration('handler_t')).toBe('typedef int (*handler_t)(struct fwd_only *, const char *, ...);');
    expect(declaration('anonymous_t')).toBe('typedef struct {\n\tint anonymous;\n} anonymous_t;');
    expect(declaration('helper')).toBe('static int helper(struct node * restrict n, int v);');
    expect(declaration('second')).toBe('static volatile anonymous_t second;');
    expect(declaration('fwd_only')).toBe('struct fwd_only;');
    expect(declaration('user_pointer', 'struct')).toContain('int __attribute__((btf_type_tag("user"))) *p;');
  });
});

/** C that a compiler refuses where it lays a struct out differently. Bitfields have no offset that could be asked for. */
function layoutAssertions(btf: Btf): string {
  const uses = new Map<string, number>();
  for (let id = 1; id <= btf.typeCount; id++)
    if (/struct|union|enum/.test(btf.kindOf(id))) uses.set(btf.name(id), (uses.get(btf.name(id)) ?? 0) + 1);
  const lines: string[] = [];
  for (let id = 1; id <= btf.typeCount; id++) {
    const type = btf.type(id);
    if ((type.kind !== 'struct' && type.kind !== 'union') || !type.name || uses.get(type.name) !== 1)
      continue;
    const name = `${type.kind} ${type.name}`;
    lines.push(`_Static_assert(sizeof(${name}) == ${type.size}, "size of ${name}");`);
    for (const member of type.members)
      if (member.name !== '' && member.bitSize === 0)
        lines.push(
          `_Static_assert(__builtin_offsetof(${name}, ${member.name}) == ${member.bitOffset / 8}, "${name}.${member.name}");`,
        );
  }
  return `${lines.join('\n')}\n`;
}

function compile(text: string, ...flags: string[]): void {
  const file = join(workshop.folder, 'layout.c');
  writeFileSync(file, text);
  execFileSync(CLANG, [...flags, '-fsyntax-only', '-Wno-everything', file], { stdio: 'pipe' });
}

describe.skipIf(!hasClang)('all types as C', () => {
  it('compile, and are laid out as BTF says', () => {
    const btf = btfOf(workshop.bpf(EVERY_KIND));
    compile(formatAllTypes(btf) + layoutAssertions(btf), '-target', 'bpf');
  });

  it.skipIf(!hasVmlinux || !SOAK)('compile for the running kernel too, with every offset right', () => {
    const btf = Btf.parse(Uint8Array.from(readFileSync(VMLINUX)));
    const assertions = layoutAssertions(btf);
    expect(assertions.split('\n').length).toBeGreaterThan(10_000);
    compile(formatAllTypes(btf) + assertions);
  });

  it('come out where a struct is odd: holes, tails, a bitfield across bytes, a union that is too large', () => {
    const builder = new BtfBuilder();
    const int = builder.addInt('int', 4, { signed: true });
    const char = builder.addInt('char', 1, { signed: true });
    const plain = (name: string, type: number, byte: number) => ({
      name,
      type,
      bitOffset: byte * 8,
      bitSize: 0,
    });
    builder.addStruct('holes', 96, [plain('a', char, 5), plain('b', int, 8), plain('c', char, 77)]);
    builder.addStruct('huge_hole', 100_000, [plain('a', int, 4), plain('b', int, 99_992)]);
    builder.addStruct('empty', 64, []);
    builder.addUnion('loose', 12, [plain('a', char, 0), plain('b', int, 0)]);
    builder.addStruct('crossing', 12, [
      { name: 'a', type: int, bitOffset: 30, bitSize: 7 },
      { name: 'b', type: int, bitOffset: 64, bitSize: 0 },
    ]);
    builder.addStruct('odd', 7, [plain('a', int, 3)]);
    const btf = Btf.parse(builder.build());
    compile(formatAllTypes(btf) + layoutAssertions(btf));
  });
});

describe('types that are made to go on for ever', () => {
  it('are refused when they are printed', () => {
    const builder = new BtfBuilder();
    let last = builder.addInt('int', 4);
    const member = (name: string) => ({ name, type: last, bitOffset: 0, bitSize: 0 });
    for (let depth = 0; depth < 40; depth++)
      last = builder.add({ kind: 'union', size: 4, members: [member('a'), member('b')] });
    const btf = Btf.parse(builder.build());
    expect(() => formatType(btf, last)).toThrow('too large to be printed');
  });

  it('are cut off where they are spelled', () => {
    const builder = new BtfBuilder();
    // A function that takes itself twice.
    builder.addPtr(2);
    builder.addFuncProto(0, [
      { name: '', type: 1 },
      { name: '', type: 1 },
    ]);
    const btf = Btf.parse(builder.build());
    expect(btf.typeName(1)).toContain('/* … */');
  });
});

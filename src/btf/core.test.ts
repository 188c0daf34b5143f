import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { decodeProgram } from '../bpf/encoding.js';
import { type BpfInsn, CLASS, LD_IMM64, loadImmediate64, MODE, SIZE, slotsOf } from '../bpf/instruction.js';
import { BpfError } from '../kernel/errno.js';
import { Btf } from './btf.js';
import { BtfBuilder } from './builder.js';
import { applyCoreRelo, computeCoreRelo, describe as describeRelo, isPoisoned } from './core.js';
import { BtfExt, type CoreRelo, type CoreReloKind } from './ext.js';
import { btfOf, CORE_HEADER, hasClang, hasGcc, hasPahole, sectionOf, Workshop } from './fixture.js';

const workshop = new Workshop();
afterAll(() => workshop.remove());

/** What the program was compiled with. */
const LOCAL = `
enum state { IDLE, BUSY = 3, GONE };
enum wide { FAR = 0x100000000ULL };
struct leaf { u32 id; u64 stamp; };
struct branch { struct leaf *leaf; struct leaf leaves[4]; struct { u16 port; u16 mask; }; };
struct root { struct branch *branch; int count; u32 narrow; int sign; u32 flags : 3; u32 mode : 7; char name[16]; int removed; enum state state; float ratio; };
struct absent { int a; };
typedef struct leaf leaf_t;
struct root___flavor { u32 only_there; };
`;

const PROGRAM = `${CORE_HEADER}
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
${LOCAL}
#pragma clang attribute pop
u64 out[64]; u32 seen;
SEC("fentry/three") u64 three(struct root *r) { return r->branch->leaf->stamp; }
SEC("fentry/indexed") u64 indexed(struct root *r) { return r->branch->leaves[2].stamp + r->branch->mask; }
SEC("fentry/resized") u64 resized(struct root *r) { return r->narrow; }
SEC("fentry/sign") u64 sign(struct root *r) { return r->sign; }
SEC("fentry/stored") u64 stored(struct root *r) { r->narrow = seen; return 0; }
SEC("fentry/removed") u64 removed(struct root *r) { return r->removed; }
SEC("fentry/info") u64 info(struct root *r) {
  out[0] = FIELD_INFO(r->mode, 0); out[1] = FIELD_INFO(r->mode, 1); out[2] = FIELD_INFO(r->mode, 2);
  out[3] = FIELD_INFO(r->mode, 3); out[4] = FIELD_INFO(r->mode, 4); out[5] = FIELD_INFO(r->mode, 5);
  out[6] = FIELD_INFO(r->sign, 3); out[7] = FIELD_INFO(r->removed, 2); out[8] = FIELD_INFO(r->name, 1);
  out[9] = FIELD_INFO(r->count, 0); out[10] = FIELD_INFO(r->count, 1);
  return 0; }
SEC("fentry/types") u64 types(void) {
  out[0] = __builtin_preserve_type_info(*(struct leaf *)0, 0); out[1] = __builtin_preserve_type_info(*(struct absent *)0, 0);
  out[2] = __builtin_preserve_type_info(*(struct branch *)0, 1); out[3] = __builtin_preserve_type_info(*(struct absent *)0, 1);
  out[4] = __builtin_preserve_type_info(*(struct leaf *)0, 2); out[5] = __builtin_preserve_type_info(*(struct root *)0, 2);
  out[6] = __builtin_btf_type_id(*(struct leaf *)0, 0); out[7] = __builtin_btf_type_id(*(struct leaf *)0, 1);
  out[8] = __builtin_preserve_type_info(*(leaf_t *)0, 0);
  return 0; }
SEC("fentry/enums") u64 enums(void) {
  out[0] = __builtin_preserve_enum_value(*(enum state *)BUSY, 0); out[1] = __builtin_preserve_enum_value(*(enum state *)BUSY, 1);
  out[2] = __builtin_preserve_enum_value(*(enum state *)GONE, 0); out[3] = __builtin_preserve_enum_value(*(enum wide *)FAR, 1);
  return 0; }
SEC("fentry/gone") u64 gone(void) { return __builtin_preserve_enum_value(*(enum state *)GONE, 1); }
SEC("fentry/flavored") u64 flavored(struct root___flavor *r) { return r->only_there; }
`;

/** The library that is traced: the same structs in another order, with other sizes; some things are gone. */
const TARGET = `
typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
enum state { READY, IDLE, BUSY = 77 };
enum wide { FAR = 0x200000000ULL };
struct leaf { char before[24]; u64 stamp; u32 id; };
struct inner { u32 first; struct leaf leaves[8]; union { long pad; struct { u16 mask; u16 port; }; }; };
struct branch { long one, two; struct { int more; struct leaf *leaf; }; struct leaf leaves[8]; union { long pad; struct { u16 mask; u16 port; }; }; };
struct root { char filler[100]; u64 narrow; long sign; struct branch *branch; u32 other : 13; u32 mode : 9; char name[32]; enum state state; u32 only_there; int count; double ratio; };
typedef struct leaf leaf_t;
u64 user(struct root *r, leaf_t *l, enum wide w) { return r->branch->leaf->stamp + l->id + w; }
`;

/** Where the target's compiler put things. */
const OFFSETS = {
  branch: 120,
  leafInBranch: 24,
  stamp: 24,
  leaves: 32,
  leafSize: 40,
  narrow: 104,
  sign: 112,
  onlyThere: 168,
};

describe.skipIf(!hasClang || !hasGcc || !hasPahole)('a program and a library with other layouts', () => {
  let object = '';
  let local: Btf;
  let target: Btf;
  let ext: BtfExt;
  beforeAll(() => {
    object = workshop.bpf(PROGRAM);
    local = btfOf(object);
    ext = BtfExt.parse(sectionOf(object, '.BTF.ext'), local);
    target = btfOf(workshop.pahole(TARGET), true);
  });

  /** The section's instructions with every relocation done, and what each relocation came to. */
  function relocate(program: string, targets = [target]) {
    const section = `fentry/${program}`;
    const insns = [...decodeProgram(sectionOf(object, section))];
    const bySlot = new Map<number, number>();
    let slot = 0;
    for (const [index, insn] of insns.entries()) {
      bySlot.set(slot, index);
      slot += slotsOf(insn);
    }
    const results = (ext.coreRelos.get(section) ?? []).map(relo => {
      const at = relo.insnOffset / 8;
      const index = bySlot.get(at)!;
      const result = computeCoreRelo(relo, local, targets);
      insns[index] = applyCoreRelo(insns[index], result, at);
      return { relo, result, insn: insns[index], text: describeRelo(relo, local) };
    });
    return { insns, results };
  }
  const offsets = (section: string) => relocate(section).results.map(({ insn }) => insn.offset);
  /** The values by what they are of. */
  const values = (section: string) =>
    Object.fromEntries(
      relocate(section).results.map(({ text, result }) => [
        text,
        result.kind === 'value' ? Number(result.value) : 'poison',
      ]),
    );

  it('goes through three pointers at the offsets of the library', () => {
    expect(offsets('three')).toEqual([OFFSETS.branch, OFFSETS.leafInBranch, OFFSETS.stamp]);
  });

  it('finds elements of arrays, and members that moved into an anonymous struct', () => {
    expect(new Set(offsets('indexed'))).toEqual(
      new Set([
        OFFSETS.branch,
        OFFSETS.leaves + 2 * OFFSETS.leafSize + OFFSETS.stamp,
        OFFSETS.leaves + 8 * OFFSETS.leafSize,
      ]),
    );
  });

  it('loads and stores as many bytes as the field has', () => {
    const [load] = relocate('resized').results;
    expect(load.insn).toMatchObject({ opcode: CLASS.LDX | MODE.MEM | SIZE.DW, offset: OFFSETS.narrow });
    const [store] = relocate('stored').results;
    expect(store.insn).toMatchObject({ opcode: CLASS.STX | MODE.MEM | SIZE.DW, offset: OFFSETS.narrow });
  });

  it('poisons a signed field of another size', () => {
    const [{ insn, result }] = relocate('sign').results;
    expect(result).toMatchObject({ value: BigInt(OFFSETS.sign), misfit: true });
    expect(isPoisoned(insn)).toBe(true);
  });

  it('poisons what is not there', () => {
    const [{ insn, result }] = relocate('removed').results;
    expect(isPoisoned(insn)).toBe(true);
    expect(insn).toMatchObject({ opcode: 0x85, imm: 0xbad2310 });
    expect(result).toMatchObject({
      poison: true,
      reason: "field_byte_offset of struct root.removed is not in the target's types",
    });
    const { results } = relocate('gone');
    expect(results.every(({ insn: own }) => isPoisoned(own))).toBe(true);
  });

  it('says everything about fields', () => {
    expect(values('info')).toEqual({
      // 13 bits before, 9 of its own, in the four bytes at 128.
      'field_byte_offset of struct root.mode': 128,
      'field_byte_size of struct root.mode': 4,
      'field_exists of struct root.mode': 1,
      'field_signed of struct root.mode': 0,
      'field_lshift_u64 of struct root.mode': 64 - 22,
      'field_rshift_u64 of struct root.mode': 64 - 9,
      'field_signed of struct root.sign': 1,
      'field_exists of struct root.removed': 0,
      'field_byte_size of struct root.name': 32,
      'field_byte_offset of struct root.count': 172,
      'field_byte_size of struct root.count': 4,
    });
  });

  it('says everything about types', () => {
    expect(values('types')).toEqual({
      'type_exists of struct leaf': 1,
      'type_exists of struct absent': 0,
      'type_size of struct branch': target.sizeOf(target.find('branch', 'struct')!),
      'type_size of struct absent': 0,
      'type_matches of struct leaf': 1,
      'type_matches of struct root': 0,
      'type_id_local of struct leaf': local.find('leaf', 'struct'),
      'type_id_target of struct leaf': target.find('leaf', 'struct'),
      'type_exists of leaf_t': 1,
    });
  });

  it('says everything about enums', () => {
    expect(values('enums')).toEqual({
      'enumval_exists of enum state::BUSY': 1,
      'enumval_value of enum state::BUSY': 77,
      'enumval_exists of enum state::GONE': 0,
      'enumval_value of enum wide::FAR': 0x200000000,
    });
    const wide = relocate('enums').results.find(({ text }) => text.includes('FAR'))!;
    expect(wide.insn).toMatchObject({ opcode: LD_IMM64, imm64: 0x200000000n });
  });

  it('takes a flavor of a struct for the struct', () => {
    expect(offsets('flavored')).toEqual([OFFSETS.onlyThere]);
  });

  it('leaves a program alone that runs on what it was compiled with', () => {
    // How a bitfield is loaded is for us to say: clang would take other bytes.
    for (const section of ['three', 'indexed', 'resized', 'stored', 'types', 'enums', 'gone']) {
      const { insns, results } = relocate(section, [local]);
      expect(results.length).toBeGreaterThan(0);
      expect(insns).toEqual([...decodeProgram(sectionOf(object, `fentry/${section}`))]);
    }
  });

  it('asks the others where the first has no such type', () => {
    const empty = Btf.parse(new BtfBuilder().build());
    expect(relocate('three', [empty, target]).results.map(({ insn }) => insn.offset)).toEqual(
      offsets('three'),
    );
    expect(relocate('three', []).results.every(({ insn }) => isPoisoned(insn))).toBe(true);
  });

  it('refuses candidates that disagree, and takes those that agree', () => {
    const empty = Btf.parse(new BtfBuilder().build());
    expect(() => relocate('three', [empty, target, local])).toThrow('is ambiguous');
    expect(relocate('three', [empty, target, target]).results).toHaveLength(3);
  });
});

describe('damaged relocations', () => {
  const builder = new BtfBuilder();
  const int = builder.addInt('int', 4, { signed: true });
  const struct = builder.addStruct('s', 8, [
    { name: 'a', type: int, bitOffset: 0, bitSize: 0 },
    { name: 'b', type: int, bitOffset: 32, bitSize: 0 },
  ]);
  const list = builder.addEnum('e', 4, [{ name: 'A', value: 1n }]);
  const anonymous = builder.addStruct('', 8, [{ name: 'a', type: int, bitOffset: 0, bitSize: 0 }]);
  const btf = Btf.parse(builder.build());
  const relo = (typeId: number, access: string, kind: CoreReloKind): CoreRelo => ({
    insnOffset: 0,
    typeId,
    access,
    kind,
  });

  it.each([
    ['no indices', relo(struct, '', 'field_exists'), 'has no indices'],
    ['words', relo(struct, '0:a', 'field_exists'), 'has no indices'],
    ['a member that there is not', relo(struct, '0:2', 'field_exists'), 'goes to member 2 of 2'],
    ['into an int', relo(struct, '0:0:0', 'field_exists'), 'goes into a int'],
    ['into a type', relo(struct, '0:1', 'type_exists'), 'is of a type, and goes into it'],
    ['a value that there is not', relo(list, '1', 'enumval_value'), 'names no value of an enum'],
    ['a value of a struct', relo(struct, '0', 'enumval_value'), 'names no value of an enum'],
    ['a type without a name', relo(anonymous, '0:0', 'field_exists'), 'without a name'],
    ['too many indices', relo(struct, new Array(65).fill('0').join(':'), 'field_exists'), 'too many'],
    ['bits of an element', relo(struct, '0', 'field_signed'), 'bits of an element'],
  ])('%s', (_, bad, message) => {
    expect(() => computeCoreRelo(bad, btf, [btf])).toThrow(message);
    expect(() => computeCoreRelo(bad, btf, [btf])).toThrow(BpfError);
  });

  const load: BpfInsn = { opcode: CLASS.LDX | MODE.MEM | SIZE.W, dst: 0, src: 1, offset: 4, imm: 0 };
  const move: BpfInsn = { opcode: 0xb7, dst: 0, src: 0, offset: 0, imm: 4 };
  it.each([
    [
      'another offset than the compiler noted',
      { ...load, offset: 8 },
      4n,
      'expects offset 4 there, and finds 8',
    ],
    ['another immediate', { ...move, imm: 5 }, 4n, 'expects 4 there, and finds 5'],
    ['a 16-byte load of a map', loadImmediate64(0, 1, 4n), 4n, 'that has no number'],
    ['an operation between registers', { ...move, opcode: 0xbf }, 4n, 'between registers'],
    ['a jump', { ...move, opcode: 0x05 }, 4n, 'nothing to change'],
  ])('of %s', (_, insn, expected, message) => {
    expect(() => applyCoreRelo(insn, { kind: 'value', value: 4n, expected }, 0)).toThrow(message);
  });

  it('of values that do not fit', () => {
    expect(() => applyCoreRelo(load, { kind: 'value', value: 0x8000n }, 0)).toThrow("16 bits can't hold");
    expect(() => applyCoreRelo(move, { kind: 'value', value: 1n << 33n }, 0)).toThrow("32 bits can't hold");
    expect(() => applyCoreRelo(load, { kind: 'value', value: 4n, size: { local: 8, target: 4 } }, 0)).toThrow(
      'a field of 8 bytes, and 4 are accessed',
    );
    expect(() => applyCoreRelo(load, { kind: 'value', value: 4n, size: { local: 4, target: 3 } }, 0)).toThrow(
      'which no instruction accesses',
    );
  });

  it('keeps two slots where a 16-byte load is poisoned', () => {
    const poisoned = applyCoreRelo(
      loadImmediate64(3, 0, 7n),
      { kind: 'poison', poison: true, reason: 'gone' },
      0,
    );
    expect(slotsOf(poisoned)).toBe(2);
    expect(isPoisoned(poisoned)).toBe(true);
  });
});

/** What the loader makes of real objects, on a machine that only records. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import { bpfPrograms, CPU_VERSIONS, compileBpf, missingBpfCompiler } from '../../tests/support/bpf.js';
import { CALL, LD_IMM64, PSEUDO } from '../bpf/instruction.js';
import { KFUNC } from '../bpf/kfuncs.js';
import { layoutOf } from '../bpf/layout.js';
import { MAP_FLAG, MAP_TYPE } from '../bpf/map_type.js';
import { fakeFunction, type RecordedMap, RecordingKernel } from './fixture.js';
import { BpfObject } from './object.js';
import { Pins } from './pins.js';

const lacking = missingBpfCompiler();
const NAMES = [
  'add2',
  'six',
  'greet',
  'take_pointer',
  'parse',
  'read_outer',
  'negative',
  'leaf',
  'caller_one',
  'caller_two',
  'tick',
  'maybe',
];

function machine(): RecordingKernel {
  const kernel = new RecordingKernel();
  kernel.there = [
    ...NAMES.map(name => fakeFunction('main', name)),
    fakeFunction('libaccount', 'account_touch'),
  ];
  return kernel;
}

describe.skipIf(lacking !== undefined)('BPF objects', () => {
  let kernel: RecordingKernel;
  beforeEach(() => {
    kernel = machine();
  });

  test.each(bpfPrograms())('%s opens, links and attaches at cpu v2, v3 and v4', name => {
    for (const cpu of CPU_VERSIONS) {
      const own = machine();
      const object = BpfObject.open(compileBpf(name, cpu));
      object.load(own);
      for (const { attr } of own.progs) {
        const { slots, indexAt, slotOf } = layoutOf(attr.insns);
        const starts = new Set(attr.funcInfo?.map(({ slot }) => slot));
        for (const [i, insn] of attr.insns.entries()) {
          const isCall = insn.opcode === 0x85 && insn.src === CALL.SUBPROGRAM;
          const isAddress = insn.opcode === LD_IMM64 && insn.src === PSEUDO.FUNC;
          if (isCall || isAddress) expect(starts, `${attr.name} ${cpu}`).toContain(slotOf[i] + 1 + insn.imm);
          if (insn.opcode === LD_IMM64 && (insn.src === PSEUDO.MAP_FD || insn.src === PSEUDO.MAP_VALUE))
            expect(attr.maps.map(({ id }) => id)).toContain(insn.imm);
        }
        for (const { slot } of attr.lineInfo ?? []) {
          expect(slot).toBeLessThan(slots);
          expect(indexAt[slot]).toBeGreaterThanOrEqual(0);
        }
        expect(attr.funcInfo?.[0]?.slot).toBe(0);
      }
      expect(object.attach()).toBeGreaterThan(0);
      object.destroy();
      expect(own.created.every(map => map.freed)).toBe(true);
      expect(own.links.every(link => link.detached)).toBe(true);
    }
  });

  test('subprograms stand once behind each program that needs them', () => {
    const object = BpfObject.open(compileBpf('subprograms'));
    object.load(kernel);
    expect(object.program('on_six').linked?.parts.map(({ name }) => name)).toEqual([
      'on_six',
      'outermost',
      'middle',
      'weigh',
    ]);
    expect(object.program('on_six_exit').linked?.parts.map(({ name }) => name)).toEqual([
      'on_six_exit',
      'middle',
      'weigh',
    ]);
    const [{ attr }] = kernel.progs;
    const names = attr.funcInfo?.map(({ typeId }) => attr.btf?.name(typeId));
    expect(names).toEqual(['on_six', 'outermost', 'middle', 'weigh']);
    const texts = attr.lineInfo?.map(({ text }) => text.trim());
    expect(texts).toContain('deep = outermost(a);');
    expect(texts).toContain('shared_calls++;');
  });

  test('global data: sections, values before loading, flags of the maps', () => {
    const object = BpfObject.open(compileBpf('globals'));
    const { globals } = object;
    expect(globals.data.calls).toBe(5);
    expect(globals.rodata.limits).toEqual({ low: 10, high: 20, label: 'default' });
    expect(globals.data_extremes.lowest).toBe(1n << 30n);
    expect(globals['.rodata.settings'].factor).toBe(3n);
    expect(globals.data.table).toEqual([1, 2, 3, 4]);
    globals.rodata.limits = { low: 1, high: 2, label: 'mine' };
    globals.data.table = [9];
    globals.bss.mode = 'LOUD';
    expect(() => {
      globals.rodata.step = 2n ** 40n;
    }).toThrow(/step/);
    object.load(kernel);
    expect(() => {
      globals.rodata.step = 2;
    }).toThrow(/fixed once it is loaded/);
    globals.data.calls = 77;
    expect(globals.data.calls).toBe(77);
    expect(globals.data.table).toEqual([9, 0, 0, 0]);
    expect(globals.bss.mode).toBe('LOUD');
    const byName = new Map(kernel.created.map(map => [map.name, map]));
    const rodata = byName.get('globals.rodata')!;
    expect(rodata.flags).toBe(MAP_FLAG.MMAPABLE | MAP_FLAG.RDONLY_PROG);
    expect(rodata.frozen).toBe(true);
    expect([rodata.type, rodata.keySize, rodata.maxEntries]).toEqual([MAP_TYPE.ARRAY, 4, 1]);
    expect(byName.get('globals.bss')?.frozen).toBe(false);
    expect(byName.has('.data.extremes')).toBe(true);
    object.destroy();
    expect(globals.data.calls).toBe(77);
  });

  test('maps: attributes, types, keys and values', () => {
    const object = BpfObject.open(compileBpf('hash'));
    const hits = object.map('hits');
    expect([hits.spec.keySize, hits.spec.valueSize, hits.maxEntries]).toEqual([8, 16, 128]);
    hits.maxEntries = 256;
    expect(() => hits.get({ a: 1, b: 2 })).toThrow(/not loaded/);
    object.load(kernel);
    expect(() => {
      hits.maxEntries = 1;
    }).toThrow(/before loading/);
    expect(kernel.created.find(({ name }) => name === 'hits')?.maxEntries).toBe(256);
    expect(hits.get({ a: 1, b: 2 })).toBeUndefined();
    hits.set({ a: 1, b: 2 }, { count: 2n ** 60n, last: { a: -1, b: 3 } });
    expect(hits.get({ a: 1, b: 2 })).toEqual({ count: 2n ** 60n, last: { a: -1, b: 3 } });
    expect([...hits.entries()]).toEqual([
      { key: { a: 1, b: 2 }, value: { count: 2n ** 60n, last: { a: -1, b: 3 } } },
    ]);
    expect(hits.delete({ a: 1, b: 2 })).toBe(true);
    expect(hits.delete({ a: 1, b: 2 })).toBe(false);
  });

  test('per-CPU maps take and give a value for each CPU', () => {
    const object = BpfObject.open(compileBpf('percpu_hash'));
    object.load(kernel);
    const counts = object.map('counts');
    counts.set(3n, [1n, 2n]);
    expect(counts.get(3n)).toEqual([1n, 2n, 0n, 0n]);
    expect(() => counts.set(3n, 1n)).toThrow(/array/);
  });

  test('maps of maps and program arrays get what the file puts into them', () => {
    const object = BpfObject.open(compileBpf('array_of_maps'));
    object.load(kernel);
    const outer = object.map('both').live.map as RecordedMap;
    expect([...outer.objects].map(([key, inner]) => [key, inner.name])).toEqual([
      ['00000000', 'even'],
      ['01000000', 'odd'],
    ]);
    expect(outer.attr.innerMap?.maxEntries).toBe(4);
    const programs = BpfObject.open(compileBpf('prog_array'));
    programs.load(kernel);
    const jumps = programs.map('jumps').live.map as RecordedMap;
    expect([...jumps.objects.values()].map(prog => prog.name)).toEqual(['on_add2_even', 'around']);
    // Programs that are called through the array need no target.
    expect(programs.attach()).toBe(2);
  });

  test('kernel functions by number, weak ones that there are not', () => {
    const object = BpfObject.open(compileBpf('iterator'));
    object.load(kernel);
    const calls = kernel.progs[0].attr.insns.filter(insn => insn.opcode === 0x85);
    expect(calls.filter(({ src }) => src === CALL.KFUNC).map(({ imm }) => imm)).toEqual(
      expect.arrayContaining([KFUNC.bpf_iter_num_new, KFUNC.bpf_iter_num_next, KFUNC.bpf_iter_num_destroy]),
    );
    const missing = calls.filter(({ src, imm }) => src === CALL.HELPER && imm > 1_000_000);
    expect(missing).toHaveLength(1);
  });

  test('programs of libraries that are not there yet are loaded when they come', () => {
    const object = BpfObject.open(compileBpf('multi'));
    object.program('on_call').setTarget('libx:f*');
    object.load(kernel, { deferUnmatched: true });
    expect(kernel.progs).toHaveLength(0);
    expect(object.attach()).toBe(0);
    kernel.there.push(fakeFunction('libx.so', 'f1'));
    expect(object.attach()).toBe(1);
    kernel.bring(fakeFunction('libx.so', 'f2'));
    expect(object.attach()).toBe(0);
    expect(kernel.progs).toHaveLength(1);
    expect(kernel.links).toHaveLength(1);
    expect(object.program('on_call').attached).toBe(2);
  });

  test('ring buffers give records by type, and end when the object goes', async () => {
    const object = BpfObject.open(compileBpf('ringbuf'));
    object.load(kernel);
    const map = object.map('events').live.map as RecordedMap;
    expect([map.keySize, map.valueSize]).toEqual([0, 0]);
    const record = Buffer.alloc(24);
    record.writeInt32LE(2, 0);
    record.writeInt32LE(-3, 4);
    record.writeBigInt64LE(4n, 8);
    record.write('neg', 16);
    const seen: unknown[] = [];
    const reading = (async () => {
      for await (const value of object.ringBuffer('events')) seen.push(value);
    })();
    map.records.push(record);
    await new Promise(resolve => setTimeout(resolve, 30));
    map.records.push(record, Uint8Array.of(1, 2));
    object.destroy();
    await reading;
    const value = { kind: 2, a: -3, sum: 4n, text: 'neg' };
    expect(seen).toEqual([value, value, '0102']);
  });

  test('an exec takes values along; what can not be kept starts empty', () => {
    const object = BpfObject.open(compileBpf('hash'));
    object.load(kernel);
    object.map('hits').set({ a: 1, b: 2 }, { count: 3n, last: { a: 0, b: 0 } });
    object.globals.bss.noexist = 4;
    const carried = object.snapshot();
    object.forget();
    object.load(machine(), { carried });
    expect(object.map('hits').get({ a: 1, b: 2 })).toEqual({ count: 3n, last: { a: 0, b: 0 } });
    expect(object.globals.bss.noexist).toBe(4);
  });

  test('pinned maps are shared by objects, kept in a file, and refused in another shape', () => {
    const folder = mkdtempSync(join(tmpdir(), 'multitrace-pins-'));
    try {
      const pins = new Pins(folder);
      const [one, two] = [BpfObject.open(compileBpf('pinned')), BpfObject.open(compileBpf('pinned'))];
      one.load(kernel, { pins });
      two.load(kernel, { pins });
      one.map('lasting').set(5, 50n);
      expect(two.map('lasting').get(5)).toBe(50n);
      pins.keep(kernel);
      expect(pins.save()).toEqual([join(folder, 'lasting')]);
      expect(readFileSync(join(folder, 'lasting'), 'utf8')).toMatch(
        /^multitrace-map-1 1 4 8\n05000000 3200000000000000\n$/,
      );
      two.destroy();
      const again = BpfObject.open(compileBpf('pinned'));
      again.load(machine(), { pins: new Pins(folder) });
      expect(again.map('lasting').get(5)).toBe(50n);
      const other = BpfObject.open(compileBpf('hash'));
      other.map('hits').pin = 'lasting';
      expect(() => other.load(machine(), { pins: new Pins(folder) })).toThrow(/rename it, or remove its pin/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('damaged objects: a clear error or a correct load, never another exception', () => {
    const seed = Number(process.env.MULTITRACE_SEED ?? Date.now() % 1_000_000);
    console.log(`seed ${seed}`);
    let state = seed;
    const random = (below: number): number => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 8) % below;
    };
    const files = ['globals', 'array_of_maps', 'subprograms', 'core', 'prog_array'].map(name =>
      readFileSync(compileBpf(name)),
    );
    const rounds = process.env.MULTITRACE_SOAK === '1' ? 100_000 : 1500;
    let loaded = 0;
    for (let round = 0; round < rounds; round++) {
      const bytes = Uint8Array.from(files[round % files.length]);
      for (let i = random(4) + 1; i > 0; i--)
        bytes[random(bytes.length)] = random(4) === 0 ? 255 : random(256);
      const cut = random(20) === 0 ? random(bytes.length) : bytes.length;
      try {
        const object = BpfObject.open(bytes.subarray(0, cut));
        object.load(machine());
        object.attach();
        object.destroy();
        loaded++;
      } catch (cause) {
        if ((cause as Error).name !== 'BpfError') throw new Error(`round ${round}, seed ${seed}`, { cause });
      }
    }
    expect(loaded).toBeGreaterThan(0);
  }, 1_200_000);
});

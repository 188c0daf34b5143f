import koffi from 'koffi';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { callCode, ftruncate, MAP, memfdCreate, mmap, PROT, viewMemory } from '../../../ffi/libc.js';
import { Assembler, mem, r8, r9, rax, rdi, rdx, rsi } from '../../../x86/assembler.js';
import { randomNumbers, SharedMemory } from '../maps/fixture.js';
import type { Block } from '../region/arena.js';
import { RECORD, writeRecord } from './record.js';
import { emitTableLookup, KfuncTable, MIN_BUCKETS } from './table.js';

let memory: SharedMemory;
beforeAll(() => {
  memory = new SharedMemory(64 << 20);
});
afterAll(() => memory[Symbol.dispose]());

/** Functions that a reader looks up in turn. */
const COUNT = 64;

/** The look-up as machine code: rdi = function address, returns the record's address or 0. */
function lookupCode(root: bigint): (func: bigint) => bigint {
  const a = new Assembler();
  const absent = a.label();
  emitTableLookup(a, root, rdi, rax, absent);
  a.ret();
  a.bind(absent);
  a.xor(rax, rax, 4);
  a.ret();
  const fd = memfdCreate('table-test');
  ftruncate(fd, 4096);
  const writable = mmap(0n, 4096, PROT.READ | PROT.WRITE, MAP.SHARED, fd, 0);
  const code = mmap(0n, 4096, PROT.READ | PROT.EXEC, MAP.SHARED, fd, 0);
  new Uint8Array(viewMemory(writable, 4096)).set(a.finish(code));
  return func => callCode(code, func);
}

function record(func: bigint): bigint {
  const block = memory.alloc(RECORD.size);
  writeRecord(block.bytes, func, 6, { bpfFunc: 1n, cookie: 2n }, 0n);
  return block.address;
}

test('machine code finds what was inserted, nothing else, through growth, deletion and shrinking', () => {
  const retired: Block[] = [];
  const table = new KfuncTable(memory, block => retired.push(block));
  const find = lookupCode(table.root);
  const random = randomNumbers(0x6b66);
  const model = new Map<bigint, bigint>();
  const all: bigint[] = [];
  for (let step = 0; step < 400; step++) {
    if (random(100) < (step < 200 ? 70 : 30) || model.size === 0) {
      const entries: { func: bigint; record: bigint }[] = [];
      for (let i = random(60); i >= 0; i--) {
        const func = 0x7f00_0000_0000n + BigInt(random(1 << 22)) * 16n;
        if (model.has(func) || entries.some(e => e.func === func)) continue;
        entries.push({ func, record: record(func) });
      }
      for (const e of entries) {
        model.set(e.func, e.record);
        all.push(e.func);
      }
      table.insert(entries);
    } else {
      const gone = [...model.keys()].filter(() => random(4) === 0);
      for (const func of gone) model.delete(func);
      table.delete(gone);
    }
    expect(table.size).toBe(model.size);
    expect(model.size).toBeLessThanOrEqual(table.buckets * 0.9);
    if (table.buckets > MIN_BUCKETS) expect(model.size).toBeGreaterThanOrEqual(table.buckets * 0.3 - 1);
    for (const func of all) {
      const want = model.get(func) ?? 0n;
      if (random(step % 50 === 0 ? 1 : 40) === 0) expect(find(func)).toBe(want);
    }
  }
  expect(all.length).toBeGreaterThan(3000);
  expect(retired.length).toBeGreaterThan(5);
});

test('the table starts at 16 buckets, doubles above 90 % load and halves below 30 %', () => {
  const table = new KfuncTable(memory, () => {});
  const funcs = Array.from({ length: 15 }, (_, i) => 0x1000n * BigInt(i + 1));
  expect(table.buckets).toBe(16);
  for (const func of funcs.slice(0, 14)) table.insert([{ func, record: record(func) }]);
  expect(table.buckets).toBe(16);
  table.insert([{ func: funcs[14], record: record(funcs[14]) }]);
  expect(table.buckets).toBe(32);
  table.delete(funcs.slice(9));
  expect(table.buckets).toBe(16);
  table.delete(funcs.slice(0, 9));
  expect(table.buckets).toBe(16);
  expect(table.size).toBe(0);
});

test('a reader of a table that was replaced still finds every record that was in it', () => {
  const retired: Block[] = [];
  const table = new KfuncTable(memory, block => retired.push(block));
  const funcs = Array.from({ length: 14 }, (_, i) => 0x55_0000n + 0x40n * BigInt(i));
  table.insert(funcs.map(func => ({ func, record: record(func) })));
  const more = Array.from({ length: 200 }, (_, i) => 0x77_0000n + 0x40n * BigInt(i));
  table.insert(more.map(func => ({ func, record: record(func) })));
  const [old] = retired;
  const root = memory.alloc(8);
  new BigUint64Array(root.bytes.buffer, root.bytes.byteOffset, 1)[0] = old.address;
  const find = lookupCode(root.address);
  for (const func of funcs) expect(find(func)).toBe(table.lookup(func));
  expect(find(more[0])).toBe(0n);
});

test('readers on other threads, without a lock, find each record that stays, while others come, go and are replaced', async () => {
  const retired: Block[] = [];
  const table = new KfuncTable(memory, block => retired.push(block));
  const random = randomNumbers(0x7ab1e);
  const staying = Array.from({ length: COUNT }, (_, i) => 0x7fff_1234_0000n + 0x40n * BigInt(i));
  const never = Array.from({ length: COUNT }, (_, i) => 0x7ffe_0000_0000n + 0x40n * BigInt(i));
  const coming = new Set<bigint>();
  // Behind others, which they will be looked for past when those are gone.
  for (let i = 0; i < 400; i++) coming.add(0x7f00_0000_0000n + BigInt(random(4096)) * 16n);
  table.insert([...coming].map(func => ({ func, record: record(func) })));
  table.insert(staying.map(func => ({ func, record: record(func) })));
  const read = readerCode(table.root);
  const rounds = 400_000;
  const threads = [staying, staying, never].map(funcs => read(funcs, rounds));
  let running = true;
  const missing = Promise.all(threads).finally(() => {
    running = false;
  });
  let changes = 0;
  while (running) {
    for (let i = 0; i < 50; i++, changes++) {
      const func = 0x7f00_0000_0000n + BigInt(random(4096)) * 16n;
      if (coming.has(func)) table.delete([func]);
      else table.insert([{ func, record: record(func) }]);
      if (!coming.delete(func)) coming.add(func);
      const stays = staying[random(staying.length)];
      table.replace(stays, record(stays));
      if (random(2000) === 0) {
        table.delete([...coming]);
        coming.clear();
      }
    }
    await new Promise(resolve => setImmediate(resolve));
  }
  expect(await missing).toEqual([0, 0, never.length * rounds]);
  expect(changes).toBeGreaterThan(500);
  expect(retired.length).toBeGreaterThan(2);
}, 120_000);

/** Looks functions up over and over, on a thread of its own; resolves to how often one was not found. */
function readerCode(root: bigint): (funcs: readonly bigint[], rounds: number) => Promise<number> {
  const a = new Assembler();
  const [again, next, absent] = [a.label(), a.label(), a.label()];
  // rdi: the functions, rsi: how many, r8: rounds.
  a.mov(r9, rsi);
  a.xor(rax, rax, 4);
  a.bind(again);
  a.dec(r9);
  const key = rsi;
  a.mov(key, mem(rdi, 0, r9, 8));
  emitTableLookup(a, root, key, rdx, absent);
  a.jmp(next);
  a.bind(absent);
  a.inc(rax);
  a.bind(next);
  a.test(r9, r9);
  a.jcc('ne', again);
  a.mov(r9, COUNT);
  a.dec(r8);
  a.jcc('ne', again);
  a.ret();
  const fd = memfdCreate('table-readers');
  ftruncate(fd, 4096);
  const writable = mmap(0n, 4096, PROT.READ | PROT.WRITE, MAP.SHARED, fd, 0);
  const code = mmap(0n, 4096, PROT.READ | PROT.EXEC, MAP.SHARED, fd, 0);
  new Uint8Array(viewMemory(writable, 4096)).set(a.finish(code));
  const reader = koffi.decode(
    code,
    koffi.proto('uint64_t table_reader(void *funcs, uint64_t count, uint64_t, uint64_t, uint64_t rounds)'),
  );
  return (funcs, rounds) => {
    const list = BigUint64Array.from(funcs);
    return new Promise((resolve, reject) => {
      reader.async(list, COUNT, 0, 0, rounds, (error: Error | null, missed: number | bigint) => {
        if (error) reject(error);
        else resolve(Number(missed));
        // It is read till here.
        void list;
      });
    });
  };
}

/** Routines that need no second process, run in this one. */

import { expect, test } from 'vitest';
import { callCode, MAP, mmap, munmap, PROT, SYS, systemCall, viewMemory } from '../../../ffi/libc.js';
import { Assembler, type Label } from '../../../x86/assembler.js';
import type { Arena } from '../region/arena.js';
import { SHARED, TABLE_BYTES } from '../threads/layout.js';
import { emitHelperRoutines } from './routines.js';
import { Clocks, counterUnusable } from './time.js';

const PAGE = 4096;
const seed = Number(process.env.MULTITRACE_SEED ?? Date.now() & 0xffff);

/** Memory of this process as an arena. */
function ownArena(): Arena & { readonly at: bigint } {
  const size = 1 << 20;
  const at = mmap(0n, size, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
  const bytes = new Uint8Array(viewMemory(at, size));
  let used = 0;
  return {
    at,
    alloc: length => {
      const from = used;
      used += (length + 63) & -64;
      return { address: at + BigInt(from), bytes: bytes.subarray(from, used), size: used - from };
    },
    free: () => {},
  };
}

function routines(): { call: (helper: number, ...args: (bigint | number)[]) => bigint; shared: Uint8Array } {
  const arena = ownArena();
  const clocks = new Clocks(arena);
  const shared = arena.alloc(SHARED.size);
  shared.bytes.fill(0xff, 0, 16);
  shared.bytes.set(Buffer.from('process name!!\0'), SHARED.comm);
  const table = mmap(0n, TABLE_BYTES, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
  const a = new Assembler();
  const made = emitHelperRoutines(a, {
    thread: { table, shared: shared.address },
    time: clocks.address,
  });
  const size = (a.length + PAGE - 1) & -PAGE;
  const at = mmap(0n, size, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
  new Uint8Array(viewMemory(at, size)).set(a.finish(at));
  systemCall('mprotect', SYS.mprotect, at, size, PROT.READ | PROT.EXEC);
  return {
    call: (helper, ...args) =>
      callCode(at + BigInt(a.offsetOf(made.routines.get(`helper_${helper}`) as Label)), ...args),
    shared: shared.bytes,
  };
}

const { call, shared } = routines();
const memory = mmap(0n, 3 * PAGE, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
// The page behind the second is not there.
munmap(memory + BigInt(2 * PAGE), PAGE);
const bytes = new Uint8Array(viewMemory(memory, 2 * PAGE));
const signed = (value: bigint): number => Number(BigInt.asIntN(64, value));

test('probe_read copies exactly what it is asked for, up to the end of a page, and zeros for bad addresses', () => {
  for (let size = 0; size <= 70; size++)
    for (const from of [PAGE + 3, 2 * PAGE - size]) {
      bytes.fill(0xaa, 0, 128);
      for (let i = 0; i < size; i++) bytes[from + i] = (i * 7 + size) & 0xff;
      expect(signed(call(112, memory + 8n, size, memory + BigInt(from)))).toBe(0);
      expect(bytes.slice(8, 8 + size)).toEqual(bytes.slice(from, from + size));
      expect([bytes[7], bytes[8 + size]]).toEqual([0xaa, 0xaa]);
    }
  for (const bad of [0n, 1n, 0xffffn, 1n << 63n, 0xdead_0000_0000_0000n, 0xffff_8000_0000_0000n]) {
    bytes.fill(0xaa, 0, 64);
    expect(signed(call(113, memory + 8n, 21, bad))).toBe(-14);
    expect(bytes.slice(7, 30)).toEqual(Uint8Array.of(0xaa, ...new Array(21).fill(0), 0xaa));
  }
});

test('probe_read_str copies strings of every length and alignment, cuts them, and ends them', () => {
  for (let length = 0; length < 40; length++)
    for (let align = 0; align < 9; align++)
      for (const size of [1, 2, 7, 8, 9, 16, 17, 33, 64]) {
        // It ends where the memory does: one byte more would fault.
        const from = align === 8 ? 2 * PAGE - length - 1 : PAGE + align;
        for (let i = 0; i < length; i++) bytes[from + i] = 1 + ((i * 13) % 255);
        bytes[from + length] = 0;
        bytes.fill(0xaa, 0, 128);
        const got = signed(call(115, memory + 8n, size, memory + BigInt(from)));
        const copied = Math.min(length, size - 1);
        expect(got).toBe(copied + 1);
        expect(bytes.slice(8, 8 + copied)).toEqual(bytes.slice(from, from + copied));
        expect([bytes[7], bytes[8 + copied], bytes[8 + size]]).toEqual([0xaa, 0, 0xaa]);
      }
  expect(signed(call(114, memory, 8, 5n))).toBe(-14);
  expect(signed(call(114, memory, 0, 5n))).toBe(0);
});

test(`strncmp is the sign of the first difference (seed ${seed})`, () => {
  let state = seed;
  const random = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
  const text = new TextDecoder('latin1');
  for (let round = 0; round < 2000; round++) {
    const size = random(12);
    for (let i = 0; i < 12; i++) bytes[i] = random(3) * 100;
    for (let i = 0; i < 12; i++) bytes[100 + i] = random(3) * 100;
    bytes[112] = 0;
    const a = text.decode(bytes.slice(0, size)).split('\0')[0];
    const b = text.decode(bytes.slice(100, 112)).split('\0')[0].slice(0, size);
    expect(signed(call(182, memory, size, memory + 100n))).toBe(a < b ? -1 : a > b ? 1 : 0);
  }
});

test('a thread has one slot, a name and random numbers', () => {
  const slot = call(8);
  expect(slot).toBe(0n);
  expect(call(8)).toBe(slot);
  bytes.fill(0xaa, 0, 32);
  expect(call(16, memory, 8)).toBe(0n);
  expect(Buffer.from(bytes.slice(0, 9)).toString('latin1')).toBe('process\0\xaa');
  expect(call(16, memory, 24)).toBe(0n);
  expect(Buffer.from(bytes.slice(0, 25)).toString('latin1')).toBe(`process name!!${'\0'.repeat(10)}\xaa`);
  const numbers = new Set(Array.from({ length: 1000 }, () => call(7)));
  expect(numbers.size).toBeGreaterThan(990);
  for (const n of numbers) expect(n).toBeLessThan(1n << 32n);
  expect(shared[0]).toBe(0xfe);
});

test.skipIf(counterUnusable() !== undefined)('the clocks are the kernel’s, and never go back', () => {
  const arena = ownArena();
  const clocks = new Clocks(arena);
  void clocks;
  let worst = 0n;
  let last = 0n;
  for (let i = 0; i < 2000; i++) {
    const before = process.hrtime.bigint();
    const now = call(5);
    const after = process.hrtime.bigint();
    expect(now).toBeGreaterThanOrEqual(last);
    last = now;
    const error = now < before ? before - now : now > after ? now - after : 0n;
    if (error > worst) worst = error;
  }
  // Some parts in a million of the time since the module was loaded.
  expect(worst).toBeLessThan(200_000n);
  expect(call(125)).toBeGreaterThanOrEqual(call(5) - 1_000_000n);
  expect(call(118)).toBeGreaterThan(0n);
});

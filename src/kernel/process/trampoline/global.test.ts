import { expect, test } from 'vitest';
import { callCode, ftruncate, MAP, memfdCreate, mmap, PROT, viewMemory } from '../../../ffi/libc.js';
import { OPAQUE_LAYOUT, type WordPlace } from '../../../process/symbols/call_layout.js';
import {
  Assembler,
  mem,
  r8,
  r9,
  r10,
  r11,
  r12,
  r13,
  r14,
  r15,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
} from '../../../x86/assembler.js';
import { ENTRY, RECORD, writeEntries, writeRecord } from '../kfunc_md/record.js';
import { KfuncTable } from '../kfunc_md/table.js';
import { SharedMemory } from '../maps/fixture.js';
import { FRAME } from './frame.js';
import { emitGlobalTrampoline, type TrampolineSpec } from './global.js';

const ALL = [rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
const REGISTERS: readonly WordPlace[] = OPAQUE_LAYOUT.words;
const CALLER_SAVED = [rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11];
const CLOBBERS = CALLER_SAVED.reduce((mask, reg) => mask | (1 << reg.code), 0);
const CODE_BYTES = 16384;
/** What `program` notes of one run: cookie, ip, six arguments. */
const NOTE_BYTES = 64;

/**
 * Everything in this process: a "traced function" is the slot's call alone. `run` loads every register with a value of
 * its own, calls it, and tells which registers changed and what the programs saw.
 */
function rig(
  spec: TrampolineSpec,
  programs: number,
): {
  run: () => {
    changed: string[];
    notes: bigint[][];
    stackWords: { returnAddress: bigint; behindCall: bigint };
  };
} {
  const memory = new SharedMemory(1 << 20);
  const fd = memfdCreate('trampoline-test');
  ftruncate(fd, CODE_BYTES);
  const writable = mmap(0n, CODE_BYTES, PROT.READ | PROT.WRITE, MAP.SHARED, fd, 0);
  const code = mmap(0n, CODE_BYTES, PROT.READ | PROT.EXEC, MAP.SHARED, fd, 0);
  const bytes = new Uint8Array(viewMemory(writable, CODE_BYTES));
  const table = new KfuncTable(memory, () => {});
  const notes = memory.alloc(NOTE_BYTES * 8);
  const cursor = memory.alloc(8);
  const returned = memory.alloc(8);
  const results = memory.alloc(8 * ALL.length);
  const a = new Assembler();

  // The program: notes what it sees, then spoils every register that it may.
  const program = a.here();
  a.movImm64(r10, cursor.address);
  a.mov(r11, mem(r10));
  a.add(mem(r10), NOTE_BYTES);
  a.mov(rax, mem(rdi, FRAME.entry));
  a.mov(rax, mem(rax, ENTRY.cookie));
  a.mov(mem(r11), rax);
  a.mov(rax, mem(rdi, FRAME.record));
  a.mov(rax, mem(rax, RECORD.func));
  a.mov(mem(r11, 8), rax);
  if (spec.words.length > 0)
    for (let i = 0; i < 6; i++) {
      a.mov(rax, mem(rdi, 8 * i));
      a.mov(mem(r11, 16 + 8 * i), rax);
    }
  if (spec.depth === 'stack') {
    a.mov(rax, mem(rdi, FRAME.stack));
    a.mov(rax, mem(rax));
    a.movImm64(r10, returned.address);
    a.mov(mem(r10), rax);
  }
  for (const reg of CALLER_SAVED) a.movImm64(reg, 0xdead_0000n + BigInt(reg.code));
  a.ret();

  const trampoline = a.here();
  emitGlobalTrampoline(a, spec, table.root);

  // A slot, or a function that begins with the call.
  a.align(64);
  const slotAt = a.length;
  a.bytes(new Uint8Array(RECORD.size));
  const slot = a.here();
  const sledAt = a.length;
  a.call(trampoline);
  a.ret();

  // The caller.
  const entry = a.here();
  const saved = [rbx, rbp, r12, r13, r14, r15];
  for (const reg of saved) a.push(reg);
  for (const reg of ALL) a.movImm64(reg, 0x1111_0000_0000n + BigInt(reg.code));
  a.call(slot);
  const behindCall = a.here();
  a.push(rax);
  a.movImm64(rax, results.address);
  for (const [i, reg] of ALL.entries()) if (reg !== rax) a.mov(mem(rax, 8 * i), reg);
  a.pop(rcx);
  a.mov(mem(rax), rcx);
  for (const reg of saved.toReversed()) a.pop(reg);
  a.ret();

  bytes.set(a.finish(code));
  const at = (offset: number): bigint => code + BigInt(offset);
  const programAt = at(a.offsetOf(program));
  const func = spec.record === 'slot' ? 0x4000n : at(sledAt);
  const more = memory.alloc(256);
  writeEntries(
    more.bytes,
    Array.from({ length: programs - 1 }, (_, i) => ({ bpfFunc: programAt, cookie: BigInt(101 + i) })),
  );
  const block = spec.record === 'slot' ? undefined : memory.alloc(RECORD.size);
  const record = block?.bytes ?? bytes.subarray(slotAt, slotAt + RECORD.size);
  writeRecord(record, func, 6, { bpfFunc: programAt, cookie: 100n }, programs > 1 ? more.address : 0n);
  if (block !== undefined) table.insert([{ func, record: block.address }]);

  return {
    run: () => {
      new BigUint64Array(cursor.bytes.buffer, cursor.bytes.byteOffset, 1)[0] = notes.address;
      callCode(at(a.offsetOf(entry)));
      const got = new BigUint64Array(results.bytes.buffer, results.bytes.byteOffset, ALL.length);
      const changed = ALL.filter((reg, i) => got[i] !== 0x1111_0000_0000n + BigInt(reg.code)).map(
        r => r.name,
      );
      const end = new BigUint64Array(cursor.bytes.buffer, cursor.bytes.byteOffset, 1)[0];
      const runs = Number(end - notes.address) / NOTE_BYTES;
      const words = new BigUint64Array(notes.bytes.buffer, notes.bytes.byteOffset, (NOTE_BYTES / 8) * runs);
      return {
        changed,
        stackWords: {
          returnAddress: new BigUint64Array(returned.bytes.buffer, returned.bytes.byteOffset, 1)[0],
          behindCall: at(a.offsetOf(behindCall)),
        },
        notes: Array.from({ length: runs }, (_, i) => [...words.subarray(i * 8, i * 8 + 8)]),
      };
    },
  };
}

const value = (reg: { code: number }): bigint => 0x1111_0000_0000n + BigInt(reg.code);
const ARGUMENTS = [rdi, rsi, rdx, rcx, r8, r9].map(value);

for (const [what, record] of [
  ['from a slot', 'slot'],
  ['through the table', { returnOffset: 5 }],
] as const)
  for (const programs of [1, 2, 4])
    test(`${what}, ${programs} programs run in order with their cookies and arguments, and no register changes`, () => {
      const { changed, notes } = rig(
        { words: REGISTERS, clobbers: CLOBBERS, depth: 'record', record },
        programs,
      ).run();
      expect(changed).toEqual([]);
      expect(notes.map(n => n[0])).toEqual([100n, 101n, 102n, 103n].slice(0, programs));
      for (const n of notes) expect(n.slice(2)).toEqual(ARGUMENTS);
      expect(new Set(notes.map(n => n[1])).size).toBe(1);
    });

test('without arguments to lay out, registers are still preserved', () => {
  const { changed, notes } = rig({ words: [], clobbers: CLOBBERS, depth: 'record', record: 'slot' }, 2).run();
  expect(changed).toEqual([]);
  expect(notes.map(n => n.slice(0, 2))).toEqual([
    [100n, 0x4000n],
    [101n, 0x4000n],
  ]);
});

test('fewer arguments than registers are laid out, and the others are preserved', () => {
  const { changed, notes } = rig(
    { words: REGISTERS.slice(0, 2), clobbers: CLOBBERS, depth: 'record', record: 'slot' },
    1,
  ).run();
  expect(changed).toEqual([]);
  expect(notes[0].slice(2, 4)).toEqual(ARGUMENTS.slice(0, 2));
});

test('where a program needs it, ctx - 24 is the address of the word with the return address, for every program', () => {
  const { changed, notes, stackWords } = rig(
    { words: REGISTERS, clobbers: CLOBBERS, record: 'slot', depth: 'stack' },
    3,
  ).run();
  expect(changed).toEqual([]);
  expect(notes.map(n => n[0])).toEqual([100n, 101n, 102n]);
  for (const n of notes) expect(n.slice(2)).toEqual(ARGUMENTS);
  // Three programs on one call saw one word, and it held the address behind the call.
  expect(stackWords.returnAddress).toBe(stackWords.behindCall);
});

test('a trampoline for a program that spoils little saves little', () => {
  const size = (clobbers: number): number => {
    const a = new Assembler();
    emitGlobalTrampoline(a, { words: [], clobbers, depth: 'record', record: 'slot' }, 0n);
    return a.length;
  };
  expect(size(0)).toBeLessThan(size(CLOBBERS) - 10);
});

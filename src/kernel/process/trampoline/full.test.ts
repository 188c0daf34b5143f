/**
 * Full trampolines and return trampolines, in this process: the order of programs, what each sees, skipped originals,
 * sessions, tail calls, and that no register and no flag changes. Programs are written by hand: each notes what it sees.
 */

import { expect, test } from 'vitest';
import { callCode, ftruncate, MAP, memfdCreate, mmap, PROT, viewMemory } from '../../../ffi/libc.js';
import type { WordPlace } from '../../../process/symbols/call_layout.js';
import {
  Assembler,
  type Label,
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
import { CALL, callTableBytes } from '../kfunc_md/call_table.js';
import { ITEM, type ListItem, writeLists } from '../kfunc_md/lists.js';
import { RECORD, writeRecord } from '../kfunc_md/record.js';
import { SharedMemory } from '../maps/fixture.js';
import { ADDRESS_LENGTH, emitAddressBefore } from './direct.js';
import { FRAME } from './frame.js';
import { emitFullTrampoline, type FullSpec, type ReturnPlace } from './full.js';
import { emitReturnTrampolines } from './return.js';
import { JUMP_STUB_LENGTH } from './slot.js';

const ALL = [rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
const CALLER_SAVED = [rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11];
const CODE_BYTES = 1 << 16;
const NOTE_WORDS = 8;
const RESULT = 0x7777n;
const RETURN_AT = 48;

/** A program of the lists: what it returns (modify-return), whether it has a session, when it joined. */
interface Wish {
  readonly type: 'fentry' | 'fmod_ret' | 'fexit' | 'fsession';
  readonly cookie: number;
  readonly value?: number;
  readonly session?: number;
  readonly serial?: number;
}

interface Note {
  readonly cookie: number;
  readonly args: readonly bigint[];
  readonly result: bigint;
  /** What the session word held, before the program added its cookie to it. */
  readonly session?: bigint;
  readonly isReturn?: bigint;
}

function rig(wishes: readonly Wish[], shape: 'plain' | 'tail' | 'full table' = 'plain') {
  const memory = new SharedMemory(1 << 20);
  const fd = memfdCreate('full-test');
  ftruncate(fd, CODE_BYTES);
  const writable = mmap(0n, CODE_BYTES, PROT.READ | PROT.WRITE, MAP.SHARED, fd, 0);
  const code = mmap(0n, CODE_BYTES, PROT.READ | PROT.EXEC, MAP.SHARED, fd, 0);
  const bytes = new Uint8Array(viewMemory(writable, CODE_BYTES));
  const entries = 128;
  const size = callTableBytes(entries);
  const table = {
    address: mmap(0n, size, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0),
    entries,
  };
  const tableView = new Uint8Array(viewMemory(table.address, size));
  // Every entry taken by calls that do not end.
  if (shape === 'full table') tableView.fill(0xff);
  const notes = memory.alloc(NOTE_WORDS * 8 * 64);
  const cursor = memory.alloc(8);
  const results = memory.alloc(8 * (ALL.length + 1));
  const missed = memory.alloc(8);

  const a = new Assembler();
  const trampolines = new Assembler();
  const first = emitReturnTrampolines(trampolines, table);
  bytes.set(trampolines.finish(code));
  const place: ReturnPlace = { table, trampoline: code + BigInt(trampolines.offsetOf(first)) };
  const base = code + 4096n;

  // The program: notes what it sees, spoils every register that it may, returns a number by its cookie.
  const program = a.here();
  const plain = a.label();
  a.movImm64(r10, cursor.address);
  a.mov(r11, mem(r10));
  a.add(mem(r10), NOTE_WORDS * 8);
  a.mov(rax, mem(rdi, FRAME.entry));
  a.mov(rcx, mem(rax, ITEM.cookie));
  a.mov(mem(r11), rcx);
  for (const [i, from] of [0, 40, RETURN_AT].entries()) {
    a.mov(rdx, mem(rdi, from));
    a.mov(mem(r11, 8 + 8 * i), rdx);
  }
  a.cmp(mem(rax, ITEM.session), 0, 4);
  a.jcc('e', plain);
  a.mov(rdx, mem(rdi, FRAME.cookie));
  a.mov(r8, mem(rdx));
  a.mov(mem(r11, 32), r8);
  a.add(mem(rdx), rcx);
  a.mov(rdx, mem(rdi, FRAME.isReturn));
  a.mov(mem(r11, 40), rdx);
  a.bind(plain);
  a.mov(r9, rcx);
  a.shr(r9, 32);
  for (const reg of CALLER_SAVED) if (reg !== r9) a.movImm64(reg, 0xdead_0000n + BigInt(reg.code));
  a.mov(rax, r9);
  a.ret();

  const trampoline = a.here();
  const registers: WordPlace[] = [0, 1, 2, 3, 4, 5].map(index => ({ in: 'register', index }));
  const has = (...types: string[]): boolean => wishes.some(w => types.includes(w.type));
  const few = (...types: string[]): number | 'many' => {
    const count = wishes.filter(w => types.includes(w.type)).length;
    return count <= 1 ? count : 'many';
  };
  const spec: FullSpec = {
    words: [...registers, { in: 'nothing' }],
    claim: has('fexit', 'fsession'),
    keep: 6,
    sessions: has('fsession'),
    entries: few('fentry', 'fsession'),
    modReturns: few('fmod_ret'),
    displaced: RECORD.size + JUMP_STUB_LENGTH,
  };
  emitFullTrampoline(a, spec, place);

  /** A slot: record, call, a body, lists. */
  const slot = (body: () => void): { entry: Label; at: number } => {
    a.align(64);
    const at = a.length;
    a.bytes(new Uint8Array(RECORD.size));
    const entry = a.here();
    a.push(rax);
    emitAddressBefore(a, a.length + ADDRESS_LENGTH - at);
    emitLongJump(a, trampoline);
    body();
    return { entry, at };
  };
  // Sets all flags but direction, so that a caller who looked would see them.
  const inner = slot(() => {
    a.movImm64(rax, RESULT);
    a.movImm64(rdx, 0x8888n);
    a.movImm64(rcx, 0x7fff_ffffn);
    a.add(rcx, 0x7fff_ffff, 4);
    a.ret();
  });
  const outer = slot(() => a.jmp(inner.entry));
  a.align(64);
  const listsAt = [a.length, a.length + 2048];
  a.bytes(new Uint8Array(4096));

  const entry = a.here();
  const saved = [rbx, rbp, r12, r13, r14, r15];
  for (const reg of saved) a.push(reg);
  for (const reg of ALL) a.movImm64(reg, 0x1111_0000_0000n + BigInt(reg.code));
  a.call(shape === 'tail' ? outer.entry : inner.entry);
  a.pushfq();
  a.push(rax);
  a.movImm64(rax, results.address);
  for (const [i, reg] of ALL.entries()) if (reg !== rax) a.mov(mem(rax, 8 * i), reg);
  a.pop(rcx);
  a.mov(mem(rax), rcx);
  a.pop(rcx);
  a.mov(mem(rax, 8 * ALL.length), rcx);
  for (const reg of saved.toReversed()) a.pop(reg);
  a.ret();

  bytes.set(a.finish(base), 4096);
  const at = (offset: number): bigint => base + BigInt(offset);
  const programAt = at(a.offsetOf(program));
  const item = ({ cookie, value = 0, session, serial = 1 }: Wish, extra: number): ListItem => ({
    bpfFunc: programAt,
    cookie: (BigInt(value) << 32n) | BigInt(cookie + extra),
    serial: BigInt(serial),
    session: session === undefined ? 0 : CALL.sessions + 8 * session,
    returnAt: RETURN_AT,
    missed: missed.address,
  });
  for (const [i, { at: slotAt }] of [inner, outer].entries()) {
    const of = (...types: string[]): ListItem[] =>
      wishes.filter(w => types.includes(w.type)).map(w => item(w, i * 100));
    const record = bytes.subarray(4096 + slotAt, 4096 + slotAt + RECORD.size);
    const first = { bpfFunc: 0n, cookie: 0n };
    writeRecord(record, 0x4000n + BigInt(i), 6, first, 0n, listsAt[i] - slotAt);
    writeLists(bytes.subarray(4096 + listsAt[i]), {
      serial: 1n,
      entries: of('fentry', 'fsession'),
      modReturns: of('fmod_ret'),
      exits: of('fexit', 'fsession'),
      result: ['rax'],
    });
  }

  const words = (block: { bytes: Uint8Array }, count: number): BigUint64Array =>
    new BigUint64Array(block.bytes.buffer, block.bytes.byteOffset, count);
  return {
    liveEntries: () => {
      let live = 0;
      for (let i = 0; i < entries; i++) live += tableView[entries / 64 + i * CALL.size] & 1;
      return live;
    },
    missed: () => words(missed, 1)[0],
    run: (): { changed: string[]; rax: bigint; flags: bigint; notes: Note[] } => {
      words(cursor, 1)[0] = notes.address;
      callCode(at(a.offsetOf(entry)));
      const got = words(results, ALL.length + 1);
      const changed = ALL.filter((reg, i) => got[i] !== 0x1111_0000_0000n + BigInt(reg.code)).map(
        r => r.name,
      );
      const runs = Number(words(cursor, 1)[0] - notes.address) / (NOTE_WORDS * 8);
      const noted = words(notes, runs * NOTE_WORDS);
      return {
        changed,
        rax: got[0],
        flags: got[ALL.length],
        notes: Array.from({ length: runs }, (_, i) => {
          const [cookie, arg0, arg5, result, session, isReturn] = noted.subarray(i * NOTE_WORDS);
          const wish = wishes.find(w => w.cookie === Number(cookie & 0xffff_ffffn) % 100)!;
          return {
            cookie: Number(cookie & 0xffff_ffffn),
            args: [arg0, arg5],
            result,
            ...(wish.session === undefined ? {} : { session, isReturn }),
          };
        }),
      };
    },
  };
}

/** `jmp rel32`, as a slot has it. */
function emitLongJump(a: Assembler, back: Label): void {
  a.byte(0xe9);
  a.u32((a.offsetOf(back) - (a.length + 4)) >>> 0);
}

const ARGS = [rdi, r9].map(reg => 0x1111_0000_0000n + BigInt(reg.code));
/** Carry, parity, adjust, zero, sign, overflow. */
const FLAGS = 0x8d5n;
/** 0x7fffffff + 0x7fffffff in 32 bits: sign and overflow, adjust. */
const EXPECTED_FLAGS = 0x890n;

test('fentry, modify-return, the original, fexit, each in its order, with arguments, cookies and the result', () => {
  const { run, liveEntries } = rig([
    { type: 'fexit', cookie: 5 },
    { type: 'fentry', cookie: 1 },
    { type: 'fmod_ret', cookie: 3 },
    { type: 'fentry', cookie: 2 },
    { type: 'fexit', cookie: 6 },
    { type: 'fmod_ret', cookie: 4 },
  ]);
  for (let i = 0; i < 300; i++) {
    const { changed, rax: result, notes, flags } = run();
    expect(notes.map(n => n.cookie)).toEqual([1, 2, 3, 4, 5, 6]);
    for (const note of notes) expect(note.args).toEqual(ARGS);
    expect(notes.slice(2).map(n => n.result)).toEqual([0n, 0n, RESULT, RESULT]);
    // What the function itself changed, and nothing else.
    expect(changed).toEqual(['rax', 'rcx', 'rdx']);
    expect(result).toBe(RESULT);
    expect(flags & FLAGS).toBe(EXPECTED_FLAGS);
    expect(liveEntries()).toBe(0);
  }
});

test('a modify-return program that returns a value skips the rest and the original; fexit programs see it', () => {
  const { run } = rig([
    { type: 'fmod_ret', cookie: 1 },
    { type: 'fmod_ret', cookie: 2, value: 42 },
    { type: 'fmod_ret', cookie: 3, value: 43 },
    { type: 'fexit', cookie: 4 },
  ]);
  const { changed, rax: result, notes } = run();
  expect(notes.map(n => [n.cookie, n.result])).toEqual([
    [1, 0n],
    [2, 0n],
    [4, 42n],
  ]);
  expect(result).toBe(42n);
  expect(changed).toEqual(['rax']);
});

test('without fexit programs a skipped original returns straight to the caller', () => {
  const { run, liveEntries } = rig([{ type: 'fmod_ret', cookie: 1, value: 9 }]);
  const { changed, rax: result, notes } = run();
  expect([result, notes.length, changed]).toEqual([9n, 1, ['rax']]);
  expect(liveEntries()).toBe(0);
});

test('a session has a cookie word of its own for each call, zero at entry, the same at the return', () => {
  const { run } = rig([
    { type: 'fsession', cookie: 7, session: 0 },
    { type: 'fsession', cookie: 8, session: 5 },
    { type: 'fexit', cookie: 9 },
  ]);
  for (let i = 0; i < 3; i++)
    expect(run().notes.map(({ cookie, session, isReturn }) => [cookie, session, isReturn])).toEqual([
      [7, 0n, 0n],
      [8, 0n, 0n],
      [7, 7n, 1n],
      [8, 8n, 1n],
      [9, undefined, undefined],
    ]);
});

test('a function called by a tail call returns once, and both calls see it, the inner first', () => {
  const { run, liveEntries } = rig(
    [
      { type: 'fentry', cookie: 1 },
      { type: 'fexit', cookie: 2 },
    ],
    'tail',
  );
  for (let i = 0; i < 50; i++) {
    const { notes, changed, rax: result } = run();
    expect(notes.map(n => n.cookie)).toEqual([101, 1, 2, 102]);
    expect(notes.slice(2).map(n => n.result)).toEqual([RESULT, RESULT]);
    expect(changed).toEqual(['rax', 'rcx', 'rdx']);
    expect(result).toBe(RESULT);
    expect(liveEntries()).toBe(0);
  }
});

test('a program that joined later than the call began does not run at its return', () => {
  const { run } = rig([
    { type: 'fexit', cookie: 1 },
    { type: 'fexit', cookie: 2, serial: 2 },
  ]);
  expect(run().notes.map(n => n.cookie)).toEqual([1]);
});

test('with no room in the call table the function runs untouched, and each program at the return counts a miss', () => {
  const { run, missed } = rig(
    [
      { type: 'fentry', cookie: 1 },
      { type: 'fexit', cookie: 2 },
      { type: 'fsession', cookie: 3, session: 1 },
    ],
    'full table',
  );
  const { notes, changed, rax: result } = run();
  expect(notes.map(n => n.cookie)).toEqual([1]);
  expect(result).toBe(RESULT);
  expect(changed).toEqual(['rax', 'rcx', 'rdx']);
  expect(missed()).toBe(2n);
});

/**
 * Machine code of LPM tries: a hash table whose keys are prefixes (the length, then the data with all bits behind the
 * prefix cleared), and a bitmap of the lengths that ever were in it. A lookup tries those lengths, the longest first.
 *
 *     lookup(key):
 *       for each length in the bitmap, from key.length down:
 *         clear the bits of key from `length` on; key.length = length
 *         value = hash lookup(key); if there: return it
 *
 * A prefix's bit is set before the prefix is inserted, so a lookup that begins after finds it.
 */

import {
  type Assembler,
  type Label,
  mem,
  r8,
  r9,
  r10,
  r12,
  rax,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import type { HashRoutines } from './hash_code.js';
import { HASH, MAP } from './layout.js';

export interface LpmRoutines {
  /** rdi = map, rsi = key → rax = address of the longest matching prefix's value, or 0. */
  readonly lpmLookup: Label;
  /** rdi = map, rsi = key, rdx = value, rcx = flags → rax = 0 or -errno (-ENOSPC: full). */
  readonly lpmUpdate: Label;
  /** rdi = map, rsi = key → rax = 0, -ENOENT, -EINVAL. */
  readonly lpmDelete: Label;
}

/** The longest key, 4 + 256 bytes, in whole words. */
const KEY_ROOM = 264;
const LENGTH_BYTES = 4;

/** Copies the key at rsi to the stack. Clobbers rax, rcx, rdx, r10, r11. */
function emitCopyKey(a: Assembler, copyPadded: Label): void {
  a.mov(r10, rsi);
  a.mov(rcx, rsp);
  a.mov(rax, mem(rdi, MAP.KEY_SIZE), 4);
  a.call(copyPadded);
}

/** Makes the key on the stack one of ebx bits. Clobbers rax, rcx, r8, r9. */
function emitCutKey(a: Assembler): void {
  const done = a.label();
  a.mov(mem(rsp), rbx, 4);
  a.mov(r9, mem(rdi, MAP.KEY_SIZE), 4);
  a.mov(r8, rbx, 4);
  a.shr(r8, 3, 4);
  a.add(r8, LENGTH_BYTES, 4);
  a.mov(rcx, rbx, 4);
  a.and(rcx, 7, 4);
  a.mov(rax, 0xff00, 4);
  a.shr(rax, 'cl', 4);
  const byte = a.here();
  a.cmp(r8, r9, 4);
  a.jcc('ae', done);
  a.and(mem(rsp, 0, r8), rax, 1);
  a.xor(rax, rax, 4);
  a.inc(r8, 4);
  a.jmp(byte);
  a.bind(done);
}

function emitLookup(a: Assembler, hashLookup: Label, copyPadded: Label): Label {
  const absent = a.label();
  const before = a.label();
  const finish = a.label();
  const tooLong = a.label();
  a.align(16);
  const start = a.here();
  a.mov(rax, mem(rsi), 4);
  a.cmp(rax, mem(rdi, HASH.MAX_PREFIX), 4);
  a.jcc('a', tooLong);
  a.push(rbx);
  a.push(r12);
  a.push(rsi);
  a.sub(rsp, KEY_ROOM);
  a.mov(rbx, rax, 4);
  emitCopyKey(a, copyPadded);
  a.mov(rsi, rsp);
  a.mov(r12, mem(rdi, HASH.LENGTHS));
  a.add(r12, rdi);

  // rbx = the highest bit of the bitmap that is set, from bit rbx down.
  const next = a.here();
  a.mov(rdx, rbx, 4);
  a.shr(rdx, 6, 4);
  a.mov(rax, mem(r12, 0, rdx, 8));
  a.mov(rcx, rbx, 4);
  a.not(rcx, 4);
  a.and(rcx, 63, 4);
  a.shl(rax, 'cl');
  a.shl(rdx, 6, 4);
  a.test(rax, rax);
  a.jcc('e', before);
  a.bsr(rax, rax);
  a.sub(rax, rcx, 4);
  a.lea(rbx, mem(rdx, 0, rax), 4);

  emitCutKey(a);
  a.call(hashLookup);
  a.test(rax, rax);
  a.jcc('ne', finish);
  a.dec(rbx, 4);
  a.jcc('ns', next);
  a.bind(absent);
  a.xor(rax, rax, 4);
  a.bind(finish);
  a.add(rsp, KEY_ROOM);
  a.pop(rsi);
  a.pop(r12);
  a.pop(rbx);
  a.ret();

  a.bind(before);
  a.test(rdx, rdx, 4);
  a.jcc('e', absent);
  a.lea(rbx, mem(rdx, -1), 4);
  a.jmp(next);
  a.bind(tooLong);
  a.xor(rax, rax, 4);
  a.ret();
  return start;
}

/** Update and delete: the prefix on the stack in place of the key, and the hash table's routine. */
function emitChange(a: Assembler, inserts: boolean, routine: Label, copyPadded: Label): Label {
  const invalid = a.label();
  const done = a.label();
  a.align(16);
  const start = a.here();
  a.mov(rax, mem(rsi), 4);
  a.cmp(rax, mem(rdi, HASH.MAX_PREFIX), 4);
  a.jcc('a', invalid);
  a.push(rbx);
  a.push(r12);
  a.push(rsi);
  a.mov(rbx, rax, 4);
  a.mov(r12, rdx);
  a.push(rcx);
  a.sub(rsp, KEY_ROOM);
  emitCopyKey(a, copyPadded);
  emitCutKey(a);
  if (inserts) {
    const known = a.label();
    a.mov(rdx, rbx, 4);
    a.shr(rdx, 6, 4);
    a.lea(rdx, mem(rdi, 0, rdx, 8));
    a.add(rdx, mem(rdi, HASH.LENGTHS));
    a.mov(rcx, rbx, 4);
    a.mov(rax, 1, 4);
    a.shl(rax, 'cl');
    a.test(mem(rdx), rax);
    a.jcc('ne', known);
    a.lock('or', mem(rdx), rax);
    a.bind(known);
  }
  a.mov(rsi, rsp);
  a.mov(rdx, r12);
  a.mov(rcx, mem(rsp, KEY_ROOM));
  a.call(routine);
  if (inserts) {
    const fits = a.label();
    a.cmp(rax, -errnoNumber('E2BIG'));
    a.jcc('ne', fits);
    a.mov(rax, -errnoNumber('ENOSPC'));
    a.bind(fits);
  }
  a.bind(done);
  a.add(rsp, KEY_ROOM + 8);
  a.pop(rsi);
  a.pop(r12);
  a.pop(rbx);
  a.ret();
  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();
  return start;
}

export function emitLpmRoutines(a: Assembler, hash: HashRoutines, copyPadded: Label): LpmRoutines {
  return {
    lpmLookup: emitLookup(a, hash.hashLookup, copyPadded),
    lpmUpdate: emitChange(a, true, hash.hashUpdate, copyPadded),
    lpmDelete: emitChange(a, false, hash.hashDelete, copyPadded),
  };
}

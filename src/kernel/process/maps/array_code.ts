/**
 * Machine code of the array map's operations, for programs that the JIT can't inline them into. Values are
 * replaced word by word in place, so like in the kernel an update is not atomic beyond 8 bytes.
 */

import { UPDATE } from '../../../bpf/map_type.js';
import { type Assembler, type Label, mem, r8, r10, rax, rcx, rdi, rdx, rsi } from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { ARRAY, MAP } from './layout.js';
import { SPIN_LOCK_BYTES } from './value_fields.js';

/** Entry points of the array routines. */
export interface ArrayRoutines {
  /** rdi = map, rsi = key → rax = address of the value, or 0. */
  readonly arrayLookup: Label;
  /** rdi = map, rsi = key, rdx = value, rcx = flags → rax = 0 or -errno. */
  readonly arrayUpdate: Label;
  /** → rax = -EINVAL: an array's elements can't be deleted. */
  readonly arrayDelete: Label;
}

/** rax = address of element rax of the array rdi; clobbers `r8`. */
function emitElementAddress(a: Assembler): void {
  a.mov(r8, mem(rdi, ARRAY.STRIDE), 4);
  a.imul(rax, r8);
  a.lea(rax, mem(rdi, ARRAY.VALUES, rax));
}

/** Copies eax bytes from r10 to rcx, but for the spin lock of the array rdi's values. */
function emitCopyAroundLock(a: Assembler, copyExact: Label): void {
  const behind = a.label();
  const done = a.label();
  a.mov(r8, mem(rdi, ARRAY.LOCK), 4);
  a.dec(r8, 4);
  a.push(rax);
  a.mov(rax, r8, 4);
  a.test(rax, rax, 4);
  a.jcc('e', behind);
  a.call(copyExact);
  a.bind(behind);
  a.pop(rax);
  a.add(r10, SPIN_LOCK_BYTES);
  a.add(rcx, SPIN_LOCK_BYTES);
  a.sub(rax, r8, 4);
  a.sub(rax, SPIN_LOCK_BYTES, 4);
  a.jcc('e', done);
  a.call(copyExact);
  a.bind(done);
}

/** Emits the routines. They clobber rax, rcx, rdx, r8, r10, r11. */
export function emitArrayRoutines(a: Assembler, copyPadded: Label, copyExact: Label): ArrayRoutines {
  const outside = a.label();
  a.align(16);
  const arrayLookup = a.here();
  a.mov(rax, mem(rsi), 4);
  a.cmp(rax, mem(rdi, MAP.MAX_ENTRIES), 4);
  a.jcc('ae', outside);
  emitElementAddress(a);
  a.ret();
  a.bind(outside);
  a.xor(rax, rax, 4);
  a.ret();

  const invalid = a.label();
  const tooBig = a.label();
  const exists = a.label();
  a.align(16);
  const arrayUpdate = a.here();
  a.cmp(rcx, Number(UPDATE.EXIST));
  a.jcc('a', invalid);
  a.mov(rax, mem(rsi), 4);
  a.cmp(rax, mem(rdi, MAP.MAX_ENTRIES), 4);
  a.jcc('ae', tooBig);
  a.cmp(rcx, Number(UPDATE.NOEXIST));
  a.jcc('e', exists);
  emitElementAddress(a);
  const locked = a.label();
  a.mov(rcx, rax);
  a.mov(r10, rdx);
  a.mov(rax, mem(rdi, MAP.VALUE_SIZE), 4);
  a.cmp(mem(rdi, ARRAY.LOCK), 0, 4);
  a.jcc('ne', locked);
  a.call(copyPadded);
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(locked);
  emitCopyAroundLock(a, copyExact);
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(tooBig);
  a.mov(rax, -errnoNumber('E2BIG'));
  a.ret();
  a.bind(exists);
  a.mov(rax, -errnoNumber('EEXIST'));
  a.ret();

  a.align(16);
  const arrayDelete = a.here();
  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();

  return { arrayLookup, arrayUpdate, arrayDelete };
}

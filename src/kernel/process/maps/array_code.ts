/**
 * Machine code of the array map's operations, for programs that the JIT can't inline them into. Values are
 * replaced word by word in place, so like in the kernel an update is not atomic beyond 8 bytes.
 */

import { UPDATE } from '../../../bpf/map_type.js';
import { type Assembler, type Label, mem, r8, r10, rax, rcx, rdi, rdx, rsi } from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { ARRAY, MAP } from './layout.js';

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

/** Emits the routines. They clobber rax, rcx, rdx, r8, r10, r11. */
export function emitArrayRoutines(a: Assembler, copyPadded: Label): ArrayRoutines {
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
  a.mov(rcx, rax);
  a.mov(r10, rdx);
  a.mov(rax, mem(rdi, MAP.VALUE_SIZE), 4);
  a.call(copyPadded);
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

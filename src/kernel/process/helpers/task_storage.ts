/**
 * Machine code of bpf_task_storage_get (156) and bpf_task_storage_delete (157): the current thread's piece of a task
 * storage map. It is found by the thread's slot, and is the thread's if it bears the number of its claim: a thread that
 * gets a dead one's slot finds nothing there. The task argument is not looked at (the verifier has it be 0).
 */

import { type Assembler, type Label, mem, r8, r9, r10, rax, rcx, rdi, rdx } from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { ARRAY, MAP, STORAGE } from '../maps/layout.js';
import { emitCopyPadded } from '../maps/words_code.js';
import { THREAD, type ThreadCode } from '../threads/layout.js';
import { emitThreadBlock, type ThreadSearch } from '../threads/thread_block.js';
import type { HelperLabels } from './labels.js';

/** BPF_LOCAL_STORAGE_GET_F_CREATE: make the value where there is none. */
const CREATE = 1;

/** rax = the current thread's piece of the map rdi, r8 = its block; changes r9 and r10. */
function emitPiece(a: Assembler, thread: ThreadCode, none: Label): ThreadSearch {
  const search = emitThreadBlock(a, thread, r8, [r9, r10], none);
  a.mov(rax, mem(r8, THREAD.slot), 4);
  a.mov(r9, mem(rdi, ARRAY.STRIDE), 4);
  a.imul(rax, r9);
  a.lea(rax, mem(rdi, ARRAY.VALUES, rax));
  a.mov(r9, mem(r8, THREAD.claim));
  a.cmp(mem(rax, STORAGE.CLAIM), r9);
  return search;
}

/**
 * `helper_156`: rdi = map, rsi = task, rdx = first value or 0, rcx = flags → rax = address of the value, or 0.
 * `helper_157`: rdi = map, rsi = task → rax = 0 or -ENOENT.
 */
export function emitTaskStorageRoutines(
  a: Assembler,
  env: { readonly thread: ThreadCode },
): { routines: HelperLabels } {
  const copyPadded = emitCopyPadded(a);
  const none = a.label();
  const found = a.label();
  const zeros = a.label();
  const filled = a.label();
  a.align(16);
  const get = a.here();
  a.test(rcx, ~CREATE);
  a.jcc('ne', none);
  const own = emitPiece(a, env.thread, none);
  a.jcc('e', found);
  a.test(rcx, CREATE, 1);
  a.jcc('e', none);
  a.mov(mem(rax, STORAGE.CLAIM), 0);
  a.mov(r9, rax);
  a.lea(rcx, mem(r9, STORAGE.VALUE));
  a.mov(rax, mem(rdi, MAP.VALUE_SIZE), 4);
  a.test(rdx, rdx);
  a.jcc('e', zeros);
  a.mov(r10, rdx);
  a.call(copyPadded);
  a.bind(filled);
  a.mov(rax, mem(r8, THREAD.tid), 4);
  a.mov(mem(r9, STORAGE.TID), rax);
  a.mov(rax, mem(r8, THREAD.claim));
  a.mov(mem(r9, STORAGE.CLAIM), rax);
  a.mov(rax, r9);
  a.bind(found);
  a.add(rax, STORAGE.VALUE);
  a.ret();
  a.bind(zeros);
  a.add(rax, 7, 4);
  a.and(rax, -8, 4);
  const word = a.here();
  a.mov(mem(rcx, -8, rax), 0);
  a.sub(rax, 8, 4);
  a.jcc('ne', word);
  a.jmp(filled);
  own.cold();
  a.bind(none);
  a.xor(rax, rax, 4);
  a.ret();

  const missing = a.label();
  a.align(16);
  const remove = a.here();
  const removed = emitPiece(a, env.thread, missing);
  a.jcc('ne', missing);
  a.mov(mem(rax, STORAGE.CLAIM), 0);
  a.xor(rax, rax, 4);
  a.ret();
  removed.cold();
  a.bind(missing);
  a.mov(rax, -errnoNumber('ENOENT'));
  a.ret();
  return {
    routines: new Map([
      ['helper_156', get],
      ['helper_157', remove],
    ]),
  };
}

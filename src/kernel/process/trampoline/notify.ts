/**
 * The loader notice: what `_dl_debug_state` of the dynamic linker is patched to run. The linker calls that function
 * after it has mapped libraries and before their constructors run, so that debuggers can look; our code there tells
 * the tracer, and holds the thread until the tracer has attached what it wants to the new libraries. It is not on any
 * hot path, so it may make system calls.
 *
 * It never holds a thread for ever: a tracer that died is seen by kill(2), and after some seconds it goes on anyway.
 *
 * The words that it shares with the tracer (byte offsets, u32):
 *
 *      0  armed     0: pass by                   4  pid       the process; a forked child passes by
 *      8  tracer    pid of the tracer, or 0 where the process can't see it (another pid namespace)
 *     12  asked     counts notices              16  answered   the last notice that was dealt with
 *     24  timeout   struct timespec, 16 bytes
 */

import { SYS } from '../../../ffi/libc.js';
import {
  type Assembler,
  mem,
  type Reg,
  r8,
  r10,
  r11,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
} from '../../../x86/assembler.js';

export const NOTICE = {
  armed: 0,
  pid: 4,
  tracer: 8,
  asked: 12,
  answered: 16,
  timeout: 24,
  size: 40,
} as const;

/** One wait, ns, and how many of them a thread is held at most. */
export const NOTICE_WAIT_NS = 200_000_000n;
const WAITS = 600;

const FUTEX_WAIT = 0;
const FUTEX_WAKE = 1;
const ETIMEDOUT = 110;
const ESRCH = 3;
/** `struct r_debug` (link.h): r_state, an int; 0 is RT_CONSISTENT. */
const R_STATE = 24;

const SAVED: readonly Reg[] = [rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r10, r11];

/**
 * Emits the notice; it falls through with every register as it was. `words` is the address of the shared words,
 * `rDebug` that of the linker's `_r_debug`, `undefined` where it has none.
 */
export function emitNotice(a: Assembler, words: bigint, rDebug: bigint | undefined): void {
  const out = a.label();
  const wait = a.label();
  const sys = (number: number): void => {
    a.mov(rax, number, 4);
    a.syscall();
  };
  for (const reg of SAVED) a.push(reg);
  if (rDebug !== undefined) {
    a.movImm64(rax, rDebug);
    a.cmp(mem(rax, R_STATE), 0, 4);
    a.jcc('ne', out);
  }
  a.movImm64(rbx, words);
  a.cmp(mem(rbx, NOTICE.armed), 0, 4);
  a.jcc('e', out);
  sys(SYS.getpid);
  a.cmp(rax, mem(rbx, NOTICE.pid), 4);
  a.jcc('ne', out);

  a.lock('add', mem(rbx, NOTICE.asked), 1, 4);
  a.lea(rdi, mem(rbx, NOTICE.asked));
  a.mov(rsi, FUTEX_WAKE, 4);
  a.mov(rdx, 0x7fffffff, 4);
  sys(SYS.futex);

  a.mov(rbp, WAITS, 4);
  a.bind(wait);
  a.mov(rdx, mem(rbx, NOTICE.answered), 4);
  a.cmp(rdx, mem(rbx, NOTICE.asked), 4);
  a.jcc('e', out);
  a.lea(rdi, mem(rbx, NOTICE.answered));
  a.mov(rsi, FUTEX_WAIT, 4);
  a.lea(r10, mem(rbx, NOTICE.timeout));
  sys(SYS.futex);
  a.cmp(rax, -ETIMEDOUT, 4);
  a.jcc('ne', wait);
  a.dec(rbp, 4);
  a.jcc('e', out);
  a.mov(rdi, mem(rbx, NOTICE.tracer), 4);
  a.test(rdi, rdi, 4);
  a.jcc('e', wait);
  a.xor(rsi, rsi, 4);
  sys(SYS.kill);
  a.cmp(rax, -ESRCH, 4);
  a.jcc('ne', wait);
  a.mov(mem(rbx, NOTICE.armed), 0, 4);
  a.bind(out);
  for (const reg of SAVED.toReversed()) a.pop(reg);
}

/**
 * Walks the stack of the traced thread, in machine code, by the unwinding table: what bpf_get_stack and
 * bpf_get_stackid stand on. Code without rows is stepped over by its frame pointer, where rbp looks like one.
 *
 * A stack may be damaged or a rule wrong: every load from it has a fixup, the stack pointer must rise from frame to
 * frame (but into the stack that a signal interrupted), and there are at most as many steps as addresses asked for.
 */

import { CFA, RULE } from '../../../elf/unwind_rows.js';
import {
  type Assembler,
  type Label,
  type Mem,
  mem,
  type Reg,
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
import { RECORD } from '../kfunc_md/record.js';
import { FRAME } from '../trampoline/frame.js';
import { UNWIND_HEADER, UNWIND_MODULE } from './table.js';

const WORD = 8;
/** mcontext in the ucontext that a signal frame holds (asm/ucontext.h, asm/sigcontext.h): bytes from the ucontext. */
const UCONTEXT = { rbp: 120, rsp: 160, rip: 168 } as const;
/** From this byte of a 16-byte PLT entry on, one more word is on the stack. */
const PLT_PUSHED = 11;
/** A frame without rows is believed where its frame pointer is no further up than this, bytes. */
const LARGEST_FRAME = 1 << 20;

/** A load that may fault: the register is zero then. Offsets in the code. */
export interface LoadFixup {
  readonly at: number;
  readonly resume: number;
  readonly clear: number;
}

/** What the walk needs to know of the process. */
export interface WalkEnv {
  /** Address of the unwinding table's root. */
  readonly root: bigint;
  /**
   * Where exits are hooked, return addresses on the stack may be ours. Called with rdi = the address of the stack word
   * and rax = its value; gives the function's own return address in rax. Changes rax, rcx, rdx, rsi, rdi, r8 to r11.
   */
  readonly originalReturn?: Label;
}

/** Caller's values are kept in these while the walk goes on. */
const SAVED: readonly Reg[] = [rbx, rbp, r12, r13, r14, r15];

/**
 * The walk: rdi = where addresses go, rsi = how many at most (above 0), rdx = ctx, rcx = how many of the first to skip;
 * returns how many were written in rax. The first is the traced function's own, the others are return addresses.
 *
 *     ip = the function; sp = the word with its return address
 *     loop: store ip; ip = *sp; …; rule = rows at ip - 1
 *
 * Registers: rbx out, r14 room left, r15 to skip, r12 ip, r13 the stack pointer in the frame of ip, rbp its frame
 * pointer, r11 the address to look up.
 */
export function emitWalk(a: Assembler, env: WalkEnv, fixups: LoadFixup[]): Label {
  const entry = a.here();
  for (const reg of SAVED) a.push(reg);
  const done = a.label();
  const store = a.label();
  const frame = a.label();
  const exact = a.label();
  const look = a.label();
  const stepped = a.label();

  const load = (into: Reg, from: Mem): void => {
    const at = a.length;
    a.mov(into, from);
    fixups.push({ at, resume: a.length, clear: into.code });
  };

  a.push(rdi);
  a.mov(rbx, rdi);
  a.mov(r14, rsi);
  a.mov(r15, rcx);
  a.mov(r13, mem(rdx, FRAME.stack));
  a.mov(rax, mem(rdx, FRAME.record));
  a.mov(r12, mem(rax, RECORD.func));
  a.call(store);
  // At a function's entry the return address is on top, and rbp is the caller's.
  load(r12, mem(r13));
  emitOriginal(a, env, () => a.mov(rdi, r13));
  a.add(r13, WORD);

  a.bind(frame);
  a.lea(r11, mem(r12, -1));
  a.test(r12, r12);
  a.jcc('e', done);
  a.call(store);
  a.jmp(look);
  a.bind(exact);
  a.mov(r11, r12);
  a.test(r12, r12);
  a.jcc('e', done);
  a.call(store);
  a.bind(look);
  emitFindRule(a, env.root);

  // eax = the rule; r8 will be the CFA.
  const special = a.label();
  const byFramePointer = a.label();
  const cfa = a.label();
  a.mov(rcx, rax, 4);
  a.and(rcx, 3, 4);
  a.jcc('e', special);
  a.mov(rdx, rax, 4);
  a.shr(rdx, 2, 4);
  a.movzx(rdx, rdx, 2);
  a.mov(r8, r13);
  a.cmp(rcx, CFA.rbp, 4);
  a.cmov('e', r8, rbp);
  a.lea(r8, mem(r8, 0, rdx, WORD));
  a.bind(cfa);
  a.cmp(r8, r13);
  a.jcc('be', done);
  load(r12, mem(r8, -WORD));
  // The frame pointer in the caller: saved at CFA - 8 * n, or unchanged.
  const sameRbp = a.label();
  a.shr(rax, 18, 4);
  a.jcc('e', sameRbp);
  a.neg(rax);
  load(rbp, mem(r8, 0, rax, WORD));
  a.bind(sameRbp);
  a.bind(stepped);
  a.mov(r13, r8);
  emitOriginal(a, env, () => a.lea(rdi, mem(r13, -WORD)));
  a.jmp(frame);

  a.bind(special);
  a.cmp(rax, RULE.end, 4);
  a.jcc('e', done);
  const plt = a.label();
  a.cmp(rax, RULE.plt, 4);
  a.jcc('e', plt);
  a.cmp(rax, RULE.signal, 4);
  a.jcc('ne', byFramePointer);
  // The interrupted code may have run on another stack: its stack pointer need not be higher.
  load(r12, mem(r13, UCONTEXT.rip));
  load(rbp, mem(r13, UCONTEXT.rbp));
  load(r13, mem(r13, UCONTEXT.rsp));
  a.jmp(exact);

  a.bind(plt);
  a.lea(r8, mem(r13, WORD));
  a.mov(rcx, r11);
  a.and(rcx, 15, 4);
  a.cmp(rcx, PLT_PUSHED, 4);
  a.mov(rax, 0, 4);
  a.jcc('b', cfa);
  a.add(r8, WORD);
  a.jmp(cfa);

  a.bind(byFramePointer);
  a.mov(rcx, rbp);
  a.sub(rcx, r13);
  a.cmp(rcx, LARGEST_FRAME);
  a.jcc('ae', done);
  a.test(rbp, WORD - 1, 4);
  a.jcc('ne', done);
  a.lea(r8, mem(rbp, 2 * WORD));
  load(r12, mem(rbp, WORD));
  load(rbp, mem(rbp));
  a.jmp(stepped);

  // Stores r12, unless it is one to skip; leaves the walk when there is no more room.
  a.bind(store);
  const keep = a.label();
  a.test(r15, r15);
  a.jcc('e', keep);
  a.dec(r15);
  a.ret();
  a.bind(keep);
  a.mov(mem(rbx), r12);
  a.add(rbx, WORD);
  a.dec(r14);
  const full = a.label();
  a.jcc('e', full);
  a.ret();
  a.bind(full);
  a.pop(rax);
  a.bind(done);
  a.pop(rcx);
  a.mov(rax, rbx);
  a.sub(rax, rcx);
  a.shr(rax, Math.log2(WORD));
  for (const reg of SAVED.toReversed()) a.pop(reg);
  a.ret();
  return entry;
}

function emitOriginal(a: Assembler, env: WalkEnv, word: () => void): void {
  if (env.originalReturn === undefined) return;
  word();
  a.mov(rax, r12);
  a.call(env.originalReturn);
  a.mov(r12, rax);
}

/**
 * eax = the rule for address r11, RULE.unknown where there is none. Two binary searches: the last module that starts
 * at or before it, and the last row. Changes rcx, rdx, rsi, rdi, r8 to r10.
 */
function emitFindRule(a: Assembler, root: bigint): void {
  const none = a.label();
  const found = a.label();
  // rsi = the modules, [0, rcx) those that may be it.
  a.movImm64(rsi, root);
  a.mov(rsi, mem(rsi));
  a.mov(rcx, mem(rsi));
  a.add(rsi, UNWIND_HEADER);
  emitSearch(a, none, () => {
    a.imul3(r9, rdx, UNWIND_MODULE.size);
    a.cmp(mem(rsi, UNWIND_MODULE.start, r9), r11);
  });
  a.imul3(r8, r8, UNWIND_MODULE.size);
  a.add(rsi, r8);
  a.cmp(r11, mem(rsi, UNWIND_MODULE.end));
  a.jcc('ae', none);
  a.mov(r10, r11);
  a.sub(r10, mem(rsi, UNWIND_MODULE.start));
  a.mov(rcx, mem(rsi, UNWIND_MODULE.count));
  a.mov(rdi, mem(rsi, UNWIND_MODULE.rules));
  a.mov(rsi, mem(rsi, UNWIND_MODULE.pcs));
  emitSearch(a, none, () => a.cmp(mem(rsi, 0, rdx, 4), r10, 4));
  a.mov(rax, mem(rdi, 0, r8, 4), 4);
  a.jmp(found);
  a.bind(none);
  a.mov(rax, RULE.unknown, 4);
  a.bind(found);
}

/**
 * r8 = the last index below rcx at which `compare` (index in rdx; flags of entry - wanted, unsigned) is not above;
 * goes to `none` if there is none.
 */
function emitSearch(a: Assembler, none: Label, compare: () => void): void {
  const loop = a.label();
  const above = a.label();
  const end = a.label();
  a.xor(r8, r8, 4);
  a.bind(loop);
  // [r8, rcx): entries before r8 are not above, those from rcx on are.
  a.cmp(r8, rcx);
  a.jcc('ae', end);
  a.lea(rdx, mem(r8, 0, rcx));
  a.shr(rdx, 1);
  compare();
  a.jcc('a', above);
  a.lea(r8, mem(rdx, 1));
  a.jmp(loop);
  a.bind(above);
  a.mov(rcx, rdx);
  a.jmp(loop);
  a.bind(end);
  a.dec(r8);
  a.jcc('s', none);
}

/**
 * Functions of the program: their frames, calls of them, and the helpers that call them back.
 *
 * Beside r1 to r5, a function gets what only the code around it knows: in rax the address of the number of tail calls
 * made, in r9 the thread's block, where the program has them.
 */

import { FRAME_POINTER, MAX_LOOPS } from '../../../bpf/instruction.js';
import { mem, r8, r9, rax, rcx, rdi, rdx, rsi, rsp } from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { THREAD } from '../threads/layout.js';
import type { Emitter } from './emitter.js';
import { CALLER_SAVED } from './register_map.js';

const WORD = 8;

/** Makes the frame of the function that begins here. */
export function emitPrologue(e: Emitter): void {
  const { a, fn } = e;
  for (const register of fn.saved) a.push(register);
  if (fn.reserved > 0) a.sub(rsp, fn.reserved);
  if (e.program.readsUnwritten)
    for (let at = WORD; at <= fn.stackDepth; at += WORD) a.mov(e.memory(FRAME_POINTER, -at), 0);
  if (fn.words.has('tailCalls')) a.mov(e.word('tailCalls'), rax);
  if (fn.words.has('thread')) a.mov(e.word('thread'), r9);
  if (fn.words.has('override')) a.mov(e.word('override'), 0);
  if (fn.words.has('mayGoto')) a.mov(e.word('mayGoto'), MAX_LOOPS);
}

/**
 * bpf_override_return(ctx, value): the program's result is `value` then. The function is skipped where that is not zero:
 * so zero can't be what it returns, and is refused.
 */
export function emitOverride(e: Emitter): void {
  const { a } = e;
  const done = a.label();
  e.changing(rax);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.test(rsi, rsi);
  a.jcc('e', done);
  a.mov(e.word('override'), rsi);
  a.xor(rax, rax, 4);
  a.bind(done);
}

/** Leaves the function. */
export function emitExit(e: Emitter): void {
  const { a } = e;
  if (e.fn.words.has('override')) {
    const value = e.changing(rcx);
    a.mov(value, e.word('override'));
    a.test(value, value);
    a.cmov('ne', rax, value);
  }
  emitEpilogue(e);
  a.ret();
}

/** Takes the frame away; changes no other register. */
export function emitEpilogue(e: Emitter): void {
  const { reserved, saved } = e.fn;
  if (reserved > 0) e.a.add(rsp, reserved);
  for (const register of saved.toReversed()) e.a.pop(register);
}

/** What a function gets beside its arguments. */
function emitHidden(e: Emitter): void {
  if (e.program.needs.tailCalls) e.a.mov(rax, e.word('tailCalls'));
  if (e.program.needs.thread) e.a.mov(r9, e.word('thread'));
}

export function emitSubprogramCall(e: Emitter, start: number): void {
  emitHidden(e);
  e.a.call(e.entryOf(start));
  e.clobbers |= CALLER_SAVED;
}

/** may_goto: the frame's counter, down to zero. */
export function emitMayGoto(e: Emitter, index: number): void {
  const { a } = e;
  const counter = e.word('mayGoto');
  a.cmp(counter, 0);
  a.jcc('e', e.labelOf(e.program.flow.targets[index] as number));
  a.dec(counter);
}

/** Loops that bpf_loop makes at most (BPF_MAX_LOOPS). */
const LONGEST_LOOP = MAX_LOOPS;

/** What a loop keeps in its frame, and where. */
const LOOP = { callback: 0, context: 8, count: 16, end: 24, map: 24, cursor: 32 } as const;

/**
 * bpf_loop(nr, callback, context, flags):
 *
 *     if (flags) return -EINVAL
 *     if (nr > LONGEST_LOOP) return -E2BIG
 *     for (i = 0; i < nr; i++) if (callback(i, context)) return i + 1
 *     return i
 */
export function emitLoop(e: Emitter): void {
  const { a } = e;
  const word = (at: number) => e.word('loop', at);
  const [invalid, tooBig, done] = [a.label(), a.label(), a.label()];
  e.clobbers |= CALLER_SAVED;
  a.test(rcx, rcx);
  a.jcc('ne', invalid);
  a.mov(rdi, rdi, 4);
  a.cmp(rdi, LONGEST_LOOP, 4);
  a.jcc('a', tooBig);
  a.mov(word(LOOP.end), rdi);
  a.mov(word(LOOP.callback), rsi);
  a.mov(word(LOOP.context), rdx);
  a.xor(rdi, rdi, 4);
  a.mov(word(LOOP.count), rdi);
  const check = a.label();
  a.jmp(check);
  const again = a.here();
  a.mov(rsi, word(LOOP.context));
  emitHidden(e);
  a.callReg(word(LOOP.callback));
  a.mov(rdi, word(LOOP.count));
  a.inc(rdi);
  a.mov(word(LOOP.count), rdi);
  a.test(rax, rax);
  const stop = a.label();
  a.jcc('ne', stop);
  a.bind(check);
  a.cmp(rdi, word(LOOP.end));
  a.jcc('b', again);
  a.bind(stop);
  a.mov(rax, rdi);
  a.bind(done);
  e.apart(() => {
    a.bind(invalid);
    a.mov(rax, -errnoNumber('EINVAL'));
    a.jmp(done);
    a.bind(tooBig);
    a.mov(rax, -errnoNumber('E2BIG'));
    a.jmp(done);
  });
}

/**
 * bpf_for_each_map_elem(map, callback, context, flags):
 *
 *     if (flags) return -EINVAL
 *     for (n = 0; next element: ) { n++; if (callback(map, key, value, context)) break }
 *     return n
 */
export function emitForEach(e: Emitter, iterate: bigint, slot: boolean): void {
  const { a } = e;
  const word = (at: number) => e.word('loop', at);
  const [invalid, done, end] = [a.label(), a.label(), a.label()];
  e.clobbers |= CALLER_SAVED;
  a.test(rcx, rcx);
  a.jcc('ne', invalid);
  a.mov(word(LOOP.map), rdi);
  a.mov(word(LOOP.callback), rsi);
  a.mov(word(LOOP.context), rdx);
  a.mov(word(LOOP.count), 0);
  a.mov(word(LOOP.cursor), 0);
  a.mov(word(LOOP.cursor + 8), 0);
  const again = a.here();
  a.mov(rdi, word(LOOP.map));
  a.lea(rsi, word(LOOP.cursor));
  if (slot) {
    a.mov(r9, e.word('thread'));
    a.mov(r9, mem(r9, THREAD.slot), 4);
  }
  a.movImm64(r8, iterate);
  a.callReg(r8);
  a.test(rax, rax);
  a.jcc('e', end);
  a.inc(word(LOOP.count));
  a.mov(rdi, word(LOOP.map));
  a.mov(rsi, rax);
  // The value is in rdx already.
  a.mov(rcx, word(LOOP.context));
  emitHidden(e);
  a.callReg(word(LOOP.callback));
  a.test(rax, rax);
  a.jcc('e', again);
  a.bind(end);
  a.mov(rax, word(LOOP.count));
  a.bind(done);
  e.apart(() => {
    a.bind(invalid);
    a.mov(rax, -errnoNumber('EINVAL'));
    a.jmp(done);
  });
}

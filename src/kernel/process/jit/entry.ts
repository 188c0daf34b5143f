/**
 * How a program begins. One that needs nothing begins with its frame. Others first:
 *
 *     nobody sees to faults?  return 0
 *     r9 = the thread's block; no slot: count, return 0
 *     in this thread already? count, return 0
 *     tail calls made = 0; call the rest; leave
 *
 * A tail call comes in behind the guard, which the program that makes it has passed already.
 */

import { type Label, mem, r9, r10, r11, rax, rsp } from '../../../x86/assembler.js';
import { emitTracerCheck } from '../faults/tracer_word.js';
import {
  emitGuardEnter,
  emitGuardLeave,
  emitThreadBlock,
  type ThreadSearch,
} from '../threads/thread_block.js';
import type { Emitter } from './emitter.js';
import { emitStatistics } from './statistics.js';

/** Writes what comes before the main function; the label is where tail calls enter. */
export function emitEntry(e: Emitter): Label {
  const { a, env } = e;
  const { faults, tailCalls } = e.program.needs;
  // Who may be gone on in by a program that must not be entered again must not be entered again either.
  const guard = e.program.needs.guard || tailCalls;
  const thread = guard || e.program.needs.thread;
  const main = e.entryOf(0);
  if (!faults && !thread) {
    emitTimed(e, main);
    const tailEntry = a.here();
    a.bind(main);
    return tailEntry;
  }
  const tailEntry = a.here();
  const absent = a.label();
  const unable = a.label();
  e.apart(() => {
    if (thread) {
      a.bind(unable);
      emitCount(e);
    }
    a.bind(absent);
    a.xor(rax, rax, 4);
    a.ret();
  });
  e.changing(rax);
  const checks = (): ThreadSearch | undefined => {
    if (faults) emitTracer(e, absent);
    return thread ? emitThread(e, unable) : undefined;
  };
  const search = checks();
  if (!guard) {
    emitTimed(e, main);
    a.bind(main);
    return tailEntry;
  }
  if (env.thread === undefined || env.missed === undefined || search === undefined) {
    throw new RangeError('a program that is not to be entered again has no thread blocks here');
  }
  const rare = emitGuardEnter(a, env.thread, r9, r10, search, env.missed, absent);
  a.push(r9);
  if (tailCalls) {
    a.push(0);
    a.mov(rax, rsp);
  }
  const timed = a.label();
  a.call(e.env.statistics === undefined ? main : timed);
  if (tailCalls) a.add(rsp, 8);
  a.pop(r9);
  emitGuardLeave(a, r9);
  a.ret();
  a.bind(timed);
  emitTimed(e, main);
  const behind = a.here();
  checks();
  a.bind(main);
  e.apart(rare);
  return behind;
}

/** Counts the run of `main`, which begins behind it, where runs are counted. */
function emitTimed(e: Emitter, main: Label): void {
  if (e.env.statistics !== undefined) emitStatistics(e, e.env.statistics, main);
}

/** Goes to `absent` where nobody would see to a fault. */
function emitTracer(e: Emitter, absent: Label): void {
  if (e.env.tracer === undefined) throw new RangeError('nobody sees to faults in this environment');
  emitTracerCheck(e.a, e.env.tracer, e.changing(r11), absent);
}

/** r9 = the thread's block. */
function emitThread(e: Emitter, none: Label): ThreadSearch {
  if (e.env.thread === undefined)
    throw new RangeError('a program that needs its thread has no thread blocks here');
  for (const register of [r9, r10, r11]) e.changing(register);
  const search = emitThreadBlock(e.a, e.env.thread, r9, [r10, r11], none);
  e.apart(() => search.cold());
  return search;
}

/** Counts a run that can't be. */
function emitCount(e: Emitter): void {
  if (e.env.missed === undefined) return;
  e.a.movImm64(rax, e.env.missed);
  e.a.lock('inc', mem(rax));
}

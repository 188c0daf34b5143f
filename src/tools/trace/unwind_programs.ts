/**
 * Programs at the functions by which frames are left without a return: they write up to where (`unwound` of records.ts).
 */

import { ProgramBuilder, type ProgramLabel, R0, R1, R2, R3, R6, R7, R8, R9, R10 } from '../../bpf/builder.js';
import { HELPER } from '../../bpf/helpers.js';
import type { BpfInsn } from '../../bpf/instruction.js';
import { emitThread, type ThreadOptions } from '../thread_choice.js';
import type { TraceMaps } from './maps.js';
import { UNWOUND } from './records.js';

/** Where the CFA is read to. */
const WORD = -8;

/** `longjmp (env, …)`: where env is on the stack, calls below it are left. An fentry program. */
export function longjmpProgram(maps: TraceMaps, threads: ThreadOptions): BpfInsn[] {
  return unwoundProgram(maps, threads, b => {
    b.load(8, R8, R6);
  });
}

/** Of `struct _Unwind_Context` (libgcc, unwind-dw2.c): the CFA, behind 18 registers. */
const CONTEXT_CFA = 144;

/** `_Unwind_SetIP (context, …)`: an exception goes on in the frame that ends at the context's CFA. An fentry program. */
export function unwindProgram(maps: TraceMaps, threads: ThreadOptions): BpfInsn[] {
  return unwoundProgram(maps, threads, (b, out) => {
    b.load(8, R3, R6);
    b.add(R3, CONTEXT_CFA);
    b.mov(R1, R10);
    b.add(R1, WORD);
    b.mov(R2, 8);
    b.call(HELPER.probe_read_user);
    b.jump('ne', R0, 0, out);
    b.load(8, R8, R10, WORD);
    // The word below it holds the return address into that frame.
    b.sub(R8, 8);
  });
}

function unwoundProgram(
  maps: TraceMaps,
  threads: ThreadOptions,
  emitAddress: (b: ProgramBuilder, out: ProgramLabel) => void,
): BpfInsn[] {
  const b = new ProgramBuilder();
  const out = b.label();
  b.mov(R6, R1);
  emitThread(b, threads, out);
  emitAddress(b, out);
  b.ldMap(R1, maps.records);
  b.mov(R2, UNWOUND.size);
  b.mov(R3, 0);
  b.call(HELPER.ringbuf_reserve);
  b.jump('eq', R0, 0, out);
  b.mov(R9, R0);
  b.store(8, R9, UNWOUND.thread, R7);
  b.store(8, R9, UNWOUND.address, R8);
  b.call(HELPER.ktime_get_ns);
  b.store(8, R9, UNWOUND.time, R0);
  b.mov(R1, R9);
  b.mov(R2, 0);
  b.call(HELPER.ringbuf_submit);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

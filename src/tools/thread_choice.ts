/** Which threads the programs of the tools look at, and how they ask who calls. */

import { ProgramBuilder, type ProgramLabel, R0, R1, R2, R7 } from '../bpf/builder.js';
import { HELPER } from '../bpf/helpers.js';
import type { BpfInsn } from '../bpf/instruction.js';

/** Which threads: all where nothing is said. Numbers are those of `bpf_get_current_pid_tgid`. */
export interface ThreadChoice {
  /** Only these threads; any where empty. */
  readonly tids?: readonly number[] | undefined;
  /** Only threads of this process. */
  readonly pid?: number | undefined;
  /** No thread of this process. */
  readonly exceptPid?: number | undefined;
}

/** Whether some threads are not wanted. */
export function choosesThreads({ tids = [], pid, exceptPid }: ThreadChoice): boolean {
  return tids.length > 0 || pid !== undefined || exceptPid !== undefined;
}

/** Goes to `out` where the thread that calls is not wanted. Changes r0 to r5 where there is a choice. */
export function emitChoice(b: ProgramBuilder, choice: ThreadChoice, out: ProgramLabel): void {
  if (!choosesThreads(choice)) return;
  b.call(HELPER.get_current_pid_tgid);
  emitCompare(b, choice, out);
}

/** r0 = tgid << 32 | tid of the thread that calls. Changes r1, r2. */
function emitCompare(b: ProgramBuilder, choice: ThreadChoice, out: ProgramLabel): void {
  const { tids = [], pid, exceptPid } = choice;
  if (pid !== undefined || exceptPid !== undefined) {
    b.mov(R2, R0);
    b.rsh(R2, 32);
    if (pid !== undefined) b.jump('ne', R2, pid, out);
    if (exceptPid !== undefined) b.jump('eq', R2, exceptPid, out);
  }
  if (tids.length === 0) return;
  const wanted = b.label();
  b.mov32(R1, R0);
  for (const tid of tids) b.jump32('eq', R1, tid, wanted);
  b.goto(out);
  b.bind(wanted);
}

export interface ThreadOptions extends ThreadChoice {
  /** The process has ids of threads where `bpf_get_current_pid_tgid` finds them; else every thread's is 0. */
  readonly ids: boolean;
}

/** r7 = tgid << 32 | tid, by which a record names its thread; goes to `out` where the thread is not wanted. */
export function emitThread(b: ProgramBuilder, options: ThreadOptions, out: ProgramLabel): void {
  if (!options.ids) {
    b.mov(R7, 0);
    return;
  }
  b.call(HELPER.get_current_pid_tgid);
  b.mov(R7, R0);
  emitCompare(b, options, out);
}

/** A program that asks for its thread's id, and nothing else: it can be loaded where there are ids. An fentry program. */
export function threadIdProgram(): BpfInsn[] {
  const b = new ProgramBuilder();
  b.call(HELPER.get_current_pid_tgid);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

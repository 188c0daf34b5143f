/** Which threads the programs of `trace` write records of, and how a record names its thread. */

import { ProgramBuilder, type ProgramLabel, R0, R1, R2, R7 } from '../../bpf/builder.js';
import { HELPER } from '../../bpf/helpers.js';
import type { BpfInsn } from '../../bpf/instruction.js';

/** Which threads. */
export interface ThreadOptions {
  /** The process has ids of threads where `bpf_get_current_pid_tgid` finds them; else every thread's is 0. */
  readonly ids: boolean;
  /** Only these threads; all where empty. */
  readonly tids: readonly number[];
  /** No thread of this process. */
  readonly exceptPid?: number | undefined;
}

/** r7 = tgid << 32 | tid; goes to `out` where the thread is not wanted. */
export function emitThread(
  b: ProgramBuilder,
  { ids, tids, exceptPid }: ThreadOptions,
  out: ProgramLabel,
): void {
  if (!ids) {
    b.mov(R7, 0);
    return;
  }
  b.call(HELPER.get_current_pid_tgid);
  b.mov(R7, R0);
  if (exceptPid !== undefined) {
    b.mov(R2, R7);
    b.rsh(R2, 32);
    b.jump('eq', R2, exceptPid, out);
  }
  if (tids.length === 0) return;
  const wanted = b.label();
  b.mov32(R1, R7);
  for (const tid of tids) b.jump32('eq', R1, tid, wanted);
  b.goto(out);
  b.bind(wanted);
}

/** A program that asks for its thread's id, and nothing else: it can be loaded where there are ids. An fentry program. */
export function threadIdProgram(): BpfInsn[] {
  const b = new ProgramBuilder();
  b.call(HELPER.get_current_pid_tgid);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

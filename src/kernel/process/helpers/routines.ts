/**
 * The helpers of this folder that need nothing but the process: reading memory, threads, time, random numbers, strings.
 * Each is a routine: arguments in rdi, rsi, rdx, rcx, r8, the result in rax; may change those and r9 to r11.
 */

import { HELPER } from '../../../bpf/helpers.js';
import type { Assembler, Label } from '../../../x86/assembler.js';
import { type FaultFixup, FixupList } from '../faults/fixup.js';
import type { ThreadCode } from '../threads/layout.js';
import { emitProbeRead, emitProbeReadStr } from './probe_read.js';
import { emitStrncmp } from './strings.js';
import { emitComm, emitPidTgid, emitRandom, emitSmpProcessorId, emitUidGid } from './thread_info.js';
import { emitClock, emitJiffies } from './time.js';

export type HelperRoutine = `helper_${number}`;

/** Where in the process the routines find what they work on. */
export interface HelperEnv {
  readonly thread: ThreadCode;
  /** `Clocks.address`; left out where there is no counter to rely on: then these helpers are not there. */
  readonly time?: bigint;
}

/** Helpers that need the thread's id to be known (`Threads.findThreadId`) before a program with them is loaded. */
export const NEED_THREAD_ID: ReadonlySet<number> = new Set([HELPER.get_current_pid_tgid]);
/** Helpers for which the names of threads are kept up to date (`Threads.refresh`). */
export const NEED_REFRESH: ReadonlySet<number> = new Set([
  HELPER.get_current_comm,
  HELPER.get_current_uid_gid,
]);
/** Helpers for which the clocks must run (`Clocks.run`). */
export const NEED_CLOCK: ReadonlySet<number> = new Set([
  HELPER.ktime_get_ns,
  HELPER.ktime_get_boot_ns,
  HELPER.ktime_get_coarse_ns,
  HELPER.ktime_get_tai_ns,
  HELPER.jiffies64,
]);
/** Helpers whose loads may fault. */
export const NEED_FAULTS: ReadonlySet<number> = new Set([
  HELPER.probe_read,
  HELPER.probe_read_user,
  HELPER.probe_read_kernel,
  HELPER.copy_from_user,
  HELPER.probe_read_str,
  HELPER.probe_read_user_str,
  HELPER.probe_read_kernel_str,
]);

/** Writes every routine, once for each process. */
export function emitHelperRoutines(
  a: Assembler,
  env: HelperEnv,
): { routines: Map<HelperRoutine, Label>; fixups: FaultFixup[] } {
  const routines = new Map<HelperRoutine, Label>();
  const fixups = new FixupList();
  const add = (label: Label, ...helpers: number[]): void => {
    for (const helper of helpers) routines.set(`helper_${helper}`, label);
  };
  const routine = (emit: () => Label, ...helpers: number[]): void => {
    a.align(16);
    add(emit(), ...helpers);
  };
  routine(
    () => emitProbeRead(a, fixups),
    HELPER.probe_read,
    HELPER.probe_read_user,
    HELPER.probe_read_kernel,
    HELPER.copy_from_user,
  );
  routine(
    () => emitProbeReadStr(a, fixups),
    HELPER.probe_read_str,
    HELPER.probe_read_user_str,
    HELPER.probe_read_kernel_str,
  );
  routine(() => emitStrncmp(a), HELPER.strncmp);
  routine(() => emitPidTgid(a, env.thread), HELPER.get_current_pid_tgid);
  routine(() => emitUidGid(a, env.thread), HELPER.get_current_uid_gid);
  routine(() => emitComm(a, env.thread), HELPER.get_current_comm);
  routine(() => emitSmpProcessorId(a, env.thread), HELPER.get_smp_processor_id);
  routine(() => emitRandom(a, env.thread), HELPER.get_prandom_u32);
  const { time } = env;
  if (time !== undefined) {
    routine(() => emitClock(a, time, 'monotonic'), HELPER.ktime_get_ns, HELPER.ktime_get_coarse_ns);
    routine(() => emitClock(a, time, 'boottime'), HELPER.ktime_get_boot_ns);
    routine(() => emitClock(a, time, 'tai'), HELPER.ktime_get_tai_ns);
    routine(() => emitJiffies(a, time), HELPER.jiffies64);
  }
  return { routines, fixups: fixups.finish(a) };
}

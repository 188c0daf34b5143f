/**
 * All helpers of one kind, emitted together, once for each process: those that append records (ring buffers, perf event
 * arrays, the trace log) and those that print or read numbers.
 */

import { HELPER } from '../../../bpf/helpers.js';
import type { Assembler, Label } from '../../../x86/assembler.js';
import { type FaultFixup, FixupList } from '../faults/fixup.js';
import { emitFormat } from './format_code.js';
import type { HelperLabels } from './labels.js';
import { emitPerfHelpers } from './perf_code.js';
import { emitRingbufHelpers, emitRingRoutines } from './ringbuf_code.js';
import { emitSnprintf } from './snprintf.js';
import { emitStrtol } from './strtol.js';
import { emitTraceHelpers } from './trace_code.js';

/** Helpers that print into the trace log; their records have time and thread if the clocks run and thread ids are known. */
export const NEED_TRACE_LOG: ReadonlySet<number> = new Set([HELPER.trace_printk, HELPER.trace_vprintk]);
/** Helpers that read strings and addresses through their arguments, which may fault. */
export const PRINT_MAY_FAULT: ReadonlySet<number> = new Set([...NEED_TRACE_LOG, HELPER.snprintf]);

/** What the trace helpers need of the process. */
export interface TraceHelpersEnv {
  /** `TraceLog.address`. */
  readonly log: bigint;
  /** Helper 5, ktime_get_ns, in the same code or its address; trace records have a time of 0 without it. */
  readonly time?: Label | bigint | undefined;
  /** Helper 14, get_current_pid_tgid, likewise; trace records have thread 0 without it. */
  readonly tid?: Label | bigint | undefined;
}

/** Entry points, and loads that may fault: their offsets count from the start of the code. */
export interface EmittedHelpers {
  readonly routines: HelperLabels;
  readonly fixups: FaultFixup[];
}

/**
 * Emits ringbuf_* (130 to 134, 198 to 200), perf_event_output (25), snprintf (165), strtol and strtoul (105, 106).
 */
export function emitRecordHelpers(a: Assembler): EmittedHelpers {
  const list = new FixupList();
  const ring = emitRingRoutines(a);
  const routines: HelperLabels = new Map([
    ...emitRingbufHelpers(a, ring),
    ...emitPerfHelpers(a, ring),
    ...emitSnprintf(a, emitFormat(a, list)),
    ...emitStrtol(a),
  ]);
  return { routines, fixups: list.finish(a) };
}

/**
 * Emits trace_printk (6) and trace_vprintk (177): apart, because the trace log is made, and mapped into the process,
 * when the first program comes that prints.
 */
export function emitTraceLogHelpers(a: Assembler, env: TraceHelpersEnv): EmittedHelpers {
  const list = new FixupList();
  const ring = emitRingRoutines(a);
  const format = emitFormat(a, list);
  const routines = emitTraceHelpers(a, { ...env, ring, format });
  return { routines, fixups: list.finish(a) };
}

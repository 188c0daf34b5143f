/**
 * Machine code of trace_printk (6) and trace_vprintk (177): text into the trace log (maps/trace_log.ts). The format is
 * gone through twice, once to measure and once to print into the record, so that no buffer is needed on the stack.
 */

import {
  type Assembler,
  type Label,
  mem,
  r8,
  r9,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { LOG_LINE_BYTES, LOG_RECORD } from '../maps/trace_log.js';
import { TRACE_PRINTK_ARGS } from './format_check.js';
import type { HelperLabels } from './labels.js';
import { emitSubmit, type RingRoutines } from './ringbuf_code.js';
import { emitCheckArguments } from './snprintf.js';

/** What the helpers print with. */
export interface TraceEnv {
  readonly ring: RingRoutines;
  /** `emitFormat`. */
  readonly format: Label;
  /** The trace log's address. */
  readonly log: bigint;
  /** ktime_get_ns: the time in rax. In the same code, or its address. */
  readonly time?: Label | bigint | undefined;
  /** get_current_pid_tgid: the thread's id in eax. In the same code, or its address. */
  readonly tid?: Label | bigint | undefined;
}

/** Where things are from rsp on, in the routine both have in common. */
const AT = { fmt: 0, args: 8, nargs: 16, length: 24, sample: 32 } as const;
const FRAME_BYTES = 40;

export function emitTraceHelpers(a: Assembler, env: TraceEnv): HelperLabels {
  const labels: HelperLabels = new Map();
  const print = emitPrint(a, env);
  const invalid = a.label();

  // trace_printk(fmt, fmt_size, a, b, c): the arguments become an array.
  a.align(16);
  labels.set('helper_6', a.here());
  a.push(r8);
  a.push(rcx);
  a.push(rdx);
  a.mov(rdx, rsp);
  a.mov(rcx, TRACE_PRINTK_ARGS, 4);
  a.call(print);
  a.lea(rsp, mem(rsp, TRACE_PRINTK_ARGS * 8));
  a.ret();

  // trace_vprintk(fmt, fmt_size, data, data_len)
  a.align(16);
  labels.set('helper_177', a.here());
  emitCheckArguments(a, rdx, rcx, invalid);
  a.jmp(print);
  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();
  return labels;
}

/** rdi = format, esi = its size, rdx = arguments, ecx = how many → rax = characters printed, or -EINVAL. */
function emitPrint(a: Assembler, { ring, format, log, time, tid }: TraceEnv): Label {
  const invalid = a.label();
  const fits = a.label();
  const done = a.label();
  const terminated = a.label();

  /** The routine called with what was kept: prints to rdi, at most rsi bytes. */
  const callFormat = (): void => {
    a.mov(rdx, mem(rsp, AT.fmt));
    a.mov(rcx, mem(rsp, AT.args));
    a.mov(r8, mem(rsp, AT.nargs));
    a.mov(r9, 1, 4);
    a.call(format);
  };

  a.align(16);
  const print = a.here();
  a.lea(rsp, mem(rsp, -FRAME_BYTES));
  a.mov(mem(rsp, AT.fmt), rdi);
  a.mov(mem(rsp, AT.args), rdx);
  a.mov(rcx, rcx, 4);
  a.mov(mem(rsp, AT.nargs), rcx);
  // A zero byte ends the format within its size.
  a.mov(rsi, rsi, 4);
  a.add(rsi, rdi);
  const look = a.here();
  a.cmp(rdi, rsi);
  a.jcc('ae', invalid);
  a.cmp(mem(rdi), 0, 1);
  a.jcc('e', terminated);
  a.inc(rdi);
  a.jmp(look);

  a.bind(terminated);
  a.xor(rdi, rdi, 4);
  a.xor(rsi, rsi, 4);
  callFormat();
  a.mov(mem(rsp, AT.length), rax);
  a.test(rax, rax);
  a.jcc('s', done);
  a.mov(rsi, rax);
  a.cmp(rsi, LOG_LINE_BYTES - 1);
  a.jcc('be', fits);
  a.mov(rsi, LOG_LINE_BYTES - 1, 4);
  a.bind(fits);
  a.add(rsi, LOG_RECORD.TEXT + 1);
  a.movImm64(rdi, log);
  // The record's length is known again below by what was reserved, not by what is printed then.
  a.push(rsi);
  a.xor(r9, r9, 4);
  a.call(ring.reserve);
  a.pop(rsi);
  a.test(rax, rax);
  a.jcc('e', done);
  a.mov(mem(rsp, AT.sample), rax);
  // Strings may be shorter by now: nothing of what the ring held before is to be seen.
  a.lea(rcx, mem(rsi, -LOG_RECORD.TEXT));
  a.lea(rdi, mem(rax, LOG_RECORD.TEXT));
  const clear = a.here();
  a.mov(mem(rdi, -1, rcx), 0, 1);
  a.dec(rcx);
  a.jcc('ne', clear);
  a.sub(rsi, LOG_RECORD.TEXT);
  callFormat();

  for (const [routine, at, size] of [
    [time, LOG_RECORD.TIME, 8],
    [tid, LOG_RECORD.TID, 4],
  ] as const) {
    if (routine === undefined) a.xor(rax, rax, 4);
    else if (typeof routine === 'bigint') {
      a.movImm64(rax, routine);
      a.callReg(rax);
    } else a.call(routine);
    a.mov(rcx, mem(rsp, AT.sample));
    a.mov(mem(rcx, at), rax, size);
  }
  emitSubmit(a, rcx);
  a.bind(done);
  a.mov(rax, mem(rsp, AT.length));
  a.lea(rsp, mem(rsp, FRAME_BYTES));
  a.ret();
  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.lea(rsp, mem(rsp, FRAME_BYTES));
  a.ret();
  return print;
}

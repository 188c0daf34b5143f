/** Machine code of snprintf (165): format_code.ts, printing into the program's memory. */

import { type Assembler, type Label, type Reg, r8, r9, rax, rcx, rsi } from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { VPRINTK_ARGS } from './format_check.js';
import type { HelperLabels } from './labels.js';

/**
 * Refuses, as the kernel does, an array of arguments at `data` of `size` bytes that is not of whole words, is too
 * long, or is not there; `size` becomes their number.
 */
export function emitCheckArguments(a: Assembler, data: Reg, size: Reg, invalid: Label): void {
  const none = a.label();
  a.test(size, 7, 4);
  a.jcc('ne', invalid);
  a.shr(size, 3, 4);
  a.jcc('e', none);
  a.cmp(size, VPRINTK_ARGS, 4);
  a.jcc('a', invalid);
  a.test(data, data);
  a.jcc('e', invalid);
  a.bind(none);
}

/**
 * snprintf(str, str_size, fmt, data, data_len): the bytes that all of it takes, the zero byte included, also where
 * there is less room; -EINVAL for a format or arguments that are not right.
 */
export function emitSnprintf(a: Assembler, format: Label): HelperLabels {
  const invalid = a.label();
  const done = a.label();
  a.align(16);
  const snprintf = a.here();
  a.mov(rsi, rsi, 4);
  emitCheckArguments(a, rcx, r8, invalid);
  a.xor(r9, r9, 4);
  a.call(format);
  a.test(rax, rax);
  a.jcc('s', done);
  a.inc(rax);
  a.bind(done);
  a.ret();
  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();
  return new Map([['helper_165', snprintf]]);
}

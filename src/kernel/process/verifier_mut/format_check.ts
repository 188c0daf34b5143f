/**
 * Formats that are known when a program is loaded are checked then: a mistake is told where it is, not by -EINVAL in a
 * traced process.
 */

import { FIRST_ARGUMENT } from '../../../bpf/instruction.js';
import { checkFormat } from '../helpers/format_check.js';
import type { Arguments } from './arguments.js';
import type { Step } from './path.js';
import { isConstant } from './scalar.js';

const TRACE_PRINTK = 6;
const SNPRINTF = 165;
const TRACE_VPRINTK = 177;
/** Arguments that `bpf_trace_printk` takes behind the format's size. */
const PRINTK_ARGUMENTS = 3;

/** Refuses a format that is known and wrong. */
export function checkConstantFormat(step: Step, id: number, { text }: Arguments): void {
  let nargs = 0;
  if (id === TRACE_PRINTK) {
    while (nargs < PRINTK_ARGUMENTS && step.state.get(FIRST_ARGUMENT + 2 + nargs).kind !== 'not_init')
      nargs++;
    // What a format asks for is not known until it runs: then all that it can ask for must be there.
    if (text === undefined && nargs < PRINTK_ARGUMENTS) step.read(FIRST_ARGUMENT + 2 + nargs);
  }
  if (text === undefined) return;
  if (id === TRACE_VPRINTK || id === SNPRINTF) {
    const size = step.state.get(id === SNPRINTF ? FIRST_ARGUMENT + 4 : FIRST_ARGUMENT + 3);
    if (size.kind !== 'scalar' || !isConstant(size)) return;
    nargs = Number(size.min / 8n);
  } else if (id !== TRACE_PRINTK) return;
  const bytes = text.map.readConstant?.(text.offset, text.map.valueSize - text.offset);
  const end = bytes?.indexOf(0) ?? -1;
  if (bytes === undefined || end < 0) return;
  const wrong = checkFormat(new TextDecoder().decode(bytes.subarray(0, end)), nargs);
  if (wrong !== undefined) step.fail('EINVAL', wrong, text.register);
}

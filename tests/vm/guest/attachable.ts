/**
 * Attaches one program to every n-th of all functions of the kernel, by native multi-links, and tells what was left out.
 * Argument: n. Prints a line for each kind of program.
 */

import { ProgramBuilder, R0 } from '../../../src/bpf/builder.js';
import { LinuxKernel } from '../../../src/kernel/linux/machine.js';
import { SelectorSet } from '../../../src/process/symbols/selector.js';

export interface Attachable {
  readonly kind: string;
  readonly tried: number;
  readonly attached: number;
  /** By reason, how many. */
  readonly skipped: Record<string, number>;
  /** Those that the rules let through, and the kernel refused. */
  readonly refused: readonly string[];
}

const step = Number(process.argv[2]);
const kernel = new LinuxKernel({ way: 'tracing_multi' });
const targets = kernel
  .functions(SelectorSet.parse(['kernel:*']))
  .filter((_, index) => index % step === 0)
  .map(target => ({ target, cookie: 0n }));
const insns = new ProgramBuilder().mov(R0, 0).exit().build();
for (const attachType of ['fentry', 'fexit', 'fsession'] as const) {
  const prog = kernel.progLoad({ name: 'nothing', attachType, insns, maps: [], multi: true });
  const link = kernel.linkCreate({ prog, targets, skipInvalid: true });
  const skipped: Record<string, number> = {};
  for (const { reason } of link.skipped) skipped[reason] = (skipped[reason] ?? 0) + 1;
  const refused = link.skipped.filter(({ reason }) => reason === 'kernel-refused').map(one => one.function);
  const told: Attachable = {
    kind: attachType,
    tried: targets.length,
    attached: link.attached,
    skipped,
    refused,
  };
  console.log(JSON.stringify(told));
  link.detach();
  prog.free();
}
kernel.close();

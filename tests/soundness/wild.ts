/** Random programs: instructions that nobody meant. Most are refused; those that are not are worth running. */

import { R0, R1, R3, R6, R7, R8, R9, R10, type Register } from '../../src/bpf/builder.js';
import type { AccessSize, Condition } from '../../src/bpf/operation.js';
import type { Writer } from './writer.js';

const REGISTERS: readonly Register[] = [R0, R1, R3, R6, R7, R8, R9, R7, R8, R9];
const CONDITIONS: readonly Condition[] = [
  ...(['eq', 'ne', 'gt', 'ge', 'lt', 'le', 'sgt', 'sge', 'slt', 'sle', 'set'] as const),
];

export function wild(w: Writer): void {
  const { p, random } = w;
  const { below } = random;
  const dst = random.pick(REGISTERS);
  const src = random.pick([...REGISTERS, R10]);
  const size = random.pick<AccessSize>([1, 2, 4, 8]);
  const slot = -8 * (1 + below(20));
  switch (below(9)) {
    case 0:
      p.mov(dst, src);
      return;
    case 1:
      p.add(dst, random.once(2) ? src : below(40) - 20);
      return;
    case 2:
      p.load(size, dst, src, below(40) - 24);
      return;
    case 3:
      p.store(size, random.pick([R10, R9, dst]), -8 * below(5) + below(8), random.pick([src, 5]));
      return;
    case 4:
      p.store(8, R10, slot, src);
      return;
    case 5:
      p.load(8, dst, R10, slot);
      return;
    case 6:
      p.jump(random.pick(CONDITIONS), dst, random.once(2) ? src : below(20), w.end);
      return;
    case 7:
      p.store(size, R10, slot + below(8), src);
      return;
    default:
      p.sub(dst, src);
  }
}

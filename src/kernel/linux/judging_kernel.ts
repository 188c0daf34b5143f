/** The running kernel, which remembers what its verifier said of each program. */

import type { Judgement, JudgingKernel } from '../judgement.js';
import type { ProgLoadAttr } from '../kernel.js';
import type { LinuxProg } from './linux_prog.js';
import { LinuxKernel } from './machine.js';
import { statisticsOf } from './program.js';

/** Of the verifier's log: the path that is refused, and statistics. */
const LOGGED = 1 | 4;

export class JudgingLinuxKernel extends LinuxKernel implements JudgingKernel {
  readonly judgements = new Map<string, Judgement>();

  override progLoad(attr: ProgLoadAttr): LinuxProg {
    const { name, target, logLevel = 0 } = attr;
    const begin = performance.now();
    let log = '';
    try {
      const prog = super.progLoad({ ...attr, logLevel: logLevel | LOGGED });
      log = prog.log ?? '';
      return prog;
    } finally {
      this.judgements.set(name, {
        statistics: statisticsOf(log),
        log: logLevel === 0 ? '' : log,
        timeMs: performance.now() - begin,
        target,
        prototype: target?.prototype,
      });
    }
  }
}

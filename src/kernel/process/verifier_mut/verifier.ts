/**
 * Proves that a BPF program is safe to run in the traced process, or refuses it with the reason (the kernel's
 * `bpf_check`). It walks every path that the program can take, keeping what is known of each register and stack
 * slot, and refuses whatever it can't prove: only a `VerifiedProgram` is ever compiled.
 */

import type { BpfInsn } from '../../../bpf/instruction.js';
import { BpfError } from '../../errno.js';
import { type VerifierEnv, VerifierError } from './environment.js';
import { Facts } from './facts.js';
import { Log } from './log.js';
import { readProgram } from './program.js';
import { checkStackDepth } from './stack_depth.js';
import { ProvedProgram, type VerifiedProgram, type WalkStatistics } from './verified.js';
import { Restart, Walk } from './walk.js';

export { VerifierError } from './environment.js';
export { isVerified, type VerifiedProgram } from './verified.js';
export { COMPLEXITY_LIMIT } from './walk.js';

/** How often a walk begins again at most; each time more is known to matter, so this is never reached. */
const MOST_RESTARTS = 10_000;

/**
 * Proves `insns` safe for `env`. Throws `VerifierError` where it can't: EINVAL for a program that is malformed or
 * uses what is not there, EACCES for one that does what it may not, E2BIG for one too long to check, EBADF for a
 * map that is not in `env`. The message names the slot, the instruction, the reason, what the registers held and the
 * source line.
 */
export function verifyProgram(insns: readonly BpfInsn[], env: VerifierEnv): VerifiedProgram {
  // A copy that nobody can change: what was proved is what will be compiled.
  const frozen = Object.freeze(insns.map(insn => Object.freeze({ ...insn })));
  const begin = performance.now();
  let log = new Log(env.logLevel ?? 0, env.lineInfo);
  try {
    const program = readProgram(frozen, env);
    const facts = new Facts(program);
    for (let restarts = 0; restarts < MOST_RESTARTS; restarts++) {
      log = new Log(env.logLevel ?? 0, env.lineInfo);
      facts.stale = false;
      facts.relied.fill(0);
      const walk = new Walk(program, facts, log);
      try {
        walk.run();
      } catch (error) {
        if (error instanceof Restart) continue;
        throw error;
      }
      checkStackDepth(program, walk.findings.stackDepth);
      const statistics: WalkStatistics = {
        processed: walk.processed,
        totalStates: walk.pruning.totalStates,
        peakStates: walk.pruning.peakStates,
        restarts,
        timeMs: performance.now() - begin,
      };
      logStatistics(log, statistics);
      return new ProvedProgram(program, walk.findings, walk.reached, statistics, log.text());
    }
    throw new BpfError('E2BIG', 'the program is too complex: what matters in it is not found out');
  } catch (error) {
    if (error instanceof VerifierError || !(error instanceof BpfError)) throw error;
    log.line(error.message);
    throw new VerifierError(error.code, error.message, log.text());
  }
}

function logStatistics(
  log: Log,
  { processed, totalStates, peakStates, restarts, timeMs }: WalkStatistics,
): void {
  const states = `total_states ${totalStates} peak_states ${peakStates} restarts ${restarts}`;
  log.line(`verification time ${Math.round(timeMs * 1000)} usec`);
  log.line(`processed ${processed} insns (limit 1000000) ${states}`);
}

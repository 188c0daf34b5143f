/**
 * Proves that a BPF program is safe to run in the traced process, or refuses it with the reason (the kernel's
 * `bpf_check`). It walks every path that the program can take, keeping what is known of each register and stack
 * slot, and refuses whatever it can't prove: only a `VerifiedProgram` is ever compiled.
 */

import type { BpfInsn } from '../../../bpf/instruction.js';
import { BpfError } from '../../errno.js';
import { VerifierError, type WalkStatistics } from '../../verifier_error.js';
import type { VerifierEnv } from './environment.js';
import { Facts } from './facts.js';
import { Log } from './log.js';
import { readProgram } from './program.js';
import { checkStackDepth } from './stack_depth.js';
import { ProvedProgram, type VerifiedProgram } from './verified.js';
import { Restart, Walk } from './walk.js';

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
  const frozen = Object.freeze(insns.map(frozenCopy));
  const begin = performance.now();
  let log = new Log(env.logLevel ?? 0, env.lineInfo);
  let restarts = 0;
  let walk: Walk | undefined;
  const statistics = ({ processed, pruning }: Walk): WalkStatistics => ({
    processed,
    totalStates: pruning.totalStates,
    peakStates: pruning.peakStates,
    restarts,
    timeMs: performance.now() - begin,
  });
  try {
    const program = readProgram(frozen, env);
    const facts = new Facts(program);
    /** What a walk in which numbers were widened found wrong: one that goes round loops to their end may not. */
    let widened: VerifierError | undefined;
    for (; restarts < MOST_RESTARTS; restarts++) {
      log = new Log(env.logLevel ?? 0, env.lineInfo);
      facts.stale = false;
      facts.relied.fill(0);
      walk = new Walk(program, facts, log, widened === undefined);
      env.observe?.begin();
      try {
        walk.run();
      } catch (error) {
        if (error instanceof Restart) continue;
        if (!(error instanceof VerifierError)) throw error;
        if (error.code === 'E2BIG') throw widened ?? error;
        if (widened !== undefined || !walk.pruning.widened) throw error;
        widened = error;
        continue;
      }
      checkStackDepth(program, walk.findings.stackDepth);
      const took = statistics(walk);
      logStatistics(log, took);
      env.observe?.accepted(facts);
      return new ProvedProgram(program, walk.findings, walk.reached, took, log.text());
    }
    throw new BpfError('E2BIG', 'the program is too complex: what matters in it is not found out');
  } catch (error) {
    if (!(error instanceof BpfError)) throw error;
    // The walk's own refusals have their log, with what led to them.
    if (!(error instanceof VerifierError)) log.line(error.message);
    const told = error instanceof VerifierError ? error.log : log.text();
    throw new VerifierError(error.code, error.message, told, walk && statistics(walk));
  }
}

function frozenCopy({ opcode, dst, src, offset, imm, imm64 }: BpfInsn): BpfInsn {
  return Object.freeze(
    imm64 === undefined ? { opcode, dst, src, offset, imm } : { opcode, dst, src, offset, imm, imm64 },
  );
}

function logStatistics(
  log: Log,
  { processed, totalStates, peakStates, restarts, timeMs }: WalkStatistics,
): void {
  const states = `total_states ${totalStates} peak_states ${peakStates} restarts ${restarts}`;
  log.line(`verification time ${Math.round(timeMs * 1000)} usec`);
  log.line(`processed ${processed} insns (limit 1000000) ${states}`);
}

/**
 * The JIT: a verified program as x86-64 machine code (the kernel's `bpf_int_jit_compile`). One instruction after
 * the other, each with its own few instructions; before that plan.ts finds what needs no code at all.
 *
 * The code is called with the context in rdi. It changes the caller-saved registers that it says and the flags,
 * nothing else. A modify-return program's result is in rax; of other programs nobody reads one, and there is none.
 */

import { BpfError } from '../../errno.js';
import { isVerified, type VerifiedProgram } from '../verifier/verifier.js';
import type { JitEnv } from './environment.js';
import { factsOf } from './facts.js';
import { generate, type JitCode } from './generate.js';

export type { JitCode } from './generate.js';

/**
 * Compiles `program` for `env`. Throws `BpfError` EINVAL for a program that `verifyProgram` did not make, and ENOTSUP
 * where something that it calls has no code.
 */
export function compileProgram(program: VerifiedProgram, env: JitEnv): JitCode {
  if (!isVerified(program))
    throw new BpfError('EINVAL', 'only a program that the verifier passed is compiled');
  return generate(factsOf(program), env);
}

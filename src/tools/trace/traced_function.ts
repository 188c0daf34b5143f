/** A traced function as its events need it: by what name it goes, and how its values are read. */

import { BpfError } from '../../kernel/errno.js';
import type { Kernel, TargetFunction } from '../../kernel/kernel.js';
import { type Signature, signatureOf } from '../signature.js';
import { MAX_TEXTS } from './records.js';

/** A traced function. */
export interface TracedFunction {
  readonly module: string;
  readonly name: string;
  readonly address: bigint;
  /** Where its module's types know it. */
  readonly signature: Signature | undefined;
  /** Words of the context that point to texts which are read, in order. */
  readonly texts: readonly number[];
  /** It is the kernel's: small negative results are errors. */
  readonly ofKernel?: boolean;
}

/** Its module's types may take seconds the first time. */
export function describeFunction(kernel: Kernel, target: TargetFunction, ofKernel = false): TracedFunction {
  const { module, name, address } = target;
  let signature: Signature | undefined;
  try {
    signature = signatureOf(kernel, target);
  } catch (cause) {
    // Damaged types are a bonus that is not there.
    if (!(cause instanceof BpfError)) throw cause;
  }
  const texts = (signature?.args ?? []).flatMap(({ text, words }) =>
    text && words !== undefined ? [words.first] : [],
  );
  return { module, name, address, signature, texts: texts.slice(0, MAX_TEXTS), ofKernel };
}

/** A link that was not made because of one function, which it names. */

import { BpfError, type ErrnoName } from './errno.js';
import type { SkippedFunction } from './kernel.js';

export class RefusedTargetError extends BpfError {
  /** The function, and why it can't be attached. */
  readonly refused: SkippedFunction;

  constructor(code: ErrnoName, message: string, refused: SkippedFunction) {
    super(code, message);
    this.refused = refused;
  }
}

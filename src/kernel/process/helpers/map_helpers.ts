/** The helpers that work on maps and their values beyond a map's own operations: spin locks, dynptrs, task storage. */

import type { Assembler } from '../../../x86/assembler.js';
import type { FaultFixup } from '../faults/fixup.js';
import type { ThreadCode } from '../threads/layout.js';
import { emitDynptrRoutines } from './dynptr.js';
import type { HelperLabels } from './labels.js';
import { emitSpinLockRoutines } from './spin_lock.js';
import { emitTaskStorageRoutines } from './task_storage.js';

/** Writes every routine, once for each process. Nothing in them may fault. */
export function emitMapHelperRoutines(
  a: Assembler,
  env: { readonly thread: ThreadCode },
): { routines: HelperLabels; fixups: FaultFixup[] } {
  const routines: HelperLabels = new Map([
    ...emitSpinLockRoutines(a).routines,
    ...emitDynptrRoutines(a).routines,
    ...emitTaskStorageRoutines(a, env).routines,
  ]);
  return { routines, fixups: [] };
}

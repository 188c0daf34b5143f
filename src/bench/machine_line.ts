/** What machine it is that was measured. */

import { cpus, release, type } from 'node:os';

/** The machine, in one line. */
export function machineLine(): string {
  const [first] = cpus();
  return `${cpus().length} × ${first?.model.trim() ?? 'unknown processor'}, ${type()} ${release()}, node ${process.versions.node}`;
}

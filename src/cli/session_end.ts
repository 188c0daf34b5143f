/** When a session ends before its process does: on a signal to us, or after some time. */

import type { TracingSession } from '../kernel/session.js';

/** How long a command has to end by itself after Ctrl-C, which the terminal sends it too, ms. */
const INTERRUPT_GRACE_MS = 300;
const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Stops `session` then; returns what takes the timers back when it is over. Signals go on being caught. */
export function stopOnSignals(session: TracingSession, durationSeconds?: number): () => void {
  const timers: NodeJS.Timeout[] = [];
  const stop = (): void => session.stop();
  const interrupt = (): void => {
    if (session.commandRuns) timers.push(setTimeout(stop, INTERRUPT_GRACE_MS));
    else stop();
  };
  // A second Ctrl-C, while results are printed, must not cut them off.
  for (const signal of STOP_SIGNALS) process.on(signal, interrupt);
  if (durationSeconds !== undefined) timers.push(setTimeout(stop, durationSeconds * 1000));
  return () => {
    for (const timer of timers) clearTimeout(timer);
  };
}

/**
 * When a session ends before its process does: on a signal to us, after some time, when nobody gets what is printed, and
 * when we fail.
 */

import type { TracingSession } from '../kernel/session.js';
import { tell } from './options.js';
import { whenOutputIsLost } from './output.js';

/** How long a command has to end by itself after Ctrl-C, which the terminal sends it too, ms. */
const INTERRUPT_GRACE_MS = 300;
const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Signals that end tracing. Once caught they are caught for good: one that comes while a process is attached to, or while
 * results are printed, must not end us in the middle.
 */
export class StopSignals {
  #session: TracingSession | undefined;
  #caught = false;
  #came = false;
  readonly #timers: NodeJS.Timeout[] = [];

  /** From here on a signal waits for the session. */
  catch(): void {
    if (this.#caught) return;
    this.#caught = true;
    for (const signal of STOP_SIGNALS) process.on(signal, this.#interrupt);
  }

  readonly #interrupt = (): void => {
    const session = this.#session;
    this.#came = true;
    if (session?.commandRuns) this.#timers.push(setTimeout(() => session.stop(), INTERRUPT_GRACE_MS));
    else session?.stop();
  };

  /** Ends `session` on a signal, one that came already too, or when its time is over; returns what takes the timers back. */
  follow(session: TracingSession, durationSeconds?: number): () => void {
    this.#session = session;
    this.catch();
    // Not now: it may be the session that prints. A command runs on to its end, whose status is ours.
    whenOutputIsLost(() =>
      setImmediate(() => {
        if (!session.commandRuns) session.stop();
      }),
    );
    // Whatever goes wrong, the process gets its bytes back.
    process.once('uncaughtException', cause => {
      session.stop();
      process.exit(tell(cause));
    });
    if (this.#came) this.#interrupt();
    if (durationSeconds !== undefined)
      this.#timers.push(setTimeout(() => session.stop(), durationSeconds * 1000));
    return () => {
      for (const timer of this.#timers) clearTimeout(timer);
    };
  }
}

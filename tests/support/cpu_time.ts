/** How long our own code takes, by the processor's time: a busy machine makes the clock on the wall go on meanwhile. */

/** CPU time of this process, all threads, since `start` (`process.cpuUsage()`), ms. */
export function cpuMs(start: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1000;
}

/** CPU time that `action` takes, ms. */
export function timed(action: () => unknown): number {
  const start = process.cpuUsage();
  action();
  return cpuMs(start);
}

/**
 * Histograms of durations with a bounded relative error, as HdrHistogram has them: 16 equal buckets between each power of
 * two and the next, so that a bucket is at most a sixteenth of its values wide, and its middle at most 1/32 (3.1 %) off.
 * Below 16 ns every nanosecond has its own. Printed, buckets are summed up to powers of two.
 */

/** Bits of a value below its highest one that tell its bucket. */
export const SUB_BITS = 4;
const SUB = 1 << SUB_BITS;
/** Longer durations (18 minutes) count as this long. */
export const MAX_BITS = 40;
export const BUCKETS = (MAX_BITS - SUB_BITS + 1) * SUB;

/** The bucket of a duration in whole ns: what the BPF program computes too. */
export function bucketOf(ns: number): number {
  if (ns < SUB) return ns;
  const bits = Math.floor(Math.log2(Math.min(ns, 2 ** MAX_BITS - 1)));
  const capped = Math.min(ns, 2 ** MAX_BITS - 1);
  return (bits - SUB_BITS + 1) * SUB + (Math.floor(capped / 2 ** (bits - SUB_BITS)) % SUB);
}

/** The durations of a bucket: from `low`, `width` of them. */
export function bucketRange(bucket: number): { readonly low: number; readonly width: number } {
  if (bucket < SUB) return { low: bucket, width: 1 };
  const width = 2 ** (Math.floor(bucket / SUB) - 1);
  return { low: (SUB + (bucket % SUB)) * width, width };
}

/** Calls in each bucket. */
export type Histogram = Float64Array;

export function callsIn(histogram: Histogram): number {
  let calls = 0;
  for (const n of histogram) calls += n;
  return calls;
}

/** The duration that `share` (0 to 1) of the calls took at most, ns, within 3.1 %; never more than `max`. */
export function percentile(histogram: Histogram, share: number, max: number): number {
  const wanted = Math.max(1, Math.ceil(share * callsIn(histogram)));
  let seen = 0;
  for (const [bucket, calls] of histogram.entries()) {
    seen += calls;
    if (seen < wanted) continue;
    const { low, width } = bucketRange(bucket);
    return Math.min(low + (width - 1) / 2, max);
  }
  return 0;
}

/** The longest duration that may be in it, ns. */
export function longest(histogram: Histogram): number {
  const bucket = histogram.findLastIndex(calls => calls > 0);
  if (bucket < 0) return 0;
  const { low, width } = bucketRange(bucket);
  return low + width - 1;
}

/** Calls by powers of two: [0, 1], [2, 3], [4, 7], …, up to the last that has any. */
export function byPowersOfTwo(histogram: Histogram): number[] {
  const powers: number[] = [];
  for (const [bucket, calls] of histogram.entries()) {
    if (calls === 0) continue;
    const { low } = bucketRange(bucket);
    const power = low < 2 ? 0 : Math.floor(Math.log2(low));
    while (powers.length <= power) powers.push(0);
    powers[power] += calls;
  }
  return powers;
}

const BAR = 40;

/** As bcc's tools print it. */
export function formatPowers(powers: readonly number[], unit = 'nsecs'): string {
  const most = Math.max(...powers, 1);
  const lines = [`${unit.padStart(10)}               : count     distribution`];
  for (const [power, calls] of powers.entries()) {
    const low = power === 0 ? 0 : 2 ** power;
    const range = `${String(low).padStart(10)} -> ${String(2 ** (power + 1) - 1).padEnd(10)}`;
    const stars = '*'.repeat(Math.round((calls / most) * BAR)).padEnd(BAR);
    lines.push(`${range} : ${String(calls).padEnd(8)} |${stars}|`);
  }
  return `${lines.join('\n')}\n`;
}

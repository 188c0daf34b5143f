/** What the comparison came to, as a table. */

import { STRICTER } from './explained.js';
import type { Judged, Outcome } from './judge.js';

export interface Totals extends Readonly<Record<Outcome, number>> {
  readonly compared: number;
  /** Of those compared, how many of a hundred are judged the same. */
  readonly percent: number;
}

export function totalsOf(judged: readonly Judged[]): Totals {
  const count = (outcome: Outcome): number => judged.filter(one => one.outcome === outcome).length;
  const same = count('same');
  const stricter = count('stricter');
  const laxer = count('laxer');
  const compared = same + stricter + laxer;
  return { same, stricter, laxer, excluded: count('excluded'), compared, percent: (100 * same) / compared };
}

/** How often each reason stands there, most frequent first. */
function reasonsOf(judged: readonly Judged[], reason: (one: Judged) => string): [string, number][] {
  const counts = new Map<string, number>();
  for (const one of judged) counts.set(reason(one), (counts.get(reason(one)) ?? 0) + 1);
  return [...counts].sort(([, a], [, b]) => b - a);
}

/** The rule of ours by which a program is refused that a kernel accepts. */
export function ruleOf({ reason }: Judged): string {
  return STRICTER.find(([pattern]) => pattern.test(reason))?.[1] ?? 'not explained';
}

export function printTable(judged: readonly Judged[]): string {
  const { same, stricter, laxer, excluded, compared, percent } = totalsOf(judged);
  const accepted = judged.filter(one => one.outcome === 'same' && one.test.accepted).length;
  const of = (outcome: Outcome): Judged[] => judged.filter(one => one.outcome === outcome);
  const row = (text: string, n: number): string => `  ${String(n).padStart(5)}  ${text}`;
  const list = (rows: [string, number][]): string[] => rows.map(([text, n]) => row(`  ${text}`, n));
  return [
    `the kernel's tests: ${judged.length}`,
    row(`compared: ${percent.toFixed(1)} of 100 judged the same`, compared),
    row(`the same (${accepted} accepted, ${same - accepted} refused)`, same),
    row('ours is stricter', stricter),
    ...list(reasonsOf(of('stricter'), ruleOf)),
    row('ours is laxer', laxer),
    ...of('laxer').map(({ test }) => `           ${test.name}`),
    row('not compared', excluded),
    ...list(reasonsOf(of('excluded'), ({ reason }) => reason)),
  ].join('\n');
}

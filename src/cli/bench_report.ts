/** What the benchmark prints: rows as text, as JSON, and the ratios at the end. */

import { type AttachSample, WAYS, type Way } from '../bench/attach.js';
import { type Goal, goalsOf, isMet } from '../bench/goals.js';
import { machineLine } from '../bench/machine_line.js';
import { roundsFor } from '../bench/rounds.js';
import { GROUPS, type Result } from '../bench/row.js';
import { median, spread } from '../bench/statistics.js';
import type { Measured } from '../bench/suite.js';
import { grouped, table } from './output.js';

/** One row of `bench --json`; further fields by the kind of the row. */
export interface JsonRow {
  readonly name: string;
  /** Median, million events a second. */
  readonly mops: number | null;
  readonly nsPerOp: number | null;
  /** Half the distance between the quartiles, as a share of the median. */
  readonly spread: number | null;
  /** Why it can't run here. */
  readonly unavailable: string | null;
  readonly [more: string]: number | string | null;
}

const round = (value: number, digits = 4): number => Number(value.toPrecision(digits + 2));
/** Bytes are worth telling where there are many functions: memory comes in pages. */
const FEWEST_FOR_BYTES = 1000;

function row(
  name: string,
  nsPerOp: readonly number[],
  unavailable: string | undefined,
  more: Record<string, number | null> = {},
): JsonRow {
  const measured = nsPerOp.length > 0 && unavailable === undefined;
  const ns = measured ? median(nsPerOp) : 0;
  return {
    name,
    mops: measured ? round(1000 / ns) : null,
    nsPerOp: measured ? round(ns) : null,
    spread: measured ? round(spread(nsPerOp)) : null,
    unavailable: unavailable ?? (measured ? null : 'it was stopped before it was measured'),
    ...more,
  };
}

function attachFields(functions: number, samples: readonly AttachSample[]): Record<string, number | null> {
  const of = (pick: (sample: AttachSample) => number | undefined): number | null => {
    const values = samples.map(pick).filter(value => value !== undefined);
    return values.length === 0 ? null : round(median(values));
  };
  return {
    functions,
    attachMs: of(s => s.attachMs),
    processorMs: of(s => s.processorMs),
    detachMs: of(s => s.detachMs),
    pauseMs: of(s => s.pauseMs),
    gapMs: of(s => s.gapMs),
    bytesPerFunction: functions < FEWEST_FOR_BYTES ? null : of(s => s.bytes / functions),
  };
}

/** The array of `bench --json`. */
export function jsonRows({ timed, attaching, work, jit, verifier }: Measured): JsonRow[] {
  return [
    ...timed.map(({ name, samples, functions, unavailable }) =>
      row(name, [...samples.values()], unavailable, functions === undefined ? {} : { functions }),
    ),
    ...attaching.map(({ name, functions, samples, unavailable }) => {
      const all = [...samples.values()];
      const perFunction = all.map(({ attachMs }) => (attachMs * 1e6) / functions);
      return row(name, perFunction, unavailable, attachFields(functions, all));
    }),
    ...work.map(({ name, functions, samples, unavailable }) =>
      row(
        name,
        samples.map(({ eventsPerSecond }) => 1e9 / eventsPerSecond),
        unavailable,
        samples.length === 0
          ? {}
          : {
              functions,
              slowdown: round(median(samples.map(({ untraced, traced }) => traced / untraced))),
            },
      ),
    ),
    ...jit.map(({ name, instructions, bytes, ms, spread: share }) => ({
      name,
      mops: round(1 / (ms * 1000)),
      nsPerOp: round(ms * 1e6),
      spread: round(share),
      unavailable: null,
      instructions,
      bytes,
    })),
    ...verifier.map(({ name, instructions, processed, firstMs, ms, spread: share }) => ({
      name,
      mops: round(processed / (ms * 1000)),
      nsPerOp: round((ms * 1e6) / processed),
      spread: round(share),
      unavailable: null,
      instructions,
      processed,
      verifyMs: round(ms),
      firstMs: round(firstMs),
    })),
  ];
}

const percent = (share: number): string => `±${(share * 100).toFixed(1)}%`;
const digits = (value: number): string =>
  value >= 1000 ? grouped(Math.round(value)) : value >= 100 ? value.toFixed(0) : value.toPrecision(3);

function timedTable(timed: readonly Result[]): string {
  const bare = timed.find(({ name }) => name === 'target-count');
  const bareNs = bare && bare.samples.size > 0 ? median([...bare.samples.values()]) : undefined;
  let text = '';
  for (const [group, title] of Object.entries(GROUPS)) {
    const rows = timed.filter(one => one.group === group);
    if (rows.length === 0) continue;
    const lines = [[title, 'M/s', 'spread', 'ns', 'added ns', '']];
    for (const { name, what, samples, functions, unavailable } of rows) {
      const ns = [...samples.values()];
      if (unavailable !== undefined) lines.push([name, '-', '-', '-', '-', `not here: ${unavailable}`]);
      else if (ns.length > 0) {
        const one = median(ns);
        const added =
          bareNs === undefined || name.includes('target-count') || group === 'operation'
            ? undefined
            : one - bareNs;
        lines.push([
          name,
          digits(1000 / one),
          percent(spread(ns)),
          digits(one),
          added === undefined || added <= 0 || group === 'baseline' ? '' : digits(added),
          functions === undefined ? what : `${what} (${grouped(functions)} functions)`,
        ]);
      }
    }
    text += `${table(lines, [1, 2, 3, 4])}\n`;
  }
  return text;
}

function attachTable({ attaching }: Measured): string {
  if (attaching.length === 0) return '';
  let text = '';
  for (const way of Object.keys(WAYS) as Way[]) {
    const rows = attaching.filter(one => one.way === way);
    if (rows.length === 0) continue;
    const lines = [
      [
        `attaching, ${WAYS[way]}`,
        'attach ms',
        'of the processor',
        'detach ms',
        'longest gap ms',
        'our stop ms',
        'bytes/function',
        '',
      ],
    ];
    for (const { name, functions, samples, unavailable } of rows) {
      const fields = attachFields(functions, [...samples.values()]);
      const cell = (key: string): string => (fields[key] == null ? '-' : digits(fields[key]));
      lines.push(
        unavailable !== undefined
          ? [name, '-', '-', '-', '-', '-', '-', `not here: ${unavailable}`]
          : [
              name,
              cell('attachMs'),
              cell('processorMs'),
              cell('detachMs'),
              cell('gapMs'),
              cell('pauseMs'),
              cell('bytesPerFunction'),
              '',
            ],
      );
    }
    text += `${table(lines, [1, 2, 3, 4, 5, 6])}\n`;
  }
  return text;
}

function workTable({ work }: Measured): string {
  if (work.length === 0) return '';
  const lines = [
    [
      'real work, every function of every library counted',
      'slowdown',
      'spread',
      'M events/s',
      'functions',
      '',
    ],
  ];
  for (const { name, what, functions, samples, unavailable } of work) {
    if (unavailable !== undefined || samples.length === 0) {
      lines.push([name, '-', '-', '-', '-', `not here: ${unavailable ?? 'it was stopped'}`]);
      continue;
    }
    const slowdowns = samples.map(({ untraced, traced }) => traced / untraced);
    lines.push([
      name,
      `${digits(median(slowdowns))}x`,
      percent(spread(slowdowns)),
      digits(median(samples.map(({ eventsPerSecond }) => eventsPerSecond)) / 1e6),
      grouped(functions),
      what,
    ]);
  }
  return `${table(lines, [1, 2, 3, 4])}\n`;
}

function jitTable({ jit }: Measured): string {
  if (jit.length === 0) return '';
  const lines = [['programs', 'BPF instructions', 'bytes of code', 'verify and compile ms', 'spread']];
  for (const { name, instructions, bytes, ms, spread: share } of jit)
    lines.push([name, `${instructions}`, `${bytes}`, digits(ms), percent(share)]);
  return `${table(lines, [1, 2, 3, 4])}\n`;
}

function verifierTable({ verifier }: Measured): string {
  if (verifier.length === 0) return '';
  const head = ['verifier', 'instructions', 'processed', 'ms', 'spread', 'first ms', 'processed/s', ''];
  const lines = verifier.map(({ name, what, instructions, processed, firstMs, ms, spread: share }) => [
    name,
    grouped(instructions),
    grouped(processed),
    digits(ms),
    percent(share),
    digits(firstMs),
    grouped(Math.round(processed / (ms / 1000))),
    what,
  ]);
  return `${table([head, ...lines], [1, 2, 3, 4, 5, 6])}\n`;
}

function goalTable(goals: readonly Goal[]): string {
  const known = goals.filter(({ measured }) => measured !== undefined);
  if (known.length === 0) return '';
  const lines = [['ratios, pair by pair', 'the series', 'goal', 'measured', 'spread', '']];
  for (const goal of known) {
    const { what, series, atLeast, atMost, measured, spread: share } = goal;
    const met = isMet(goal);
    lines.push([
      what,
      series === undefined ? '' : `${series}`,
      atLeast !== undefined ? `${atLeast} or more` : atMost !== undefined ? `${atMost} or less` : '',
      measured! < 10 ? measured!.toFixed(3) : digits(measured!),
      percent(share ?? 0),
      met === undefined ? '' : met ? 'met' : 'missed',
    ]);
  }
  return table(lines, [1, 2, 3, 4]);
}

/** Everything as text. */
export function reportText(measured: Measured): string {
  const { seed, seconds, producers, timed, attaching } = measured;
  const rounds = `${roundsFor(seconds)} rounds in random order (seed ${seed}), ${seconds} s for each row, ${producers} producer${producers > 1 ? 's' : ''}; medians, spread: half the distance of the quartiles`;
  return (
    `${machineLine()}\n${rounds}\n\n` +
    timedTable(timed) +
    attachTable(measured) +
    workTable(measured) +
    jitTable(measured) +
    verifierTable(measured) +
    goalTable(goalsOf(timed, attaching))
  );
}

/** What `multitrace count --json` prints, as the tests read it: checked field by field, then asked for counts. */

import { expect } from 'vitest';
import { describeRun, multitrace, type Run, type RunOptions } from './command.js';

export interface CountReport {
  readonly command: 'count';
  readonly pid: number;
  readonly exit: { readonly code: number | null; readonly signal: string | null };
  readonly matched: number;
  readonly attached: number;
  readonly skipped: readonly {
    readonly module: string;
    readonly function: string;
    readonly reason: string;
  }[];
  readonly attachMs: number;
  readonly pauseMs: number;
  readonly missed: number;
  readonly functions: readonly FunctionCount[];
}

export interface FunctionCount {
  readonly module: string;
  readonly function: string;
  readonly address: string;
  readonly count: number;
}

const FIELDS = [
  'command',
  'pid',
  'exit',
  'matched',
  'attached',
  'skipped',
  'attachMs',
  'pauseMs',
  'missed',
  'functions',
];

/** The one object on standard output. Fails with the whole run where it is anything else. */
export function parseReport(run: Run): CountReport {
  let report: CountReport;
  try {
    report = JSON.parse(run.stdout) as CountReport;
  } catch {
    throw new Error(`standard output is not one JSON object: ${describeRun(run)}`);
  }
  expect(Object.keys(report), 'the fields of the report').toEqual(expect.arrayContaining(FIELDS));
  expect(report.command).toBe('count');
  expect(Number.isInteger(report.pid) && report.pid > 0, 'pid is a process number').toBe(true);
  for (const number of [report.matched, report.attached, report.missed]) {
    expect(Number.isInteger(number) && number >= 0, 'counts are whole numbers').toBe(true);
  }
  expect(report.attachMs).toBeGreaterThanOrEqual(0);
  expect(report.pauseMs).toBeGreaterThanOrEqual(0);
  expect(report.pauseMs, 'the pause is part of attaching').toBeLessThanOrEqual(report.attachMs + 1);
  expect(report.attached + report.skipped.length, 'each function matched is attached or skipped').toBe(
    report.matched,
  );
  for (const skipped of report.skipped) {
    expect(skipped.module, 'a skipped function has its module').not.toBe('');
    expect(skipped.function, 'a skipped function has its name').not.toBe('');
    expect(skipped.reason, `${skipped.module}:${skipped.function} was skipped for a reason`).toMatch(/\w/);
  }
  let before = Number.POSITIVE_INFINITY;
  for (const { function: name, count } of report.functions) {
    expect(Number.isInteger(count) && count >= 0, `${name} has a whole count, not ${count}`).toBe(true);
    expect(count, 'highest count first').toBeLessThanOrEqual(before);
    before = count;
  }
  return report;
}

/** How often functions of this name were called, in every module of that name or in all. */
export function countOf(report: CountReport, name: string, module?: RegExp): number {
  let total = 0;
  for (const one of report.functions) {
    if (one.function === name && (module === undefined || module.test(one.module))) total += one.count;
  }
  return total;
}

/** Why a function was left out, if it was. */
export function skippedFor(report: CountReport, name: string): string | undefined {
  return report.skipped.find(skipped => skipped.function === name)?.reason;
}

/** `multitrace count SELECTOR… --json [options] -- COMMAND`, its report and its run. The run must not fail itself. */
export async function countCommand(
  selectors: readonly string[],
  command: readonly string[],
  options: RunOptions & { readonly more?: readonly string[] } = {},
): Promise<{ report: CountReport; run: Run }> {
  const run = await multitrace(
    ['count', ...selectors, '--json', ...(options.more ?? []), '--', ...command],
    options,
  );
  return { report: parseReport(run), run };
}

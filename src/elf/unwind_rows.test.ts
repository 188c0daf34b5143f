/** The rows of real files, against readelf's interpretation of the same .eh_frame. */

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { ElfFile } from './file.js';
import { CFA, RULE, type UnwindRows, unwindRows } from './unwind_rows.js';

const FILES = [
  '/lib/x86_64-linux-gnu/libc.so.6',
  '/usr/lib/x86_64-linux-gnu/libcrypto.so.3',
  '/usr/bin/sqlite3',
  '/bin/bash',
].filter(existsSync);

function ruleAt({ base, pcs, rules }: UnwindRows, address: number): number {
  let low = 0;
  for (let high = pcs.length; high - low > 1; ) {
    const middle = (low + high) >> 1;
    if (pcs[middle]! <= address - base) low = middle;
    else high = middle;
  }
  return rules[low]!;
}

/** A rule in readelf's words: `rsp+16 c-16` is the CFA and where rbp is (`u` where it is unchanged). */
function asReadelf(rule: number): string {
  if ((rule & 3) === CFA.special) return Object.entries(RULE).find(([, value]) => value === rule)![0];
  const saved = rule >>> 18;
  return `${(rule & 3) === CFA.rsp ? 'rsp' : 'rbp'}+${((rule >>> 2) & 0xffff) * 8} ${saved === 0 ? 'u' : `c-${saved * 8}`}`;
}

/** Every row that readelf prints: address, CFA and rbp. */
function readelfRows(path: string): { address: number; want: string; signal: boolean; end: boolean }[] {
  // Its status is 1 where it has a warning about something else in the file.
  const text = spawnSync('readelf', ['--wide', '--debug-dump=frames-interp', path], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  }).stdout;
  const rows = [];
  let columns: string[] = [];
  let inFde = false;
  let signal = false;
  const signalCies = new Set<string>();
  for (const line of text.split('\n')) {
    const cie = /^([0-9a-f]{8}) [0-9a-f]{16} [0-9a-f]{8} CIE "([^"]*)"/.exec(line);
    if (cie !== null) {
      inFde = false;
      if (cie[2]!.includes('S')) signalCies.add(cie[1]!);
    }
    const fde = /FDE cie=([0-9a-f]{8}) pc=([0-9a-f]{16})\.\.([0-9a-f]{16})/.exec(line);
    if (fde !== null) {
      inFde = fde[2] !== fde[3];
      signal = signalCies.has(fde[1]!);
    }
    if (line.startsWith('   LOC')) columns = line.trim().split(/\s+/);
    const row = /^([0-9a-f]{16}) (.*)$/.exec(line);
    if (row === null || !inFde) continue;
    // `r5 (rdi)`: one value, a register.
    const values = row[2]!
      .replace(/r\d+ \(r\w+\)/g, 'register')
      .trim()
      .split(/\s+/);
    const rbp = columns.indexOf('rbp');
    const returnAddress = values[columns.indexOf('ra') - 1];
    rows.push({
      address: Number.parseInt(row[1]!, 16),
      want: returnAddress === 'register' ? returnAddress : `${values[0]} ${rbp < 0 ? 'u' : values[rbp - 1]}`,
      signal,
      end: returnAddress === 'u',
    });
  }
  return rows;
}

test.skipIf(!existsSync('/usr/bin/readelf')).each(FILES)('%s: every row is readelf’s', path => {
  const rows = unwindRows(ElfFile.open(path));
  const wanted = readelfRows(path);
  expect(wanted.length).toBeGreaterThan(1000);
  // The last of several rows at one address is the one that holds.
  const byAddress = new Map(wanted.map(row => [row.address, row]));
  const wrong: string[] = [];
  let unknown = 0;
  for (const { address, want, signal, end } of byAddress.values()) {
    const got = asReadelf(ruleAt(rows, address));
    const ok = signal
      ? got === 'signal'
      : end
        ? got === 'end'
        : want.startsWith('exp')
          ? got === 'plt' || got === 'unknown'
          : got === want || (got === 'unknown' && !/^r[sb]p\+\d+ (u|c-\d+)$/.test(want));
    if (got === 'unknown') unknown++;
    if (!ok) wrong.push(`0x${address.toString(16)}: ${got}, readelf ${want}`);
  }
  expect(wrong.slice(0, 5)).toEqual([]);
  expect(unknown / byAddress.size, 'few rows are unknown').toBeLessThan(0.02);
});

/**
 * The first screen: `npm start -- count 'libcrypto:*' -- openssl dgst -sha256 package.json`, with the program's
 * own output unchanged and nearly every function of a stripped library attached.
 */

import { execFileSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { describeRun, run } from './support/command.js';
import { ROOT } from './support/paths.js';
import { countCommand, countOf } from './support/report.js';
import { missingCommand } from './support/skip.js';

const DIGEST = ['openssl', 'dgst', '-sha256', 'package.json'];
const lacking = missingCommand('openssl');

describe('openssl dgst, with libcrypto counted', () => {
  test('npm start prints the digest and the table', async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const plain = execFileSync(DIGEST[0], DIGEST.slice(1), { cwd: ROOT, encoding: 'utf8' }).trim();
    const done = await run('npm', ['start', '--', 'count', 'libcrypto:*', '--', ...DIGEST], {
      cwd: ROOT,
      timeoutMs: 120_000,
    });
    expect(done.status, describeRun(done)).toBe(0);
    expect(done.stdout.split('\n'), describeRun(done)).toContain(plain);
    // A row has a function's name and its count, whatever else the table shows.
    expect(done.stdout + done.stderr, describeRun(done)).toMatch(/^.*\bEVP_DigestUpdate\b.*$/m);
  });

  test('the digest is the same, 99 % of the functions are attached, each other has its reason', async ({
    skip,
  }) => {
    skip(lacking !== undefined, lacking);
    const plain = execFileSync(DIGEST[0], DIGEST.slice(1), { cwd: ROOT, encoding: 'utf8' });
    const { report, run: done } = await countCommand(['libcrypto:*'], DIGEST, { cwd: ROOT });
    expect(done.status, describeRun(done)).toBe(0);
    expect(report.exit).toEqual({ code: 0, signal: null });
    expect(done.stderr, 'with --json the program writes its output to standard error').toContain(plain);
    expect(report.matched).toBeGreaterThan(4000);
    expect(
      report.attached / report.matched,
      `${report.attached} of ${report.matched}`,
    ).toBeGreaterThanOrEqual(0.99);
    expect(report.missed).toBe(0);
    expect(countOf(report, 'EVP_DigestUpdate')).toBeGreaterThan(0);
    for (const { module, count } of report.functions) {
      expect(module).toMatch(/libcrypto/);
      expect(count, 'functions that were not called are left out').toBeGreaterThan(0);
    }
    console.log(
      `attached ${report.attached} of ${report.matched}, ${report.functions.length} called, attach ${report.attachMs} ms, pause ${report.pauseMs} ms`,
    );
  });
});

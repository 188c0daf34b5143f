/**
 * What the rules let through attaches: a native multi-link to a part of all functions of the kernel; to all with
 * MULTITRACE_SOAK=1.
 */

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SOAK } from '../support/skip.js';
import type { Attachable } from './guest/attachable.js';
import { Guest } from './guest.js';
import { kernels } from './kernels.js';

const STEP = SOAK ? 1 : 25;

for (const kernel of kernels()) {
  if (kernel.name !== 'newest') continue;
  if ('missing' in kernel) {
    it.skip(`functions of the kernel attach (${kernel.missing})`, () => {});
    continue;
  }
  describe(`functions of kernel ${kernel.name}`, () => {
    let guest: Guest;
    beforeAll(async () => {
      guest = await Guest.boot(kernel);
    });
    afterAll(async () => {
      expect(await guest?.close()).toEqual([]);
    });

    it('attach natively, all that the rules let through, and little is left out of what could', async () => {
      const told = await guest.script<Attachable>('attachable', [`${STEP}`], { timeoutMs: 600_000 });
      expect(told.map(({ kind }) => kind)).toEqual(['fentry', 'fexit', 'fsession']);
      for (const { kind, tried, attached, skipped, refused } of told) {
        expect(refused, kind).toEqual([]);
        expect(tried * STEP).toBeGreaterThan(60_000);
        expect(attached * STEP).toBeGreaterThan(35_000);
        const { 'not-traceable': untraceable = 0, ...left } = skipped;
        const leftOut = Object.values(left).reduce((sum, count) => sum + count, 0);
        expect(attached + untraceable + leftOut).toBe(tried);
        // Changed arguments are half of it, names that are there twice a quarter.
        expect(leftOut / attached, JSON.stringify(skipped)).toBeLessThan(0.1);
      }
    });
  });
}

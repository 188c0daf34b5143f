/** What a refusal must look like. */

import { expect } from 'vitest';
import { describeRun, type Run } from './command.js';

/** One sentence that a person can act on: no stack trace, no second line, no bare errno; nothing on standard output. */
export function expectOneSentence(done: Run, about?: RegExp): void {
  expect([1, 2], describeRun(done)).toContain(done.status);
  expect(done.stdout, describeRun(done)).toBe('');
  // Bad usage may be followed by a line that says where to read on.
  const lines = done.stderr
    .trim()
    .split('\n')
    .filter(line => !/^\(multitrace .*--help .*\)$/.test(line));
  expect(lines, describeRun(done)).toHaveLength(1);
  const [sentence] = lines;
  expect(sentence.length, 'long enough to say what and why').toBeGreaterThan(25);
  expect(sentence.length, 'short enough to be read').toBeLessThan(400);
  expect(sentence).not.toMatch(/\bat \S+:\d+|Error:|undefined|\[object|errno \d+$/);
  if (about !== undefined) expect(sentence).toMatch(about);
}

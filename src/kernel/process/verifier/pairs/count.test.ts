/** How many pairs there are: counted in the arrays of the files, and said in docs/verifier.md. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const FOLDER = new URL('./', import.meta.url);
const FILES = [
  ...['../verifier.test.ts', '../rules.test.ts'],
  ...readdirSync(FOLDER).filter(name => name.endsWith('.test.ts') && name !== 'count.test.ts'),
];
const DOCS = readFileSync(new URL('../../../../../docs/verifier.md', import.meta.url), 'utf8');

/** Elements of the arrays of a file that are a pair: the formatter gives each property a line of its own. */
function pairsOf(file: string): string[] {
  const text = readFileSync(new URL(file, FOLDER), 'utf8');
  const of = (property: string): number => text.match(new RegExp(`^ {4}${property}:`, 'gm'))?.length ?? 0;
  const names = [...text.matchAll(/^ {4}name: '(.*)',$/gm)].map(match => match[1] as string);
  for (const property of ['accept', 'refuse', 'because']) {
    expect(of(property), `${property} in ${file}`).toBe(names.length);
  }
  return names;
}

test('there are at least 250 pairs, and the table of rules says how many', () => {
  const counts = FILES.map(file => pairsOf(file).length);
  const total = counts.reduce((sum, count) => sum + count, 0);
  expect(Math.min(...counts)).toBeGreaterThan(0);
  expect(total).toBeGreaterThanOrEqual(250);
  expect(DOCS).toContain(`${total} pairs`);
});

test('each pair has a name of its own in its file', () => {
  for (const file of FILES) {
    const names = pairsOf(file);
    expect(new Set(names).size, file).toBe(names.length);
  }
});

test('the table of rules names every file, and no other', () => {
  const named = new Set(
    [...DOCS.matchAll(/`((?:pairs\/)?\w+\.test\.ts)`/g)].map(match => match[1] as string),
  );
  const files = FILES.map(file => (file.startsWith('../') ? file.slice(3) : `pairs/${file}`));
  for (const file of files) expect(named).toContain(file);
  for (const name of named) expect(existsSync(new URL(`../${name}`, FOLDER)), name).toBe(true);
});

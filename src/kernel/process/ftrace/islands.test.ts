/** Where islands are found, on handmade code, and what keeps padding from being one. */

import { describe, expect, test } from 'vitest';
import { findPatchSites } from './find_patch_sites.js';
import { isPatchSite, type ModuleCode, type PatchSite, type TracedFunction } from './patch_site.js';

const BASE = 0x1000;

/** mov rax, rdi; dec rax; jnz to the dec; ret: 9 bytes whose third is branched to. */
const LOOP = '4889f8 48ffc8 75fb c3';
/** mov eax, 7; ret */
const PLAIN = 'b807000000 c3';

interface Piece {
  /** Bytes; the padding behind them is another piece. */
  readonly hex: string;
  /** A function starts here; with `frame: false` only a symbol says so. */
  readonly name?: string;
  readonly frame?: boolean;
}

interface Scene {
  readonly code: ModuleCode;
  readonly functions: TracedFunction[];
}

function scene(pieces: readonly Piece[], pointers: readonly number[] = []): Scene {
  const buffers = pieces.map(({ hex }) => Buffer.from(hex.replaceAll(/\s/g, ''), 'hex'));
  const functions: TracedFunction[] = [];
  const frames: { start: number; size: number }[] = [];
  let at = BASE;
  for (const [i, { name, frame }] of pieces.entries()) {
    const size = buffers[i].length;
    if (name !== undefined) {
      functions.push({ name, address: at, size });
      if (frame !== false) frames.push({ start: at, size });
    }
    at += size;
  }
  return {
    code: {
      name: 'test',
      sections: [{ name: '.text', address: BASE, bytes: Buffer.concat(buffers) }],
      functionStarts: functions.map(f => f.address),
      frames,
      pointers: pointers.map(p => BASE + p),
      readBytes: () => undefined,
    },
    functions,
  };
}

/** The island of the function `name`, from BASE, or why there is none. */
function islandOf(
  pieces: readonly Piece[],
  name = 'loop',
  pointers: readonly number[] = [],
): number | string {
  const { code, functions } = scene(pieces, pointers);
  const traced = functions.filter(f => f.name === name);
  const [result] = findPatchSites(code, traced);
  if (!isPatchSite(result)) return result.reason;
  return result.island === undefined ? result.kind : result.island.address - BASE;
}

const nops = (count: number): Piece => ({ hex: '90'.repeat(count) });
const loop: Piece = { name: 'loop', hex: LOOP };
const next: Piece = { name: 'next', hex: PLAIN };

test('the padding behind the function itself, and what the site then is', () => {
  const { code, functions } = scene([loop, { hex: '0f1f8000000000' }, next]);
  const [site] = findPatchSites(code, functions.slice(0, 1)) as [PatchSite];
  expect(site).toMatchObject({ kind: 'island', address: BASE, length: 3 });
  expect(Buffer.from(site.original).toString('hex')).toBe('4889f8');
  expect(site.island!.address).toBe(BASE + 9);
  expect(Buffer.from(site.island!.original).toString('hex')).toBe('0f1f800000');
  expect(site.displaced).toMatchObject({ resumes: true, resumeAt: BASE + 3 });
});

describe('padding that is an island, and padding that is none', () => {
  test('four bytes are too few', () => {
    expect(islandOf([loop, nops(4), next])).toBe('branch-into-entry');
    expect(islandOf([loop, nops(5), next])).toBe(9);
  });

  test('behind the last function, and in front of the first', () => {
    expect(islandOf([loop, nops(5)])).toBe(9);
    expect(islandOf([next, nops(8), loop])).toBe(9);
  });

  test('int3, and nops of every length', () => {
    expect(islandOf([loop, { hex: 'cccccccccccc' }, next])).toBe(9);
    expect(islandOf([loop, { hex: '66662e0f1f8400000000000f1f4000' }, next])).toBe(9);
    expect(islandOf([loop, { hex: '0f1f40000f1f4055' }, next])).toBe('branch-into-entry');
    expect(islandOf([loop, { hex: '000000000000' }, next])).toBe('branch-into-entry');
  });

  test('what a function runs through is no padding', () => {
    // cmp rcx, rdx; jb far away; then nops, and the next function.
    const check = '4839d1 0f82f0ff0000';
    expect(islandOf([{ name: 'check', hex: check }, nops(12), loop])).toBe('branch-into-entry');
    expect(islandOf([{ name: 'check', hex: `${check} c3` }, nops(12), loop])).toBe(10);
    // A call that may return, too; ud2 does not.
    expect(islandOf([{ name: 'check', hex: '4839d1 90 e800000000' }, nops(12), loop])).toBe(
      'branch-into-entry',
    );
    expect(islandOf([{ name: 'check', hex: '4839d1 90 e800000000 0f0b' }, nops(12), loop])).toBe(11);
    expect(islandOf([{ name: 'check', hex: '4839d1 90 e800000000 cc' }, nops(12), loop])).toBe(
      'branch-into-entry',
    );
  });

  test('what a branch or a pointer leads to is no padding: the bytes beside it are', () => {
    const jump = (distance: string): Piece => ({ name: 'jumps', hex: `eb${distance}` });
    expect(islandOf([jump('0a'), loop, nops(5), next])).toBe('branch-into-entry');
    expect(islandOf([jump('0a'), loop, nops(7), next])).toBe(2 + 11);
    expect(islandOf([loop, nops(5), next], 'loop', [13])).toBe('branch-into-entry');
    expect(islandOf([loop, nops(10), next], 'loop', [13])).toBe(14);
  });

  test('out of reach of a short jump', () => {
    const far = (size: number): Piece => ({ name: 'far', hex: `${'53'.repeat(size - 1)}c3` });
    // The last byte that a jump at 0 reaches is the one at 2 + 127.
    expect(islandOf([loop, far(120), nops(5), next])).toBe(129);
    expect(islandOf([loop, far(121), nops(5), next])).toBe('branch-into-entry');
    // Backwards, from behind the jump: 128.
    expect(islandOf([next, nops(8), far(121), loop])).toBe(9);
    expect(islandOf([next, nops(8), far(122), loop])).toBe('branch-into-entry');
    expect(islandOf([next, nops(9), far(121), loop])).toBe(10);
  });

  test('without unwind table, where the code in front decodes to its end', () => {
    expect(islandOf([{ ...loop, frame: false }, nops(5), next])).toBe(9);
    expect(islandOf([{ ...next, frame: false }, nops(8), { ...loop, frame: false }])).toBe(9);
    expect(islandOf([{ name: 'bad', hex: '06 c3', frame: false }, nops(16), loop])).toBe('branch-into-entry');
  });

  test('code or data that nothing names lies between', () => {
    expect(islandOf([loop, { hex: '31c0c3' }, nops(12), next])).toBe('branch-into-entry');
  });

  test('what a short function may want for its own site is left to it', () => {
    // ret, then its padding: 4 bytes for its jump; 4 more in case that endbr64 stood in front.
    expect(islandOf([{ name: 'short', hex: 'c3' }, nops(12), loop])).toBe('branch-into-entry');
    expect(islandOf([{ name: 'short', hex: 'c3' }, nops(13), loop])).toBe(9);
  });
});

describe('what needs an island', () => {
  test('a function of two to four bytes that another follows at once', () => {
    const behind = [nops(10), next];
    expect(islandOf([{ name: 'tiny', hex: '31c0 c3' }, next, ...behind], 'tiny')).toBe(12);
    expect(islandOf([{ name: 'tiny', hex: '90 c3' }, next, ...behind], 'tiny')).toBe(11);
    expect(islandOf([{ name: 'tiny', hex: 'c3' }, next, ...behind], 'tiny')).toBe('too-short');
    // One byte of padding makes two.
    expect(islandOf([{ name: 'tiny', hex: 'c3' }, nops(1), next, ...behind], 'tiny')).toBe(11);
  });

  test('a pointer, and a function that starts inside', () => {
    expect(islandOf([{ name: 'f', hex: '4889f8 4889f1 c3' }, nops(9), next], 'f', [3])).toBe(9);
    expect(islandOf([{ name: 'f', hex: '4889f8' }, { name: 'g', hex: PLAIN }, nops(8)], 'f')).toBe(12);
  });

  test('nothing helps where the second byte is entered', () => {
    // push rbx; dec rax; jnz to the dec
    expect(islandOf([{ name: 'loop', hex: '53 48ffc8 75fb 5b c3' }, nops(12), next])).toBe(
      'branch-into-entry',
    );
    expect(islandOf([loop, nops(12), next], 'loop', [1])).toBe('pointer-into-entry');
    expect(islandOf([loop, nops(12), next], 'loop', [2])).toBe(9);
  });

  test('a site of five bytes is taken where there is one', () => {
    expect(islandOf([next, nops(12), loop], 'next')).toBe('moved');
  });
});

describe('two functions', () => {
  const pieces: Piece[] = [
    { ...loop, name: 'a' },
    nops(7),
    { ...loop, name: 'b' },
    nops(12),
    { ...loop, name: 'c' },
  ];

  test('never have the same island, in one call or in several', () => {
    const { code, functions } = scene(pieces);
    const wanted = functions.map(() => expect.objectContaining({ kind: 'island' }));
    const together = findPatchSites(code, functions) as PatchSite[];
    expect(together).toEqual(wanted);
    expect(together.map(s => s.island!.address - BASE)).toEqual([9, 25, 30]);

    const taken = new Set<number>();
    const apart = [...functions].reverse().map(f => findPatchSites(code, [f], taken)[0] as PatchSite);
    expect(apart).toEqual(wanted);
    expect(apart.map(s => s.island!.address - BASE)).toEqual([9, 25, 30]);
    expect([...taken].sort((x, y) => x - y)).toEqual(
      [9, 10, 11, 12, 13, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34].map(b => BASE + b),
    );
  });

  test('one is refused where there is an island for one only', () => {
    const { code, functions } = scene([pieces[0], nops(5), pieces[2]]);
    expect(findPatchSites(code, functions)).toMatchObject([
      { kind: 'island' },
      { reason: 'branch-into-entry' },
    ]);
  });
});

/** Records: kinds by length, cookies, and what a damaged ring may hold. */

import { expect, test } from 'vitest';
import {
  COOKIE,
  decodeRecord,
  ENTERED,
  ENTERED_TEXT,
  enteredSize,
  FEW_WORDS,
  MANY_WORDS,
  makeCookie,
  RETURNED,
  RETURNED_TEXT,
  TEXT_BYTES,
  UNWOUND,
} from './records.js';
import { kernelStack } from './stacks.js';

test('the length of a record says what it is', () => {
  const sizes = [
    enteredSize(FEW_WORDS),
    enteredSize(MANY_WORDS),
    ENTERED_TEXT.size,
    RETURNED.size,
    RETURNED_TEXT.size,
    UNWOUND.size,
  ];
  expect(new Set(sizes).size).toBe(sizes.length);
  for (const size of sizes) expect(size % 8).toBe(0);
  for (let length = 0; length < 600; length++)
    expect(decodeRecord(new Uint8Array(length)) !== undefined, `${length}`).toBe(sizes.includes(length));
});

test('an entry with texts', () => {
  const bytes = new Uint8Array(ENTERED_TEXT.size);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(ENTERED.time, 123_456_789_012n, true);
  view.setBigUint64(ENTERED.thread, (77n << 32n) | 78n, true);
  view.setBigUint64(ENTERED.frame, 0x7fff_1234_5678n, true);
  const cookie = makeCookie({ slot: 0xffff_fff0, texts: [0, 11, 3], resultText: true, root: true });
  view.setBigUint64(ENTERED.cookie, cookie, true);
  view.setBigUint64(ENTERED.lost, 5n, true);
  view.setBigUint64(ENTERED.words + 88, 2n ** 64n - 1n, true);
  // Read as a whole, not readable, cut.
  view.setUint16(ENTERED_TEXT.lengths, 4, true);
  view.setUint16(ENTERED_TEXT.lengths + 4, TEXT_BYTES, true);
  bytes.set(Buffer.from('abc\0'), ENTERED_TEXT.texts);
  bytes.fill(0x78, ENTERED_TEXT.texts + 2 * TEXT_BYTES, ENTERED_TEXT.texts + 3 * TEXT_BYTES - 1);
  const event = decodeRecord(bytes);
  expect(event).toMatchObject({
    kind: 'entered',
    time: 123_456_789_012,
    pid: 77,
    tid: 78,
    frame: 0x7fff_1234_5678,
    slot: 0xffff_fff0,
    root: true,
    lost: 5,
  });
  if (event?.kind !== 'entered') throw new Error('no entry');
  expect(event.words[11]).toBe(2n ** 64n - 1n);
  expect(event.texts?.map(text => text && Buffer.from(text).toString())).toEqual([
    'abc',
    undefined,
    'x'.repeat(TEXT_BYTES - 1),
  ]);
  expect((cookie >> BigInt(COOKIE.resultText)) & 1n).toBe(1n);
});

test('a length that can’t be is no text', () => {
  const bytes = new Uint8Array(RETURNED_TEXT.size);
  new DataView(bytes.buffer).setUint16(RETURNED_TEXT.length, TEXT_BYTES + 1, true);
  expect(decodeRecord(bytes)).not.toHaveProperty('text');
});

test('frames in the kernel are exact, and inner ones lower', () => {
  const frame = (address: bigint): number => {
    const bytes = new Uint8Array(RETURNED.size);
    new DataView(bytes.buffer).setBigUint64(RETURNED.frame, address, true);
    const event = decodeRecord(bytes);
    return event?.kind === 'returned' ? event.frame : Number.NaN;
  };
  const outer = frame(0xffff_c900_0123_4568n);
  const inner = frame(0xffff_c900_0123_4560n);
  expect(outer - inner).toBe(8);
  expect(kernelStack(inner)).toBe(kernelStack(outer));
  expect(kernelStack(frame(0xffff_c900_0123_8008n))).not.toBe(kernelStack(outer));
});

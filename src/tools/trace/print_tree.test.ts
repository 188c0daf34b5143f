/** Blocks as text, texts and durations, and which trees are shown when. */

import { describe, expect, test } from 'vitest';
import { durationText, quoted } from './call_text.js';
import { type Call, CallTrees } from './call_tree.js';
import { coloured, plain, TreePrinter } from './print_tree.js';
import { TEXT_BYTES } from './records.js';
import { type Block, type SelectionOptions, TreeSelection } from './selection.js';

const FRAME = 0x7fff_0000_0000;

/** Plays `+name` (entered, one deeper) and `-result` (returned) to a selection; what it shows. */
function play(script: string, options: Partial<SelectionOptions> = {}, paint = plain) {
  const blocks: Block[] = [];
  let text = '';
  const printer = new TreePrinter({
    paint,
    registers: false,
    threadName: () => 'demo',
    wallTime: () => Date.UTC(2026, 0, 1, 12, 0, 0) + new Date(2026, 0, 1).getTimezoneOffset() * 60_000,
    write: line => {
      text += line;
    },
  });
  const selection = new TreeSelection({ maxCalls: 1000, ...options }, [
    { block: block => blocks.push(block) },
    printer,
  ]);
  const trees = new CallTrees(selection);
  let depth = 0;
  let time = 1000;
  for (const word of script.split(' ')) {
    time += 1500;
    const frame = FRAME - 64 * (word.startsWith('+') ? depth++ : --depth);
    const common = { time, pid: 7, tid: 7, frame, lost: 0 };
    if (word.startsWith('+'))
      trees.enter(
        { kind: 'entered', ...common, slot: 0, root: true, words: new BigUint64Array(6) },
        { module: 'm', name: word.slice(1), address: 0n, signature: undefined, texts: [] },
      );
    else trees.return({ kind: 'returned', ...common, result: BigUint64Array.of(BigInt(word.slice(1)), 0n) });
  }
  trees.end('untraced');
  return { blocks, text, selection };
}

test('a tree: one line for a call with none inside, two for others', () => {
  expect(play('+a +b -1 +c +d -4294967295 -2 -140737488355328').text.split('\n')).toEqual([
    '── 12:00:00.000000  demo 7 ──',
    '           a(…) {',
    '  1.50 us    b(…) = 1',
    '             c(…) {',
    '  1.50 us      d(…) = -1',
    '  4.50 us    } = 2',
    '  10.5 us  } = 0x7ffffffff000'.replace('0x7ffffffff000', '0x800000000000'),
    '',
  ]);
});

test('trees of one thread share a heading; a call that goes on says so', () => {
  const { text } = play('+a -1 +b -2 +c');
  expect(text.match(/──.*──/g)).toHaveLength(1);
  expect(text).toContain('c(…)  still running when tracing ended\n');
});

test('a closing line that is far from its opening one names the function', () => {
  const { text } = play(`+outer ${'+x -1 '.repeat(20)}-0`);
  expect(text).toMatch(/\} = 0 {2}\/\* outer \*\/\n$/);
});

test('colours are only for those who ask', () => {
  expect(play('+a -1').text).not.toContain('\x1b');
  expect(play('+a -1', {}, coloured).text).toContain('\x1b[1ma\x1b[0m');
});

describe('selection', () => {
  const roots = ({ blocks }: { blocks: Block[] }) => blocks.map(({ tree }) => tree.root.fn.name);

  test('by duration and by result, whole trees', () => {
    const script = '+a -1 +b +c -0 -1 +d -4294967295';
    expect(roots(play(script, { minDuration: 3000 }))).toEqual(['b']);
    expect(roots(play(script, { result: { operator: '<', value: 0n } }))).toEqual(['d']);
    expect(play(script, { minDuration: 3000 }).selection.filtered).toBe(2);
  });

  test('what has not returned passes no filter on results', () => {
    expect(roots(play('+a', { result: { operator: '==', value: 0n } }))).toEqual([]);
  });

  test('by depth', () => {
    const { text } = play('+a +b +c -1 -2 -3', { depth: 2 });
    expect(text).toContain('b(…) = 2');
    expect(text).not.toContain('c(');
  });

  test('no more calls than may be', () => {
    const { selection, blocks } = play('+a -1 +b +c -1 +d -1 -1 +e -1', { maxCalls: 3 });
    expect(selection.shown).toBe(3);
    expect(selection.isFull).toBe(true);
    expect(blocks.map(({ leftOut }) => leftOut)).toEqual([0, 1]);
  });

  test('every call that is shown is closed', () => {
    const { blocks } = play('+a +b +c -1 -1 -1 +d', { maxCalls: 2 });
    const open = new Set<Call>();
    for (const { steps } of blocks)
      for (const { call, closed } of steps) {
        if (closed) expect(open.delete(call)).toBe(true);
        else open.add(call);
      }
    expect(open.size).toBe(0);
  });
});

test.each([
  [0, '0 ns'],
  [999, '999 ns'],
  [1234, '1.23 us'],
  [45_678, '45.7 us'],
  [999_900, '1000 us'],
  [12_345_678, '12.3 ms'],
  [61e9, '61.0 s'],
])('%d ns is %s', (ns, text) => expect(durationText(ns)).toBe(text));

test.each([
  ['plain', '"plain"'],
  ['a"b\\c\n\t\x01', '"a\\"b\\\\c\\n\\t\\x01"'],
  ['grün €', '"grün €"'],
])('%j is quoted as %s', (text, expected) => expect(quoted(Buffer.from(text))).toBe(expected));

test('bytes that are no text, and texts that were cut', () => {
  expect(quoted(Uint8Array.of(0x41, 0xff))).toBe('"Aÿ"');
  // Cut within a character.
  const long = Buffer.from('€'.repeat(40)).subarray(0, TEXT_BYTES - 1);
  expect(quoted(long)).toBe(`"${'€'.repeat(Math.floor((TEXT_BYTES - 1) / 3))}"…`);
});

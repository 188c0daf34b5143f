/** Each way to attach one program to many functions of the kernel, on kernels that have it and on those that do not. */

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Guest } from './guest.js';
import { kernels } from './kernels.js';

interface Line {
  readonly way: string;
  readonly what: string;
  readonly error?: string;
  readonly code?: string;
  readonly left: number;
  readonly [key: string]: unknown;
}

/** What the kernel calls its functions for tests with, and what they return: the sums. */
const CALLS = [
  ['1'],
  ['2', '3'],
  ['4', '5', '6'],
  ['7', '8', '9', '10'],
  ['11', '12', '13', '14', '15'],
  ['16', '17', '18', '19', '20', '21'],
];
const RESULTS = ['2', '5', '15', '34', '65', '111'];

/** Ways that each kernel has, and which of them can hand out pointers to be read through. */
const WAYS: Readonly<Record<string, readonly string[]>> = {
  newest: ['tracing_multi', 'kprobe_multi', 'tracing'],
  '6.12': ['kprobe_multi', 'tracing'],
  '6.1': ['tracing'],
};

for (const kernel of kernels()) {
  if ('missing' in kernel) {
    describe(`kernel ${kernel.name}`, () => test.skip(`ways (${kernel.missing})`, () => {}));
    continue;
  }
  describe(`kernel ${kernel.name}`, () => {
    let guest: Guest;
    let lines: Line[] = [];
    beforeAll(async () => {
      guest = await Guest.boot(kernel);
      lines = await guest.script<Line>('ways', [], { timeoutMs: 170_000 });
    });
    afterAll(async () => {
      expect(await guest?.close()).toEqual([]);
    });
    const line = (way: string, what: string): Line =>
      lines.find(one => one.way === way && one.what === what)!;

    test.each(['tracing_multi', 'kprobe_multi', 'tracing'].filter(way => !WAYS[kernel.name].includes(way)))(
      'the way %s, which it does not have, is refused by name',
      way => {
        expect(line(way, 'fentry 1')).toMatchObject({
          code: 'EOPNOTSUPP',
          error: expect.stringContaining(`the way ${way}`),
        });
      },
    );

    describe.each(WAYS[kernel.name])('%s', way => {
      test('programs read every argument, the result and the cookie', () => {
        for (const [index, args] of CALLS.entries()) {
          const accessed = args.map((_, i) => i);
          expect(line(way, `fentry ${index + 1}`)).toEqual(
            expect.objectContaining({ words: [...args, '1000'], accessed }),
          );
          expect(line(way, `fexit ${index + 1}`)).toEqual(
            expect.objectContaining({ words: [...args, RESULTS[index], '1000'], accessed }),
          );
        }
      });

      test('a session hands its cookie from entry to return, and reads arguments at both', () => {
        expect(line(way, 'session')).toMatchObject({ words: ['5', '4', '15', '1000'], sameFrame: true });
      });

      test('a session’s cookie is 0 at each entry', () => {
        expect(line(way, 'cookie')).toMatchObject({ words: ['1', '7'] });
      });

      test('a call that finds no place for what its entry hands on is missed, and counted', () => {
        const full = line(way, 'full');
        // What the kernel hands on itself needs no table.
        if (way === 'tracing_multi') expect(full).toMatchObject({ table: false });
        else if (full.table === false) expect(kernel.name).toBe('newest');
        else expect(full).toMatchObject({ table: true, entered: true, result: '0', missed: '1', after: '1' });
      });

      test('a program for functions of any prototype has their arguments and results in words', () => {
        const { words } = line(way, 'words') as unknown as { words: string[] };
        expect([...words.slice(0, 2), words[6], words[8]]).toEqual(['2', '3', '5', '1001']);
        // Registers have what happens to be there.
        if (way !== 'kprobe_multi') expect(words.slice(2, 6)).toEqual(['0', '0', '0', '0']);
      });

      test('structures that arguments point to are read by their types', () => {
        expect(line(way, 'types fentry')).toMatchObject({ inode: true, asked: '4321' });
        expect(line(way, 'types fexit')).toMatchObject({ inode: true, asked: '4321', result: true });
      });

      test('a link takes more functions, and another program', () => {
        expect(line(way, 'update')).toMatchObject({
          before: ['2', '1001'],
          replaced: '0',
          after: ['2', '1001'],
          detached: '0',
          info: ['bpf_fentry_test1 1000', 'bpf_fentry_test2 1001'],
          missed: '0',
        });
      });

      test('one function that is not there fails all of them, by its name', () => {
        expect(line(way, 'all or nothing')).toMatchObject({
          code: 'EINVAL',
          message: expect.stringContaining('no_such_function'),
        });
      });

      test('count counts exactly', () => {
        const { counts, attached } = line(way, 'count');
        expect(counts).toEqual(CALLS.map(() => '25'));
        expect(attached).toBeGreaterThan(50);
      });

      test('nothing is left in the kernel', () => {
        expect(lines.filter(one => one.way === way && one.left !== 0)).toEqual([]);
      });
    });
  });
}

import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R3, R4, R6, R7, R10 } from '../../../bpf/builder.js';
import { HELPER } from '../../../bpf/helpers.js';
import { KFUNC } from '../../../bpf/kfuncs.js';
import { type Phase, scanContext } from './scan.js';

type Write = (p: ProgramBuilder) => ProgramBuilder;

function scan(write: Write, phase: Phase = 'entry'): { words: number[] | 'any'; asked: number[] | 'any' } {
  const { words, anyWord, asked, anyArgument } = scanContext(write(new ProgramBuilder()).build(), phase);
  const sorted = (of: ReadonlySet<number>): number[] => [...of].sort((a, b) => a - b);
  return { words: anyWord ? 'any' : sorted(words), asked: anyArgument ? 'any' : sorted(asked) };
}
const end: Write = p => p.mov(R0, 0).exit();

/** Reads word 1 at the entry and word 2 at the return. */
const session: Write = p => {
  const back = p.label();
  p.mov(R6, R1).callKfunc(KFUNC.bpf_session_is_return).and(R0, 255).jump32('ne', R0, 0, back);
  p.load(8, R1, R6, 8).mov(R0, 0).exit();
  return p.bind(back).load(8, R1, R6, 16).mov(R0, 0).exit();
};

describe('scanContext', () => {
  test.each<[string, Write, number[] | 'any']>([
    ['nothing', end, []],
    ['loads through r1', p => end(p.load(8, R2, R1, 0).load(8, R3, R1, 24)), [0, 3]],
    ['a load of part of a word', p => end(p.load(4, R2, R1, 12)), [1]],
    [
      'through a register that was moved and added to',
      p => end(p.mov(R6, R1).add(R6, 16).load(8, R2, R6, -8)),
      [1],
    ],
    [
      'through the stack',
      p => end(p.store(8, R10, -8, R1).mov(R2, R10).add(R2, -16).load(8, R6, R2, 8).load(8, R1, R6, 16)),
      [2],
    ],
    [
      'not what was written over it',
      p => end(p.store(8, R10, -8, R1).store(8, R10, -8, 0).load(8, R6, R10, -8).load(8, R1, R6, 16)),
      [],
    ],
    [
      'on both ways of a branch',
      p => {
        const other = p.label();
        p.mov(R6, R1).call(HELPER.ktime_get_ns).jump('eq', R0, 0, other).load(8, R1, R6, 0);
        return end(p.bind(other).load(8, R1, R6, 40));
      },
      [0, 5],
    ],
    [
      'where it is the context on one way only',
      p => {
        const other = p.label();
        p.mov(R6, R1).mov(R7, R1).call(HELPER.ktime_get_ns).jump('eq', R0, 0, other).mov(R7, 0);
        return end(p.bind(other).load(8, R1, R7, 8));
      },
      [1],
    ],
    [
      'any, where what is added is not known',
      p => end(p.mov(R6, R1).call(HELPER.ktime_get_ns).add(R6, R0).load(8, R1, R6, 0)),
      'any',
    ],
    [
      'in a subprogram that it is handed to',
      p => {
        const sub = p.label();
        end(p.mov(R2, R1).mov(R1, 0).callSubprogram(sub));
        return end(p.bind(sub).load(8, R0, R2, 32));
      },
      [4],
    ],
    [
      'any, where it goes to a subprogram in the stack',
      p => {
        const sub = p.label();
        end(p.store(8, R10, -8, R1).mov(R1, R10).add(R1, -8).callSubprogram(sub));
        return end(p.bind(sub).load(8, R2, R1, 0).load(8, R0, R2, 32));
      },
      'any',
    ],
    [
      'any, where a callback may find it',
      p => {
        const callback = p.label();
        p.store(8, R10, -8, R1).mov(R1, 3).ldFunction(R2, callback).mov(R3, R10).add(R3, -8).mov(R4, 0);
        end(p.call(HELPER.loop));
        return end(p.bind(callback).load(8, R2, R2, 0).load(8, R0, R2, 32));
      },
      'any',
    ],
    [
      'in a loop, all of them',
      p => {
        const again = p.label();
        p.mov(R6, R1).bind(again).load(8, R2, R6, 0).add(R6, 8).call(HELPER.ktime_get_ns);
        return end(p.jump('ne', R0, 0, again));
      },
      'any',
    ],
  ])('%s', (_, write, words) => {
    expect(scan(write).words).toEqual(words);
  });

  test('the two runs of a session read what their own ways read', () => {
    expect(scan(session, 'entry').words).toEqual([1]);
    expect(scan(session, 'return').words).toEqual([2]);
  });

  test('arguments that are asked for by number', () => {
    const ask = (p: ProgramBuilder): ProgramBuilder => p.mov(R3, R10).add(R3, -8).call(HELPER.get_func_arg);
    expect(scan(p => end(ask(p.mov(R2, 3)))).asked).toEqual([3]);
    expect(scan(p => end(ask(p.mov(R6, R1).call(HELPER.ktime_get_ns).mov(R1, R6).mov(R2, R0)))).asked).toBe(
      'any',
    );
  });

  test.each<[string, Write]>([
    ['a store', p => end(p.store(8, R1, 8, 0))],
    ['an atomic', p => end(p.mov(R2, 1).atomicAdd(8, R1, 0, R2))],
    ['a load before its first word', p => end(p.load(8, R2, R1, -8))],
  ])('%s to the context is refused', (_, write) => {
    expect(() => scan(write)).toThrow(expect.objectContaining({ code: 'EACCES' }));
  });
});

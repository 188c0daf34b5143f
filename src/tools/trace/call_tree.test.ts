/** Trees from events alone: what is nested in what, and how calls end that did not return. */

import { describe, expect, test } from 'vitest';
import { type Call, CallTrees, type StackOf, type Tree } from './call_tree.js';
import type { TracedFunction } from './traced_function.js';

const MAIN = 0x7fff_0000_0000;

function fn(name: string): TracedFunction {
  return { module: 'm', name, address: 0n, signature: undefined, texts: [] };
}

/** Trees as text: `a(b c!)`, with `!` behind a call that was left, `?` behind one whose return was lost, `~` tracing ended, `x` thread ended. */
class Recorder {
  readonly trees: CallTrees;
  readonly done: string[] = [];
  readonly ended: Tree[] = [];
  readonly calls: Call[] = [];
  readonly #children = new Map<Call | undefined, Call[]>();
  #time = 1000;
  lost = 0;

  constructor(stackOf?: StackOf) {
    this.trees = new CallTrees(
      {
        entered: (_, call) => {
          this.calls.push(call);
          this.#children.set(call, []);
          this.#children.get(call.parent)?.push(call);
        },
        closed: () => {},
        ended: tree => {
          this.ended.push(tree);
          this.done.push(this.#text(tree.root));
        },
      },
      stackOf,
    );
  }

  #text(call: Call): string {
    const mark = { returned: '', left: '!', lost: '?', untraced: '~', ended: 'x', open: '*' }[call.outcome];
    const inner = this.#children.get(call)!.map(child => this.#text(child));
    return `${call.fn.name}${mark}${inner.length > 0 ? `(${inner.join(' ')})` : ''}`;
  }

  enter(name: string, frame: number, { tid = 1, pid = 1, time = this.#time++ } = {}): this {
    const words = new BigUint64Array(6);
    const { lost } = this;
    this.trees.enter({ kind: 'entered', time, pid, tid, frame, slot: 0, root: true, lost, words }, fn(name));
    return this;
  }

  leave(frame: number, { tid = 1, time = this.#time++ } = {}): this {
    this.trees.return({
      kind: 'returned',
      time,
      pid: 1,
      tid,
      frame,
      result: BigUint64Array.of(7n, 0n),
      lost: this.lost,
    });
    return this;
  }

  unwind(address: number): this {
    this.trees.unwind({ kind: 'unwound', time: this.#time++, pid: 1, tid: 1, address });
    return this;
  }
}

describe('nesting', () => {
  test('calls that return in order', () => {
    const r = new Recorder();
    r.enter('a', MAIN)
      .enter('b', MAIN - 64)
      .leave(MAIN - 64)
      .enter('c', MAIN - 64)
      .leave(MAIN - 64)
      .leave(MAIN);
    expect(r.done).toEqual(['a(b c)']);
    expect(r.calls.map(({ depth }) => depth)).toEqual([0, 1, 1]);
    expect(r.calls.map(({ result }) => result[0])).toEqual([7n, 7n, 7n]);
  });

  test('recursion', () => {
    const r = new Recorder();
    for (let i = 0; i < 5; i++) r.enter('f', MAIN - 32 * i);
    for (let i = 4; i >= 0; i--) r.leave(MAIN - 32 * i);
    expect(r.done).toEqual(['f(f(f(f(f))))']);
  });

  test('a tail call shares its caller’s word, and is within it', () => {
    const r = new Recorder();
    r.enter('a', MAIN)
      .enter('b', MAIN - 1)
      .enter('c', MAIN - 2)
      .leave(MAIN - 2)
      .leave(MAIN - 1)
      .leave(MAIN);
    expect(r.done).toEqual(['a(b(c))']);
  });

  test('threads never mix', () => {
    const r = new Recorder();
    r.enter('a', MAIN, { tid: 1 })
      .enter('b', MAIN - 64, { tid: 2 })
      .enter('c', MAIN - 96, { tid: 1 });
    r.leave(MAIN - 64, { tid: 2 })
      .leave(MAIN - 96, { tid: 1 })
      .leave(MAIN, { tid: 1 });
    expect(r.done).toEqual(['b', 'a(c)']);
  });

  test('a thread id that another process has now begins anew', () => {
    const r = new Recorder();
    r.enter('a', MAIN, { tid: 5, pid: 1 })
      .enter('b', MAIN - 64, { tid: 5, pid: 2 })
      .leave(MAIN - 64, { tid: 5 });
    expect(r.done).toEqual(['ax', 'b']);
  });
});

describe('calls that never return', () => {
  test('are known by a call at or above their frame', () => {
    const r = new Recorder();
    // a calls b, which calls c, which jumps back into a: a then calls d from where it called b.
    r.enter('a', MAIN)
      .enter('b', MAIN - 64)
      .enter('c', MAIN - 128)
      .enter('d', MAIN - 64);
    r.leave(MAIN - 64).leave(MAIN);
    expect(r.done).toEqual(['a(b!(c!) d)']);
  });

  test('are known by their caller’s return', () => {
    const r = new Recorder();
    r.enter('a', MAIN)
      .enter('b', MAIN - 64)
      .enter('c', MAIN - 128)
      .leave(MAIN);
    expect(r.done).toEqual(['a(b!(c!))']);
    expect(r.calls[2].end).toBe(r.calls[0].end);
  });

  test('are known by the jump, where what comes next is deeper than they were', () => {
    const r = new Recorder();
    r.enter('a', MAIN)
      .enter('b', MAIN - 64)
      .enter('c', MAIN - 128)
      .unwind(MAIN - 32);
    r.enter('d', MAIN - 500)
      .leave(MAIN - 500)
      .leave(MAIN);
    expect(r.done).toEqual(['a(b!(c!) d)']);
  });

  test('a jump to where nothing is traced ends the tree', () => {
    const r = new Recorder();
    r.enter('a', MAIN)
      .enter('b', MAIN - 64)
      .unwind(MAIN + 64);
    expect(r.done).toEqual(['a!(b!)']);
    r.enter('c', MAIN - 200).leave(MAIN - 200);
    expect(r.done.slice(1)).toEqual(['c']);
  });

  test('an address on the heap, where a jmp_buf may be, says nothing', () => {
    const r = new Recorder();
    r.enter('a', MAIN)
      .unwind(0x5555_0000_0000)
      .enter('b', MAIN - 64)
      .leave(MAIN - 64)
      .leave(MAIN);
    expect(r.done).toEqual(['a(b)']);
  });

  test('a return of a call that was taken for left is passed over', () => {
    const r = new Recorder();
    r.enter('a', MAIN)
      .enter('b', MAIN - 64)
      .leave(MAIN)
      .leave(MAIN - 64)
      .leave(MAIN);
    expect(r.done).toEqual(['a(b!)']);
  });

  test('where returns were lost, it is not said that there was none', () => {
    const r = new Recorder();
    r.trees.returnsLost = true;
    r.enter('a', MAIN)
      .enter('b', MAIN - 64)
      .leave(MAIN);
    expect(r.done).toEqual(['a(b?)']);
  });

  test('threads and tracing end', () => {
    const r = new Recorder();
    r.enter('a', MAIN, { tid: 1 })
      .enter('b', MAIN - 64, { tid: 1 })
      .enter('c', MAIN - 64, { tid: 2 });
    expect(r.trees.openThreads.map(({ tid }) => tid)).toEqual([1, 2]);
    r.trees.endThread(1);
    r.trees.end('untraced');
    expect(r.done).toEqual(['ax(bx)', 'c~']);
  });
});

describe('several stacks', () => {
  const LOW = 0x6000_0000_0000;
  const ADJACENT = MAIN - (1 << 20);

  test('a coroutine is a tree of its own, and both go on', () => {
    const r = new Recorder();
    r.enter('main', MAIN).enter('resume', MAIN - 64);
    r.enter('body', LOW).enter('yield', LOW - 64);
    r.leave(MAIN - 64)
      .enter('other', MAIN - 64)
      .leave(MAIN - 64);
    r.leave(LOW - 64)
      .enter('more', LOW - 64)
      .leave(LOW - 64)
      .leave(LOW)
      .leave(MAIN);
    expect(r.done).toEqual(['body(yield more)', 'main(resume other)']);
    expect(r.ended.map(({ stack }) => stack)).toEqual([1, 0]);
  });

  test('a signal handler’s stack above the interrupted one ends nothing', () => {
    const stackOf: StackOf = address => (address > MAIN ? 2 : 1);
    const r = new Recorder(stackOf);
    r.enter('a', MAIN - 4096)
      .enter('handler', MAIN + 4096)
      .leave(MAIN + 4096)
      .enter('b', MAIN - 5000);
    r.leave(MAIN - 5000).leave(MAIN - 4096);
    expect(r.done).toEqual(['handler', 'a(b)']);
  });

  test('stacks near each other are told apart by their mappings', () => {
    const stackOf: StackOf = address => (address > ADJACENT ? 2 : 1);
    const r = new Recorder(stackOf);
    r.enter('a', MAIN)
      .enter('b', ADJACENT - 64)
      .enter('c', MAIN - 64)
      .leave(MAIN - 64);
    r.leave(ADJACENT - 64).leave(MAIN);
    expect(r.done).toEqual(['b', 'a(c)']);
  });
});

describe('what found no room', () => {
  test('marks the trees of a thread that may lack calls', () => {
    const r = new Recorder();
    r.enter('a', MAIN).enter('b', MAIN - 64);
    r.lost = 3;
    r.leave(MAIN - 64)
      .leave(MAIN)
      .enter('c', MAIN)
      .leave(MAIN);
    expect(r.ended.map(({ incomplete }) => incomplete)).toEqual([true, false]);
  });

  test('marks a tree whose beginning may be missing', () => {
    const r = new Recorder();
    r.enter('a', MAIN).leave(MAIN);
    r.lost = 1;
    r.enter('b', MAIN).leave(MAIN);
    expect(r.ended.map(({ incomplete }) => incomplete)).toEqual([false, true]);
  });
});

test('times never go back within a tree, whatever a signal handler’s records say', () => {
  const r = new Recorder();
  r.enter('a', MAIN, { time: 5000 }).enter('handler', MAIN - 512, { time: 4000 });
  r.leave(MAIN - 512, { time: 4500 }).leave(MAIN, { time: 6000 });
  expect(r.calls.map(({ start, end }) => [start, end])).toEqual([
    [5000, 6000],
    [5000, 5000],
  ]);
});

/** The rows that are timed in rounds: the baselines, ours, the limit, and the kernel's own probes. */

import type { AttachType } from '../kernel/kernel.js';
import { KernelCounter } from './kernel_bpf.js';
import { MODIFIED, type Through } from './our_machine.js';
import type { Attached, Round, Row } from './row.js';

const nothing = (): Attached => ({ detach: () => {} });

/** The function that all are compared on, as compilers leave most of them. */
const TARGET = 'ordinary';

const BASELINES: readonly Row[] = [
  {
    name: 'usermode-count',
    what: 'the bare loop: adds one to a counter of its own, atomically',
    group: 'baseline',
    calls: 'count',
    attach: nothing,
  },
  {
    name: 'target-count',
    what: 'the loop that calls the untraced function',
    group: 'baseline',
    calls: TARGET,
    attach: nothing,
  },
  {
    name: 'target-count-sled',
    what: 'the same, on the function with a nop sled (-fpatchable-function-entry=5)',
    group: 'baseline',
    calls: 'sled',
    attach: nothing,
  },
  {
    name: 'target-count-nop5',
    what: 'the same, on the function with one nop of 5 bytes (-mfentry -mnop-mcount)',
    group: 'baseline',
    calls: 'nop5',
    attach: nothing,
  },
  {
    name: 'syscall-count',
    what: 'the loop that makes a system call (getpgid)',
    group: 'baseline',
    calls: 'syscall',
    returns: -1,
    attach: nothing,
  },
];

/** One of ours: a counting program on one function. */
function ours(name: string, what: string, attachType: AttachType, calls: string, through: Through): Row {
  return {
    name,
    what,
    group: 'ours',
    calls,
    ...(attachType === 'fmod_ret' ? { returns: MODIFIED } : {}),
    ...(attachType === 'fsession' ? { eventsPerCall: 2 } : {}),
    attach: ({ ours: machine }) => machine.count(attachType, calls, through),
  };
}

const KINDS: readonly (readonly [string, AttachType, string])[] = [
  ['fentry', 'fentry', 'at entry'],
  ['fexit', 'fexit', 'at return'],
  ['fmodret', 'fmod_ret', 'in the place of the function, which does not run'],
  ['fsession', 'fsession', 'at entry and at return'],
];

const OURS: readonly Row[] = [
  ...KINDS.map(([name, type, when]) => ours(name, `${when}, a plain link`, type, TARGET, 'plain')),
  ...KINDS.map(([name, type, when]) => ours(`${name}-multi`, `${when}, a multi-link`, type, TARGET, 'multi')),
  ...KINDS.map(([name, type, when]) =>
    ours(`${name}-multi-sled`, `${when}, a multi-link, on a nop sled: record by hash`, type, 'sled', 'multi'),
  ),
  ours(
    'fentry-multi-nop5',
    'at entry, a multi-link, on a nop of 5 bytes: record by hash',
    'fentry',
    'nop5',
    'multi',
  ),
  {
    ...ours(
      'fentry-multi-all',
      'at entry, a multi-link on every function of the process; one is timed',
      'fentry',
      TARGET,
      'multi-all',
    ),
    attach: ({ ours: machine }) => machine.countAll(TARGET),
  },
  ...(['fentry', 'fexit'] as const).map(
    (kind): Row => ({
      name: `${kind}-multi-thread`,
      what: `${kind}-multi with a counter for each thread (BPF_MAP_TYPE_PERCPU_ARRAY), without a lock`,
      group: 'ours',
      calls: TARGET,
      attach: ({ ours: machine }) => machine.countPerThread(kind, TARGET),
    }),
  ),
];

async function limit(command: string, { target }: Round): Promise<Attached> {
  await target.ask(`${command} on`);
  return {
    detach: async () => {
      await target.ask(`${command} off`);
    },
    count: async () => Number(await target.ask(`${command}-count`)),
  };
}

const LIMITS: readonly Row[] = [
  {
    name: 'limit',
    what: 'saves nothing, as it changes no register; adds one to a counter, locked as the program does',
    group: 'limit',
    calls: TARGET,
    attach: round => limit('limit', round),
  },
  {
    name: 'limit-thread',
    what: "adds one to the thread's own counter, without a lock",
    group: 'limit',
    calls: TARGET,
    attach: round => limit('limit-thread', round),
  },
];

/** A kernel probe with the counting program in kernel BPF. */
function probe(
  name: string,
  what: string,
  calls: string,
  { atReturn = false, multi = false, perThread = false } = {},
): Row {
  return {
    name,
    what: `kernel ${what}, the counting program in kernel BPF`,
    group: 'peer',
    calls,
    attach: ({ target: { pid }, program }) => {
      const counter = new KernelCounter(1, perThread);
      const offset = program.fileOffset(calls);
      try {
        if (multi)
          counter.attachMulti(pid, { path: program.path, offsets: [offset], cookies: [0] }, atReturn);
        else counter.attach(pid, program.path, offset, 0, atReturn);
      } catch (cause) {
        counter[Symbol.dispose]();
        throw cause;
      }
      return {
        detach: () => counter.detach(),
        count: () => {
          using ended = counter;
          return ended.count(0);
        },
      };
    },
  };
}

const PROBES: readonly Row[] = [
  probe('uprobe', 'uprobe (int3)', TARGET),
  probe('uprobe-nop5', 'uprobe on a nop of 5 bytes', 'nop5'),
  probe('uretprobe', 'uretprobe', TARGET, { atReturn: true }),
  probe('uretprobe-nop5', 'uretprobe on a nop of 5 bytes', 'nop5', { atReturn: true }),
  probe('uprobe-multi', 'uprobe-multi link', TARGET, { multi: true }),
  probe('uprobe-multi-nop5', 'uprobe-multi link on a nop of 5 bytes', 'nop5', { multi: true }),
  probe('uretprobe-multi', 'uprobe-multi link at return', TARGET, { atReturn: true, multi: true }),
  probe('uprobe-thread', 'uprobe (int3), a counter for each CPU', TARGET, { perThread: true }),
  probe('uretprobe-thread', 'uretprobe, a counter for each CPU', TARGET, { atReturn: true, perThread: true }),
];

/** What more threads make of it. The same function and different ones; the counter of each thread its own, or one for all. */
const PRODUCERS: readonly Row[] = (
  [
    ['target-count', 'the untraced function', (): Attached => nothing()],
    [
      'fentry-multi-thread',
      'a counter for each thread',
      ({ ours: m }: Round, calls: string) => m.countPerThread('fentry', calls),
    ],
  ] as const
).flatMap(([name, what, attach]) =>
  (
    [
      ['1', 1, TARGET, 'one thread'],
      ['2-same', 2, TARGET, 'two threads, the same function'],
      ['2-different', 2, 'different', 'two threads, a function each'],
    ] as const
  ).map(
    ([suffix, threads, calls, how]): Row => ({
      name: `${name}@${suffix}`,
      what: `${how}; ${what}`,
      group: 'producers',
      calls,
      threads,
      byClock: true,
      attach: round => attach(round, calls),
    }),
  ),
);

const SHARED: readonly Row[] = [
  {
    name: 'fentry-multi@2-same',
    what: 'two threads, the same function; one counter for all, so its cache line goes to and fro',
    group: 'producers',
    calls: TARGET,
    threads: 2,
    attach: ({ ours: machine }) => machine.count('fentry', TARGET, 'multi'),
  },
  {
    name: 'limit@2-same',
    what: 'the hand-written hook with one counter, under two threads',
    group: 'producers',
    calls: TARGET,
    threads: 2,
    attach: round => limit('limit', round),
  },
  {
    ...probe('uprobe@2-same', 'uprobe (int3) under two threads, a counter for each CPU', TARGET, {
      perThread: true,
    }),
    group: 'producers',
    threads: 2,
  },
];

export const TIMED: readonly Row[] = [...BASELINES, ...OURS, ...LIMITS, ...PROBES, ...PRODUCERS, ...SHARED];

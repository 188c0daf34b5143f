/**
 * One link to every function of the C library, libcrypto and libsqlite3 that can be attached, while a program that uses
 * all three runs: what it prints is what it prints untraced, counts are those of the program, and it is given back whole.
 */

import { expect, onTestFinished, test } from 'vitest';
import { ProgramBuilder, R0 } from '../src/bpf/builder.js';
import { ProcessKernel } from '../src/kernel/process/machine.js';
import { openProcess } from '../src/process/process.js';
import { SelectorSet } from '../src/process/symbols/selector.js';
import { Counter } from '../src/tools/count.js';
import { Running, run } from './support/command.js';
import { changedCode } from './support/process.js';
import { missingFile, SOAK } from './support/skip.js';

const PYTHON = '/usr/bin/python3';
const WORK = `
import hashlib, json, os, sqlite3, ssl, sys, threading
def work(seed):
  context = ssl.create_default_context()
  left, right = ssl.MemoryBIO(), ssl.MemoryBIO()
  client = context.wrap_bio(left, right, server_hostname='example.org')
  try: client.do_handshake()
  except ssl.SSLWantReadError: pass
  base = sqlite3.connect(':memory:')
  base.execute('create table t(a integer primary key, b text)')
  base.executemany('insert into t(b) values(?)', ((hashlib.sha256(b'%d %d' % (seed, i)).hexdigest(),) for i in range(200)))
  rows = base.execute('select count(*), min(b), max(b) from t where b like ?', ('%a%',)).fetchall()
  base.close()
  sorted_text = sorted(json.dumps({'row': str(i * seed)}) for i in range(200))
  return [rows, len(right.read()) > 100, hashlib.md5(''.join(sorted_text).encode()).hexdigest()]
def all_threads(round):
  results = {}
  threads = [threading.Thread(target=lambda n=n: results.__setitem__(n, work(round * 10 + n))) for n in range(4)]
  for t in threads: t.start()
  for t in threads: t.join()
  return [results[n] for n in sorted(results)]
print('pid', os.getpid(), flush=True)
for line in sys.stdin:
  round, wanted = map(int, line.split())
  for i in range(wanted): print(round + i, all_threads(round + i), flush=True)
  print('done', round, flush=True)
`;
const ROUNDS = SOAK ? 40 : 2;
const SELECTORS = ['libc:*', 'libcrypto:*', 'libsqlite3:*'];

test('every function of libc, libcrypto and libsqlite3 in one link, under python with ssl and sqlite3', async ({
  skip,
}) => {
  const lacking = missingFile(PYTHON);
  skip(lacking !== undefined, lacking);
  const rounds = [0, 1, 2].map(n => `${n * 100} ${ROUNDS}`);
  const untraced = await run(PYTHON, ['-c', WORK], { input: `${rounds.join('\n')}\n`, timeoutMs: 300_000 });
  expect(untraced.status).toBe(0);

  const python = new Running(PYTHON, ['-c', WORK], { keepInput: true, timeoutMs: 600_000 });
  onTestFinished(() => python.stop());
  await python.expectOutput(/^pid \d+\n/);
  const done = async (order: string): Promise<void> => {
    python.say(order);
    const [round] = order.split(' ');
    const wanted = new RegExp(`^done ${round}$`, 'm');
    for (let i = 0; i < 30_000 && !wanted.test(python.stdoutSoFar); i++)
      await new Promise(resolve => setTimeout(resolve, 10));
    expect(python.stdoutSoFar).toMatch(wanted);
  };
  await done(rounds[0]);

  const kernel = new ProcessKernel(openProcess(python.pid));
  onTestFinished(() => kernel.close());
  kernel.watchModules(() => {}).catch(() => {});
  const before = changedCode(python.pid).changed;
  // Attached and detached while the threads are at it.
  const running = done(rounds[1]);
  await new Promise(resolve => setTimeout(resolve, 100));
  const counter = new Counter(kernel, SelectorSet.parse(SELECTORS));
  expect(counter.attached).toBeGreaterThan(8000);
  expect(counter.attached + counter.skipped.length).toBe(counter.matched);
  const refused = new Map<string, number>();
  for (const { reason } of counter.skipped) refused.set(reason, (refused.get(reason) ?? 0) + 1);
  console.log(
    `${counter.attached} of ${counter.matched} functions, attached in ${Math.round(counter.attachMs)} ms, standing still for ${counter.pauseMs.toFixed(1)} ms; left out: ${[...refused].map(([reason, n]) => `${reason} ${n}`).join(', ')}`,
  );
  expect(counter.skipped.length / counter.matched).toBeLessThan(0.03);
  await running;

  // Programs at the return of thousands, too.
  const b = new ProgramBuilder();
  b.mov(R0, 0);
  b.exit();
  const prog = kernel.progLoad({ name: 'exits', attachType: 'fexit', insns: b.build(), maps: [] });
  const targets = kernel
    .functions(SelectorSet.parse(['libsqlite3:*', 'libcrypto:*']))
    .map(target => ({ target, cookie: 0n }));
  const exits = kernel.linkCreate({ prog, targets, skipInvalid: true });
  prog.free();
  expect(exits.targets.length).toBeGreaterThan(6000);
  expect(exits.missed).toBe(0n);
  const counts = (): Map<string, bigint> =>
    new Map(
      counter.read().map(({ module, function: name, count }) => [`${module.split('.')[0]}:${name}`, count]),
    );
  const from = counts();
  await done(rounds[2]);
  const to = counts();
  const calls = (name: string): number => Number(to.get(name)! - from.get(name)!);
  // One connection for each piece of work, and 200 rows in it, each with its hash.
  const pieces = 4 * ROUNDS;
  expect(calls('libsqlite3:sqlite3_open_v2')).toBe(pieces);
  expect(calls('libsqlite3:sqlite3_close_v2')).toBe(pieces);
  expect(calls('libcrypto:EVP_DigestFinal_ex')).toBeGreaterThanOrEqual(pieces * 201);
  expect(calls('libsqlite3:sqlite3_step')).toBeGreaterThanOrEqual(pieces * 200);
  expect(calls('libc:memcpy')).toBeGreaterThan(pieces * 100);
  expect(exits.missed).toBe(0n);
  exits.detach();
  counter.close();
  expect(changedCode(python.pid).changed).toEqual(before);
  kernel.close();
  python.child.stdin!.end();
  const traced = await python.ended;
  expect(traced.status).toBe(0);
  expect(traced.stdout.replace(/^pid \d+$/m, '')).toBe(untraced.stdout.replace(/^pid \d+$/m, ''));
}, 900_000);

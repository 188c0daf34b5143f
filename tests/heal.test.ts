/**
 * A tracer that is killed while a thread of the process makes system calls for it: the thread heals, and the program
 * goes on as if nothing had been.
 */

import { expect, test } from 'vitest';
import { describeRun, Running, run } from './support/command.js';
import { ROOT } from './support/paths.js';
import { missingFile } from './support/skip.js';

const PYTHON = '/usr/bin/python3.11';
const lacking = missingFile(PYTHON);

/** Borrows the main thread of the process, and is killed where `how` says. */
const TRACER = `
const [root, pid, how] = process.argv.slice(1);
const at = name => import(root + '/dist/process/' + name + '.js');
const { openProcess } = await at('process');
const { readMappings } = await at('mappings');
const { findGadgets } = await at('heal');
const { RemoteThread } = await at('remote');
const target = openProcess(Number(pid));
const mappings = readMappings(target.pid);
target.stopAll();
const die = () => process.kill(process.pid, 'SIGKILL');
const remote = RemoteThread.borrow(target, findGadgets(target, mappings), mappings);
if (how === 'borrowed') die();
const page = remote.call('mmap', 9, 0n, 4096, 3, 0x22, -1, 0);
if (how === 'called') die();
remote.call('munmap', 11, page, 4096);
remote.giveBack();
if (how === 'given back') die();
target.resumeAll();
`;

const PROGRAMS = {
  'in a system call that waits': 'import sys; line = sys.stdin.readline(); print("read", line.strip())',
  asleep:
    'import time, sys; sys.stdin.close(); t = time.time(); time.sleep(3); print("slept", time.time() - t >= 2.99)',
  'computing with vectors':
    'import time, math, sys\nsys.stdin.close()\nt = time.time() + 3\nwhile time.time() < t:\n  s = sum(math.sin(i * 0.5) * math.sqrt(i) for i in range(1000))\n  assert s == sum(math.sin(i * 0.5) * math.sqrt(i) for i in range(1000)), s\nprint("computed")',
};

// At once: they wait for most of their time.
for (const [what, source] of Object.entries(PROGRAMS))
  for (const how of ['borrowed', 'called', 'given back', 'not at all'])
    test.skipIf(lacking !== undefined)(
      `a thread ${what}, its tracer killed: ${how}`,
      { concurrent: true },
      async ({ onTestFinished }) => {
        const target = new Running(PYTHON, ['-c', source], { keepInput: true, timeoutMs: 30_000 });
        onTestFinished(() => target.stop());
        await new Promise(done => setTimeout(done, 400));
        const tracer = await run(process.execPath, [
          '--input-type=module',
          '-e',
          TRACER,
          ROOT,
          `${target.pid}`,
          how,
        ]);
        expect(tracer.signal, describeRun(tracer)).toBe(how === 'not at all' ? null : 'SIGKILL');
        if (what.includes('waits')) target.say('line');
        const ended = await target.ended;
        expect(ended.stdout, describeRun(ended)).toMatch(/^(read line|slept True|computed)\n$/);
        expect(ended.status, describeRun(ended)).toBe(0);
      },
    );

/**
 * One suite that both machines pass: the same compiled objects on functions of the same names and prototypes, in a live
 * process (tests/targets/test_run.c) and in the running kernel, see the same arguments, results, cookies and errors.
 */

import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ProcessKernel } from '../../src/kernel/process/machine.js';
import { BpfObject } from '../../src/libbpf/object.js';
import { openProcess } from '../../src/process/process.js';
import { SelectorSet } from '../../src/process/symbols/selector.js';
import { BPF_PROGRAMS, compileBpfFile, missingBpfCompiler } from '../support/bpf.js';
import { Running } from '../support/command.js';
import { compileTarget } from '../support/compile.js';
import { missingCommand } from '../support/skip.js';
import { CASES } from './guest/both/cases.js';
import { type Outcome, openFor, runCases, type Subject } from './guest/both/subject.js';
import { Guest } from './guest.js';
import { kernels, type VmKernel } from './kernels.js';

const SOURCES = join(BPF_PROGRAMS, 'both');
const GUEST_OBJECTS = '/objects';
const lacking = missingBpfCompiler() ?? missingCommand('gcc', 'pahole');

/** What a kernel lacks of the functions, or can't call. */
const MISSING: Readonly<Record<string, readonly string[]>> = {
  '6.1': ['bpf_fentry_test9', 'bpf_fentry_test10', 'bpf_modify_return_test', 'bpf_modify_return_test2'],
  '6.12': ['bpf_fentry_test10'],
};

function sources(): string[] {
  return readdirSync(SOURCES)
    .filter(name => name.endsWith('.bpf.c'))
    .map(name => join(SOURCES, name));
}

async function onProcess(): Promise<Outcome[]> {
  const path = compileTarget({ source: 'test_run.c', flags: ['-g'] });
  // Not our own child: node would take from us what its threads report.
  const program = new Running('/bin/sh', ['-c', 'exec 3<&0; "$0" <&3 3<&- & wait $!', path], {
    keepInput: true,
    timeoutMs: 300_000,
  });
  try {
    await program.expectOutput(/^pid \d+\n/);
    const kernel = new ProcessKernel(openProcess(Number(/^pid (\d+)\n/.exec(program.stdoutSoFar)![1])));
    kernel.allowModifyReturn = SelectorSet.parse(['bpf_modify_return_test']);
    const say = async (order: string): Promise<number> => {
      const from = program.stdoutSoFar.length;
      program.say(order);
      for (let i = 0; i < 6000 && !program.stdoutSoFar.slice(from).endsWith('\n'); i++)
        await new Promise(done => setTimeout(done, 1));
      return Number(/ (-?\d+)\n$/.exec(program.stdoutSoFar.slice(from))?.[1]);
    };
    const subject: Subject = {
      machine: 'process',
      modifiesReturn: true,
      kernel,
      open: name => openFor(BpfObject.open(compileBpfFile(join(SOURCES, `${name}.bpf.c`))), kernel),
      run: () => say('run'),
      pgid: pid => say(`pgid ${pid}`),
      allocate: offset => say(`alloc ${offset}`),
      openNothing: () => say('open'),
    };
    const outcomes: Outcome[] = [];
    await runCases(CASES, subject, outcome => outcomes.push(outcome));
    kernel.close();
    program.child.stdin!.end();
    expect((await program.ended).status).toBe(0);
    return outcomes;
  } finally {
    program.stop();
  }
}

async function onKernel(kernel: VmKernel): Promise<Outcome[]> {
  const files = Object.fromEntries(
    sources().map(path => [join(GUEST_OBJECTS, basename(path).replace(/\.c$/, '.o')), compileBpfFile(path)]),
  );
  const guest = await Guest.boot(kernel, { files });
  const outcomes = await guest.script<Outcome>('both_machines', [GUEST_OBJECTS], { timeoutMs: 240_000 });
  expect(await guest.close()).toEqual([]);
  return outcomes;
}

/** A test for each case, of what came of it. */
function judge(what: string, missing: readonly string[], outcomesOf: () => Promise<Outcome[]>): void {
  describe(what, () => {
    let outcomes: Outcome[] = [];
    beforeAll(async () => {
      outcomes = await outcomesOf();
    }, 300_000);
    for (const { name, expected } of CASES)
      it(name, context => {
        const outcome = outcomes.find(one => one.name === name);
        if (outcome !== undefined && 'unable' in outcome) return context.skip(outcome.unable);
        if (outcome === undefined || 'failed' in outcome)
          throw new Error(outcome?.failed ?? 'it did not run');
        expect(outcome.seen).toEqual(expected(wanted => !missing.includes(wanted)));
      });
    afterAll(() => expect(outcomes.length).toBe(CASES.length));
  });
}

describe.skipIf(lacking !== undefined)(`both machines (${lacking ?? 'one suite'})`, () => {
  judge('a live process', [], onProcess);
  for (const kernel of kernels()) {
    if ('missing' in kernel) it.skip(`kernel ${kernel.name} (${kernel.missing})`, () => {});
    else judge(`kernel ${kernel.name}`, MISSING[kernel.name] ?? [], () => onKernel(kernel));
  }
});

/** tests/targets/eight.c, running and opened: a program that calls its functions on order. */

import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import { ProcessKernel } from '../../src/kernel/process/machine.js';
import { openProcess } from '../../src/process/process.js';
import { BPF_PROGRAMS, compileBpfFile } from './bpf.js';
import { Running } from './command.js';
import { compileTarget } from './compile.js';

/** What `call` prints, untraced. */
export const CALLED = 'called 2 1 5 16 39 73 300 82 0 0 4 100 -1 0 5 5';

export interface Eight {
  readonly kernel: ProcessKernel;
  readonly pid: number;
  /** Gives an order, and returns the line that answers it. */
  say(order: string): Promise<string>;
  /** Closes the machine and ends the program, which must end well. */
  end(): Promise<void>;
}

/** Starts the program and opens it; both end with the test. */
export async function openEight(flags: readonly string[] = []): Promise<Eight> {
  const path = compileTarget({ source: 'eight.c', flags: ['-g', '-rdynamic', '-ldl', ...flags] });
  // Not our own child: node would take from us what its threads report.
  const program = new Running('/bin/sh', ['-c', 'exec 3<&0; "$0" <&3 3<&- & wait $!', path], {
    keepInput: true,
    timeoutMs: 600_000,
  });
  onTestFinished(() => program.stop());
  await program.expectOutput(/^pid \d+\n/);
  const pid = Number(/^pid (\d+)\n/.exec(program.stdoutSoFar)![1]);
  const kernel = new ProcessKernel(openProcess(pid));
  onTestFinished(() => kernel.close());
  let failure: unknown;
  kernel
    .watchModules(() => {})
    .catch(cause => {
      failure = cause;
    });
  return {
    kernel,
    pid,
    say: async order => {
      const from = program.stdoutSoFar.length;
      program.say(order);
      for (let i = 0; i < 6000 && !program.stdoutSoFar.slice(from).endsWith('\n'); i++)
        await new Promise(done => setTimeout(done, 2));
      return program.stdoutSoFar.slice(from).trimEnd();
    },
    end: async () => {
      kernel.close();
      expect(failure).toBeUndefined();
      program.child.stdin!.end();
      expect((await program.ended).status).toBe(0);
    },
  };
}

/** The object of a program of tests/bpf/links. */
export function linkObject(name: string): string {
  return compileBpfFile(join(BPF_PROGRAMS, 'links', `${name}.bpf.c`));
}

/** A library that `load` takes, without types. */
export function plugin(): string {
  return compileTarget({ source: 'plugin.c', flags: ['-shared', '-fPIC'] });
}

/**
 * Runs the cases that both machines pass on the running kernel, whose test functions BPF_PROG_TEST_RUN calls. Its argument
 * is the folder with the compiled objects. Prints an outcome a line.
 */

import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { ProgramBuilder, R0 } from '../../../src/bpf/builder.js';
import { SystemError, systemCall } from '../../../src/ffi/libc.js';
import { BpfError } from '../../../src/kernel/errno.js';
import { Attr, bpf } from '../../../src/kernel/linux/bpf.js';
import type { LinuxProg } from '../../../src/kernel/linux/linux_prog.js';
import { LinuxKernel } from '../../../src/kernel/linux/machine.js';
import { BpfObject } from '../../../src/libbpf/object.js';
import { CASES } from './both/cases.js';
import { openFor, runCases, type Subject } from './both/subject.js';

const SYS_FALLOCATE = 285;
const SYS_GETPGID = 121;
/** Offsets in the attribute of BPF_PROG_TEST_RUN. */
const TEST = { prog: 0, result: 4 } as const;

const kernel = new LinuxKernel();
const file = openSync('/tmp/allocated', 'w');

/** A program that does nothing, attached to nothing: a test run of it calls the functions of its kind. */
function runner(attachType: 'fentry' | 'fmod_ret', name: string): LinuxProg {
  const b = new ProgramBuilder();
  b.mov(R0, 0);
  b.exit();
  const [target] = kernel.functionsNamed([name])[0];
  return kernel.progLoad({ name: 'runner', attachType, insns: b.build(), maps: [], target });
}

/** Before 6.2 a result could be changed only where CONFIG_FUNCTION_ERROR_INJECTION is set, which Debian's are without. */
function modifyRunner(): LinuxProg[] {
  try {
    return [runner('fmod_ret', 'bpf_modify_return_test')];
  } catch (cause) {
    if (cause instanceof BpfError && /not modifiable/.test(cause.message)) return [];
    throw cause;
  }
}

const modifyRunners = modifyRunner();
const runners = [runner('fentry', 'bpf_fentry_test1'), ...modifyRunners];

/** The negative errno where it fails. */
function call(number: number, ...args: readonly number[]): number {
  try {
    return Number(systemCall('a system call', number, ...args));
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    return -cause.errno;
  }
}

const subject: Subject = {
  machine: 'kernel',
  modifiesReturn: modifyRunners.length > 0,
  kernel,
  open: name => openFor(BpfObject.open(join(process.argv[2], `${name}.bpf.o`)), kernel),
  run: async () => {
    let result = 0;
    for (const prog of runners) {
      const attr = new Attr().u32(TEST.prog, prog.fd.number);
      bpf('PROG_TEST_RUN', attr);
      result = attr.bytes.readInt32LE(TEST.result);
    }
    return result;
  },
  pgid: async pid => call(SYS_GETPGID, pid),
  allocate: async offset => call(SYS_FALLOCATE, file, 0, offset, 1),
  openNothing: async () => {
    try {
      closeSync(openSync('/no/such/file', 'r+'));
      return 0;
    } catch (cause) {
      return (cause as { readonly errno: number }).errno;
    }
  },
};

await runCases(CASES, subject, outcome => console.log(JSON.stringify(outcome)));
kernel.close();
closeSync(file);

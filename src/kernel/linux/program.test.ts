/** Programs in the running kernel, wherever it lets us have them: its log taken apart, numbers resolved. */

import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R10 } from '../../bpf/builder.js';
import { HELPER } from '../../bpf/helpers.js';
import type { BpfInsn } from '../../bpf/instruction.js';
import { MAP_TYPE } from '../../bpf/map_type.js';
import { SystemError } from '../../ffi/libc.js';
import { BpfError } from '../errno.js';
import { VerifierError } from '../verifier_error.js';
import { possibleCpus } from './cpus.js';
import { LinuxMap } from './map.js';
import { type LoadedProg, type LoadRequest, loadProgram, type Numbers, progInfo } from './program.js';

const SOCKET_FILTER = 1;
const NONE: Numbers = {
  mapFd: () => {
    throw new BpfError('EBADF', 'there is no map');
  },
  kernelFunction: () => {
    throw new BpfError('ENOENT', 'there is no kernel function');
  },
};

function load(insns: readonly BpfInsn[], more: Partial<LoadRequest> = {}, numbers = NONE): LoadedProg {
  return loadProgram(
    { name: 'test program', type: SOCKET_FILTER, attachType: 0, insns, license: 'GPL', ...more },
    numbers,
  );
}

function program(write: (b: ProgramBuilder) => void): BpfInsn[] {
  const b = new ProgramBuilder();
  write(b);
  return b.build();
}
const NOTHING = program(b => {
  b.mov(R0, 0);
  b.exit();
});

function refused(): string | undefined {
  try {
    load(NOTHING).fd.close();
    return undefined;
  } catch (cause) {
    if (cause instanceof SystemError) return cause.message;
    throw cause;
  }
}
const lacking = refused();
if (lacking !== undefined) console.log(`skipped: ${lacking}`);

describe.skipIf(lacking !== undefined)('programs in the kernel', () => {
  test('are there, with their machine code, until they are let go of', () => {
    const { fd, log } = load(NOTHING);
    expect(log).toBe('');
    const info = progInfo(fd.number);
    expect(info.id).toBeGreaterThan(0);
    expect(info.jitedSize).toBeGreaterThan(0);
    expect(info.runCount).toBe(0n);
    fd.close();
    expect(() => fd.number).toThrowError(expect.objectContaining({ code: 'EBADF' }));
  });

  test('a refusal has the kernel’s last words, the instruction, the log and the numbers', () => {
    const bad = program(b => {
      b.load(8, R0, R1, 1000);
      b.exit();
    });
    let error: unknown;
    try {
      load(bad);
    } catch (cause) {
      error = cause;
    }
    expect(error).toBeInstanceOf(VerifierError);
    const { message, code, log, statistics } = error as VerifierError;
    expect(message).toBe('insn 0: invalid bpf_context access off=1000 size=8');
    expect(code).toBe('EACCES');
    expect(log).toMatch(/^0: /m);
    expect(statistics?.processed).toBe(1);
  });

  test('a log that was asked for comes with a program that is accepted', () => {
    const { fd, log } = load(NOTHING, { logLevel: 2 });
    fd.close();
    expect(log).toMatch(/processed 2 insns/);
  });

  test('a log longer than the first room for it comes whole', () => {
    const long = program(b => {
      for (let i = 0; i < 20_000; i++) b.mov(R0, i);
      b.exit();
    });
    const { fd, log } = load(long, { logLevel: 2 });
    fd.close();
    expect(log.length).toBeGreaterThan(1 << 19);
    expect(log).toMatch(/processed 20001 insns/);
  });

  test('maps are named by the machine’s numbers', () => {
    const attr = { type: MAP_TYPE.ARRAY, name: 'm', keySize: 4, valueSize: 8, maxEntries: 1 };
    const map = new LinuxMap(attr, possibleCpus());
    const insns = program(b => {
      const out = b.label();
      b.store(4, R10, -4, 0);
      b.mov(R2, R10);
      b.add(R2, -4);
      b.ldMap(R1, { id: 77 });
      b.call(HELPER.map_lookup_elem);
      b.jump('eq', R0, 0, out);
      b.load(8, R0, R0);
      b.bind(out);
      b.mov(R0, 0);
      b.exit();
    });
    const numbers = { ...NONE, mapFd: (id: number) => (id === 77 ? map.fd.number : NONE.mapFd(id)) };
    load(insns, {}, numbers).fd.close();
    expect(() => load(insns)).toThrowError(/there is no map/);
    map.free();
  });

  test('a helper for programs under the GPL is refused to others', () => {
    const insns = program(b => {
      b.store(8, R10, -8, 0x41);
      b.mov(R1, R10);
      b.add(R1, -8);
      b.mov(R2, 8);
      b.call(HELPER.trace_printk);
      b.mov(R0, 0);
      b.exit();
    });
    load(insns, { license: 'Dual MIT/GPL' }).fd.close();
    expect(() => load(insns, { license: 'Proprietary' })).toThrowError(/GPL/);
  });
});

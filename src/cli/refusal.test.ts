/** Refusals are taken apart without losing or repeating anything, however their sentences read. */

import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1 } from '../bpf/builder.js';
import type { BpfInsn } from '../bpf/instruction.js';
import { BpfError } from '../kernel/errno.js';
import type { LineInfo } from '../kernel/kernel.js';
import { verifyProgram } from '../kernel/process/verifier/verifier.js';
import { VerifierError } from '../kernel/verifier_error.js';
import type { LinkedProgram } from '../libbpf/link.js';
import { formatRefusal, readRefusal } from './refusal.js';
import { adviceFor } from './refusal_advice.js';

const LINES: LineInfo[] = [
  { slot: 0, file: '/src/a.bpf.c', text: '  first();', line: 7, column: 3 },
  { slot: 1, file: '/src/a.bpf.c', text: '  return *p; /* (R1=no) ; */', line: 9, column: 3 },
];

/** It reads through a number: slot 1 is refused. */
const READS_NUMBER = new ProgramBuilder().mov(R1, 5).load(4, R0, R1).exit().build();

function linked(insns: readonly BpfInsn[], more: Partial<LinkedProgram> = {}): LinkedProgram {
  return { insns, funcInfo: [], lineInfo: LINES, maps: [], poisoned: [], parts: [], ...more };
}

function refusalOf(insns: readonly BpfInsn[]): VerifierError {
  try {
    verifyProgram(insns, { maps: new Map(), lineInfo: LINES });
  } catch (cause) {
    if (cause instanceof VerifierError) return cause;
    throw cause;
  }
  throw new Error('it was accepted');
}

describe('what the verifier said', () => {
  const parts = {
    sentence: "R1 invalid mem access 'scalar'",
    instruction: { slot: 1, text: 'r0 = *(u32 *)(r1 +0)' },
    source: { file: '/src/a.bpf.c', line: 9, text: 'return *p; /* (R1=no) ; */' },
    registers: 'R1=5',
  };

  test('comes in parts, also out of the error that the loader made of it', () => {
    const error = refusalOf(READS_NUMBER);
    expect(readRefusal(error, linked(READS_NUMBER))).toMatchObject(parts);
    const told = new BpfError(error.code, `program p (fentry/f): ${error.message}`, { cause: error });
    expect(readRefusal(told, linked(READS_NUMBER))).toMatchObject(parts);
  });

  test('is printed line by line', () => {
    const lines = formatRefusal(readRefusal(refusalOf(READS_NUMBER), linked(READS_NUMBER))).split('\n');
    expect(lines.slice(0, 4)).toEqual([
      "R1 invalid mem access 'scalar'",
      '  /src/a.bpf.c:9: return *p; /* (R1=no) ; */',
      '  instruction 1: r0 = *(u32 *)(r1 +0)',
      '  with R1=5',
    ]);
    expect(lines[4]).toMatch(/^ {2}It is a number/);
    expect(lines.slice(5)).toEqual(['']);
  });

  test('has no source line where the object has none', () => {
    const insns = READS_NUMBER;
    let error: unknown;
    try {
      verifyProgram(insns, { maps: new Map() });
    } catch (cause) {
      error = cause;
    }
    const refusal = readRefusal(error as VerifierError, linked(insns, { lineInfo: [] }));
    expect(refusal).toMatchObject({ sentence: parts.sentence, registers: parts.registers });
    expect(refusal.source).toBeUndefined();
  });

  test('says which type was not found, where CO-RE left something there', () => {
    const poisoned = [{ slot: 1, reason: 'struct x has no member y' }];
    const { sentence } = readRefusal(refusalOf(READS_NUMBER), linked(READS_NUMBER, { poisoned }));
    expect(sentence).toBe("R1 invalid mem access 'scalar': struct x has no member y");
  });

  test('names what was acquired, and where', () => {
    const error = new VerifierError('EINVAL', 'insn 2: exit: Unreleased reference id=3 alloc_insn=0', '');
    const refusal = readRefusal(error, linked(READS_NUMBER));
    expect(refusal.acquired).toEqual({
      slot: 0,
      source: { file: '/src/a.bpf.c', line: 7, text: 'first();' },
    });
    expect(formatRefusal(refusal)).toContain('  acquired by instruction 0, /src/a.bpf.c:7: first();\n');
  });

  test('stays whole where it names no instruction, or the program is not there', () => {
    const large = new VerifierError('E2BIG', 'BPF program is too large. Processed 1000001 insn', '');
    expect(readRefusal(large, linked(READS_NUMBER))).toMatchObject({ sentence: large.message });
    const error = refusalOf(READS_NUMBER);
    expect(readRefusal(error, undefined).sentence).toBe(error.message);
  });
});

test('what is no refusal of the verifier is its sentence, without the program before it', () => {
  const inner = new BpfError('EINVAL', 'a map is too large');
  expect(readRefusal(inner, undefined)).toEqual({ sentence: 'a map is too large' });
  const outer = new BpfError('EINVAL', 'program p: a map is too large', { cause: inner });
  expect(readRefusal(outer, undefined)).toEqual({ sentence: 'a map is too large' });
});

test('advice fits what the registers held', () => {
  const sentence = "R0 invalid mem access 'map_value_or_null'";
  expect(adviceFor(sentence, 'R0=map_value_or_null(id=1)')).toMatch(/look-up/);
  expect(adviceFor('BPF_ATOMIC stores into R0 x is not allowed', 'R0=ctx()')).toMatch(/^Atomics/);
  expect(adviceFor('R3 type=scalar expected=fp', 'R3=ringbuf_mem_or_null(id=2)')).toMatch(/no room/);
  expect(adviceFor('program of this type cannot use helper x#9: use y instead', '')).toBeUndefined();
  expect(adviceFor('program of this type cannot use helper x#9: it is fentry', '')).toBeDefined();
});

/** `multitrace isa`: programs on a piece of memory, both ways. */

import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R3, R10 } from '../bpf/builder.js';
import { encodeProgram } from '../bpf/encoding.js';
import { runProgram } from './isa.js';

type Write = (p: ProgramBuilder) => ProgramBuilder;

/** As the suite's runner writes bytes: two digits each, and spaces. */
function hex(bytes: Uint8Array): string {
  return [...bytes].map(byte => byte.toString(16).padStart(2, '0')).join('  ');
}

function program(write: Write): string {
  return `${hex(encodeProgram(write(new ProgramBuilder()).build()))}\n`;
}

describe.each([
  ['compiled', {}],
  ['interpreted', { interpret: true }],
] as const)('%s', (_, options) => {
  const run = (write: Write, memory = ''): bigint => runProgram(program(write), memory, options);

  test('r0 is the result', () => expect(run(p => p.mov32(R0, -1).exit())).toBe(0xffff_ffffn));

  test('r1 is the memory, r2 its length', () => {
    const write: Write = p => p.load(4, R0, R1, 2).lsh(R0, 8).or(R0, R2).exit();
    expect(run(write, '01 02 03 04 05 06')).toBe(0x06_0504_0306n);
  });

  test('the memory can be written', () => {
    expect(run(p => p.store(1, R1, 0, 7).load(2, R0, R1).exit(), 'aabb')).toBe(0xbb07n);
  });

  test('a program calls its own functions, and has a stack', () => {
    const write: Write = p => {
      const f = p.label();
      p.store(8, R10, -8, 5).mov(R1, R10).add(R1, -8).callSubprogram(f).exit();
      return p.bind(f).load(8, R0, R1).mul(R0, R0).exit();
    };
    expect(run(write)).toBe(25n);
  });

  test('loops end', () => {
    const write: Write = p => {
      const again = p.label();
      return p.mov(R0, 0).mov(R3, 50).bind(again).add(R0, R3).sub(R3, 1).jump('ne', R3, 0, again).exit();
    };
    expect(run(write)).toBe(1275n);
  });

  test('what is not its memory is not read', () => {
    expect(() => run(p => p.load(8, R0, R1).exit(), '01 02')).toThrow();
    expect(() => run(p => p.load(1, R0, R1).exit())).toThrow();
    expect(() => run(p => p.mov(R1, 0).load(1, R0, R1).exit(), '01')).toThrow();
  });

  test.each([
    ['', '', 'no program'],
    ['9500', '', 'multiple of 8'],
    ['95zz', '', 'hexadecimal'],
    ['9500000000000000', '123', 'hexadecimal'],
    ['ff00000000000000', '', 'unknown opcode'],
  ])('%j on %j is refused', (text, memory, why) => {
    expect(() => runProgram(text, memory, options)).toThrow(why);
  });
});

/** `multitrace isa` as the bpf_conformance runner starts it: the command, its arguments, its streams. */

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const MULTITRACE = fileURLToPath(new URL('../bin/multitrace', import.meta.url));

function isa(program: string, ...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [MULTITRACE, 'isa', ...args], { input: program, encoding: 'utf8' });
}

/** r0 = *(u32 *)(r1 + 4); r0 <<= 8; r0 |= r2; exit */
const PROGRAM =
  '61 10 04 00 00 00 00 00  67 00 00 00 08 00 00 00  4f 20 00 00 00 00 00 00  95 00 00 00 00 00 00 00 \n';

test.each([
  ['compiled', ['01  02  03  04  05  06  07  08 ', '']],
  ['interpreted', ['0102030405060708', '--interpret']],
])('%s: prints r0 in hexadecimal', (_, args) => {
  const { status, stdout, stderr } = isa(PROGRAM, ...args);
  expect(stderr).toBe('');
  expect(stdout).toBe('807060508\n');
  expect(status).toBe(0);
});

test('a program that is not safe is refused, with a sentence', () => {
  const { status, stdout, stderr } = isa(PROGRAM, '0102');
  expect(stdout).toBe('');
  expect(stderr).toMatch(/insn 0: .*invalid access to memory/);
  expect(status).not.toBe(0);
});

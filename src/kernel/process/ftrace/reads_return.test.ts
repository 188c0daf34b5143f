import { expect, test } from 'vitest';
import { readsReturnAddress } from './reads_return.js';

const code = (hex: string): Uint8Array => Buffer.from(hex.replaceAll(' ', ''), 'hex');

test.each([
  ['mov (%rsp), %rax; ret', '48 8b 04 24 c3'],
  ['mov %rbx, (%rdi); mov (%rsp), %rdx; mov %rdx, 56(%rdi)', '48 89 1f 48 8b 14 24 48 89 57 38 c3'],
  ['endbr64; pop %rcx; jmp *%rcx', 'f3 0f 1e fa 59 ff e1'],
  ['pop %r11', '41 5b'],
  ['push (%rsp)', 'ff 34 24'],
  ['mov 0(%rsp), %rsi with a displacement of 0', '48 8b 74 24 00'],
  ['jmp *(%rsp)', 'ff 24 24'],
  ['lea 8(%rsi), %r12; mov (%rsp), %rax', '4c 8d 66 08 48 8b 04 24'],
])('%s reads its return address', (_, hex) => {
  expect(readsReturnAddress(code(hex))).toBe(true);
});

test.each([
  ['push %rbp; pop %rbp', '55 5d c3'],
  ['sub $24, %rsp; mov (%rsp), %rax', '48 83 ec 18 48 8b 04 24'],
  ['mov 8(%rsp), %rax: an argument', '48 8b 44 24 08 c3'],
  ['mov (%r12), %rax', '49 8b 04 24 c3 90'],
  ['mov %rsp, %rbp; lea -8(%rsp), %rsp; mov (%rsp), %rax', '48 89 e5 48 8d 64 24 f8 48 8b 04 24'],
  ['sub $8, %r12 is no frame yet, but push is', '49 83 ec 08 41 54 48 8b 04 24'],
  ['ret, and what is behind it', 'c3 58'],
  ['a call; pop %rax', 'e8 00 00 00 00 58'],
])('%s does not', (_, hex) => {
  expect(readsReturnAddress(code(hex))).toBe(false);
});

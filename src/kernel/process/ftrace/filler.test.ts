import { createRequire } from 'node:module';
import { expect, test } from 'vitest';
import { fillerLength } from './filler.js';

const iced = createRequire(import.meta.url)('iced-x86') as typeof import('iced-x86');

/** Every combination of a few prefixes, opcodes and operands, as the decoder of another project reads it. */
test('whatever is called filler is a nop or int3 of that length', () => {
  let found = 0;
  for (const prefixes of ['', '66', '2e', '662e', '66662e', '48', 'f3', 'f2', '666666666666'])
    for (const opcode of ['90', '0f1f', 'cc', '0f1e', '0f0d', '87c0', 'c3', '8d'])
      for (let modrm = 0; modrm < 256; modrm++)
        for (const sib of ['00', '25', '65', 'a4']) {
          const hex = `${prefixes}${opcode}${modrm.toString(16).padStart(2, '0')}${sib}00000000`;
          const bytes = Buffer.from(hex, 'hex');
          const length = fillerLength(bytes, 0);
          if (length === 0) continue;
          const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
          const instruction = decoder.decode();
          expect([iced.Mnemonic.Nop, iced.Mnemonic.Int3], hex).toContain(instruction.mnemonic);
          expect(length, hex).toBe(instruction.length);
          instruction.free();
          decoder.free();
          found++;
        }
  expect(found).toBeGreaterThan(1000);
});

test('the nops of every length that assemblers write are filler', () => {
  const nops = [
    '90',
    '6690',
    '0f1f00',
    '0f1f4000',
    '0f1f440000',
    '660f1f440000',
    '0f1f8000000000',
    '0f1f840000000000',
    '660f1f840000000000',
    '662e0f1f840000000000',
    '66662e0f1f840000000000',
    '6666662e0f1f840000000000',
  ];
  for (const hex of nops) {
    const bytes = Buffer.from(hex, 'hex');
    expect(fillerLength(bytes, 0), hex).toBe(bytes.length);
    if (bytes.length > 1) expect(fillerLength(bytes.subarray(0, -1), 0), `${hex}, cut off`).toBe(0);
  }
});

test('other instructions, prefixes alone and what is too long are none', () => {
  for (const hex of ['c3', '55', 'f390', 'f30f1efa', '0f1ec0', '66', '2e2e', `${'66'.repeat(15)}90`, ''])
    expect(fillerLength(Buffer.from(hex, 'hex'), 0), hex).toBe(0);
});

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { expect, test } from 'vitest';
import { ElfFile } from '../elf/file.js';
import { ARITHMETIC_FLAGS, CodeDecoder, Flow } from './decoder.js';
import { PlainReader } from './plain.js';

const iced = createRequire(import.meta.url)('iced-x86') as typeof import('iced-x86');

const FILES = [
  '/lib/x86_64-linux-gnu/libc.so.6',
  '/lib/x86_64-linux-gnu/libcrypto.so.3',
  '/lib/x86_64-linux-gnu/libstdc++.so.6',
  '/lib/ld-musl-x86_64.so.1',
  process.execPath,
].filter(existsSync);

/** Bytes of each file's code that are compared; node's is 28 MB. */
const LIMIT = 700_000;

/** What iced-x86 says of one instruction, in the words of PlainReader. */
function icedSays(
  instruction: InstanceType<typeof iced.Instruction>,
  decoder: InstanceType<typeof iced.Decoder>,
) {
  const { FlowControl } = iced;
  const flows = new Map<number, Flow>([
    [FlowControl.Next, Flow.next],
    [FlowControl.UnconditionalBranch, Flow.jump],
    [FlowControl.IndirectBranch, Flow.jumpIndirect],
    [FlowControl.ConditionalBranch, Flow.jumpIf],
    [FlowControl.Return, Flow.return],
    [FlowControl.Call, instruction.code === iced.Code.Syscall ? Flow.next : Flow.call],
    [FlowControl.IndirectCall, Flow.callIndirect],
  ]);
  const offsets = decoder.getConstantOffsets(instruction);
  const ripOffset = instruction.isIpRelMemoryOperand ? offsets.displacementOffset : -1;
  offsets.free();
  const syscall = instruction.code === iced.Code.Syscall;
  return {
    length: instruction.length,
    flow: flows.get(instruction.flowControl),
    flagsRead: syscall ? 0 : instruction.rflagsRead & ARITHMETIC_FLAGS,
    flagsWritten: syscall ? 0 : instruction.rflagsModified & ARITHMETIC_FLAGS,
    ripOffset,
    isNop: instruction.mnemonic === iced.Mnemonic.Nop,
  };
}

function compare(bytes: Uint8Array, position: number, reader: PlainReader) {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  decoder.position = position;
  const instruction = decoder.decode();
  const { length, flow, flagsRead, flagsWritten, ripOffset, isNop } = reader;
  const ours = { length, flow, flagsRead, flagsWritten, ripOffset, isNop };
  const theirs = icedSays(instruction, decoder);
  const hex = Buffer.from(bytes.subarray(position, position + theirs.length)).toString('hex');
  const code = iced.Code[instruction.code];
  instruction.free();
  decoder.free();
  return { ours: { hex, code, ...ours }, theirs: { hex, code, ...theirs } };
}

test.each(FILES)('PlainReader agrees with iced-x86 on the code of %s', file => {
  const section = ElfFile.open(file)
    .executableSections()
    .find(({ name }) => name === '.text')!;
  const bytes = section.bytes.subarray(0, LIMIT);
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  const instruction = new iced.Instruction();
  const reader = new PlainReader();
  let known = 0;
  let all = 0;
  for (let o = 0; o < bytes.length; ) {
    decoder.position = o;
    decoder.decodeOut(instruction);
    all++;
    const length = instruction.length;
    if (reader.read(bytes, o)) {
      known++;
      const bad =
        reader.length !== length ||
        reader.flagsRead !==
          (instruction.code === iced.Code.Syscall ? 0 : instruction.rflagsRead & ARITHMETIC_FLAGS) ||
        reader.flagsWritten !==
          (instruction.code === iced.Code.Syscall ? 0 : instruction.rflagsModified & ARITHMETIC_FLAGS) ||
        reader.ripOffset >= 0 !== instruction.isIpRelMemoryOperand;
      if (bad || all % 16 === 0) {
        const { ours, theirs } = compare(bytes, o, reader);
        expect(ours).toEqual(theirs);
      }
    }
    o += Math.max(length, 1);
  }
  decoder.free();
  instruction.free();
  console.log(`${file}: ${all} instructions, ${((100 * known) / all).toFixed(1)} % known to PlainReader`);
  expect(known / all).toBeGreaterThan(0.8);
});

test('PlainReader agrees with iced-x86 on a million random instructions, or leaves them to it', () => {
  // Every first byte, with prefixes and escapes in front more often than chance would put them there.
  let seed = 12345;
  const random = () => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return seed >>> 8;
  };
  const FRONT = [0x66, 0xf2, 0xf3, 0x64, 0x2e, 0x40, 0x48, 0x41, 0x4f, 0x0f];
  const count = 300_000;
  const bytes = new Uint8Array(count * 4 + 32);
  for (let i = 0; i < bytes.length; i++)
    bytes[i] = random() % 3 === 0 ? FRONT[random() % FRONT.length] : random();
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  const instruction = new iced.Instruction();
  const reader = new PlainReader();
  let known = 0;
  for (let o = 0; o < bytes.length - 32; o++) {
    if (!reader.read(bytes, o)) continue;
    known++;
    decoder.position = o;
    decoder.decodeOut(instruction);
    const bad =
      instruction.code === iced.Code.INVALID ||
      reader.length !== instruction.length ||
      reader.ripOffset >= 0 !== instruction.isIpRelMemoryOperand;
    if (bad || o % 8 === 0) {
      const { ours, theirs } = compare(bytes, o, reader);
      expect(ours).toEqual(theirs);
    }
  }
  decoder.free();
  instruction.free();
  expect(known).toBeGreaterThan(count);
});

const FLOWS: [string, string, number][] = [
  ['ret imm16', 'c20800', Flow.return],
  ['rep ret', 'f3c3', Flow.return],
  ['bnd jmp', 'f2e900000000', Flow.jump],
  ['notrack jmp rax', '3effe0', Flow.jumpIndirect],
  ['jrcxz', 'e300', Flow.loop],
  ['loop', 'e2fe', Flow.loop],
  ['call through memory', 'ff1500000000', Flow.callIndirect],
  ['data16 call (thread-local storage)', '666648e800000000', Flow.call],
  ['int3', 'cc', Flow.trap],
  ['ud2', '0f0b', Flow.trap],
  ['hlt', 'f4', Flow.trap],
  ['int 0x80', 'cd80', Flow.trap],
  ['far return', 'cb', Flow.far],
  ['iretq', '48cf', Flow.far],
  ['sysretq', '480f07', Flow.far],
  ['sysenter', '0f34', Flow.far],
  ['far jmp through memory', 'ff28', Flow.far],
  ['far call through memory', 'ff18', Flow.far],
  ['syscall', '0f05', Flow.next],
  ['xbegin', 'c7f800000000', Flow.transaction],
  ['xend', '0f01d5', Flow.next],
  ['an AVX-512 instruction', '62f17c482805ffffff7f', Flow.next],
  ['push es (not in 64-bit mode)', '06', Flow.invalid],
];

test.each(FLOWS)('%s is classified', (_, hex, flow) => {
  for (const padding of [0, 16]) {
    const code = Buffer.from(hex, 'hex');
    const decoder = new CodeDecoder(Buffer.concat([code, Buffer.alloc(padding, 0x90)]), 0x1000);
    expect(decoder.decode(0x1000)).toBe(flow);
    if (flow !== Flow.invalid) expect(decoder.end).toBe(0x1000 + code.length);
    decoder.free();
  }
});

test('branch and memory targets are computed from the end of the instruction', () => {
  const at = (hex: string, run: (decoder: CodeDecoder) => number) => {
    const decoder = new CodeDecoder(Buffer.concat([Buffer.from(hex, 'hex'), Buffer.alloc(16, 0x90)]), 0x1000);
    decoder.decode(0x1000);
    const result = run(decoder);
    decoder.free();
    return result;
  };
  expect(at('ebfe', d => d.branchTarget())).toBe(0x1000);
  expect(at('757f', d => d.branchTarget())).toBe(0x1081);
  expect(at('e800010000', d => d.branchTarget())).toBe(0x1105);
  expect(at('0f84f0ffffff', d => d.branchTarget())).toBe(0xff6);
  // Prefixes do not make the distance longer: a jne behind five of them.
  expect(at('2e2e2e2e2e7510', d => d.branchTarget())).toBe(0x1017);
  expect(at('67e310', d => d.branchTarget())).toBe(0x1013);
  expect(at('666648e8f8ffffff', d => d.branchTarget())).toBe(0x1000);
  expect(at('488d0500100000', d => d.memoryTarget())).toBe(0x2007);
  // cmpl $1, disp(%rip): four bytes of immediate stand behind the distance.
  expect(at('813d0010000001000000', d => d.memoryTarget())).toBe(0x200a);
  expect(at('62f17c48280500010000', d => d.memoryTarget())).toBe(0x110a);
});

test('the red zone is memory below rsp', () => {
  const decoder = new CodeDecoder(Buffer.from('48897c24f8' + '48897c2408' + '488945f8' + '90', 'hex'), 0);
  decoder.decode(0);
  expect(decoder.touchesRedZone()).toBe(true);
  decoder.decode(5);
  expect(decoder.touchesRedZone()).toBe(false);
  decoder.decode(10);
  expect(decoder.touchesRedZone()).toBe(false);
  decoder.free();
});

/**
 * A program of our own that calls an empty function many times and notes how long that takes, twice: `plain`, which nobody
 * traces, and `traced`. A static ELF file of a few hundred bytes, written here: no compiler is needed, and nothing of it is
 * anybody's but ours.
 *
 *     repeat ROUNDS times:
 *       t0 = now; CALLS times plain(); t1 = now; CALLS times traced(); t2 = now
 *       plainNs = min(plainNs, t1 - t0); tracedNs = min(tracedNs, t2 - t1)
 *     done = 1; wait for ever
 *
 * The smallest of many rounds is one that nothing disturbed.
 */

import { Assembler, mem, r12, r13, r14, r15, rax, rbx, rcx, rdi, rsi } from '../../x86/assembler.js';

/** Calls of each function in a round. */
export const CALLS = 5000;
const ROUNDS = 30;

/** Function to trace. */
export const TRACED = 'traced';

const TEXT_ADDRESS = 0x40_0000;
const DATA_ADDRESS = 0x50_0000;
const PAGE = 0x1000;
/** Where the program leaves its results: u64 each, the last one not zero when they are there. */
export const RESULTS = {
  address: BigInt(DATA_ADDRESS),
  plainNs: 0,
  tracedNs: 8,
  done: 16,
  size: 24,
} as const;
/** A struct timespec behind them. */
const TIME = 32;

const SYS = { clock_gettime: 228, pause: 34 } as const;
const CLOCK_MONOTONIC = 1;
const NS = 1_000_000_000;

const HEADER_SIZE = 64;
const SEGMENT_SIZE = 56;
const SECTION_SIZE = 64;
const SYMBOL_SIZE = 24;
const SEGMENTS = 3;
const CODE_AT = HEADER_SIZE + SEGMENTS * SEGMENT_SIZE + (16 - ((HEADER_SIZE + SEGMENTS * SEGMENT_SIZE) % 16));

interface Code {
  readonly bytes: Uint8Array;
  readonly functions: readonly { readonly name: string; readonly at: number; readonly size: number }[];
}

function code(): Code {
  const a = new Assembler();
  const [plain, traced, now] = [a.label(), a.label(), a.label()];
  const functions: { name: string; at: number; size: number }[] = [];
  const begin = a.length;
  const data = (offset: number) => mem(r15, offset);
  a.movImm64(r15, BigInt(DATA_ADDRESS));
  a.mov(data(RESULTS.plainNs), -1);
  a.mov(data(RESULTS.tracedNs), -1);
  a.mov(r12, ROUNDS);
  const round = a.here();
  a.call(now);
  a.mov(r13, rax);
  for (const [fn, result] of [
    [plain, RESULTS.plainNs],
    [traced, RESULTS.tracedNs],
  ] as const) {
    const notLess = a.label();
    a.mov(rbx, CALLS);
    const again = a.here();
    a.call(fn);
    a.dec(rbx);
    a.jcc('ne', again);
    a.call(now);
    a.mov(r14, rax);
    a.sub(rax, r13);
    a.mov(r13, r14);
    a.cmp(rax, data(result));
    a.jcc('ae', notLess);
    a.mov(data(result), rax);
    a.bind(notLess);
  }
  a.dec(r12);
  a.jcc('ne', round);
  a.mov(data(RESULTS.done), 1);
  const wait = a.here();
  a.mov(rax, SYS.pause);
  a.syscall();
  a.jmp(wait);
  functions.push({ name: '_start', at: begin, size: a.length - begin });

  a.align(16);
  a.bind(now);
  a.mov(rdi, CLOCK_MONOTONIC);
  a.lea(rsi, data(TIME));
  a.mov(rax, SYS.clock_gettime);
  a.syscall();
  a.mov(rax, data(TIME));
  a.imul3(rax, rax, NS);
  a.add(rax, data(TIME + 8));
  a.ret();

  for (const [name, label] of [
    ['plain', plain],
    [TRACED, traced],
  ] as const) {
    a.align(16);
    const at = a.length;
    a.bind(label);
    a.mov(rax, rdi);
    a.add(rax, rcx);
    a.ret();
    functions.push({ name, at, size: a.length - at });
  }
  a.align(16);
  return { bytes: a.finish(BigInt(TEXT_ADDRESS + CODE_AT)), functions };
}

/** The file. */
export function calibrationProgram(): Uint8Array {
  const { bytes, functions } = code();
  const strings = names(functions.map(({ name }) => name));
  const sectionNames = names(['.text', '.symtab', '.strtab', '.shstrtab']);
  const symbolsAt = CODE_AT + bytes.length;
  const symbolsSize = (functions.length + 1) * SYMBOL_SIZE;
  const stringsAt = symbolsAt + symbolsSize;
  const sectionNamesAt = stringsAt + strings.bytes.length;
  const sectionsAt = (sectionNamesAt + sectionNames.bytes.length + 7) & ~7;
  const file = new Uint8Array(sectionsAt + 5 * SECTION_SIZE);
  const view = new DataView(file.buffer);
  const u16 = (at: number, value: number): void => view.setUint16(at, value, true);
  const u32 = (at: number, value: number): void => view.setUint32(at, value, true);
  const u64 = (at: number, value: number): void => view.setBigUint64(at, BigInt(value), true);

  // ELF-64, little-endian, ET_EXEC for x86-64.
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  u16(16, 2);
  u16(18, 62);
  u32(20, 1);
  u64(24, TEXT_ADDRESS + CODE_AT);
  u64(32, HEADER_SIZE);
  u64(40, sectionsAt);
  u16(52, HEADER_SIZE);
  u16(54, SEGMENT_SIZE);
  u16(56, SEGMENTS);
  u16(58, SECTION_SIZE);
  u16(60, 5);
  u16(62, 4);

  const segment = (
    index: number,
    type: number,
    flags: number,
    address: number,
    inFile: number,
    size: number,
  ) => {
    const at = HEADER_SIZE + index * SEGMENT_SIZE;
    u32(at, type);
    u32(at + 4, flags);
    u64(at + 16, address);
    u64(at + 24, address);
    u64(at + 32, inFile);
    u64(at + 40, size);
    u64(at + 48, PAGE);
  };
  const [READ, WRITE, EXECUTE] = [4, 2, 1];
  segment(0, 1, READ | EXECUTE, TEXT_ADDRESS, CODE_AT + bytes.length, CODE_AT + bytes.length);
  segment(1, 1, READ | WRITE, DATA_ADDRESS, 0, PAGE);
  // PT_GNU_STACK: no code on the stack.
  segment(2, 0x6474_e551, READ | WRITE, 0, 0, 0);

  file.set(bytes, CODE_AT);
  for (const [i, { at, size }] of functions.entries()) {
    const symbol = symbolsAt + (i + 1) * SYMBOL_SIZE;
    u32(symbol, strings.offsets[i]);
    // STB_GLOBAL, STT_FUNC, in section 1.
    file[symbol + 4] = 0x12;
    u16(symbol + 6, 1);
    u64(symbol + 8, TEXT_ADDRESS + CODE_AT + at);
    u64(symbol + 16, size);
  }
  file.set(strings.bytes, stringsAt);
  file.set(sectionNames.bytes, sectionNamesAt);

  const section = (
    index: number,
    type: number,
    flags: number,
    address: number,
    at: number,
    size: number,
    rest: { link?: number; info?: number; align: number; entry?: number },
  ): void => {
    const header = sectionsAt + index * SECTION_SIZE;
    u32(header, sectionNames.offsets[index - 1]);
    u32(header + 4, type);
    u64(header + 8, flags);
    u64(header + 16, address);
    u64(header + 24, at);
    u64(header + 32, size);
    u32(header + 40, rest.link ?? 0);
    u32(header + 44, rest.info ?? 0);
    u64(header + 48, rest.align);
    u64(header + 56, rest.entry ?? 0);
  };
  // SHT_PROGBITS with SHF_ALLOC and SHF_EXECINSTR, SHT_SYMTAB, SHT_STRTAB twice.
  section(1, 1, 6, TEXT_ADDRESS + CODE_AT, CODE_AT, bytes.length, { align: 16 });
  section(2, 2, 0, 0, symbolsAt, symbolsSize, { link: 3, info: 1, align: 8, entry: SYMBOL_SIZE });
  section(3, 3, 0, 0, stringsAt, strings.bytes.length, { align: 1 });
  section(4, 3, 0, 0, sectionNamesAt, sectionNames.bytes.length, { align: 1 });
  return file;
}

/** A string table: a zero, then each name with a zero behind it. */
function names(list: readonly string[]): { readonly bytes: Uint8Array; readonly offsets: readonly number[] } {
  const offsets: number[] = [];
  let text = '\0';
  for (const name of list) {
    offsets.push(text.length);
    text += `${name}\0`;
  }
  return { bytes: Buffer.from(text, 'latin1'), offsets };
}

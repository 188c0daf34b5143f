import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Label, rax } from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import type { FaultFixup } from '../faults/fixup.js';
import { randomNumbers } from '../maps/fixture.js';
import { CProgram, PlacedCode, RingsHere, TestMemory } from '../maps/ringbuf_fixture.js';
import { TraceLog } from '../maps/trace_log.js';
import { checkFormat, formatReadsMemory } from './format_check.js';
import { emitRecordHelpers, emitTraceLogHelpers } from './trace_routines.js';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const SOAK = process.env.MULTITRACE_SOAK === '1';
const EINVAL = -errnoNumber('EINVAL');

let code: PlacedCode;
let memory: TestMemory;
let log: TraceLog;
let fixups: FaultFixup[];
let strings: ReturnType<TestMemory['alloc']>;
let room: ReturnType<TestMemory['alloc']>;

beforeAll(() => {
  memory = new TestMemory(1 << 16);
  const symbol = (address: bigint, withOffset: boolean): string | undefined =>
    address === 0x1234n ? `main${withOffset ? '+0x4' : ''}` : undefined;
  log = new TraceLog(memory, new RingsHere().mapRing, {
    symbol,
    threadName: tid => (tid === 777 ? 'me' : undefined),
  });
  strings = memory.alloc(8192);
  room = memory.alloc(8192);
  const numbers = new PlacedCode(a => {
    const number = a.here();
    a.movImm64(rax, 777n);
    a.ret();
    return new Map([['number', number]]);
  });
  code = new PlacedCode(a => {
    const time = a.here();
    a.movImm64(rax, 777n);
    a.ret();
    const record = emitRecordHelpers(a);
    const trace = emitTraceLogHelpers(a, { log: log.address, time, tid: numbers.address('number') });
    fixups = [...record.fixups, ...trace.fixups];
    return new Map<string, Label>([...record.routines, ...trace.routines]);
  });
});

afterAll(() => code[Symbol.dispose]());

/** Puts a text with a zero byte behind it at `at` of the strings: its address. */
function put(text: string, at: number): bigint {
  strings.bytes.set(Buffer.from(`${text}\0`, 'latin1'), at);
  return strings.address + BigInt(at);
}

/** snprintf of the format with `args`, into `size` bytes: what it returned and what stands there. */
function print(format: string, args: readonly bigint[], size = 512): { result: number; text: string } {
  room.bytes.fill(0xee);
  const fmt = put(format, 0);
  const data = new BigUint64Array(args.map(arg => BigInt.asUintN(64, arg)));
  strings.bytes.set(new Uint8Array(data.buffer), 1024);
  const at = args.length === 0 ? 0n : strings.address + 1024n;
  const result = code.call('helper_165', room.address, size, fmt, at, args.length * 8);
  expect(room.bytes[size]).toBe(0xee);
  const end = room.bytes.indexOf(0);
  const text = size === 0 ? '' : Buffer.from(room.bytes.subarray(0, end)).toString('latin1');
  return { result: Number(BigInt.asIntN(64, result)), text };
}

const hex = (value: bigint): string => BigInt.asUintN(64, value).toString(16);

/** What the kernel prints for one conversion. */
function expected(flags: string, width: number, letters: string, arg: bigint, text: string): string {
  const left = flags.includes('-');
  let zero = flags.includes('0') && !left;
  let sign = '';
  let body: string;
  const long = letters.startsWith('l');
  const letter = letters.replace(/^l+/, '');
  switch (letter) {
    case 'd':
    case 'i': {
      const value = long ? BigInt.asIntN(64, arg) : BigInt.asIntN(32, arg);
      sign = value < 0n ? '-' : flags.includes('+') ? '+' : flags.includes(' ') ? ' ' : '';
      body = (value < 0n ? -value : value).toString();
      break;
    }
    case 'u':
      body = BigInt.asUintN(long ? 64 : 32, arg).toString();
      break;
    case 'x':
    case 'X':
      body = BigInt.asUintN(long ? 64 : 32, arg).toString(16);
      if (letter === 'X') body = body.toUpperCase();
      break;
    case 'c':
      body = String.fromCharCode(Number(arg & 0xffn));
      zero = false;
      break;
    case 's':
    case 'pks':
    case 'pus':
      body = text.slice(0, 511);
      zero = false;
      break;
    case 'p':
    case 'px':
    case 'pK':
      body = hex(arg);
      if (width === 0) {
        width = 16;
        zero = !left;
      }
      break;
    default:
      body = `0x${hex(arg)}`;
      zero = false;
  }
  const pad = Math.max(0, width - body.length - sign.length);
  if (left) return sign + body + ' '.repeat(pad);
  return zero ? sign + '0'.repeat(pad) + body : ' '.repeat(pad) + sign + body;
}

describe(`snprintf (seed ${seed})`, () => {
  it('prints what the kernel prints', () => {
    const text = put('hello', 2048);
    for (const [format, args, result] of [
      ['', [], ''],
      ['plain 100%% text\n', [], 'plain 100% text\n'],
      ['%d %i %u', [-1n, 2n ** 31n, -1n], '-1 -2147483648 4294967295'],
      ['%ld %lld', [-1n, 2n ** 63n], '-1 -9223372036854775808'],
      ['%lu %llu', [-1n, 10n ** 19n], '18446744073709551615 10000000000000000000'],
      ['%x %X %lx %llX', [0xabcdn, 0xabcdn, -1n, 255n], 'abcd ABCD ffffffffffffffff FF'],
      ['[%5d] [%-5d] [%05d] [%+d] [% d]', [42n, 42n, -42n, 42n, 42n], '[   42] [42   ] [-0042] [+42] [ 42]'],
      ['[%-05d] [%+05d] [%0-+8d]', [7n, 7n, 7n], '[7    ] [+0007] [+7      ]'],
      ['%s|%8s|%-8s|', [text, text, text], 'hello|   hello|hello   |'],
      ['%c%c|%3c|%-3c|', [72n, 105n, 33n, 33n], 'Hi|  !|!  |'],
      ['%p %px %pK', [0x1234n, 0x1234n, 0n], '0000000000001234 0000000000001234 0000000000000000'],
      [
        '%20p|%-20px|%020px',
        [0xabcn, 0xabcn, 0xabcn],
        '                 abc|abc                 |00000000000000000abc',
      ],
      ['%ps %pS %pB', [0x1234n, 0x1234n, 0xffn], '0x1234 0x1234 0xff'],
      ['%pks,%pus.', [text, text], 'hello,hello.'],
      ['%s %s', [0n, 1n], ' '],
      ['%s%s', [1n << 63n, 0xffff_8000_0000_0000n], ''],
      ['%%%d%%', [5n], '%5%'],
      ['%x', [0x1_0000_0001n], '1'],
    ] as [string, bigint[], string][]) {
      expect(checkFormat(format, args.length), format).toBeUndefined();
      expect(print(format, args), format).toEqual({ result: result.length + 1, text: result });
    }
  });

  it('prints network addresses', () => {
    strings.bytes.set([192, 168, 0, 1, 8, 10, 100, 255], 2048);
    strings.bytes.set([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0xff, 1, 2, 3, 4, 5, 6, 0xab, 0xcd], 2064);
    const [four, other, six] = [2048, 2052, 2064].map(at => strings.address + BigInt(at)) as [
      bigint,
      bigint,
      bigint,
    ];
    const all = print('%pI4 %pi4 %pI4, %pI6 %pi6|%18pI4|%-18pI4|', [four, four, other, six, six, four, four]);
    expect(all.text).toBe(
      '192.168.0.1 192.168.000.001 8.10.100.255, 2001:0db8:0000:00ff:0102:0304:0506:abcd ' +
        '20010db8000000ff010203040506abcd|       192.168.0.1|192.168.0.1       |',
    );
    expect(print('%pI4 %pI6', [0n, 1n]).text).toBe('0.0.0.0 0000:0000:0000:0000:0000:0000:0000:0000');
  });

  it('returns the whole length and ends what fits with a zero byte, whatever the room', () => {
    const whole = 'value 0000001234 and text';
    for (let size = 0; size < 30; size++) {
      const { result, text } = print('value %010d and %s', [1234n, put('text', 2048)], size);
      expect(result).toBe(whole.length + 1);
      expect(text).toBe(whole.slice(0, Math.max(size - 1, 0)));
    }
    expect(print('%8000000d', [1n], 8)).toEqual({ result: 8_000_001, text: '       ' });
    expect(print('%99999999999d', [1n], 8).result).toBe(0x7f_ffff + 1);
  });

  it('agrees with a model on random formats', () => {
    const random = randomNumbers(seed);
    const letters = [
      'd',
      'i',
      'u',
      'x',
      'X',
      'ld',
      'lld',
      'lu',
      'llx',
      'lX',
      'c',
      's',
      'p',
      'px',
      'pK',
      'ps',
      'pus',
    ];
    for (let round = 0; round < (SOAK ? 100_000 : 2_500); round++) {
      let format = '';
      let result = '';
      const args: bigint[] = [];
      for (let i = random(8); i >= 0; i--) {
        const letter = letters[random(letters.length)]!;
        const flags = Array.from({ length: random(4) }, () => '-+0 '[random(4)]).join('');
        const width = random(2) === 0 ? 0 : 1 + random(25);
        let arg = (BigInt(random(2 ** 31)) << BigInt(random(40))) ^ BigInt(random(2 ** 31));
        if (random(2) === 0) arg = BigInt(random(300)) - 150n;
        let text = '';
        if (/s$/.test(letter) && letter !== 'ps') {
          text = 'abcdefgh'.repeat(1 + random(3)).slice(random(8));
          arg = put(text, 2048 + i * 64);
        }
        if (letter === 'c') arg = BigInt(0x20 + random(0x5f));
        args.push(BigInt.asUintN(64, arg));
        const between = [' ', ', ', '%%', '-', '\t'][random(5)]!;
        format += `%${flags}${width || ''}${letter}${between}`;
        result += expected(flags, width, letter, BigInt.asUintN(64, arg), text) + between.replace('%%', '%');
      }
      expect(checkFormat(format, args.length), format).toBeUndefined();
      expect(print(format, args, 1024), JSON.stringify(format)).toEqual({
        result: result.length + 1,
        text: result,
      });
    }
  });

  it('takes strings of up to 511 characters', () => {
    const text = 'x'.repeat(700);
    expect(print('<%s>', [put(text, 4096)], 1024)).toEqual({ result: 514, text: `<${'x'.repeat(511)}>` });
  });

  it('refuses what the kernel refuses, and the check and the code agree', () => {
    for (const format of [
      ...[
        '%',
        '%l',
        '%q',
        '%o',
        '%#x',
        '%hd',
        '%hhx',
        '%.3d',
        '%*d',
        '%n',
        '%f',
        '%5',
        '%-',
        '%lll',
        '%llld',
        '%lc',
        '%ls',
      ],
      ...[
        '%pZ',
        '%pI',
        '%pI5',
        '%pi',
        '%pk',
        '%pkx',
        '%ku',
        '%sx',
        '%s1',
        '%pksx',
        '%pusa',
        'bell \x07',
        'latin \xe9',
        '%p\x01',
      ],
    ]) {
      expect(checkFormat(format, 12), format).toBeTypeOf('string');
      expect(print(format, Array(12).fill(0n)).result, format).toBe(EINVAL);
    }
    for (const format of ['%d', 'a%s', '%d%%%d%x']) {
      expect(checkFormat(format, 0)).toMatch(/conversion/);
      expect(print(format, []).result).toBe(EINVAL);
    }
    expect(checkFormat('%d', 2)).toBeUndefined();
    expect(print('%d', [1n, 2n]).text).toBe('1');
    // What is behind an address and belongs to it.
    expect(print('%pI4c|%px1', [0n, 0n]).text).toBe('0.0.0.0|0000000000000000');
  });

  it('never differs from the check on random text', () => {
    const random = randomNumbers(seed ^ 77);
    const alphabet = '%%%%%%dsxpciluKIi46kuS0 -+19.,ab\n#';
    for (let round = 0; round < (SOAK ? 300_000 : 8_000); round++) {
      const format = Array.from({ length: 1 + random(8) }, () => alphabet[random(alphabet.length)]).join('');
      const refused = checkFormat(format, 4) !== undefined;
      expect(print(format, [0n, 1n, 2n, 3n], 64).result < 0, JSON.stringify(format)).toBe(refused);
    }
  });

  it('refuses arrays of arguments that are not right', () => {
    const fmt = put('x', 0);
    const call = (data: bigint, length: number): number =>
      Number(BigInt.asIntN(64, code.call('helper_165', room.address, 64, fmt, data, length)));
    expect(call(room.address, 4)).toBe(EINVAL);
    expect(call(room.address, 13 * 8)).toBe(EINVAL);
    expect(call(0n, 8)).toBe(EINVAL);
    expect(call(room.address, 12 * 8)).toBe(2);
    expect(call(0n, 0)).toBe(2);
  });
});

describe('formatReadsMemory', () => {
  it('is true for strings and network addresses only', () => {
    for (const format of ['%s', 'a %d %pus', '%pI4', '%pi6', '%q'])
      expect(formatReadsMemory(format)).toBe(true);
    for (const format of ['', '%d %px %c', '%ps %pS %pB', '%%s'])
      expect(formatReadsMemory(format)).toBe(false);
  });
});

describe('trace_printk and trace_vprintk', () => {
  const printk = (format: string, ...args: bigint[]): number => {
    const fmt = put(format, 0);
    const [a = 0n, b = 0n, c = 0n] = args;
    return Number(BigInt.asIntN(64, code.call('helper_6', fmt, format.length + 1, a, b, c)));
  };

  it('leave records in order, with time, thread and text', () => {
    expect(printk('one %d %s %x\n', 1n, put('two', 2048), 3n)).toBe(12);
    expect(printk('')).toBe(0);
    strings.bytes.set(new Uint8Array(new BigUint64Array([1n, 2n, 3n, 4n, 5n]).buffer), 1024);
    const fmt = put('%d %d %d %d %d', 0);
    expect(code.call('helper_177', fmt, 15, strings.address + 1024n, 40)).toBe(9n);
    expect(log.read()).toEqual([
      { time: 777n, tid: 777, comm: 'me', text: 'one 1 two 3' },
      { time: 777n, tid: 777, comm: 'me', text: '' },
      { time: 777n, tid: 777, comm: 'me', text: '1 2 3 4 5' },
    ]);
    expect(log.read()).toEqual([]);
  });

  it('print symbols by the name that the reader knows', () => {
    printk('at %ps, %pS, %pB', 0x1234n, 0x1234n, 0x99n);
    expect(log.read().map(({ text }) => text)).toEqual(['at main, main+0x4, 0x99']);
  });

  it('cut lines at the length of the kernel, and return the whole one', () => {
    expect(printk('%2000d', 5n)).toBe(2000);
    expect(log.read().map(({ text }) => text)).toEqual([' '.repeat(1023)]);
  });

  it('refuse formats without an end or with too many conversions, and print nothing', () => {
    const fmt = put('abc', 0);
    expect(BigInt.asIntN(64, code.call('helper_6', fmt, 3, 0, 0, 0))).toBe(BigInt(EINVAL));
    expect(BigInt.asIntN(64, code.call('helper_6', fmt, 0, 0, 0, 0))).toBe(BigInt(EINVAL));
    expect(printk('%d %d %d %d', 1n, 2n, 3n)).toBe(EINVAL);
    expect(printk('%d %q', 1n)).toBe(EINVAL);
    expect(BigInt.asIntN(64, code.call('helper_177', fmt, 4, fmt, 4))).toBe(BigInt(EINVAL));
    expect(log.read()).toEqual([]);
  });

  it('count what finds no room', () => {
    const before = log.dropped;
    let lines = 0;
    while (log.dropped === before) {
      expect(printk('line %d', BigInt(lines))).toBeGreaterThan(5);
      lines++;
    }
    const read = log.read();
    expect(read.length).toBe(lines - 1);
    expect(read.at(-1)!.text).toBe(`line ${lines - 2}`);
    expect(log.dropped).toBe(before + 1n);
  });
});

describe.skipIf(spawnSync('gcc', ['--version']).status !== 0)('addresses that fault', () => {
  it('make empty strings and zero addresses, and are handled by the fixups', () => {
    const source = join(dirname(fileURLToPath(import.meta.url)), 'format_fault.c');
    using program = new CProgram(source, {});
    const args = [process.pid, code.fd, code.size, code.offset('helper_165')];
    const triples = fixups.flatMap(({ at, resume, clear }) => [at, resume, clear]);
    const { stdout, status } = spawnSync(program.path, [...args, ...triples].map(String), {
      encoding: 'utf8',
    });
    const zero = '0000:0000:0000:0000:0000:0000:0000:0000';
    const text = `<> <whole> <     > 0.0.0.0 ${zero} ${'0'.repeat(32)}`;
    expect({ stdout, status }).toEqual({ stdout: `${text.length + 1} 5 ${text}\n`, status: 0 });
  });
});

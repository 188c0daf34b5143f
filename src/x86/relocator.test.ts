import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { callCode, MAP, mmap, munmap, PROT, viewMemory } from '../ffi/libc.js';
import { BpfError } from '../kernel/errno.js';
import { Assembler, mem, r8, r11, rax, rbx, rcx, rdi, rdx, ripLabel, rsi, rsp } from './assembler.js';
import { CodeDecoder } from './decoder.js';
import { type DisplacedCode, placeCode, Relocator } from './relocator.js';

const PAGE = 0x1000;
const SIZE = 64 * PAGE;
/** The file's address of the code: the bias is what the process adds. */
const FILE_ADDRESS = 0x401000;
const JMP = 5;

let memory: bigint;
let view: Uint8Array;

beforeAll(() => {
  memory = mmap(0n, SIZE, PROT.READ | PROT.WRITE | PROT.EXEC, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
  view = new Uint8Array(viewMemory(memory, SIZE));
});
afterAll(() => munmap(memory, SIZE));

function relocate(bytes: Uint8Array, offset: number): DisplacedCode {
  const decoder = new CodeDecoder(bytes, FILE_ADDRESS);
  const relocator = new Relocator(FILE_ADDRESS + offset);
  while (relocator.resumeAt - FILE_ADDRESS - offset < JMP && !relocator.ended) {
    decoder.decode(relocator.resumeAt);
    expect(relocator.append(decoder)).toBeUndefined();
  }
  decoder.free();
  return relocator.finish();
}

function jump(from: bigint, to: bigint): Uint8Array {
  const a = new Assembler();
  a.jmpTo(to);
  return a.finish(from);
}

/**
 * Runs a function in place for each argument, then again with its first instructions moved to another page and int3
 * where they stood; both must return the same.
 */
function sameWhenMoved(args: (number | bigint)[][], write: (a: Assembler) => void): bigint[] {
  const a = new Assembler();
  write(a);
  const code = a.finish(memory);
  view.fill(0xcc);
  view.set(code);
  const before = args.map(values => callCode(memory, ...values));
  view.fill(0xcc);
  view.set(code);

  const moved = relocate(code, 0);
  const at = memory + BigInt(40 * PAGE);
  const placed = placeCode(moved, at, memory - BigInt(FILE_ADDRESS));
  view.set(placed, 40 * PAGE);
  if (moved.resumes) {
    const end = at + BigInt(placed.length);
    view.set(jump(end, memory + BigInt(moved.resumeAt - FILE_ADDRESS)), 40 * PAGE + placed.length);
  }
  view.set(jump(memory, at), 0);
  expect(args.map(values => callCode(memory, ...values))).toEqual(before);
  return before;
}

describe('moved instructions do what they did in place', () => {
  test('push, pop, mov', () => {
    const results = sameWhenMoved([[7], [1n << 63n]], a => {
      a.push(rbx);
      a.mov(rbx, rdi);
      a.push(rbx);
      a.pop(rax);
      a.pop(rbx);
      a.ret();
    });
    expect(results).toEqual([7n, 1n << 63n]);
  });

  test('rip-relative load, store, lea, and one with an immediate behind the distance', () => {
    for (const write of [
      (a: Assembler, data: Label) => a.mov(rax, ripLabel(data)),
      (a: Assembler, data: Label) => a.lea(rax, ripLabel(data)),
      (a: Assembler, data: Label) => {
        a.mov(ripLabel(data), 0x1234567, 4);
        a.mov(rax, ripLabel(data));
      },
      (a: Assembler, data: Label) => {
        a.cmp(ripLabel(data), 0x7fffffff, 4);
        a.setcc('l', rax);
        a.movzx(rax, rax, 1);
      },
      (a: Assembler, data: Label) => {
        a.push(ripLabel(data));
        a.pop(rax);
      },
    ]) {
      const [result] = sameWhenMoved([[]], a => {
        const data = a.label();
        write(a, data);
        a.ret();
        a.align(8);
        a.bind(data);
        a.u64(0x1122334455667788n);
      });
      expect(result).not.toBe(0n);
    }
  });

  test('a conditional jump, short and long, taken and not', () => {
    for (const distance of [10, 300]) {
      const results = sameWhenMoved([[0], [5]], a => {
        const zero = a.label();
        a.test(rdi, rdi);
        if (distance < 100) {
          a.byte(0x74, distance); // the assembler writes short jumps only backwards
          const from = a.length;
          a.mov(rax, 111);
          a.ret();
          a.nop(distance - (a.length - from));
        } else {
          a.jcc('e', zero);
          a.mov(rax, 111);
          a.ret();
          a.nop(distance);
        }
        a.bind(zero);
        a.mov(rax, 222);
        a.ret();
      });
      expect(results).toEqual([222n, 111n]);
    }
  });

  test('jumps, short and long', () => {
    for (const distance of [20, 300]) {
      const [result] = sameWhenMoved([[3]], a => {
        const end = a.label();
        if (distance < 100) a.byte(0xeb, distance);
        else a.jmp(end);
        a.nop(distance);
        a.bind(end);
        a.lea(rax, mem(rdi, 1));
        a.ret();
      });
      expect(result).toBe(4n);
    }
  });

  test('jrcxz and loop, which reach 127 bytes only', () => {
    for (const opcode of [0xe3, 0xe2]) {
      const results = sameWhenMoved(
        [
          [0, 0, 0, 0],
          [0, 0, 0, 1],
          [0, 0, 0, 2],
        ],
        a => {
          // rcx is the fourth argument.
          a.xor(rax, rax);
          a.byte(opcode, 7);
          a.mov(rax, 1);
          a.ret();
          while (a.length < 5 + 7) a.nop();
          a.mov(rax, rcx);
          a.add(rax, 100);
          a.ret();
        },
      );
      expect(new Set(results).size).toBeGreaterThan(1);
    }
  });

  test('a call sees the original return address and comes back to the original code', () => {
    const [result] = sameWhenMoved([[]], a => {
      const callee = a.label();
      a.call(callee);
      a.add(rax, 1);
      a.ret();
      a.bind(callee);
      a.mov(rax, mem(rsp));
      a.ret();
    });
    expect(result).toBe(memory + 5n + 1n);
  });

  test('a call through memory, rip-relative and by register, sees the original return address', () => {
    const through = (write: (a: Assembler, pointer: Label) => void) =>
      sameWhenMoved([[]], a => {
        const callee = a.label();
        const pointer = a.label();
        write(a, pointer);
        a.add(rax, 1);
        a.ret();
        a.bind(callee);
        a.mov(rax, mem(rsp));
        a.ret();
        a.align(8);
        a.bind(pointer);
        a.absolute(callee);
      });
    expect(through((a, pointer) => a.callReg(ripLabel(pointer)))).toEqual([memory + 6n + 1n]);
    // sub rsp, 8 first: the call is the second instruction and ends behind the five bytes.
    expect(
      through((a, pointer) => {
        a.lea(r11, ripLabel(pointer));
        a.callReg(mem(r11));
      }),
    ).toEqual([memory + 10n + 1n]);
  });

  test('a call through a register with a REX prefix, and through memory with a distance', () => {
    // The register is an argument: the address of the callee in place.
    for (const [register, bytes] of [
      ['rdi', [0x90, 0x90, 0x90, 0xff, 0xd7]],
      ['r8', [0x90, 0x90, 0x41, 0xff, 0xd0]],
      ['[rsi + 8]', [0x90, 0x90, 0xff, 0x56, 0x08]],
    ] as const) {
      const callee = memory + 64n;
      const pointer = memory + 128n - 8n;
      const [result] = sameWhenMoved([[callee, pointer, 0, 0, callee]], a => {
        a.byte(...bytes);
        a.add(rax, 1);
        a.ret();
        while (a.length < 64) a.int3();
        a.mov(rax, mem(rsp));
        a.ret();
        while (a.length < 128) a.int3();
        a.u64(callee);
      });
      expect([register, result]).toEqual([register, memory + 5n + 1n]);
    }
  });

  test('a call to the next instruction, which reads where it stands', () => {
    const [result] = sameWhenMoved([[]], a => {
      const next = a.label();
      a.call(next);
      a.bind(next);
      a.pop(rax);
      a.ret();
    });
    expect(result).toBe(memory + 5n);
  });

  test('an indirect jump', () => {
    const [result] = sameWhenMoved([[20]], a => {
      const target = a.label();
      const pointer = a.label();
      a.jmpReg(ripLabel(pointer));
      a.int3();
      a.bind(target);
      a.lea(rax, mem(rdi, 22));
      a.ret();
      a.align(8);
      a.bind(pointer);
      a.absolute(target);
    });
    expect(result).toBe(42n);
  });

  test('cmov, setcc, adc with flags set among the moved instructions', () => {
    const results = sameWhenMoved(
      [
        [1, 2],
        [2, 1],
        [2, 2],
      ],
      a => {
        a.cmp(rdi, rsi);
        a.cmov('b', rdi, rsi);
        a.adc(rdi, 0);
        a.mov(rax, rdi);
        a.ret();
      },
    );
    expect(results).toEqual([3n, 2n, 2n]);
  });

  test('lock and rep prefixes, enter and leave, a system call', () => {
    sameWhenMoved([[memory + BigInt(50 * PAGE), 5]], a => {
      a.lockXadd(mem(rdi), rsi);
      a.mov(mem(rdi), 0);
      a.mov(rax, rsi);
      a.ret();
    });
    sameWhenMoved([[memory + BigInt(50 * PAGE), 0, 0, 16]], a => {
      a.mov(rax, 0x41);
      a.byte(0xf3, 0xaa); // rep stosb
      a.mov(rax, mem(rdi, -8));
      a.ret();
    });
    sameWhenMoved([[9]], a => {
      a.byte(0xc8, 0x10, 0, 0); // enter 16, 0
      a.mov(mem(rsp), rdi);
      a.mov(rax, mem(rsp));
      a.byte(0xc9); // leave
      a.ret();
    });
    const [pid] = sameWhenMoved([[]], a => {
      a.mov(rax, 39, 4); // getpid
      a.syscall();
      a.ret();
    });
    expect(pid).toBe(BigInt(process.pid));
    const [again] = sameWhenMoved([[39]], a => {
      a.mov(rax, rdi);
      a.syscall();
      a.mov(r8, rdx);
      a.ret();
    });
    expect(again).toBe(BigInt(process.pid));
  });
});

test('the template says where each instruction went', () => {
  // push rbx; test edi, edi; je +0x10: 1 + 2 + 2 bytes; the je grows to 6.
  const moved = relocate(Buffer.from(`5385ff7410${'90'.repeat(32)}`, 'hex'), 0);
  expect(moved.boundaries).toEqual([
    { from: 0, to: 0 },
    { from: 1, to: 1 },
    { from: 3, to: 3 },
  ]);
  expect(moved.bytes.length).toBe(9);
  expect(moved.resumeAt).toBe(FILE_ADDRESS + 5);
  expect(moved.resumes).toBe(true);
  expect(moved.fixups).toEqual([{ offset: 5, target: FILE_ADDRESS + 0x15 }]);
});

const FAILURES: [string, string, string | undefined][] = [
  ['ud2', '0f0b', 'trap'],
  ['int3', 'cc', 'trap'],
  ['ret', 'c3', undefined],
  ['far ret', 'cb', 'far-transfer'],
  ['iretq', '48cf', 'far-transfer'],
  ['xbegin', 'c7f800000000', 'transaction'],
  ['xend', '0f01d5', undefined],
  ['call [rsp + 8]', 'ff542408', 'unrelocatable'],
  ['call [rbp + 8]', 'ff5508', undefined],
  ['call rsp', 'ffd4', 'unrelocatable'],
  ['call rax', 'ffd0', undefined],
  ['mov eax, [eip + 0]', '678b0500000000', 'unrelocatable'],
  ['mov eax, [rip + 0]', '8b0500000000', undefined],
  ['mov eax, fs:[rip + 0]', '648b0500000000', undefined],
];

test.each(FAILURES)('%s: moved or refused', (_, hex, failure) => {
  const decoder = new CodeDecoder(Buffer.from(hex + '90'.repeat(16), 'hex'), FILE_ADDRESS);
  decoder.decode(FILE_ADDRESS);
  expect(new Relocator(FILE_ADDRESS).append(decoder)).toBe(failure);
  decoder.free();
});

test('code that can not reach its targets is refused with ERANGE, one byte nearer it is placed', () => {
  const moved = relocate(Buffer.from(`e9fb0f0000${'90'.repeat(16)}`, 'hex'), 0); // jmp FILE_ADDRESS + 0x1000
  const bias = 0x7f0000000000n;
  const target = BigInt(FILE_ADDRESS + 0x1000) + bias;
  const furthest = target - 0x7fffffffn - 5n;
  expect(new DataView(placeCode(moved, furthest, bias).buffer).getInt32(1, true)).toBe(0x7fffffff);
  expect(() => placeCode(moved, furthest - 1n, bias)).toThrow(BpfError);
  expect(() => placeCode(moved, furthest - 1n, bias)).toThrow(/within 2 GiB/);
});

type Label = ReturnType<Assembler['label']>;

import { Decoder, DecoderOptions, Formatter, FormatterSyntax } from 'iced-x86';
import { describe, expect, it } from 'vitest';
import { BpfError } from '../kernel/errno.js';
import * as x86 from './assembler.js';

const { Assembler, mem, memIndex, ripLabel, gs, fs, registers } = x86;
const { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 } = x86;

const BASE = 0x5555_0000_1000n;

/** What iced-x86 reads in `code`, one line for each instruction, without redundant spaces. */
function disassemble(code: Uint8Array, address = BASE): string[] {
  const decoder = new Decoder(64, code, DecoderOptions.None);
  const formatter = new Formatter(FormatterSyntax.Intel);
  formatter.hexPrefix = '0x';
  formatter.hexSuffix = '';
  // With this on, iced-x86 1.21 prints 0x100000000 as 0.
  formatter.smallHexNumbersInDecimal = false;
  formatter.uppercaseHex = false;
  formatter.spaceAfterOperandSeparator = false;
  formatter.ripRelativeAddresses = false;
  formatter.branchLeadingZeros = false;
  formatter.showBranchSize = false;
  decoder.ip = address;
  const lines: string[] = [];
  while (decoder.canDecode) {
    const instruction = decoder.decode();
    lines.push(formatter.format(instruction));
    instruction.free();
  }
  formatter.free();
  decoder.free();
  return lines;
}

/** Assembles one instruction and says what iced-x86 reads in it; more than one line is a failure by itself. */
function one(write: (a: x86.Assembler) => void): string {
  const a = new Assembler();
  write(a);
  return disassemble(a.finish(BASE)).join(' ; ');
}

function sizeOf(write: (a: x86.Assembler) => void): number {
  const a = new Assembler();
  write(a);
  return a.length;
}

const SIZES = [1, 2, 4, 8] as const;
const NAMES: Record<x86.Size, string[]> = {
  8: registers.map(r => r.name),
  4: registers.map(r => (r.code < 8 ? `e${r.name.slice(1)}` : `${r.name}d`)),
  2: registers.map(r => (r.code < 8 ? r.name.slice(1) : `${r.name}w`)),
  1: [
    ...['al', 'cl', 'dl', 'bl', 'spl', 'bpl', 'sil', 'dil'],
    ...['r8b', 'r9b', 'r10b', 'r11b', 'r12b', 'r13b', 'r14b', 'r15b'],
  ],
};
const WIDTHS: Record<x86.Size, string> = { 1: 'byte', 2: 'word', 4: 'dword', 8: 'qword' };

function name(register: x86.Reg, size: x86.Size): string {
  return NAMES[size][register.code]!;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

describe('memory operands', () => {
  it('encode every base with every displacement size', () => {
    for (const base of registers) {
      for (const disp of [0, 1, -1, 127, -128, 128, -129, 0x12345678, -0x80000000]) {
        const sign = disp < 0 ? '-' : '+';
        const tail = disp === 0 ? '' : `${sign}${hex(Math.abs(disp))}`;
        expect(one(a => a.mov(r9, mem(base, disp)))).toBe(`mov r9,[${base.name}${tail}]`);
        expect(one(a => a.mov(mem(base, disp), rdx, 1))).toBe(`mov [${base.name}${tail}],dl`);
      }
    }
  });

  it('encode every base with every index and scale', () => {
    for (const base of registers) {
      for (const index of registers.filter(r => r !== rsp)) {
        for (const scale of [1, 2, 4, 8] as const) {
          for (const disp of [0, 8, 0x1000]) {
            const tail = disp === 0 ? '' : `+${hex(disp)}`;
            const wanted = scale === 1 ? index.name : `${index.name}*${scale}`;
            expect(one(a => a.add(rax, mem(base, disp, index, scale), 4))).toBe(
              `add eax,[${base.name}+${wanted}${tail}]`,
            );
          }
        }
      }
    }
  });

  it('encode an index without a base', () => {
    for (const index of registers.filter(r => r !== rsp)) {
      expect(one(a => a.lea(r8, memIndex(index, 8, 0x40)))).toBe(`lea r8,[${index.name}*8+0x40]`);
    }
  });

  it('refuse rsp as index and a displacement beyond 32 bits', () => {
    expect(() => mem(rax, 0, rsp)).toThrow(RangeError);
    expect(() => mem(rax, 0x80000000)).toThrow(RangeError);
    expect(() => mem(rax, 0.5)).toThrow(RangeError);
  });

  it('encode the segment-relative forms', () => {
    expect(one(a => a.mov(r11, gs(0x10)))).toBe('mov r11,gs:[0x10]');
    expect(one(a => a.mov(rax, fs(0)))).toBe('mov rax,fs:[0x0]');
    expect(one(a => a.lock('inc', gs(0x18), undefined, 4))).toBe('lock inc dword ptr gs:[0x18]');
    expect(one(a => a.cmp(gs(0x10), 5, 2))).toBe('cmp word ptr gs:[0x10],0x5');
    expect(one(a => a.mov(fs(-8), r15))).toBe('mov fs:[0xfffffffffffffff8],r15');
  });

  it('encode rip-relative operands before and behind, whatever immediate follows', () => {
    const a = new Assembler();
    const data = a.here();
    a.u64(0x9090909090909090n);
    const behind = a.label();
    a.mov(rax, ripLabel(data));
    a.mov(ripLabel(data), 0x11223344, 4);
    a.mov(ripLabel(behind), 0x1122, 2);
    a.mov(ripLabel(behind, 4), 0x11, 1);
    a.cmp(ripLabel(data, 4), 7);
    a.add(ripLabel(behind, 8), 0x1000);
    a.imul3(r8, ripLabel(behind), 1000);
    a.shl(ripLabel(behind), 5);
    a.test(ripLabel(data), 0x1234);
    a.lea(r15, ripLabel(behind));
    a.lockXadd(ripLabel(behind), r9);
    a.bind(behind);
    const at = (offset: number) => `[0x${(BASE + BigInt(offset)).toString(16)}]`;
    const d = at(0);
    expect(disassemble(a.finish(BASE)).slice(8)).toEqual([
      `mov rax,${d}`,
      `mov dword ptr ${d},0x11223344`,
      `mov word ptr ${at(a.length)},0x1122`,
      `mov byte ptr ${at(a.length + 4)},0x11`,
      `cmp qword ptr ${at(4)},0x7`,
      `add qword ptr ${at(a.length + 8)},0x1000`,
      `imul r8,${at(a.length)},0x3e8`,
      `shl qword ptr ${at(a.length)},0x5`,
      `test qword ptr ${d},0x1234`,
      `lea r15,${at(a.length)}`,
      `lock xadd ${at(a.length)},r9`,
    ]);
  });
});

describe('two-operand instructions', () => {
  const operations = ['mov', 'add', 'or', 'adc', 'sbb', 'and', 'sub', 'xor', 'cmp', 'test'] as const;

  it('take every pair of registers in every size', () => {
    for (const size of SIZES) {
      for (const dst of registers) {
        for (const src of registers) {
          const pair = `${name(dst, size)},${name(src, size)}`;
          for (const operation of operations) {
            expect(one(a => a[operation](dst, src, size))).toBe(`${operation} ${pair}`);
          }
        }
      }
    }
  });

  it('take a register and memory in both orders', () => {
    for (const size of SIZES) {
      for (const register of registers) {
        for (const operation of operations) {
          const m = mem(r13, 0, r12, 2);
          const text = '[r13+r12*2]';
          const load = operation === 'test' ? `test ${text},${name(register, size)}` : undefined;
          expect(one(a => a[operation](m, register, size))).toBe(
            `${operation} ${text},${name(register, size)}`,
          );
          expect(one(a => a[operation](register, m, size))).toBe(
            load ?? `${operation} ${name(register, size)},${text}`,
          );
        }
      }
    }
  });

  it('take immediates of every size into registers and memory', () => {
    const values: Record<x86.Size, [number, string][]> = {
      1: [
        [5, '0x5'],
        [-1, '0xff'],
        [0xff, '0xff'],
        [-128, '0x80'],
      ],
      2: [
        [5, '0x5'],
        [-1, '0xffff'],
        [0xffff, '0xffff'],
        [0x1234, '0x1234'],
      ],
      4: [
        [5, '0x5'],
        [-1, '0xffffffff'],
        [0xffffffff, '0xffffffff'],
        [0x12345678, '0x12345678'],
      ],
      8: [
        [5, '0x5'],
        [-1, '0xffffffffffffffff'],
        [-128, '0xffffffffffffff80'],
        [-129, '0xffffffffffffff7f'],
        [128, '0x80'],
        [0x12345678, '0x12345678'],
        [-0x80000000, '0xffffffff80000000'],
      ],
    };
    for (const size of SIZES) {
      for (const [value, text] of values[size]) {
        for (const operation of operations) {
          expect(one(a => a[operation](mem(rsp, 8), value, size))).toBe(
            `${operation} ${WIDTHS[size]} ptr [rsp+0x8],${text}`,
          );
          for (const register of registers) {
            // mov of a positive constant to 64 bits is the 32-bit mov, which clears the upper half.
            const written = operation === 'mov' && size === 8 && value >= 0 ? 4 : size;
            expect(one(a => a[operation](register, value, size))).toBe(
              `${operation} ${name(register, written)},${text}`,
            );
          }
        }
      }
    }
  });

  it('use the short immediate where it fits', () => {
    expect(sizeOf(a => a.add(rax, 1))).toBe(4);
    expect(sizeOf(a => a.add(rax, 127, 4))).toBe(3);
    expect(sizeOf(a => a.add(rax, 128, 4))).toBe(6);
    expect(sizeOf(a => a.and(rax, 0xfffffff0, 4))).toBe(3);
    expect(sizeOf(a => a.mov(rax, 1))).toBe(5);
    expect(sizeOf(a => a.mov(rax, -1))).toBe(7);
  });

  it('refuse immediates that the operand can not hold', () => {
    const a = new Assembler();
    expect(() => a.add(rax, 0x80000000)).toThrow(RangeError);
    expect(() => a.mov(rax, 0x100000000, 4)).toThrow(RangeError);
    expect(() => a.cmp(rax, 256, 1)).toThrow(RangeError);
    expect(() => a.cmp(rax, 65536, 2)).toThrow(RangeError);
    expect(() => a.add(rax, 1.5)).toThrow(RangeError);
    expect(() => a.mov(mem(rax), mem(rcx))).toThrow(RangeError);
  });

  it('load 64-bit constants in the shortest form', () => {
    expect(one(a => a.movImm64(r10, 0n))).toBe('mov r10d,0x0');
    expect(one(a => a.movImm64(rax, 0xffffffffn))).toBe('mov eax,0xffffffff');
    expect(one(a => a.movImm64(rbp, -2n))).toBe('mov rbp,0xfffffffffffffffe');
    expect(one(a => a.movImm64(rbp, 0xffffffff80000000n))).toBe('mov rbp,0xffffffff80000000');
    expect(one(a => a.movImm64(rbp, 0xffffffff7fffffffn))).toBe('mov rbp,0xffffffff7fffffff');
    expect(one(a => a.movImm64(r12, 0x123456789abcdef0n))).toBe('mov r12,0x123456789abcdef0');
    expect(one(a => a.movImm64(rsp, 0x100000000n))).toBe('mov rsp,0x100000000');
    expect(sizeOf(a => a.movImm64(rax, 7n))).toBe(5);
    expect(sizeOf(a => a.movImm64(rax, -7n))).toBe(7);
    expect(sizeOf(a => a.movImm64(rax, 1n << 40n))).toBe(10);
  });
});

describe('the other instructions', () => {
  it('extend bytes, words and double words from every register', () => {
    for (const dst of [rax, rdi, r14]) {
      for (const src of registers) {
        for (const from of [1, 2] as const) {
          expect(one(a => a.movzx(dst, src, from))).toBe(`movzx ${name(dst, 4)},${name(src, from)}`);
          expect(one(a => a.movsx(dst, src, from))).toBe(`movsx ${dst.name},${name(src, from)}`);
          expect(one(a => a.movsx(dst, src, from, 4))).toBe(`movsx ${name(dst, 4)},${name(src, from)}`);
        }
        expect(one(a => a.movsx(dst, src, 4))).toBe(`movsxd ${dst.name},${name(src, 4)}`);
        expect(one(a => a.movsx(dst, src, 4, 4))).toBe(`mov ${name(dst, 4)},${name(src, 4)}`);
      }
      expect(one(a => a.movzx(dst, mem(rbp), 1))).toBe(`movzx ${name(dst, 4)},byte ptr [rbp]`);
      expect(one(a => a.movzx(dst, mem(r12), 2))).toBe(`movzx ${name(dst, 4)},word ptr [r12]`);
      expect(one(a => a.movsx(dst, mem(r13, -4), 4))).toBe(`movsxd ${dst.name},[r13-0x4]`);
    }
  });

  it('shift and rotate', () => {
    for (const operation of ['shl', 'shr', 'sar', 'rol', 'ror'] as const) {
      for (const size of SIZES) {
        for (const register of registers) {
          const r = name(register, size);
          expect(one(a => a[operation](register, 1, size))).toBe(`${operation} ${r},0x1`);
          expect(one(a => a[operation](register, 7, size))).toBe(`${operation} ${r},0x7`);
          expect(one(a => a[operation](register, 'cl', size))).toBe(`${operation} ${r},cl`);
        }
        expect(one(a => a[operation](mem(rsi), 3, size))).toBe(`${operation} ${WIDTHS[size]} ptr [rsi],0x3`);
      }
    }
    expect(one(a => a.shl(rax, 63))).toBe('shl rax,0x3f');
    expect(() => new Assembler().shl(rax, 64)).toThrow(RangeError);
  });

  it('take one operand', () => {
    const named = { neg: 'neg', not: 'not', inc: 'inc', dec: 'dec', mul: 'mul', imul1: 'imul', div: 'div' };
    for (const [method, mnemonic] of Object.entries({ ...named, idiv: 'idiv' })) {
      for (const size of SIZES) {
        for (const register of registers) {
          expect(one(a => a[method as 'neg'](register, size))).toBe(`${mnemonic} ${name(register, size)}`);
        }
        expect(one(a => a[method as 'neg'](mem(rbx, 4), size))).toBe(
          `${mnemonic} ${WIDTHS[size]} ptr [rbx+0x4]`,
        );
      }
    }
  });

  it('multiply into a register', () => {
    expect(one(a => a.imul(r8, r15))).toBe('imul r8,r15');
    expect(one(a => a.imul(rax, mem(rcx, 8), 4))).toBe('imul eax,[rcx+0x8]');
    expect(one(a => a.imul(rax, rcx, 2))).toBe('imul ax,cx');
    expect(one(a => a.imul3(rax, rcx, 24))).toBe('imul rax,rcx,0x18');
    expect(one(a => a.imul3(r9, r10, 1000, 4))).toBe('imul r9d,r10d,0x3e8');
    expect(one(a => a.imul3(rdx, rbx, 1000, 2))).toBe('imul dx,bx,0x3e8');
    expect(one(a => a.imul3(rdx, rbx, -3))).toBe('imul rdx,rbx,0xfffffffffffffffd');
    expect(() => new Assembler().imul(rax, rcx, 1)).toThrow(RangeError);
  });

  it('scan, count and swap bits and bytes', () => {
    for (const register of registers) {
      expect(one(a => a.bswap(register, 8))).toBe(`bswap ${register.name}`);
      expect(one(a => a.bswap(register, 4))).toBe(`bswap ${name(register, 4)}`);
      expect(one(a => a.bsr(rax, register))).toBe(`bsr rax,${register.name}`);
      expect(one(a => a.bsf(register, rdx, 4))).toBe(`bsf ${name(register, 4)},edx`);
      expect(one(a => a.popcnt(register, r9))).toBe(`popcnt ${register.name},r9`);
      expect(one(a => a.popcnt(r9, register, 4))).toBe(`popcnt r9d,${name(register, 4)}`);
    }
  });

  it('compute addresses, choose, set and exchange', () => {
    expect(one(a => a.lea(rax, mem(rdi, 16, rsi, 4)))).toBe('lea rax,[rdi+rsi*4+0x10]');
    expect(one(a => a.lea(r8, mem(rdi, -1), 4))).toBe('lea r8d,[rdi-0x1]');
    const conditions = [
      'o',
      'no',
      'b',
      'ae',
      'e',
      'ne',
      'be',
      'a',
      's',
      'ns',
      'p',
      'np',
      'l',
      'ge',
      'le',
      'g',
    ];
    for (const cond of conditions as x86.Cond[]) {
      expect(one(a => a.cmov(cond, rax, r11))).toBe(`cmov${cond} rax,r11`);
      expect(one(a => a.cmov(cond, r12, mem(rbp), 4))).toBe(`cmov${cond} r12d,[rbp]`);
      expect(one(a => a.setcc(cond, rsi))).toBe(`set${cond} sil`);
      expect(one(a => a.setcc(cond, mem(r12, 1)))).toBe(`set${cond} [r12+0x1]`);
    }
    for (const size of SIZES) {
      for (const register of registers) {
        const r = name(register, size);
        expect(one(a => a.xchg(register, rdx, size))).toBe(`xchg ${r},${name(rdx, size)}`);
        expect(one(a => a.xchg(mem(rdi), register, size))).toBe(`xchg [rdi],${r}`);
      }
    }
  });

  it('push and pop', () => {
    for (const register of registers) {
      expect(one(a => a.push(register))).toBe(`push ${register.name}`);
      expect(one(a => a.pop(register))).toBe(`pop ${register.name}`);
    }
    expect(one(a => a.push(mem(r14, 8)))).toBe('push qword ptr [r14+0x8]');
    expect(one(a => a.pop(mem(rsp, 8)))).toBe('pop qword ptr [rsp+0x8]');
    expect(one(a => a.push(-1))).toBe('push 0xffffffffffffffff');
    expect(one(a => a.push(0x1234))).toBe('push 0x1234');
  });

  it('lock memory operations in every size', () => {
    for (const size of SIZES) {
      for (const register of registers) {
        const r = name(register, size);
        expect(one(a => a.lockCmpxchg(mem(r8, 8), register, size))).toBe(`lock cmpxchg [r8+0x8],${r}`);
        expect(one(a => a.lockXadd(mem(rcx), register, size))).toBe(`lock xadd [rcx],${r}`);
        for (const operation of ['add', 'or', 'and', 'xor', 'sub'] as const) {
          expect(one(a => a.lock(operation, mem(rcx), register, size))).toBe(`lock ${operation} [rcx],${r}`);
        }
      }
      for (const operation of ['inc', 'dec'] as const) {
        expect(one(a => a.lock(operation, mem(r11), undefined, size))).toBe(
          `lock ${operation} ${WIDTHS[size]} ptr [r11]`,
        );
      }
      expect(one(a => a.lock('add', mem(rdi, 0, rsi, 8), 100, size))).toBe(
        `lock add ${WIDTHS[size]} ptr [rdi+rsi*8],0x64`,
      );
    }
    expect(() => new Assembler().lock('add', mem(rax))).toThrow(RangeError);
  });

  it('write the instructions without operands', () => {
    const a = new Assembler();
    for (const method of ['cqo', 'cdq', 'ret', 'int3', 'ud2', 'syscall', 'pause', 'mfence'] as const)
      a[method]();
    for (const method of ['rdtsc', 'cpuid', 'pushfq', 'popfq', 'endbr64'] as const) a[method]();
    expect(disassemble(a.finish(BASE))).toEqual([
      ...['cqo', 'cdq', 'ret', 'int3', 'ud2', 'syscall', 'pause', 'mfence'],
      ...['rdtsc', 'cpuid', 'pushfq', 'popfq', 'endbr64'],
    ]);
  });

  it('fill with no-operations of exactly the length asked for', () => {
    for (let n = 0; n < 40; n++) {
      const a = new Assembler();
      a.nop(n);
      expect(a.length).toBe(n);
      const lines = disassemble(a.finish(BASE));
      expect(lines.length).toBe(Math.ceil(n / 9));
      for (const line of lines) expect(line).toMatch(/nop|^xchg ax,ax$/);
    }
  });
});

describe('branches', () => {
  it('reach labels bound before and behind, short where that is known to fit', () => {
    const a = new Assembler();
    const start = a.here();
    const end = a.label();
    a.jmp(start);
    a.jcc('e', start);
    a.call(start);
    a.jmp(end);
    a.jcc('g', end);
    a.call(end);
    expect(a.length).toBe(2 + 2 + 5 + 5 + 6 + 5);
    a.bytes(new Uint8Array(200).fill(0x90));
    a.jmp(start);
    a.jcc('ne', start);
    a.bind(end);
    const first = `0x${BASE.toString(16)}`;
    const last = `0x${(BASE + BigInt(a.length)).toString(16)}`;
    const lines = disassemble(a.finish(BASE)).filter(line => line !== 'nop');
    expect(lines).toEqual([
      `jmp ${first}`,
      `je ${first}`,
      `call ${first}`,
      `jmp ${last}`,
      `jg ${last}`,
      `call ${last}`,
      `jmp ${first}`,
      `jne ${first}`,
    ]);
    expect(a.offsetOf(end)).toBe(a.length);
  });

  it('use the short form exactly up to 128 bytes back', () => {
    for (const [padding, size] of [
      [126, 2],
      [127, 5],
    ] as const) {
      const a = new Assembler();
      const start = a.here();
      a.bytes(new Uint8Array(padding).fill(0x90));
      a.jmp(start);
      expect(a.length - padding).toBe(size);
      expect(disassemble(a.finish(BASE)).at(-1)).toBe(`jmp 0x${BASE.toString(16)}`);
    }
  });

  it('reach absolute addresses from wherever the code is placed', () => {
    const a = new Assembler();
    a.jmpTo(0x5555_7000_0000n);
    a.callTo(0x5555_0000_0000n);
    a.jccTo('b', 0x5555_0000_1000n);
    for (const address of [BASE, BASE + 0x1000_0000n]) {
      expect(disassemble(a.finish(address), address)).toEqual([
        'jmp 0x555570000000',
        'call 0x555500000000',
        'jb 0x555500001000',
      ]);
    }
    expect(() => a.finish(0x7fff_0000_0000n)).toThrow(BpfError);
    expect(() => a.finish(0x7fff_0000_0000n)).toThrow(/2 GiB/);
  });

  it('reach exactly 2 GiB in both directions, and not a byte more', () => {
    const target = 0x5555_0000_0000n;
    const a = new Assembler();
    a.jmpTo(target);
    const lowest = target - 0x7fffffffn - 5n;
    const highest = target + 0x80000000n - 5n;
    expect(disassemble(a.finish(lowest), lowest)).toEqual(['jmp 0x555500000000']);
    expect(disassemble(a.finish(highest), highest)).toEqual(['jmp 0x555500000000']);
    expect(() => a.finish(lowest - 1n)).toThrow(BpfError);
    expect(() => a.finish(highest + 1n)).toThrow(BpfError);
  });

  it('go through registers and memory', () => {
    for (const register of registers) {
      expect(one(a => a.jmpReg(register))).toBe(`jmp ${register.name}`);
      expect(one(a => a.callReg(register))).toBe(`call ${register.name}`);
      expect(one(a => a.callReg(mem(register, 8)))).toBe(`call qword ptr [${register.name}+0x8]`);
    }
    expect(one(a => a.jmpReg(mem(rdi, 0, rax, 8)))).toBe('jmp qword ptr [rdi+rax*8]');
  });

  it('refuse to finish with a label that was used and never bound', () => {
    const a = new Assembler();
    const label = a.label();
    a.jmp(label);
    expect(() => a.finish(BASE)).toThrow(RangeError);
    a.bind(label);
    expect(a.finish(BASE).length).toBe(5);
    expect(() => a.bind(label)).toThrow(RangeError);
  });
});

describe('data and placing', () => {
  it('writes bytes, words, addresses of labels, and fills up to an alignment', () => {
    const a = new Assembler();
    a.byte(1, 2);
    a.u32(0xfedcba98);
    a.u64(0x123456789abcdef0n);
    a.align(16);
    const label = a.label();
    a.absolute(label);
    a.bytes(Uint8Array.of(7, 8));
    a.bind(label);
    const code = a.finish(0x1000n);
    const view = new DataView(code.buffer);
    expect([...code.subarray(0, 2)]).toEqual([1, 2]);
    expect(view.getUint32(2, true)).toBe(0xfedcba98);
    expect(view.getBigUint64(6, true)).toBe(0x123456789abcdef0n);
    expect([...code.subarray(14, 16)]).toEqual([0xcc, 0xcc]);
    expect(view.getBigUint64(16, true)).toBe(0x1000n + 26n);
    expect(new DataView(a.finish(0x2000n).buffer).getBigUint64(16, true)).toBe(0x2000n + 26n);
  });

  it('writes ten thousand stubs through a growing buffer, every one intact', () => {
    const a = new Assembler(64);
    const starts: number[] = [];
    for (let i = 0; i < 10_000; i++) {
      a.align(16);
      starts.push(a.length);
      a.push(r10);
      a.movImm64(r10, 0x7f00_0000_0000n + BigInt(i));
      a.jmpTo(BASE - 0x1000n);
    }
    const code = a.finish(BASE);
    for (const i of [0, 1, 77, 5_000, 9_999]) {
      const address = BASE + BigInt(starts[i]!);
      expect(disassemble(code.subarray(starts[i]!, starts[i]! + 17), address)).toEqual([
        'push r10',
        `mov r10,0x${(0x7f00_0000_0000n + BigInt(i)).toString(16)}`,
        'jmp 0x555500000000',
      ]);
    }
  });
});

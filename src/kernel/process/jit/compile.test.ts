/** What is compiled: the instructions themselves where they matter, and programs that work on real maps. */

import {
  Decoder,
  DecoderOptions,
  Formatter,
  FormatterSyntax,
  InstructionInfoFactory,
  OpAccess,
  Register,
} from 'iced-x86';
import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 } from '../../../bpf/builder.js';
import { HELPER } from '../../../bpf/helpers.js';
import { CLASS, JMP } from '../../../bpf/instruction.js';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import { type Reg, r8, r9, r10, r11, rax, rcx, rdi, rdx, rsi } from '../../../x86/assembler.js';
import { createMap } from '../maps/map.js';
import { emitMapRoutines, type MapRoutines } from '../maps/routines.js';
import type { Arena } from '../region/arena.js';
import type { AttachType } from '../verifier/environment.js';
import { type VerifiedProgram, verifyProgram } from '../verifier/verifier.js';
import { compileProgram, type JitCode } from './compile.js';
import type { JitEnv } from './environment.js';
import { Bench } from './fixture.js';
import { CALLER_SAVED, maskOf } from './register_map.js';

const bench = new Bench();
const arena: Arena = { alloc: size => ({ ...bench.alloc(size), size }), free: () => undefined };

/** The map routines of maps/, placed in this process. */
function placeRoutines(): ReadonlyMap<keyof MapRoutines, bigint> {
  const offsets = new Map<keyof MapRoutines, number>();
  const start = bench.placeWith(a => {
    const labels = emitMapRoutines(a);
    for (const [name, label] of Object.entries(labels))
      offsets.set(name as keyof MapRoutines, a.offsetOf(label));
  });
  return new Map([...offsets].map(([name, offset]) => [name, start + BigInt(offset)]));
}
const routines = placeRoutines();

const array = (id: number, valueSize: number, maxEntries: number) =>
  createMap({ type: MAP_TYPE.ARRAY, name: `array${id}`, keySize: 4, valueSize, maxEntries }, id, arena);
const counts = array(1, 8, 100);
const pairs = array(2, 16, 7);
const odd = array(3, 20, 5);
const single = array(4, 64, 1);
const hash = createMap(
  { type: MAP_TYPE.HASH, name: 'hash', keySize: 8, valueSize: 24, maxEntries: 16 },
  5,
  arena,
);
const maps = new Map([counts, pairs, odd, single, hash].map(map => [map.id, map]));
const env: JitEnv = { maps, routine: name => routines.get(name as keyof MapRoutines) as bigint };

type Write = (p: ProgramBuilder) => ProgramBuilder;

function verify(write: Write, attachType: AttachType = 'fentry', nargs = 6): VerifiedProgram {
  return verifyProgram(write(new ProgramBuilder()).build(), { attachType, nargs, maps });
}

function compile(write: Write, attachType: AttachType = 'fentry'): JitCode {
  return compileProgram(verify(write, attachType), env);
}

const CALL = { args: [10n, 20n, 30n, 40n, 50n, 60n], cookie: 3n, functionAddress: 0x5555_0000_1234n };

function run(write: Write, attachType: AttachType = 'fmod_ret', call = CALL): bigint {
  const code = compile(write, attachType);
  const { result, changed } = bench.run(code, call);
  expect(changed & ~code.clobbers).toBe(0);
  return result;
}

/** The code as text, and the registers that its instructions write. */
function read(code: JitCode): { text: string[]; written: number } {
  const bytes = code.place(0x10000n);
  const decoder = new Decoder(64, bytes, DecoderOptions.None);
  decoder.ip = 0x10000n;
  const formatter = new Formatter(FormatterSyntax.Nasm);
  const factory = new InstructionInfoFactory();
  const text: string[] = [];
  let written = 0;
  const all: readonly Reg[] = [rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11];
  const numbers = new Map(
    all.map(reg => [Register[reg.name.toUpperCase() as keyof typeof Register], maskOf(reg)]),
  );
  const full = (register: number): number => {
    const name = Register[register] ?? '';
    const wide = name
      .replace(/^E(..)$/, 'R$1')
      .replace(/^(R\d+)[DWL]$/, '$1')
      .replace(/^([A-D])[LX]$/, 'R$1X');
    return Register[wide.replace(/^([SD]I)L?$/, 'R$1') as keyof typeof Register] as unknown as number;
  };
  while (decoder.canDecode) {
    const instruction = decoder.decode();
    text.push(formatter.format(instruction));
    const info = factory.info(instruction);
    for (const used of info.usedRegisters()) {
      if (
        used.access !== OpAccess.Read &&
        used.access !== OpAccess.CondRead &&
        used.access !== OpAccess.None
      ) {
        written |= numbers.get(full(used.register)) ?? 0;
      }
    }
    info.free();
    instruction.free();
  }
  decoder.free();
  formatter.free();
  factory.free();
  return { text, written };
}

/** What `count` attaches: the slot is the cookie. */
const count: Write = p => {
  const out = p.label();
  p.call(HELPER.get_attach_cookie).store(4, R10, -4, R0).mov(R2, R10).add(R2, -4).ldMap(R1, counts);
  p.call(HELPER.map_lookup_elem).jump('eq', R0, 0, out).mov(R2, 1).atomicAdd(8, R0, 0, R2);
  return p.bind(out).mov(R0, 0).exit();
};

describe('the code', () => {
  test('of the counting program', () => {
    const code = compile(count);
    const { values } = counts as typeof counts & { values: bigint };
    const { text } = read(code);
    expect(text.slice(0, text.indexOf('ret') + 1)).toEqual([
      'mov rax,[rdi-8]',
      'mov rax,[rax+8]',
      'mov [rsp-4],eax',
      'mov eax,[rsp-4]',
      'cmp eax,64h',
      expect.stringMatching(/^jae /),
      'shl rax,3',
      expect.stringMatching(/^add rax,\[rel /),
      'lock add qword [rax],1',
      'ret',
    ]);
    expect(code.clobbers).toBe(maskOf(rax));
    // Behind the code, aligned: where the values are.
    const bytes = code.place(0n);
    expect(new DataView(bytes.buffer).getBigUint64(bytes.length - 8, true)).toBe(values);
  });

  test('of an empty program is a return', () => {
    const code = compile(p => p.mov(R0, 0).exit());
    expect(read(code).text).toEqual(['ret']);
    expect(code.clobbers).toBe(0);
  });

  test('of a program that uses only arguments has no frame', () => {
    const code = compile(p => p.load(8, R0, R1, 8).exit(), 'fmod_ret');
    expect(read(code).text).toEqual(['mov rax,[rdi+8]', 'ret']);
  });

  test('saves the callee-saved registers that are used, and no others', () => {
    const code = compile(p => p.load(8, R7, R1).load(8, R9, R1).mov(R0, R7).add(R0, R9).exit(), 'fmod_ret');
    expect(read(code).text).toEqual([
      'push r13',
      'push r15',
      'mov r13,[rdi]',
      'mov r15,[rdi]',
      'mov rax,r13',
      'add rax,r15',
      'pop r15',
      'pop r13',
      'ret',
    ]);
  });

  test('takes stack from rsp where it does not fit below it', () => {
    const small = read(compile(p => p.store(8, R10, -128, 1).mov(R0, 0).exit())).text;
    const large = read(compile(p => p.store(8, R10, -136, 1).mov(R0, 0).exit())).text;
    expect(small).toEqual(['mov qword [rsp-80h],1', 'ret']);
    expect(large).toEqual(['sub rsp,88h', 'mov qword [rsp],1', 'add rsp,88h', 'ret']);
  });

  test('takes stack from rsp where a routine is called, which writes below it', () => {
    const { text } = read(
      compile(p =>
        p
          .store(8, R10, -8, 1)
          .ldMap(R1, hash)
          .mov(R2, R10)
          .add(R2, -8)
          .call(HELPER.map_delete_elem)
          .mov(R0, 0)
          .exit(),
      ),
    );
    expect(text[0]).toBe('sub rsp,8');
    expect(text.at(-2)).toBe('add rsp,8');
  });

  test('does not compute what nobody reads', () => {
    const { text } = read(
      compile(p => p.mov(R2, 5).mul(R2, 3).mov(R3, R2).ldImm64(R4, 77n).mov(R0, 0).exit()),
    );
    expect(text).toEqual(['ret']);
  });

  test('a jump to the next instruction is none', () => {
    const p = new ProgramBuilder();
    const next = p.label();
    const insns = p.load(8, R2, R1).jump('eq', R2, 7, next).bind(next).mov(R0, 0).exit().build();
    const program = verifyProgram(insns, { attachType: 'fentry', nargs: 1, maps });
    expect(read(compileProgram(program, env)).text.filter(line => line.startsWith('j'))).toEqual([]);
  });

  test('says which registers change: all that its instructions write, and no others', () => {
    const programs: Write[] = [
      p => p.load(8, R0, R1).load(8, R2, R1, 8).div(R0, R2).exit(),
      p => p.load(8, R2, R1).load(8, R3, R1, 8).lsh(R2, R3).mov(R0, R2).exit(),
      p => p.load(8, R5, R1).smod(R5, 7).mov(R0, R5).exit(),
      p => p.store(8, R10, -8, 5).load(8, R4, R1).atomicFetchXor(8, R10, -8, R4).mov(R0, R4).exit(),
      p => p.store(8, R10, -8, R10).mov(R0, 0).exit(),
      p => p.load(8, R6, R1).bswap(32, R6).movsx(16, R0, R6).exit(),
    ];
    for (const program of programs) {
      const code = compile(program, 'fmod_ret');
      expect(code.clobbers).toBe(read(code).written);
    }
  });

  test('a routine may change every caller-saved register', () => {
    const code = compile(p =>
      p
        .store(8, R10, -8, 1)
        .ldMap(R1, hash)
        .mov(R2, R10)
        .add(R2, -8)
        .call(HELPER.map_lookup_elem)
        .mov(R0, 0)
        .exit(),
    );
    expect(code.clobbers).toBe(CALLER_SAVED);
  });

  test('only what the verifier made is compiled', () => {
    const program = verify(p => p.mov(R0, 0).exit());
    expect(() => compileProgram({ ...program } as unknown as VerifiedProgram, env)).toThrow(
      'only a program that the verifier',
    );
  });

  test('knows where each instruction begins', () => {
    const code = compile(p => p.load(8, R0, R1, 8).add(R0, 5).exit(), 'fmod_ret');
    expect([...code.offsets]).toEqual([0, 4, 8]);
    expect(code.size).toBe(9);
  });
});

describe('helpers compiled in place', () => {
  test('read what the trampoline laid out', () => {
    expect(run(p => p.call(HELPER.get_func_ip).exit())).toBe(CALL.functionAddress);
    expect(run(p => p.call(HELPER.get_attach_cookie).exit())).toBe(3n);
    expect(run(p => p.call(HELPER.get_func_arg_cnt).exit())).toBe(6n);
  });

  test('get_func_arg gives the argument, or -EINVAL for one that is not there', () => {
    const arg =
      (n: bigint): Write =>
      p =>
        p
          .ldImm64(R2, n)
          .mov(R3, R10)
          .add(R3, -8)
          .call(HELPER.get_func_arg)
          .load(8, R1, R10, -8)
          .mul(R0, 1000)
          .add(R0, R1)
          .exit();
    expect(run(arg(0n))).toBe(10n);
    expect(run(arg(5n))).toBe(60n);
    // The argument number is 32 bits.
    expect(run(arg((1n << 32n) + 4n))).toBe(50n);
    const status: Write = p => p.load(8, R2, R1).mov(R3, R10).add(R3, -8).call(HELPER.get_func_arg).exit();
    // What was on the stack does not show through.
    const left: Write = p => {
      p.store(8, R10, -8, 77).load(8, R2, R1).mov(R3, R10).add(R3, -8);
      return p.call(HELPER.get_func_arg).load(8, R0, R10, -8).exit();
    };
    expect(run(left, 'fmod_ret', { ...CALL, args: [6n, 2n, 3n, 4n, 5n, 6n] })).toBe(0n);
    for (const n of [6n, 7n, 0xffff_ffffn]) {
      expect(BigInt.asIntN(64, run(status, 'fmod_ret', { ...CALL, args: [n, 2n, 3n, 4n, 5n, 6n] }))).toBe(
        -22n,
      );
    }
  });
});

describe('array maps', () => {
  const key = (n: number): Uint8Array => Uint8Array.of(n, 0, 0, 0);
  const address =
    (map: { id: number }, index: number): Write =>
    p =>
      p.store(4, R10, -4, index).ldMap(R1, map).mov(R2, R10).add(R2, -4).call(HELPER.map_lookup_elem);

  test('counting by cookie counts, in its slot alone', () => {
    for (let i = 0; i < 1000; i++) run(count, 'fentry', { ...CALL, cookie: BigInt(i % 3) });
    run(count, 'fentry', { ...CALL, cookie: 99n });
    for (const beyond of [100n, 0xffff_ffffn]) run(count, 'fentry', { ...CALL, cookie: beyond });
    const at = (n: number): bigint =>
      new DataView((counts.lookup(key(n)) as Uint8Array).buffer).getBigUint64(0, true);
    expect([0, 1, 2, 3, 98, 99].map(at)).toEqual([334n, 333n, 333n, 0n, 0n, 1n]);
  });

  test.each([counts, pairs, odd, single])(
    'every element of $name ($valueSize bytes) is found, and nothing beyond',
    map => {
      for (let index = 0; index < map.maxEntries; index++) {
        const value = new Uint8Array(map.valueSize).fill(index + 1);
        map.update(key(index), value);
      }
      const first: (index: number) => Write = index => p => {
        const there = p.label();
        return address(
          map,
          index,
        )(p)
          .jump('ne', R0, 0, there)
          .mov(R0, -1)
          .exit()
          .bind(there)
          .load(1, R0, R0)
          .exit();
      };
      for (let index = 0; index < map.maxEntries; index++) expect(run(first(index))).toBe(BigInt(index + 1));
      for (const index of [map.maxEntries, map.maxEntries + 1, -1, 0x7fffffff, -0x80000000]) {
        expect(BigInt.asIntN(64, run(first(index)))).toBe(-1n);
      }
    },
  );

  test('the result of a lookup may be zero wherever it is used', () => {
    // Compared later, through a copy, and the other way round.
    const later = (index: number): Write => {
      return p => {
        const absent = p.label();
        address(pairs, index)(p).mov(R6, R0).mov(R7, 5).jump('eq', R6, 0, absent);
        return p.load(8, R0, R6).mov(R0, 1).exit().bind(absent).mov(R0, R7).exit();
      };
    };
    expect(run(later(6))).toBe(1n);
    expect(run(later(7))).toBe(5n);
    // The null itself is the result.
    const self = (index: number): Write => {
      return p => {
        const absent = p.label();
        return address(pairs, index)(p).jump('eq', R0, 0, absent).mov(R0, 9).bind(absent).exit();
      };
    };
    expect(run(self(6))).toBe(9n);
    expect(run(self(7))).toBe(0n);
  });

  test('a comparison that something else jumps to stays one', () => {
    const write: (direct: boolean) => Write = direct => p => {
      const check = p.label();
      const absent = p.label();
      p.mov(R0, 0)
        .load(8, R6, R1)
        .jump(direct ? 'ne' : 'eq', R6, 0, check);
      address(pairs, 1)(p).bind(check).jump('eq', R0, 0, absent).mov(R0, 8).exit();
      return p.bind(absent).mov(R0, 4).exit();
    };
    expect(run(write(true))).toBe(4n);
    expect(run(write(false))).toBe(8n);
  });

  test('a value of an array of one entry is at hand', () => {
    single.update(key(0), new Uint8Array(64).fill(7));
    expect(run(p => p.ldMapValue(R2, single, 56).load(2, R0, R2).store(1, R2, 0, 9).exit())).toBe(0x0707n);
    expect(single.lookup(key(0))?.[56]).toBe(9);
  });

  test('update and delete call their routines', () => {
    const value = new Uint8Array(16).fill(0x5a);
    pairs.update(key(2), value);
    const update = (index: number, flags: number): Write => {
      return p => {
        p.store(8, R10, -16, 11).store(8, R10, -8, 22).store(4, R10, -24, index);
        p.ldMap(R1, pairs).mov(R2, R10).add(R2, -24).mov(R3, R10).add(R3, -16).mov(R4, flags);
        return p.call(HELPER.map_update_elem).exit();
      };
    };
    expect(run(update(2, 0))).toBe(0n);
    expect(new BigUint64Array((pairs.lookup(key(2)) as Uint8Array).slice().buffer)).toEqual(
      BigUint64Array.of(11n, 22n),
    );
    expect(BigInt.asIntN(64, run(update(2, 1)))).toBe(-17n);
    expect(BigInt.asIntN(64, run(update(7, 0)))).toBe(-7n);
    const remove: Write = p =>
      p.store(4, R10, -4, 1).ldMap(R1, pairs).mov(R2, R10).add(R2, -4).call(HELPER.map_delete_elem).exit();
    expect(BigInt.asIntN(64, run(remove))).toBe(-22n);
  });
});

describe('hash maps', () => {
  const key = (n: bigint): Uint8Array => new Uint8Array(BigUint64Array.of(n).buffer);

  /** Counts argument 0 in the first word of its value, inserting it where it is new. */
  const countArgument: Write = p => {
    const absent = p.label();
    const out = p.label();
    p.mov(R6, R1).load(8, R7, R6).store(8, R10, -8, R7).mov(R8, R10).add(R8, -8);
    p.ldMap(R1, hash).mov(R2, R8).call(HELPER.map_lookup_elem).jump('eq', R0, 0, absent);
    p.mov(R2, 1).atomicAdd(8, R0, 0, R2).load(8, R9, R6, 8).store(8, R0, 16, R9).goto(out);
    p.bind(absent).store(8, R10, -32, 1).store(8, R10, -24, R7).load(8, R5, R6, 8).store(8, R10, -16, R5);
    p.ldMap(R1, hash).mov(R2, R8).mov(R3, R10).add(R3, -32).mov(R4, 1).call(HELPER.map_update_elem);
    return p.bind(out).mov(R0, 0).exit();
  };

  test('lookup, insert, update in place and delete', () => {
    for (let i = 0n; i < 100n; i++)
      run(countArgument, 'fentry', { ...CALL, args: [i % 10n, i, 0n, 0n, 0n, 0n] });
    for (let n = 0n; n < 10n; n++) {
      const words = new BigUint64Array((hash.lookup(key(n)) as Uint8Array).slice().buffer);
      expect(words).toEqual(BigUint64Array.of(10n, n, 90n + n));
    }
    const remove: Write = p =>
      p
        .load(8, R7, R1)
        .store(8, R10, -8, R7)
        .ldMap(R1, hash)
        .mov(R2, R10)
        .add(R2, -8)
        .call(HELPER.map_delete_elem)
        .exit();
    const args = [4n, 0n, 0n, 0n, 0n, 0n];
    expect(run(remove, 'fmod_ret', { ...CALL, args })).toBe(0n);
    expect(BigInt.asIntN(64, run(remove, 'fmod_ret', { ...CALL, args }))).toBe(-2n);
    expect(hash.lookup(key(4n))).toBeUndefined();
  });
});

describe('shapes of control flow', () => {
  test('jumps backwards in the text', () => {
    const write: Write = p => {
      const one = p.label();
      const two = p.label();
      const three = p.label();
      p.load(8, R2, R1).mov(R0, 1).goto(two).bind(one).add(R0, 100).goto(three);
      return p.bind(two).add(R0, 10).goto(one).bind(three).add(R0, R2).exit();
    };
    expect(run(write)).toBe(121n);
  });

  test('the frame pointer is compared as any other', () => {
    const write: Write = p => {
      const [same, other, out] = [p.label(), p.label(), p.label()];
      p.mov(R2, R10).mov(R0, 0).jump('eq', R2, R10, same).goto(out);
      p.bind(same).add(R0, 1).add(R2, -8).jump('lt', R2, R10, other).goto(out);
      return p.bind(other).add(R0, 2).jump('eq', R10, R10, out).add(R0, 4).bind(out).exit();
    };
    expect(run(write)).toBe(3n);
  });

  test('a long jump over a long program', () => {
    const filler = 20_000;
    const p = new ProgramBuilder();
    p.load(8, R2, R1).mov(R0, 7);
    // `gotol` is not the builder's: its distance is in `imm`.
    p.emit({ opcode: CLASS.JMP | JMP.JEQ, dst: 2, src: 0, offset: 1, imm: 10 });
    p.emit({ opcode: CLASS.JMP | JMP.JA, dst: 0, src: 0, offset: 1, imm: 0 });
    p.emit({ opcode: CLASS.JMP32 | JMP.JA, dst: 0, src: 0, offset: 0, imm: filler });
    for (let i = 0; i < filler; i++) p.add(R0, R2);
    p.exit();
    const program = verifyProgram(p.build(), { attachType: 'fmod_ret', nargs: 6, maps });
    const code = compileProgram(program, env);
    expect(bench.run(code, CALL).result).toBe(7n);
    const other = { ...CALL, args: [3n, 0n, 0n, 0n, 0n, 0n] };
    expect(bench.run(code, other).result).toBe(7n + 3n * BigInt(filler));
  });
});

/** Subprograms, callbacks, loops, tail calls and what code needs of its thread: compiled, and run in this process. */

import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 } from '../../../bpf/builder.js';
import { HELPER } from '../../../bpf/helpers.js';
import { type BpfInsn, MAX_LOOPS } from '../../../bpf/instruction.js';
import { KFUNC } from '../../../bpf/kfuncs.js';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import { mem, rax, rcx, rdi, rdx, rsi } from '../../../x86/assembler.js';
import { BLOCK_SIZE, homeOf, SHARED, TABLE, TABLE_BYTES, THREAD } from '../threads/layout.js';
import type { MapSpec } from '../verifier/environment.js';
import type { JitEnv, JitMap, RoutineName } from './environment.js';
import { Bench, type Call, factsByHand } from './fixture.js';
import { generate, type JitCode } from './generate.js';
import { CALLER_SAVED, maskOf } from './register_map.js';

const bench = new Bench(1 << 19);
const CALL = { args: [10n, 20n, 30n, 40n, 50n, 60n], cookie: 3n, functionAddress: 0x5555_0000_1234n };
const minus = (errno: number): bigint => BigInt.asUintN(64, BigInt(-errno));

const ARRAY: MapSpec = { id: 1, type: MAP_TYPE.ARRAY, name: 'a', keySize: 4, valueSize: 8, maxEntries: 5 };
const values = bench.alloc(8 * ARRAY.maxEntries);
const array: JitMap = { ...ARRAY, address: 0x1111_0000n, values: values.address, stride: 8 };

/** mapIterate for that array: a cursor of the next index, and the index as a key behind it. */
const iterate = bench.placeWith(a => {
  const end = a.label();
  a.mov(rcx, mem(rsi), 4);
  a.cmp(rcx, ARRAY.maxEntries, 4);
  a.jcc('ae', end);
  a.mov(mem(rsi, 8), rcx, 4);
  a.inc(mem(rsi), 4);
  a.movImm64(rdx, values.address);
  a.lea(rdx, mem(rdx, 0, rcx, 8));
  a.lea(rax, mem(rsi, 8));
  a.movImm64(rdi, 0xdead_beefn);
  a.ret();
  a.bind(end);
  a.xor(rax, rax, 4);
  a.ret();
});

const env: JitEnv = {
  maps: new Map([[1, array]]),
  routine(name: RoutineName) {
    if (name === 'mapIterate') return iterate;
    throw new RangeError(`no ${name} here`);
  },
};

type Write = (p: ProgramBuilder) => ProgramBuilder;
type Found = NonNullable<Parameters<typeof factsByHand>[1]>;

function insnsOf(write: Write): BpfInsn[] {
  return write(new ProgramBuilder()).build();
}

function runCode(code: JitCode, call: Call = CALL): bigint {
  const { result, changed } = bench.run(code, call);
  expect(changed & ~code.clobbers).toBe(0);
  return result;
}

/** What the program returns compiled; in the interpreter it must return the same. */
function run(write: Write, found: Found = {}, call = CALL): bigint {
  const facts = factsByHand(insnsOf(write), found);
  const result = runCode(generate(facts, env), call);
  expect(bench.interpret(facts, call, env.maps).result).toBe(result);
  return result;
}

describe('subprograms', () => {
  test('take five arguments and give a result', () => {
    const result = run(p => {
      const sum = p.label();
      p.mov(R1, 1).mov(R2, 2).mov(R3, 3).mov(R4, 4).mov(R5, 5).callSubprogram(sum).add(R0, 100).exit();
      return p.bind(sum).mov(R0, R1).add(R0, R2).mul(R0, R3).add(R0, R4).lsh(R0, R5).exit();
    });
    expect(result).toBe(((3n * 3n + 4n) << 5n) + 100n);
  });

  test('keep r6 to r9 and have a stack of their own', () => {
    const result = run(p => {
      const other = p.label();
      p.mov(R6, 6).mov(R7, 7).mov(R8, 8).mov(R9, 9).store(8, R10, -8, 1000).store(8, R10, -512, 2000);
      p.callSubprogram(other).load(8, R1, R10, -8).load(8, R2, R10, -512);
      for (const register of [R1, R2, R6, R7, R8, R9]) p.mul(R0, 10).add(R0, register);
      p.exit();
      p.bind(other).mov(R6, 60).mov(R7, 70).mov(R8, 80).mov(R9, 90).mov(R0, 5);
      return p.store(8, R10, -8, 1).store(8, R10, -512, 2).exit();
    });
    expect(result).toBe([1000n, 2000n, 6n, 7n, 8n, 9n].reduce((sum, value) => sum * 10n + value, 5n));
  });

  test("write their caller's stack through a pointer", () => {
    const result = run(p => {
      const set = p.label();
      p.mov(R1, R10).add(R1, -16).callSubprogram(set).load(8, R0, R10, -16).exit();
      return p.bind(set).store(8, R10, -16, 1).store(8, R1, 0, 77).mov(R0, 0).exit();
    });
    expect(result).toBe(77n);
  });

  test('call each other, eight frames deep', () => {
    const result = run(p => {
      const functions = Array.from({ length: 7 }, () => p.label());
      const call = (n: number): void => {
        const next = functions[n];
        p.store(8, R10, -512, n + 1);
        if (next === undefined) p.mov(R0, 0);
        else p.mov(R1, n).callSubprogram(next);
        p.load(8, R1, R10, -512).mul(R0, 3).add(R0, R1).exit();
      };
      call(0);
      functions.forEach((label, n) => {
        p.bind(label);
        call(n + 1);
      });
      return p;
    });
    let expected = 0n;
    for (let n = 8n; n > 0n; n--) expected = expected * 3n + n;
    expect(result).toBe(expected);
  });

  test('that stand before a long function are reached, and loops in them are theirs', () => {
    const result = run(p => {
      const [main, sum, again] = [p.label(), p.label(), p.label()];
      p.gotol(main);
      p.bind(main).mov(R1, 100).callSubprogram(sum);
      for (let n = 0; n < 2000; n++) p.add(R0, 1);
      p.exit();
      return p.bind(sum).mov(R0, 0).bind(again).add(R0, R1).sub(R1, 1).jump('ne', R1, 0, again).exit();
    });
    expect(result).toBe(5050n + 2000n);
  });
});

/** bpf_loop with a callback that adds the index to what its context points to, and stops behind `last`. */
function loop(nr: number, last: number, flags = 0): Write {
  return p => {
    const callback = p.label();
    const on = p.label();
    p.store(8, R10, -8, 0)
      .mov(R6, 5)
      .mov(R1, nr)
      .ldFunction(R2, callback)
      .mov(R3, R10)
      .add(R3, -8)
      .mov(R4, flags);
    p.call(HELPER.loop).load(8, R1, R10, -8).lsh(R1, 32).xor(R0, R1).exit();
    p.bind(callback).load(8, R3, R2).add(R3, R1).store(8, R2, 0, R3).mov(R6, 9).mov(R0, 0);
    return p.jump('le', R1, last, on).mov(R0, 1).bind(on).exit();
  };
}

describe('bpf_loop', () => {
  test('calls back so often', () => expect(run(loop(10, 1000))).toBe((45n << 32n) | 10n));
  test('calls back never', () => expect(run(loop(0, 1000))).toBe(0n));
  test('stops where the callback says so', () => expect(run(loop(10, 3))).toBe((10n << 32n) | 5n));
  test('refuses flags', () => expect(run(loop(10, 3, 1))).toBe(minus(22)));
  test('takes a number of 32 bits', () => expect(run(loop(-1, 3))).toBe(minus(7)));
  test('refuses one more than 2^23', () => {
    expect(runCode(generate(factsByHand(insnsOf(loop(MAX_LOOPS + 1, 0))), env))).toBe(minus(7));
    const longest = runCode(generate(factsByHand(insnsOf(loop(MAX_LOOPS, 0x7fff_ffff))), env));
    expect(longest & 0xffff_ffffn).toBe(BigInt(MAX_LOOPS) ^ 0n);
  });

  test('within a callback of another', () => {
    const result = run(p => {
      const [outer, inner] = [p.label(), p.label()];
      p.store(8, R10, -8, 0)
        .mov(R1, 7)
        .ldFunction(R2, outer)
        .mov(R3, R10)
        .add(R3, -8)
        .mov(R4, 0)
        .call(HELPER.loop);
      p.load(8, R0, R10, -8).exit();
      p.bind(outer).mov(R6, R2).mov(R1, R1).ldFunction(R2, inner).mov(R3, R6).mov(R4, 0).call(HELPER.loop);
      p.mov(R0, 0).exit();
      return p.bind(inner).load(8, R0, R2).add(R0, 1).store(8, R2, 0, R0).mov(R0, 0).exit();
    });
    expect(result).toBe(21n);
  });
});

describe('bpf_for_each_map_elem', () => {
  const sum =
    (stop: number, flags = 0): Write =>
    p => {
      const [callback, on] = [p.label(), p.label()];
      p.store(8, R10, -8, 0)
        .ldMap(R1, ARRAY)
        .ldFunction(R2, callback)
        .mov(R3, R10)
        .add(R3, -8)
        .mov(R4, flags);
      p.call(HELPER.for_each_map_elem).load(8, R1, R10, -8).lsh(R1, 32).or(R0, R1).exit();
      p.bind(callback)
        .load(4, R5, R2)
        .load(8, R0, R3)
        .mul(R0, R5)
        .load(8, R1, R4)
        .add(R1, R0)
        .store(8, R4, 0, R1);
      return p.mov(R0, 0).jump('ne', R5, stop, on).mov(R0, 1).bind(on).exit();
    };
  const found = { callMap: ARRAY };
  new BigUint64Array(values.bytes.slice().fill(0).buffer);
  const view = new DataView(values.bytes.buffer, values.bytes.byteOffset);
  for (let n = 0; n < ARRAY.maxEntries; n++) view.setBigUint64(8 * n, BigInt(n + 2), true);

  test('visits all', () => expect(run(sum(99), found)).toBe(((3n + 8n + 15n + 24n) << 32n) | 5n));
  test('stops', () => expect(run(sum(2), found)).toBe(((3n + 8n) << 32n) | 3n));
  test('refuses flags', () => {
    expect(runCode(generate(factsByHand(insnsOf(sum(2, 1)), found), env))).toBe(minus(22));
  });
});

describe('may_goto', () => {
  test('ends a loop that would not end, after 2^23 rounds', () => {
    const endless: Write = p => {
      const [again, out] = [p.label(), p.label()];
      return p.mov(R0, 0).bind(again).mayGoto(out).add(R0, 1).goto(again).bind(out).exit();
    };
    expect(runCode(generate(factsByHand(insnsOf(endless)), env))).toBe(BigInt(MAX_LOOPS));
  });

  test('goes on before that', () => {
    const result = run(p => {
      const [again, out] = [p.label(), p.label()];
      p.mov(R0, 0).bind(again).mayGoto(out).add(R0, 1).jump('lt', R0, 1000, again).mov(R0, 5);
      return p.bind(out).exit();
    });
    expect(result).toBe(5n);
  });
});

describe('the numbers iterator', () => {
  const sum =
    (start: number, end: number): Write =>
    p => {
      const [again, out, bad] = [p.label(), p.label(), p.label()];
      p.mov(R7, 0).mov(R1, R10).add(R1, -8).mov(R2, start).mov(R3, end).callKfunc(KFUNC.bpf_iter_num_new);
      p.mov(R8, R0).jump('ne', R0, 0, bad).bind(bad).bind(again);
      p.mov(R1, R10).add(R1, -8).callKfunc(KFUNC.bpf_iter_num_next).jump('eq', R0, 0, out);
      p.load(4, R1, R0).movsx(32, R1, R1).mul(R7, 3).add(R7, R1).goto(again);
      p.bind(out).mov(R1, R10).add(R1, -8).callKfunc(KFUNC.bpf_iter_num_destroy);
      return p.load(8, R0, R10, -8).add(R0, R7).xor(R0, R8).exit();
    };
  test('counts up', () => expect(run(sum(0, 4))).toBe(1n * 9n + 2n * 3n + 3n));
  test('counts below zero', () => expect(run(sum(-2, 1))).toBe(BigInt.asUintN(64, -2n * 9n - 3n)));
  test('has nothing between a number and itself', () => expect(run(sum(5, 5))).toBe(0n));
  test('refuses an end before the start', () => expect(run(sum(5, 4))).toBe(minus(22)));
  test('refuses too many', () => {
    expect(run(sum(0, MAX_LOOPS + 1))).toBe(minus(7));
    expect(run(sum(-0x8000_0000, 0x7fff_ffff))).toBe(minus(7));
  });
  test('works at both ends of what 32 bits hold', () => {
    expect(run(sum(0x7fff_fffd, 0x7fff_ffff))).toBe(0x7fff_fffdn * 3n + 0x7fff_fffen);
    expect(run(sum(-0x8000_0000, -0x7fff_ffff))).toBe(BigInt.asUintN(64, -0x8000_0000n));
  });
});

describe('helpers in place', () => {
  test("get_func_ret gives the result behind the function's arguments", () => {
    const write: Write = p =>
      p.mov(R2, R10).add(R2, -8).call(HELPER.get_func_ret).load(8, R1, R10, -8).add(R0, R1).exit();
    const code = generate(factsByHand(insnsOf(write), { returnAt: 2 }), env);
    // The bench's context has what was there from the run before: write one more argument, then call with one less.
    runCode(code, { ...CALL, args: [1n, 2n, 4711n] });
    expect(runCode(code, { ...CALL, args: [1n, 2n] })).toBe(4711n);
    expect(runCode(generate(factsByHand(insnsOf(write)), env))).toBe(minus(95));
  });
});

test("a session's kernel functions read what its trampoline laid out", () => {
  const cookie = bench.alloc(8);
  const code = generate(
    factsByHand(
      insnsOf(p => {
        const again = p.label();
        p.mov(R6, R1).callKfunc(KFUNC.bpf_session_cookie).mov(R7, R0).mov(R1, R6);
        p.callKfunc(KFUNC.bpf_session_is_return)
          .jump('ne', R0, 0, again)
          .store(8, R7, 0, 4711)
          .mov(R0, 1)
          .exit();
        return p.bind(again).load(8, R0, R7).exit();
      }),
    ),
    env,
  );
  const session = { cookie: cookie.address, isReturn: false };
  expect(runCode(code, { ...CALL, session })).toBe(1n);
  expect(runCode(code, { ...CALL, session: { ...session, isReturn: true } })).toBe(4711n);
});

test('bpf_rdonly_cast changes nothing', () => {
  const code = generate(
    factsByHand(insnsOf(p => p.mov(R1, 7).mov(R2, 9).callKfunc(KFUNC.bpf_rdonly_cast).exit())),
    env,
  );
  expect(runCode(code)).toBe(7n);
});

describe('bpf_override_return', () => {
  const write =
    (value: number, result: number): Write =>
    p =>
      p.mov(R6, 4).mov(R2, value).call(HELPER.override_return).mov(R7, R0).mov(R0, result).add(R0, R7).exit();

  test("makes its value the program's result, whatever that is", () => {
    const code = (value: number, result: number) =>
      generate(factsByHand(insnsOf(write(value, result)), { mayOverride: true }), env);
    expect(runCode(code(-5, 0))).toBe(minus(5));
    expect(runCode(code(7, 9))).toBe(7n);
    // Zero would let the function run: it is not taken.
    expect(runCode(code(0, 9))).toBe(minus(22) + 9n);
  });

  test('is for modify-return programs, in themselves, without tail calls', () => {
    const refused = (found: Found, w: Write = write(1, 0)) =>
      expect(() => generate(factsByHand(insnsOf(w), found), env));
    refused({}).toThrow('only a modify-return program');
    refused({ mayOverride: true, needs: { tailCalls: true } }).toThrow('lost at a tail call');
    refused({ mayOverride: true }, p => {
      const f = p.label();
      return p.callSubprogram(f).exit().bind(f).mov(R2, 1).call(HELPER.override_return).exit();
    }).toThrow('not by a subprogram');
  });
});

describe('loads through pointers that may be bad', () => {
  const probe: Write = p => p.load(8, R2, R1).loadSigned(2, R0, R2, 8).add(R0, 1).exit();
  const facts = factsByHand(insnsOf(probe), { probeLoads: [1] });
  const code = generate(facts, env);
  const target = bench.alloc(16);
  target.bytes.set([0xfe, 0xff], 8);

  test('are loads where it is good', () => {
    expect(runCode(code, { ...CALL, args: [target.address] })).toBe(minus(1));
  });

  test.each([0n, 1n, 0xfff0n, 0x8000_0001_0000n, 0xffff_8000_0000_0000n, 0xffff_ffff_ffff_fff8n, 1n << 63n])(
    '0x%x is zero without a fault',
    address => expect(runCode(code, { ...CALL, args: [address] })).toBe(1n),
  );

  test('say where they may fault, and what happens then', () => {
    expect(code.faults).toHaveLength(1);
    const [fault] = code.faults;
    const at = code.offsets[1] as number;
    expect(fault?.at).toBeGreaterThan(at);
    expect(fault?.resume).toBe(code.offsets[2]);
    expect(fault?.clear).toBe(rax.code);
    expect(code.place(0n).subarray(fault?.at, (fault?.at ?? 0) + 3)).toEqual(Uint8Array.of(0x48, 0x0f, 0xbf));
  });

  test('into the register that held the pointer', () => {
    const same = generate(
      factsByHand(
        insnsOf(p => p.load(8, R2, R1).load(4, R2, R2, -4).mov(R0, R2).exit()),
        { probeLoads: [1] },
      ),
      env,
    );
    expect(runCode(same, { ...CALL, args: [target.address + 12n] })).toBe(0xfffen);
    expect(runCode(same, { ...CALL, args: [4n] })).toBe(0n);
  });
});

/** Thread blocks in this process's memory. */
function threads(): { env: JitEnv; table: Uint8Array; shared: Uint8Array; missed: () => bigint } {
  const table = bench.alloc(TABLE_BYTES);
  const shared = bench.alloc(SHARED.size);
  const missed = bench.alloc(8);
  shared.bytes.fill(0xff, SHARED.free, SHARED.free + 16);
  const thread = { table: table.address, shared: shared.address };
  return {
    env: { ...env, thread, missed: missed.address },
    table: table.bytes,
    shared: shared.bytes,
    missed: () => new DataView(missed.bytes.buffer, missed.bytes.byteOffset).getBigUint64(0, true),
  };
}

/** The block that is taken, in the bytes of a table. */
function takenBlock(table: Uint8Array): DataView {
  for (let at = TABLE.blocks; at + BLOCK_SIZE <= table.length; at += BLOCK_SIZE) {
    const view = new DataView(table.buffer, table.byteOffset + at, BLOCK_SIZE);
    if (view.getBigUint64(THREAD.key, true) !== 0n) return view;
  }
  throw new Error('no block is taken');
}

describe('what belongs to a thread', () => {
  const own = threads();
  const cpu: Write = p => p.call(HELPER.get_smp_processor_id).exit();

  test('its slot is its processor', () => {
    const code = generate(factsByHand(insnsOf(cpu), { needs: { thread: true } }), own.env);
    const slot = runCode(code);
    expect(slot).toBeLessThan(128n);
    expect(runCode(code)).toBe(slot);
    expect(takenBlock(own.table).getUint32(THREAD.slot, true)).toBe(Number(slot));
    expect(homeOf(0n)).toBe(0);
  });

  test('subprograms and callbacks know it too', () => {
    const code = generate(
      factsByHand(
        insnsOf(p => {
          const [f, callback] = [p.label(), p.label()];
          p.callSubprogram(f).exit();
          p.bind(f).mov(R1, 3).ldFunction(R2, callback).mov(R3, R10).add(R3, -8).mov(R4, 0).call(HELPER.loop);
          p.load(8, R0, R10, -8).exit();
          return p
            .bind(callback)
            .mov(R6, R2)
            .call(HELPER.get_smp_processor_id)
            .store(8, R6, 0, R0)
            .mov(R0, 0)
            .exit();
        }),
        { needs: { thread: true } },
      ),
      own.env,
    );
    takenBlock(own.table).setUint32(THREAD.slot, 77, true);
    expect(runCode(code)).toBe(77n);
  });

  test('a program that is not to be entered again is not, and that is counted', () => {
    const code = generate(
      factsByHand(
        insnsOf(p => p.mov(R0, 5).exit()),
        { needs: { thread: true, guard: true } },
      ),
      own.env,
    );
    expect(runCode(code)).toBe(5n);
    const block = takenBlock(own.table);
    expect(block.getBigUint64(THREAD.active, true)).toBe(0n);
    // As if this ran on top of itself: the stack pointer that it keeps is above the present one.
    block.setBigUint64(THREAD.active, 0x7fff_ffff_fff8n, true);
    expect(runCode(code)).toBe(0n);
    expect(own.missed()).toBe(1n);
    block.setBigUint64(THREAD.active, 0n, true);
    expect(runCode(code)).toBe(5n);
  });

  test('without a free slot a program does not run, and that is counted', () => {
    const full = threads();
    full.shared.fill(0, SHARED.free, SHARED.free + 16);
    const code = generate(factsByHand(insnsOf(cpu), { needs: { thread: true } }), full.env);
    expect(runCode(code)).toBe(0n);
    expect(full.missed()).toBe(1n);
  });

  test('a per-CPU array has a value for each', () => {
    const spec: MapSpec = { ...ARRAY, id: 2, type: 6, valueSize: 24 };
    const memory = bench.alloc(2048);
    const perCpu: JitMap = { ...spec, address: 0n, values: memory.address, stride: 24, slotStride: 256 };
    const found = { callMap: spec, needs: { thread: true } };
    const code = generate(
      factsByHand(
        insnsOf(p => {
          const out = p.label();
          p.load(8, R2, R1)
            .store(4, R10, -4, R2)
            .mov(R2, R10)
            .add(R2, -4)
            .ldMap(R1, spec)
            .call(HELPER.map_lookup_elem);
          return p.jump('eq', R0, 0, out).mov(R1, 9).atomicAdd(8, R0, 8, R1).mov(R0, 1).bind(out).exit();
        }),
        found,
      ),
      { ...own.env, maps: new Map([[2, perCpu]]) },
    );
    takenBlock(own.table).setUint32(THREAD.slot, 3, true);
    expect(runCode(code, { ...CALL, args: [4n] })).toBe(1n);
    expect(runCode(code, { ...CALL, args: [5n] })).toBe(0n);
    const view = new DataView(memory.bytes.buffer, memory.bytes.byteOffset);
    expect(view.getBigUint64(3 * 256 + 4 * 24 + 8, true)).toBe(9n);
    expect(memory.bytes.filter(byte => byte !== 0)).toHaveLength(1);
  });
});

describe('tail calls', () => {
  const own = threads();
  const spec: MapSpec = { ...ARRAY, id: 3, type: 3, name: 'programs', maxEntries: 4 };
  const slots = bench.alloc(8 * spec.maxEntries);
  const programs: JitMap = { ...spec, address: 0n, values: slots.address };
  const found = { callMap: spec, needs: { tailCalls: true } };
  const tailEnv = { ...own.env, maps: new Map([[3, programs]]) };

  /** Compiles a program, places it for good, and enters it in the array where `index` says so. */
  function place(write: Write, index?: number, f: Found = found): JitCode {
    const code = generate(factsByHand(insnsOf(write), f), tailEnv);
    const address = bench.placeBytes(at => code.place(at), code.size);
    const view = new DataView(slots.bytes.buffer, slots.bytes.byteOffset);
    if (index !== undefined) view.setBigUint64(8 * index, address + BigInt(code.tailEntry), true);
    return code;
  }
  const jump = (p: ProgramBuilder, index: number): ProgramBuilder =>
    p.ldMap(R2, spec).mov(R3, index).call(HELPER.tail_call);
  const counter = bench.alloc(8);
  const counted = (): bigint =>
    new DataView(counter.bytes.buffer, counter.bytes.byteOffset).getBigUint64(0, true);
  const count = (p: ProgramBuilder): ProgramBuilder =>
    p.ldImm64(R4, counter.address).mov(R5, 1).atomicAdd(8, R4, 0, R5);

  test('go on in another program, whose result it is', () => {
    place(p => p.load(8, R0, R1, 8).add(R0, 1).exit(), 0, {});
    const code = place(p =>
      jump(p.mov(R6, 1).mov(R7, 2).store(8, R10, -512, 3), 0)
        .mov(R0, 99)
        .exit(),
    );
    expect(runCode(code)).toBe(21n);
    expect(code.clobbers).toBe(CALLER_SAVED);
  });

  test('do nothing for an index without a program', () => {
    for (const index of [1, 4, -1]) expect(runCode(place(p => jump(p, index).mov(R0, 99).exit()))).toBe(99n);
  });

  test('are made 33 times at most', () => {
    place(p => jump(count(p), 2).mov(R0, 7).exit(), 2);
    counter.bytes.fill(0);
    const code = place(p => jump(count(p), 2).mov(R0, 8).exit());
    expect(runCode(code)).toBe(7n);
    expect(counted()).toBe(34n);
    // Each run begins at nought.
    expect(runCode(code)).toBe(7n);
    expect(counted()).toBe(68n);
    expect(takenBlock(own.table).getBigUint64(THREAD.active, true)).toBe(0n);
  });

  test('in a subprogram end the subprogram, and count with those of the others', () => {
    counter.bytes.fill(0);
    const code = place(p => {
      const f = p.label();
      p.mov(R6, R1)
        .mov(R7, 1000)
        .callSubprogram(f)
        .add(R7, R0)
        .mov(R1, R6)
        .callSubprogram(f)
        .add(R0, R7)
        .exit();
      return jump(p.bind(f).mov(R7, 5), 2).mov(R0, 1).exit();
    });
    // The first uses up all 33; the second can make none.
    expect(runCode(code)).toBe(1000n + 7n + 1n);
    expect(counted()).toBe(33n);
  });

  test('enter a program that needs its thread, and is guarded, behind its guard', () => {
    place(p => p.call(HELPER.get_smp_processor_id).exit(), 3, { needs: { thread: true, guard: true } });
    const code = place(p => jump(p, 3).mov(R0, 99).exit());
    takenBlock(own.table).setUint32(THREAD.slot, 44, true);
    const before = own.missed();
    expect(runCode(code)).toBe(44n);
    expect(own.missed()).toBe(before);
  });

  test('do the same in the interpreter', () => {
    const target = insnsOf(p =>
      jump(p.load(8, R0, R1, 8).add(R6, 1).mov(R1, R1), 1)
        .mov(R0, 7)
        .exit(),
    );
    const insns = insnsOf(p => jump(p.mov(R6, 0), 0).mov(R0, 99).exit());
    const run = (program: readonly BpfInsn[], index: number) =>
      bench.interpret({ insns: program }, CALL, tailEnv.maps, undefined, (_, i) =>
        i === index ? target : undefined,
      );
    expect(run(insns, 0).result).toBe(7n);
    expect(run(insns, 1).result).toBe(99n);
  });
});

test('a program whose loads may fault does not run where nobody sees to that', () => {
  const word = bench.alloc(8);
  const table = bench.alloc(TABLE_BYTES);
  const code = generate(
    factsByHand(
      insnsOf(p => p.mov(R0, 5).exit()),
      { needs: { faults: true } },
    ),
    { ...env, tracer: { word: word.address, table: table.address } },
  );
  const set = (bytes: Uint8Array, at: number, value: number) =>
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(at, value, true);
  set(word.bytes, 0, 1234);
  set(table.bytes, TABLE.attached, 1);
  expect(runCode(code)).toBe(5n);
  // The kernel's mark of a robust futex whose owner died.
  set(word.bytes, 0, 0x4000_0000);
  expect(runCode(code)).toBe(0n);
  set(word.bytes, 0, 1234);
  set(table.bytes, TABLE.attached, 0);
  expect(runCode(code)).toBe(0n);
  expect(code.clobbers & maskOf(rax)).not.toBe(0);
});

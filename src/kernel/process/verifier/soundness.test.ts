/**
 * Whatever the verifier accepts is safe: random programs, most of them wrong, and every accepted one is run in the
 * interpreter with memory that knows exactly which bytes may be touched, and every register compared with what the
 * verifier believed of it: ranges, known bits, whether a pointer is null.
 */

import { expect, test } from 'vitest';
import {
  ProgramBuilder,
  type ProgramLabel,
  R0,
  R1,
  R2,
  R3,
  R4,
  R5,
  R6,
  R7,
  R8,
  R9,
  R10,
  type Register,
} from '../../../bpf/builder.js';
import { disassemble } from '../../../bpf/disassemble.js';
import { HELPER } from '../../../bpf/helpers.js';
import { type BpfMemory, interpret } from '../../../bpf/interpreter.js';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import type { AccessSize, Condition } from '../../../bpf/operation.js';
import { BpfError } from '../../errno.js';
import type { MapSpec } from './environment.js';
import { type Admits, allows, Beliefs } from './fixture.js';
import { type VerifiedProgram, verifyProgram } from './verifier.js';

const SEED = Number(process.env.MULTITRACE_SEED ?? Date.now() % 2 ** 31);
const PROGRAMS = Number(process.env.MULTITRACE_PROGRAMS ?? (process.env.MULTITRACE_SOAK ? 1_000_000 : 2_000));
const NARGS = 2;
const MAP: MapSpec = { id: 1, type: MAP_TYPE.ARRAY, name: 'm', keySize: 4, valueSize: 24, maxEntries: 2 };
const FRAME = 0x7000_0000_0000n;
const CONTEXT = 0x6000_0000_0000n;
const VALUES = 0x5000_0000_0000n;
const MAP_ADDRESS = 0x4000_0000_0000n;
/** Far apart, so that leaving one value is leaving memory. */
const STRIDE = 0x1000n;

let state = SEED;
function below(n: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) | 0;
  return (state >>> 8) % n;
}
function pick<T>(items: readonly T[]): T {
  return items[below(items.length)] as T;
}

const REGISTERS: readonly Register[] = [R0, R1, R2, R3, R4, R5, R6, R7, R8, R9];
const CONDITIONS: Condition[] = ['eq', 'ne', 'gt', 'ge', 'lt', 'le', 'sgt', 'sge', 'slt', 'sle', 'set'];

function lookup(p: ProgramBuilder): void {
  p.store(4, R10, -4, below(3)).ldMap(R1, MAP).mov(R2, R10).add(R2, -4).call(HELPER.map_lookup_elem);
}

/** A few instructions that bring a number from outside between bounds, or almost, and use it as an offset. */
function bounded(p: ProgramBuilder, waiting: ProgramLabel[]): void {
  const index = pick([R7, R8]);
  p.load(8, index, R6, 8 * below(NARGS));
  const out = p.label();
  waiting.push(out);
  switch (below(6)) {
    case 0:
      p.and(index, pick([1, 3, 7, 15, 16, 23, 31]));
      break;
    case 1:
      p.mod(index, pick([8, 16, 17, 24, 25, 32]));
      break;
    case 2:
      p.jump(pick(['gt', 'ge', 'sgt', 'sge'] as const), index, pick([8, 15, 16, 23, 24]), out);
      break;
    case 3:
      p.mov32(index, index).jump32(pick(['gt', 'ge', 'sgt'] as const), index, pick([8, 16, 20]), out);
      break;
    case 4:
      p.rsh(index, pick([59, 60, 61, 62]));
      break;
    default:
      p.movsx(8, index, index).jump('gt', index, pick([8, 16]), out);
  }
  if (below(3) === 0) p.lsh(index, below(4));
  if (below(4) === 0) p.sub(index, below(4));
  if (below(4) === 0) p.xor32(index, below(8));
  p.mov(R5, R9).add(R5, index);
  if (below(3) === 0) p.mov(R4, 1).atomicAdd(pick([4, 8] as const), R5, below(12), R4);
  else p.load(pick<AccessSize>([1, 2, 4, 8]), R4, R5, below(20) - 2);
}

function anything(p: ProgramBuilder, waiting: ProgramLabel[]): void {
  const dst = pick(REGISTERS);
  const src = pick([...REGISTERS, R10]);
  const size = pick<AccessSize>([1, 2, 4, 8]);
  switch (below(12)) {
    case 0:
      p.mov(dst, src);
      return;
    case 1:
      p.add(dst, below(2) === 0 ? src : below(40) - 20);
      return;
    case 2:
      p.mov(dst, below(30));
      return;
    case 3:
      p.load(size, dst, src, below(40) - 24);
      return;
    case 4:
      p.store(size, pick([R10, R9, dst]), -8 * below(5) + below(8), pick([src, 5]));
      return;
    case 5:
      p.store(8, R10, -8 * (1 + below(4)), src);
      return;
    case 6:
      p.load(8, dst, R10, -8 * (1 + below(4)));
      return;
    case 7: {
      const label = p.label();
      waiting.push(label);
      p.jump(pick(CONDITIONS), dst, below(2) === 0 ? src : below(20), label);
      return;
    }
    case 8:
      lookup(p);
      return;
    case 9: {
      const label = p.label();
      waiting.push(label);
      p.jump(pick(['eq', 'ne'] as const), dst, 0, label);
      return;
    }
    case 10:
      p.mov(R1, R6)
        .mov(R2, below(3))
        .mov(R3, R10)
        .add(R3, -8 * below(4))
        .call(HELPER.get_func_arg);
      return;
    default:
      bounded(p, waiting);
  }
}

/** A loop that ends, or almost: by a counter, by a bound from outside, or never. */
function loop(p: ProgramBuilder, waiting: ProgramLabel[]): void {
  const counter = pick([R7, R8]);
  const again = p.label();
  const out = p.label();
  if (below(2) === 0) p.mov(counter, below(4));
  else p.load(8, counter, R6, 8 * below(NARGS)).and(counter, pick([3, 7, 15]));
  p.bind(again);
  switch (below(4)) {
    case 0:
      p.mov(R5, R9)
        .add(R5, counter)
        .load(pick<AccessSize>([1, 2, 4]), R4, R5, 0);
      break;
    case 1:
      p.mov(R5, R10).add(R5, -16).add(R5, counter).store(1, R5, 0, 1);
      break;
    case 2:
      p.store(8, R10, -24, counter).load(8, R3, R10, -24).mov(R5, R9).add(R5, R3).load(1, R4, R5, 0);
      break;
    default:
      p.load(8, R3, R6, 0).jump('eq', R3, below(3), out);
  }
  p.add(counter, pick([1, 1, 1, 2, 0]));
  p.jump(pick(['lt', 'ne', 'slt', 'le', 'lt'] as const), counter, pick([4, 8, 16, 23, 24, 25]), again).bind(
    out,
  );
  if (below(4) === 0) anything(p, waiting);
}

/** Numbers that are copies of one another, compared and used. */
function linked(p: ProgramBuilder, waiting: ProgramLabel[]): void {
  const out = p.label();
  waiting.push(out);
  p.load(8, R7, R6, 8 * below(NARGS));
  if (below(2) === 0) p.mov32(R7, R7);
  p.mov(R8, R7);
  if (below(2) === 0) p.store(8, R10, -32, R8).load(8, R8, R10, -32);
  const bound = pick([8, 16, 23, 24, 25, 32]);
  if (below(2) === 0) p.jump(pick(['gt', 'ge', 'sgt'] as const), R7, bound, out);
  else {
    // The bound is in a register, itself bounded, or not.
    p.load(8, R3, R6, 0);
    if (below(3) > 0) p.and(R3, pick([7, 15, 31]));
    p.jump(pick(['gt', 'ge', 'ne'] as const), R7, R3, out);
  }
  p.mov(R5, R9)
    .add(R5, R8)
    .load(1, R4, R5, below(3) - 1);
}

/** Two ways that come together with something different on each, and a use of it behind. */
function joined(p: ProgramBuilder, waiting: ProgramLabel[]): void {
  const join = p.label();
  const out = p.label();
  waiting.push(out);
  const offset = (): number => pick([0, 7, 8, 16, 22, 23, 24, 25, 40]);
  const chosen = (): ProgramBuilder => p.load(8, R3, R6, 8 * below(NARGS)).jump('eq', R3, below(3), join);
  const use = (from: Register): ProgramBuilder => p.mov(R5, R9).add(R5, from).load(1, R4, R5);
  switch (below(8)) {
    case 6:
      // A pointer that only one way, or both, compared with null.
      lookup(p);
      if (below(2) === 0) p.jump('eq', R0, 0, out);
      chosen()
        .jump('eq', R0, 0, out)
        .bind(join)
        .load(1, R4, R0, below(26) - 1);
      break;
    case 0:
      p.mov(R7, offset());
      chosen().mov(R7, offset()).bind(join);
      if (below(2) === 0) p.mov(R8, R7);
      else p.mov(R8, 0).add(R8, R7);
      use(R8);
      break;
    case 1:
      // What bounds is itself bounded differently.
      p.load(8, R7, R6, 8).mov(R8, offset());
      chosen().mov(R8, offset()).bind(join).jump('gt', R7, R8, out);
      use(R7);
      break;
    case 2:
      // A copy on one way, another number on the other.
      p.load(8, R7, R6, 8).mov(R8, R7);
      chosen()
        .load(8, R8, R6, 0)
        .bind(join)
        .jump('gt', R7, pick([16, 23, 24]), out);
      use(R8);
      break;
    case 3: {
      const size = pick<AccessSize>([1, 4, 8]);
      p.store(8, R10, -40, offset());
      chosen().store(size, R10, -40, offset()).bind(join).load(8, R7, R10, -40);
      use(R7);
      break;
    }
    case 4:
      // A decision that the number makes.
      p.mov(R7, below(3)).mov(R8, 0);
      chosen().mov(R7, below(3)).bind(join).jump('eq', R7, 1, out);
      p.jump('eq', R7, below(3), out).mov(R8, offset());
      use(R8);
      break;
    case 5: {
      // A copy refined with the number that is compared, by a register.
      const bound = p.load(8, R7, R6, 8).mov(R4, R7).mov(R8, offset());
      void bound;
      chosen().mov(R8, offset()).bind(join).jump('gt', R4, R8, out);
      use(R7);
      break;
    }
    default:
      p.mov(R7, R9);
      chosen()
        .mov(R7, pick([R10, R9, R8]))
        .bind(join)
        .load(1, R4, R7, pick([0, -1, 8]));
  }
}

/** A call of a function behind the program, with a number and a pointer to the stack. */
function callFunction(p: ProgramBuilder, functions: ProgramLabel[]): void {
  const name = p.label();
  functions.push(name);
  p.load(8, R1, R6, 0);
  if (below(2) === 0) p.and(R1, pick([3, 7, 15, 31]));
  if (below(3) > 0) p.mov(R2, R10).add(R2, -8 * (1 + below(4)));
  else p.mov(R2, R9);
  p.callSubprogram(name);
  if (below(2) === 0) p.mov(R5, R9).add(R5, R0).load(1, R4, R5, 0);
  if (below(3) === 0) p.load(8, R4, R10, -8 * (1 + below(4)));
}

function functionBody(p: ProgramBuilder): void {
  const out = p.label();
  switch (below(5)) {
    case 0:
      p.store(8, R2, 0, below(30)).mov(R0, below(30));
      break;
    case 1:
      p.jump('gt', R1, pick([15, 23, 24, 40]), out)
        .mov(R0, R1)
        .exit()
        .bind(out)
        .mov(R0, below(26));
      break;
    case 2:
      p.mov(R0, R1)
        .and(R0, pick([7, 15, 31]))
        .store(8, R10, -8, R0)
        .store(pick<AccessSize>([1, 8]), R2, 0, R0);
      break;
    case 3:
      p.store(8, R10, -8, R2)
        .load(8, R3, R10, -8)
        .load(pick<AccessSize>([1, 4, 8]), R0, R3, 0);
      if (below(2) === 0) p.jump('gt', R0, 23, out).exit().bind(out).mov(R0, 1);
      break;
    default: {
      const again = p.label();
      p.mov(R0, 0)
        .bind(again)
        .add(R0, 1)
        .jump('lt', R0, pick([5, 24, 25]), again);
    }
  }
  p.exit();
}

function randomProgram(): ProgramBuilder {
  const p = new ProgramBuilder();
  const waiting: ProgramLabel[] = [];
  p.mov(R6, R1);
  lookup(p);
  const there = p.label();
  p.jump('ne', R0, 0, there).exit().bind(there).mov(R9, R0);
  // Few instructions: the more there are, the surer one is wrong.
  const length = 1 + below(6);
  const functions: ProgramLabel[] = [];
  for (let i = 0; i < length; i++) {
    while (waiting.length > 0 && below(3) === 0) p.bind(waiting.shift() as ProgramLabel);
    switch (below(10)) {
      case 3:
      case 4:
        joined(p, waiting);
        break;
      case 0:
        loop(p, waiting);
        break;
      case 1:
        linked(p, waiting);
        break;
      case 2:
        callFunction(p, functions);
        break;
      default:
        anything(p, waiting);
    }
  }
  for (const label of waiting) p.bind(label);
  p.mov(R0, 0).exit();
  for (const label of functions) functionBody(p.bind(label));
  return p;
}

class Watched implements BpfMemory {
  private readonly bytes = new Map<bigint, number>();
  /** Bytes that may be read. */
  private readonly readable = new Set<bigint>();

  constructor() {
    // A store at an offset that is not known makes every byte that it may hit readable.
    for (let i = 1n; i <= 8n * 512n; i++) this.put(FRAME - i, below(256));
    for (let argument = 0n; argument < BigInt(NARGS); argument++) {
      // Small numbers most of the time: they take the ways that comparisons with constants have.
      const small = pick([below(4), below(4), below(32), -1]);
      for (let i = 0n; i < 8n; i++) {
        const byte = small < 0 ? pick([0, 0, 1, 7, 8, 255, below(256)]) : i === 0n ? small : 0;
        this.put(CONTEXT + argument * 8n + i, byte);
      }
    }
    for (let entry = 0n; entry < BigInt(MAP.maxEntries); entry++) {
      for (let i = 0n; i < BigInt(MAP.valueSize); i++) this.put(VALUES + entry * STRIDE + i, below(256));
    }
  }

  load(address: bigint, size: AccessSize): bigint {
    let value = 0n;
    for (let i = 0n; i < BigInt(size); i++) {
      if (!this.readable.has(address + i)) throw new RangeError(`reads 0x${(address + i).toString(16)}`);
      value |= BigInt(this.bytes.get(address + i) as number) << (8n * i);
    }
    return value;
  }

  store(address: bigint, size: AccessSize, value: bigint): void {
    for (let i = 0n; i < BigInt(size); i++) {
      const at = address + i;
      const inStack = at >= FRAME - 8n * 512n && at < FRAME;
      const inValue = at >= VALUES && at < VALUES + 2n * STRIDE && this.readable.has(at);
      if (!inStack && !inValue) throw new RangeError(`writes 0x${at.toString(16)}`);
      this.put(at, Number((value >> (8n * i)) & 0xffn));
    }
  }

  private put(address: bigint, byte: number): void {
    this.bytes.set(address, byte);
    this.readable.add(address);
  }
}

/** Whether an address is where the verifier thinks that it points. */
const admits: Admits = (pointer, address) => {
  switch (pointer.kind) {
    case 'ctx':
      return address === CONTEXT + BigInt(pointer.offset);
    case 'map_ptr':
      return address === MAP_ADDRESS;
    case 'map_value': {
      if (address === 0n) return pointer.maybeNull;
      for (let entry = 0n; entry < BigInt(MAP.maxEntries); entry++) {
        const from = VALUES + entry * STRIDE + BigInt(pointer.offset);
        if (allows(pointer.variable, BigInt.asUintN(64, address - from))) return true;
      }
      return false;
    }
    default:
      return false;
  }
};

function runWatched(program: VerifiedProgram, beliefs: Beliefs): void {
  const memory = new Watched();
  const result = interpret(program.insns, {
    memory,
    context: CONTEXT,
    framePointer: FRAME,
    resolve: () => MAP_ADDRESS,
    visit(index, registers) {
      beliefs.check(index, registers, admits);
      if (program.reached[index] === 0) throw new RangeError(`runs instruction ${index}, thought never to`);
      const operation = program.operations[index];
      const insn = program.insns[index];
      if (operation?.kind !== 'atomic' || insn === undefined) return;
      const address = (registers[insn.dst] as bigint) + BigInt(insn.offset);
      if (address % BigInt(operation.size) !== 0n)
        throw new RangeError(`atomic at 0x${address.toString(16)}`);
    },
    call(id, [first = 0n, second = 0n, third = 0n]) {
      if (id === HELPER.map_lookup_elem) {
        if (first !== MAP_ADDRESS) throw new RangeError('looks up in what is no map');
        const key = memory.load(second, 4);
        return key < BigInt(MAP.maxEntries) ? VALUES + key * STRIDE : 0n;
      }
      if (first !== CONTEXT) throw new RangeError('hands on what is not the context');
      const number = second & 0xffff_ffffn;
      const exists = number < BigInt(NARGS);
      memory.store(third, 8, exists ? memory.load(CONTEXT + number * 8n, 8) : 0n);
      return exists ? 0n : 2n ** 64n - 22n;
    },
  });
  if (result !== 0n) throw new RangeError(`returns ${result}`);
}

// A millisecond or two each on a quiet machine; the time limit is for one that is not.
test(`no accepted program of ${PROGRAMS} goes wrong, seed ${SEED}`, {
  timeout: 60_000 + PROGRAMS * 20,
}, () => {
  let accepted = 0;
  for (let n = 0; n < PROGRAMS; n++) {
    const seed = state;
    const insns = randomProgram().build();
    const beliefs = new Beliefs();
    let program: VerifiedProgram;
    try {
      program = verifyProgram(insns, {
        attachType: 'fentry',
        nargs: NARGS,
        maps: new Map([[MAP.id, MAP]]),
        // With and without: paths then end in other places.
        rememberOften: n % 4 !== 0,
        observe: beliefs,
      });
    } catch (error) {
      if (error instanceof BpfError) continue;
      throw error;
    }
    accepted++;
    for (let run = 0; run < 4; run++) {
      try {
        runWatched(program, beliefs);
      } catch (error) {
        expect.fail(`seed ${seed}: ${(error as Error).message}\n${disassemble(insns).join('\n')}`);
      }
    }
  }
  // Neither all nor nothing is accepted, or nothing was tested.
  expect(accepted).toBeGreaterThan(PROGRAMS / 50);
  expect(accepted).toBeLessThan(PROGRAMS / 2);
});

/**
 * Runs compiled programs in this very process, and the same program in the interpreter: what the tests of the JIT
 * stand on. Not for tracing.
 */

import { HELPER } from '../../../bpf/helpers.js';
import { type BpfInsn, CALL_FRAMES, PSEUDO, STACK_SIZE } from '../../../bpf/instruction.js';
import { type Invoke, interpret } from '../../../bpf/interpreter.js';
import { layoutOf } from '../../../bpf/layout.js';
import { memoryOf } from '../../../bpf/memory.js';
import { operationOf } from '../../../bpf/operation.js';
import { callCode, MAP, mmap, PROT, viewMemory } from '../../../ffi/libc.js';
import { Assembler, mem, type Reg, r10, rax, rdi, rdx, registers, rsi, rsp } from '../../../x86/assembler.js';
import { ENTRY, RECORD } from '../kfunc_md/record.js';
import { FRAME } from '../trampoline/frame.js';
import type { MapSpec } from '../verifier/environment.js';
import { isArray, type JitMap } from './environment.js';
import type { FunctionFacts, Needs, ProgramFacts } from './facts.js';
import type { JitCode } from './generate.js';
import { maskOf, type RegisterMask } from './register_map.js';

const CODE_BYTES = 1 << 20;
const DATA_BYTES = 1 << 16;
const WORD = 8;
const MAX_ARGUMENTS = 16;

/** Offsets of what stands in the data mapping. */
const DATA = { context: 256, record: 512, entry: 576, registers: 640, cursor: 1000, free: 1024 } as const;

/** What a register that a program should not touch holds while it runs. */
function sentinel(register: Reg): bigint {
  return 0x5e17_1e1d_0000_0000n + BigInt(register.code) * 0x0101n;
}

/** What one run of compiled code did. */
export interface Run {
  readonly result: bigint;
  /** registers, of all sixteen, that did not hold afterwards what they held before */
  readonly changed: RegisterMask;
}

/** One function call, as a program sees it. */
export interface Call {
  readonly args: readonly bigint[];
  readonly cookie: bigint;
  readonly functionAddress: bigint;
  /** of a session program: the address of its cookie word, and whether the function returns */
  readonly session?: { readonly cookie: bigint; readonly isReturn: boolean };
}

/** Memory of this process that code runs from and works on. */
export class Bench {
  private readonly code: bigint;
  private readonly codeBytes: Uint8Array;
  private readonly data: bigint;
  readonly dataBytes: Uint8Array;
  private codeUsed = 0;
  private dataUsed: number = DATA.free;
  private readonly entry: bigint;

  /** `size`: bytes for maps' values and the like; the interpreter copies them for each run. */
  constructor(size = DATA_BYTES) {
    const flags = MAP.PRIVATE | MAP.ANONYMOUS;
    this.code = mmap(0n, CODE_BYTES, PROT.READ | PROT.WRITE | PROT.EXEC, flags, -1, 0);
    this.codeBytes = new Uint8Array(viewMemory(this.code, CODE_BYTES));
    this.data = mmap(0n, size, PROT.READ | PROT.WRITE, flags, -1, 0);
    this.dataBytes = new Uint8Array(viewMemory(this.data, size));
    this.entry = this.placeWith(a => emitEntry(a));
  }

  /** Memory for a map's values: its address, and the same bytes. */
  alloc(bytes: number): { address: bigint; bytes: Uint8Array } {
    const offset = this.dataUsed;
    this.dataUsed += Math.ceil(bytes / WORD) * WORD;
    if (this.dataUsed > this.dataBytes.length) throw new RangeError('the bench is full');
    return { address: this.data + BigInt(offset), bytes: this.dataBytes.subarray(offset, offset + bytes) };
  }

  /** Places code that an assembler writes, for good; its address. */
  placeWith(emit: (a: Assembler) => void): bigint {
    const a = new Assembler();
    emit(a);
    const address = this.code + BigInt(this.codeUsed);
    this.codeBytes.set(a.finish(address), this.codeUsed);
    this.codeUsed += Math.ceil(a.length / 64) * 64;
    return address;
  }

  /** Places code for good; its address. */
  placeBytes(place: (address: bigint) => Uint8Array, size: number): bigint {
    const address = this.code + BigInt(this.codeUsed);
    this.codeBytes.set(place(address), this.codeUsed);
    this.codeUsed += Math.ceil(size / 64) * 64;
    return address;
  }

  /** Runs compiled code once, as a trampoline would, behind all that was placed. */
  run(code: JitCode, call: Call): Run {
    const at = this.code + BigInt(this.codeUsed);
    this.codeBytes.set(code.place(at), this.codeUsed);
    const context = this.prepare(call);
    callCode(this.entry, at, context, this.data + BigInt(DATA.registers));
    const after = new BigUint64Array(
      this.dataBytes.slice(DATA.registers, DATA.registers + registers.length * WORD).buffer,
    );
    let changed: RegisterMask = 0;
    for (const register of registers) {
      const before = register === rdi ? context : sentinel(register);
      if (register !== rsp && after[register.code] !== before) changed |= maskOf(register);
    }
    return { result: after[rax.code] as bigint, changed };
  }

  /** Runs the same program in the interpreter, on a copy of the bench's data; the result and that copy. */
  interpret(
    program: { readonly insns: readonly BpfInsn[]; readonly probeLoads?: Uint8Array },
    call: Call,
    maps: ReadonlyMap<number, JitMap>,
    visit?: (index: number) => void,
    tailCall?: (map: bigint, index: number) => readonly BpfInsn[] | undefined,
  ): { result: bigint; data: Uint8Array } {
    const context = this.prepare(call);
    const data = this.dataBytes.slice();
    const stack = new Uint8Array(CALL_FRAMES * STACK_SIZE);
    const framePointer = 0x7000_0000_0000n;
    const memory = memoryOf([
      { address: this.data, bytes: data },
      { address: framePointer - BigInt(stack.length), bytes: stack },
    ]);
    const helpers = (id: number, args: readonly bigint[], invoke: Invoke): bigint => {
      const [ctx = 0n, second = 0n, third = 0n] = args;
      switch (id) {
        case HELPER.get_func_ip:
          return call.functionAddress;
        case HELPER.get_attach_cookie:
          return call.cookie;
        case HELPER.get_func_arg_cnt:
          return BigInt(call.args.length);
        case HELPER.get_func_arg: {
          const number = second & 0xffff_ffffn;
          const exists = number < BigInt(call.args.length);
          memory.store(third, WORD, exists ? memory.load(ctx + number * 8n, WORD) : 0n);
          return exists ? 0n : -22n;
        }
        case HELPER.map_lookup_elem: {
          const map = [...maps.values()].find(m => m.address === ctx);
          if (map === undefined || !isArray(map)) throw new RangeError('the bench looks up arrays only');
          const key = memory.load(second, 4);
          return key < BigInt(map.maxEntries) ? map.values + key * BigInt(map.stride) : 0n;
        }
        case HELPER.get_func_ret:
          memory.store(second, WORD, memory.load(ctx + BigInt(call.args.length) * 8n, WORD));
          return 0n;
        case HELPER.for_each_map_elem: {
          const map = [...maps.values()].find(m => m.address === ctx);
          if (map === undefined || !isArray(map)) throw new RangeError('the bench walks arrays only');
          const key = this.data + BigInt(DATA.cursor);
          let visited = 0n;
          for (let n = 0; n < map.maxEntries; n++) {
            memory.store(key, 4, BigInt(n));
            visited++;
            const value = map.values + BigInt(n) * BigInt(map.stride);
            if (invoke(second, [ctx, key, value, third]) !== 0n) break;
          }
          return visited;
        }
        default:
          throw new RangeError(`the bench has no helper ${id}`);
      }
    };
    const result = interpret(program.insns, {
      memory,
      context,
      framePointer,
      call: helpers,
      resolve: insn => {
        const map = maps.get(Number((insn.imm64 as bigint) & 0xffff_ffffn));
        if (insn.src === PSEUDO.MAP_FD) return map?.address as bigint;
        if (insn.src === PSEUDO.MAP_VALUE) return (map?.values as bigint) + ((insn.imm64 as bigint) >> 32n);
        return insn.imm64 as bigint;
      },
      ...(visit === undefined ? {} : { visit }),
      ...(program.probeLoads === undefined ? {} : { probeLoads: program.probeLoads }),
      ...(tailCall === undefined ? {} : { tailCall }),
    });
    return { result, data };
  }

  /** Writes the context of a call and what the trampoline puts around it; the context's address. */
  private prepare(call: Call): bigint {
    if (call.args.length > MAX_ARGUMENTS) throw new RangeError('too many arguments for the bench');
    const view = new DataView(this.dataBytes.buffer, this.dataBytes.byteOffset);
    this.dataBytes.fill(0, DATA.registers, DATA.free);
    call.args.forEach((value, i) => {
      view.setBigUint64(DATA.context + i * WORD, value, true);
    });
    view.setBigUint64(DATA.context + FRAME.record, this.data + BigInt(DATA.record), true);
    view.setBigUint64(DATA.context + FRAME.entry, this.data + BigInt(DATA.entry), true);
    view.setBigUint64(DATA.context + FRAME.cookie, call.session?.cookie ?? 0n, true);
    view.setBigUint64(DATA.context + FRAME.isReturn, call.session?.isReturn ? 1n : 0n, true);
    view.setBigUint64(DATA.record + RECORD.func, call.functionAddress, true);
    view.setUint32(DATA.record + RECORD.nrArgs, call.args.length, true);
    view.setBigUint64(DATA.entry + ENTRY.cookie, call.cookie, true);
    return this.data + BigInt(DATA.context);
  }

  /** The bytes that a program can have changed: maps' values, and the context, which it can't. */
  static visible(data: Uint8Array): Uint8Array {
    const copy = data.slice();
    copy.fill(0, DATA.registers, DATA.free);
    return copy;
  }
}

/** What the verifier would have to find out about a program, taken as it stands in its text: nothing is proved. */
export function factsByHand(
  insns: readonly BpfInsn[],
  found: {
    /** the map that every call of a map's helper is for */
    readonly callMap?: MapSpec;
    readonly needs?: Partial<Needs>;
    /** indices of loads through pointers that may be bad */
    readonly probeLoads?: readonly number[];
    readonly returnAt?: number;
    readonly mayOverride?: boolean;
  } = {},
): ProgramFacts {
  const layout = layoutOf(insns);
  const operations = insns.map((insn, i) => operationOf(insn, layout.slotOf[i] as number));
  const targets = new Int32Array(insns.length).fill(-1);
  const isTarget = new Uint8Array(insns.length);
  const starts = new Set<number>([0]);
  const callMaps = new Map<number, MapSpec>();
  insns.forEach((insn, i) => {
    const operation = operations[i];
    const after = (distance: number) => layout.indexAt[(layout.slotOf[i] as number) + 1 + distance] as number;
    if (operation?.kind === 'branch' || operation?.kind === 'mayGoto') targets[i] = after(insn.offset);
    if (operation?.kind === 'goto') targets[i] = after(operation.distance);
    if (targets[i] !== -1) isTarget[targets[i] as number] = 1;
    if (operation?.kind === 'call' && operation.target === 'subprogram') starts.add(after(insn.imm));
    if (operation?.kind === 'loadImmediate' && insn.src === PSEUDO.FUNC) starts.add(after(insn.imm));
    if (operation?.kind === 'call' && found.callMap !== undefined) callMaps.set(i, found.callMap);
  });
  const sorted = [...starts].sort((a, b) => a - b);
  const subprograms: FunctionFacts[] = sorted.map((start, i) => ({
    start,
    end: sorted[i + 1] ?? insns.length,
    stackDepth: STACK_SIZE,
  }));
  const probeLoads = new Uint8Array(insns.length);
  for (const index of found.probeLoads ?? []) probeLoads[index] = 1;
  return {
    insns,
    operations,
    flow: { targets, isTarget },
    reached: new Uint8Array(insns.length).fill(1),
    callMaps,
    keyOffsets: new Map(),
    atomicOperands: new Map(),
    ownAtomics: new Map(),
    subprograms,
    probeLoads,
    needs: { thread: false, guard: false, faults: false, tailCalls: false, ...found.needs },
    hasResult: true,
    readsUnwritten: false,
    returnAt: found.returnAt,
    dynamicMaps: new Set(),
    mayOverride: found.mayOverride ?? false,
  };
}

/** (program, context, out): fills every register, calls the program, stores every register in `out`. */
function emitEntry(a: Assembler): void {
  const kept = registers.filter(r => ['rbx', 'rbp', 'r12', 'r13', 'r14', 'r15'].includes(r.name));
  for (const register of kept) a.push(register);
  a.push(rdx);
  a.push(rdi);
  a.mov(rdi, rsi);
  for (const register of registers) {
    if (register !== rsp && register !== rdi) a.movImm64(register, sentinel(register));
  }
  a.callReg(mem(rsp));
  a.push(rax);
  a.mov(rax, mem(rsp, 2 * WORD));
  for (const register of registers) if (register !== rax) a.mov(mem(rax, register.code * WORD), register);
  a.mov(r10, rax);
  a.pop(rax);
  a.mov(mem(r10, rax.code * WORD), rax);
  a.add(rsp, 2 * WORD);
  for (const register of kept.toReversed()) a.pop(register);
  a.ret();
}

/**
 * Runs compiled programs in this very process, and the same program in the interpreter: what the tests of the JIT
 * stand on. Not for tracing.
 */

import { HELPER } from '../../../bpf/helpers.js';
import { PSEUDO } from '../../../bpf/instruction.js';
import { type BpfMemory, interpret } from '../../../bpf/interpreter.js';
import type { AccessSize } from '../../../bpf/operation.js';
import { callCode, MAP, mmap, PROT, viewMemory } from '../../../ffi/libc.js';
import { Assembler, mem, type Reg, r10, rax, rdi, rdx, registers, rsi, rsp } from '../../../x86/assembler.js';
import { ENTRY, RECORD } from '../kfunc_md/record.js';
import { FRAME } from '../trampoline/frame.js';
import type { VerifiedProgram } from '../verifier/verifier.js';
import type { JitCode } from './compile.js';
import { isArray, type JitMap } from './environment.js';
import { maskOf, type RegisterMask } from './register_map.js';

const CODE_BYTES = 1 << 20;
const DATA_BYTES = 1 << 16;
const WORD = 8;
const MAX_ARGUMENTS = 16;

/** Offsets of what stands in the data mapping. */
const DATA = { context: 256, record: 512, entry: 576, registers: 640, free: 1024 } as const;

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

  constructor() {
    const flags = MAP.PRIVATE | MAP.ANONYMOUS;
    this.code = mmap(0n, CODE_BYTES, PROT.READ | PROT.WRITE | PROT.EXEC, flags, -1, 0);
    this.codeBytes = new Uint8Array(viewMemory(this.code, CODE_BYTES));
    this.data = mmap(0n, DATA_BYTES, PROT.READ | PROT.WRITE, flags, -1, 0);
    this.dataBytes = new Uint8Array(viewMemory(this.data, DATA_BYTES));
    this.entry = this.placeWith(a => emitEntry(a));
  }

  /** Memory for a map's values: its address, and the same bytes. */
  alloc(bytes: number): { address: bigint; bytes: Uint8Array } {
    const offset = this.dataUsed;
    this.dataUsed += Math.ceil(bytes / WORD) * WORD;
    if (this.dataUsed > DATA_BYTES) throw new RangeError('the bench is full');
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
    program: VerifiedProgram,
    call: Call,
    maps: ReadonlyMap<number, JitMap>,
    visit?: (index: number) => void,
  ): { result: bigint; data: Uint8Array } {
    const context = this.prepare(call);
    const data = this.dataBytes.slice();
    const stack = new Uint8Array(512);
    const framePointer = 0x7000_0000_0000n;
    const memory = memoryOf([
      { address: this.data, bytes: data },
      { address: framePointer - BigInt(stack.length), bytes: stack },
    ]);
    const helpers = (id: number, args: readonly bigint[]): bigint => {
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

/** Byte arrays at addresses, as memory; anything else is not there. */
export function memoryOf(regions: readonly { address: bigint; bytes: Uint8Array }[]): BpfMemory {
  const find = (address: bigint, size: AccessSize): { view: DataView; at: number } => {
    for (const region of regions) {
      const at = address - region.address;
      if (at >= 0n && at + BigInt(size) <= BigInt(region.bytes.length)) {
        return { view: new DataView(region.bytes.buffer, region.bytes.byteOffset), at: Number(at) };
      }
    }
    throw new RangeError(`the program touched 0x${address.toString(16)}, which is not its memory`);
  };
  return {
    load(address, size) {
      const { view, at } = find(address, size);
      if (size === 8) return view.getBigUint64(at, true);
      return BigInt(
        size === 4 ? view.getUint32(at, true) : size === 2 ? view.getUint16(at, true) : view.getUint8(at),
      );
    },
    store(address, size, value) {
      const { view, at } = find(address, size);
      if (size === 8) view.setBigUint64(at, BigInt.asUintN(64, value), true);
      else if (size === 4) view.setUint32(at, Number(BigInt.asUintN(32, value)), true);
      else if (size === 2) view.setUint16(at, Number(BigInt.asUintN(16, value)), true);
      else view.setUint8(at, Number(BigInt.asUintN(8, value)));
    },
  };
}

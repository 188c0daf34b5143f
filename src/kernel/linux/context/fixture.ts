/** For tests: runs a rewritten program as a kernel would, at one function's entry or return, in the interpreter. */

import { HELPER } from '../../../bpf/helpers.js';
import type { BpfInsn } from '../../../bpf/instruction.js';
import { interpret } from '../../../bpf/interpreter.js';
import { type KFUNC, kfuncName, kfuncNumber } from '../../../bpf/kfuncs.js';
import { memoryOf } from '../../../bpf/memory.js';
import type { ContextForm, ContextKernel, SavedState } from './rewrite.js';

/** Kernel functions have other numbers than ours. */
const KFUNC_OFFSET = 5000;
const CONTEXT = 0x7100_0000_0000n;
const STACK = 0x7200_0000_0000n;
const STACK_BYTES = 8192;
/** Where the words of a call's stack are. */
const CALLER = 0x7300_0000_0000n;
const SP = 0x400n;
const TABLE = 0x7500_0000_0000n;
export const MEMORY = 0x7400_0000_0000n;

/** A kernel with these functions for programs. */
export function kernelWith(...names: (keyof typeof KFUNC)[]): ContextKernel {
  return {
    kfunc: name => (names.some(one => one === name) ? KFUNC_OFFSET + (kfuncNumber(name) ?? 0) : undefined),
  };
}

const PT_REGS = [112, 104, 96, 88, 72, 64] as const;

/** A call of a function that a program sees. */
export interface Call {
  /** Words of its arguments, beyond the sixth on the stack. */
  readonly args: readonly bigint[];
  readonly result?: bigint;
  readonly cookie?: bigint;
  /** Bytes that its frame is above that of other calls. */
  readonly frame?: bigint;
}

/** One kernel, one link: what calls' entries hand on is kept between runs. */
export class FakeRuns {
  #table: { readonly valueSize: number; readonly lostAt: number; readonly bytes: Uint8Array } | undefined;
  /** What programs see at `MEMORY`. */
  readonly memory = new Uint8Array(512);
  readonly #view = new DataView(this.memory.buffer);
  readonly #sessions = new Uint8Array(8);

  /** The table that programs are given. */
  set saved({ valueSize, entries, lost }: SavedState) {
    this.#table ??= { valueSize, lostAt: valueSize * lost, bytes: new Uint8Array(valueSize * entries) };
  }
  /** Gives every entry of the table to other calls. */
  fill(): void {
    if (this.#table === undefined) return;
    const { bytes, valueSize, lostAt } = this.#table;
    for (let at = 0; at < lostAt; at += valueSize) bytes[at] = 1;
  }
  /** Calls that found no entry. */
  get lost(): number {
    if (this.#table === undefined) return 0;
    return Number(new DataView(this.#table.bytes.buffer).getBigUint64(this.#table.lostAt, true));
  }
  /** Calls that are in it. */
  get underWay(): number {
    if (this.#table === undefined) return 0;
    const { bytes, valueSize, lostAt } = this.#table;
    const view = new DataView(bytes.buffer);
    let count = 0;
    for (let at = 0; at < lostAt; at += valueSize) if (view.getBigUint64(at, true) !== 0n) count++;
    return count;
  }

  word(index: number): bigint {
    return this.#view.getBigUint64(8 * index, true);
  }

  /** r0 of the program. */
  run(
    insns: readonly BpfInsn[],
    context: ContextForm['context'],
    at: 'entry' | 'return',
    { args, result = 0n, cookie = 0n, frame = 0n }: Call,
  ): bigint {
    const handed = new Uint8Array(256);
    const view = new DataView(handed.buffer);
    const caller = new Uint8Array(2048);
    const callerView = new DataView(caller.buffer);
    if (context === 'typed') {
      for (const [word, value] of args.entries()) view.setBigUint64(8 * word, value, true);
      if (at === 'return') view.setBigUint64(8 * args.length, result, true);
    } else if (context === 'pt_regs') {
      for (const [word, offset] of PT_REGS.entries())
        view.setBigUint64(offset, at === 'entry' ? (args[word] ?? 0xdeadn) : 0xdeadn, true);
      for (const [word, value] of args.slice(6).entries())
        callerView.setBigUint64(Number(SP) + 8 + 8 * word, value, true);
      view.setBigUint64(80, at === 'return' ? result : 0xdeadn, true);
      view.setBigUint64(152, CALLER + SP + frame + (at === 'return' ? 8n : 0n), true);
    }
    const { bytes: table = new Uint8Array(0), valueSize = 0 } = this.#table ?? {};
    // Handles of trampolines are no memory: nothing but helpers may look there.
    const regions = [
      { address: STACK - BigInt(STACK_BYTES), bytes: new Uint8Array(STACK_BYTES) },
      { address: CALLER, bytes: caller },
      { address: MEMORY, bytes: this.memory },
      { address: TABLE, bytes: table },
      { address: CONTEXT + 0x1000n, bytes: this.#sessions },
      ...(context === 'trampoline' ? [] : [{ address: CONTEXT, bytes: handed }]),
    ];
    const memory = memoryOf(regions);
    const bytes = (address: bigint, count: number): Uint8Array =>
      Uint8Array.from({ length: count }, (_, i) => Number(memory.load(address + BigInt(i), 1)));
    const own = (address: bigint | undefined): void => {
      if (address !== CONTEXT) throw new Error(`the context is ${address?.toString(16)}`);
    };
    return interpret(insns, {
      memory,
      context: CONTEXT,
      framePointer: STACK,
      call: (id, [r1 = 0n, r2 = 0n, r3 = 0n]) => {
        switch (id) {
          case HELPER.get_func_arg: {
            own(r1);
            const arg = args[Number(BigInt.asUintN(32, r2))];
            if (arg === undefined) return -22n;
            memory.store(r3, 8, arg);
            return 0n;
          }
          case HELPER.get_func_ret:
            own(r1);
            memory.store(r2, 8, at === 'return' ? result : 0n);
            return 0n;
          case HELPER.get_func_arg_cnt:
            own(r1);
            return BigInt(args.length);
          case HELPER.get_attach_cookie:
            own(r1);
            return cookie;
          case HELPER.get_func_ip:
            own(r1);
            return 0x1234n;
          case HELPER.probe_read_kernel:
            for (const [i, byte] of bytes(r3, Number(r2)).entries())
              memory.store(r1 + BigInt(i), 1, BigInt(byte));
            return 0n;
          case HELPER.map_lookup_elem:
            return TABLE + memory.load(r2, 4) * BigInt(valueSize);
          default:
            throw new Error(`helper ${id}`);
        }
      },
      callKfunc: (id, [r1]) => {
        own(r1);
        switch (kfuncName(id - KFUNC_OFFSET)) {
          case 'bpf_session_is_return':
            return at === 'return' ? 1n : 0n;
          case 'bpf_session_cookie':
            if (at === 'entry') this.#sessions.fill(0);
            return CONTEXT + 0x1000n;
          default:
            throw new Error(`kernel function ${id}`);
        }
      },
    });
  }
}

/**
 * The clocks: bpf_ktime_get_ns and its kin, bpf_jiffies64. The time-stamp counter, scaled: rate and offset are
 * measured against the kernel's clocks by us and published in shared memory once a second while they are used.
 *
 * A new rate begins where the old one ended, so that time never steps back; what it was wrong by is made up for in the
 * next second. Parameters are published in one of many banks, then the bank's address: code that was interrupted
 * in the middle of reading one finds it unchanged for a minute.
 */

import { readFileSync } from 'node:fs';
import { addressOf, callCode, systemCall } from '../../../ffi/libc.js';
import { ownCode } from '../../../process/own_code.js';
import { type Assembler, type Label, mem, r8, r9, rax, rcx, rdx, rsi } from '../../../x86/assembler.js';
import { BpfError } from '../../errno.js';
import type { Arena, Block } from '../region/arena.js';

/** One bank, u64 each: ns = ns0 + ((tsc - tsc0) * mult >> 32); other clocks are that and an offset. */
const BANK = { tsc0: 0, ns0: 8, mult: 16, boot: 24, tai: 32, tick: 40, jiffies: 48, size: 64 } as const;
const BANKS = 64;
/** The shared block: the address of the current bank, then the banks. */
const BANKS_AT = 64;
const SCALE_BITS = 32n;

export type Clock = 'monotonic' | 'boottime' | 'tai';

const CLOCK_MONOTONIC = 1;
const CLOCK_MONOTONIC_COARSE = 6;
const CLOCK_BOOTTIME = 7;
const CLOCK_TAI = 11;
const SYS_CLOCK_GETTIME = 228;
const SYS_CLOCK_GETRES = 229;
const NS = 1_000_000_000n;
/** The kernel's jiffies begin five minutes before they wrap around 32 bits. */
const JIFFIES_BEFORE = 300n;

const CLOCKSOURCE = '/sys/devices/system/clocksource/clocksource0/current_clocksource';

/** Why the time-stamp counter can't be the clock here; `undefined` where it can. */
export function counterUnusable(
  source: string = readFileSync(CLOCKSOURCE, 'latin1'),
  cpuinfo: string = readFileSync('/proc/cpuinfo', 'latin1'),
): string | undefined {
  if (source.trim() !== 'tsc') return `the kernel's clock source is ${source.trim()}, not tsc`;
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1].split(' ') ?? [];
  const missing = ['constant_tsc', 'nonstop_tsc'].filter(flag => !flags.includes(flag));
  return missing.length === 0 ? undefined : `the processor's time-stamp counter is not ${missing.join(', ')}`;
}

/** `u64 ktime_get_ns()` and the like. Changes rax, rcx, rdx. */
export function emitClock(a: Assembler, time: bigint, clock: Clock): Label {
  const start = a.here();
  emitNow(a, time);
  if (clock !== 'monotonic') a.add(rax, mem(rcx, clock === 'tai' ? BANK.tai : BANK.boot));
  a.ret();
  return start;
}

/** rax = monotonic ns, rcx = the bank; changes rdx. */
function emitNow(a: Assembler, time: bigint): void {
  a.movImm64(rcx, time);
  a.mov(rcx, mem(rcx));
  a.rdtsc();
  a.shl(rdx, 32);
  a.or(rax, rdx);
  a.sub(rax, mem(rcx, BANK.tsc0));
  a.mul(mem(rcx, BANK.mult));
  a.shr(rax, Number(SCALE_BITS));
  a.shl(rdx, Number(SCALE_BITS));
  a.or(rax, rdx);
  a.add(rax, mem(rcx, BANK.ns0));
}

/** `u64 jiffies64()`. */
export function emitJiffies(a: Assembler, time: bigint): Label {
  const start = a.here();
  emitNow(a, time);
  a.xor(rdx, rdx, 4);
  a.div(mem(rcx, BANK.tick));
  a.add(rax, mem(rcx, BANK.jiffies));
  a.ret();
  return start;
}

/** rdi = clock, rsi = { u64 tsc before, tsc after, timespec }: reads the counter around clock_gettime. */
function emitPair(a: Assembler): void {
  const counter = (): void => {
    a.rdtsc();
    a.shl(rdx, 32);
    a.or(rax, rdx);
  };
  a.mov(r9, rsi);
  counter();
  a.mov(r8, rax);
  a.lea(rsi, mem(r9, 16));
  a.mov(rax, SYS_CLOCK_GETTIME, 4);
  a.syscall();
  counter();
  a.mov(mem(r9), r8);
  a.mov(mem(r9, 8), rax);
  a.ret();
}

/** Cycles of the counter as time: by what passed of both since it was made. */
export class CycleScale {
  readonly #start = readPair(CLOCK_MONOTONIC);

  /** Throws EOPNOTSUPP where the counter is no clock. */
  constructor() {
    const why = counterUnusable();
    if (why !== undefined) throw new BpfError('EOPNOTSUPP', `run times can't be measured here: ${why}`);
  }

  /** `cycles` of the counter, ns. */
  nanoseconds(cycles: bigint): bigint {
    const now = readPair(CLOCK_MONOTONIC);
    const passed = now.tsc - this.#start.tsc;
    return passed <= 0n ? 0n : (cycles * (now.ns - this.#start.ns)) / passed;
  }
}

let pairCode: bigint | undefined;
const pair = Buffer.allocUnsafeSlow(4096);

/** The kernel's clock and the counter at one moment: of some tries the closest together. */
function readPair(clock: number): { tsc: bigint; ns: bigint } {
  pairCode ??= ownCode(emitPair);
  let best = 1n << 62n;
  let result = { tsc: 0n, ns: 0n };
  for (let i = 0; i < 16; i++) {
    callCode(pairCode, clock, addressOf(pair));
    const before = pair.readBigUInt64LE(0);
    const width = pair.readBigUInt64LE(8) - before;
    if (width >= best) continue;
    best = width;
    result = { tsc: before + width / 2n, ns: pair.readBigUInt64LE(16) * NS + pair.readBigUInt64LE(24) };
  }
  return result;
}

/** Waits for the first rate, ms: good to some parts in a million, and then by the second better. */
const FIRST_MS = 10;

export class Clocks {
  /** What code is made with. */
  readonly address: bigint;
  readonly #block: Block;
  readonly #view: DataView;
  #bank = 0;
  #last: { tsc: bigint; ns: bigint };
  #mult: bigint;
  /** Where the published line begins. */
  #begin: { tsc: bigint; ns: bigint };
  #timer: NodeJS.Timeout | undefined;

  /** Throws ENOSYS where there is no counter to rely on. */
  constructor(arena: Arena) {
    const why = counterUnusable();
    if (why !== undefined)
      throw new BpfError(
        'ENOSYS',
        `programs can not ask for the time here: ${why}; choose it as the clock source, or leave bpf_ktime_get_ns and its kin out`,
      );
    this.#block = arena.alloc(BANKS_AT + BANKS * BANK.size, 64);
    const { bytes } = this.#block;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.address = this.#block.address;
    const first = readPair(CLOCK_MONOTONIC);
    const until = performance.now() + FIRST_MS;
    while (performance.now() < until);
    this.#last = readPair(CLOCK_MONOTONIC);
    this.#begin = this.#last;
    this.#mult = rate(first, this.#last);
    this.#publish();
  }

  /** Keeps the clocks right from now on, until `close`. */
  run(): void {
    if (this.#timer !== undefined) return;
    this.#timer = setInterval(() => this.refresh(), 1000);
    this.#timer.unref();
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Ns that code reads at counter `tsc`. */
  #at(tsc: bigint): bigint {
    return this.#begin.ns + (((tsc - this.#begin.tsc) * this.#mult) >> SCALE_BITS);
  }

  /** Measures again, and turns the line towards the truth. Every second while it is used. */
  refresh(): void {
    const now = readPair(CLOCK_MONOTONIC);
    const told = this.#at(now.tsc);
    const elapsed = now.tsc - this.#last.tsc;
    if (elapsed <= 0n) return;
    const measured = rate(this.#last, now);
    const behind = now.ns - told;
    // Made up for within the time that passed since the last look; never by standing still.
    const correction = (behind << SCALE_BITS) / elapsed;
    const turned = measured + correction;
    const slowest = measured / 2n;
    this.#mult = turned > slowest ? turned : slowest;
    // A step forward (a machine that was suspended without its counter) is one for programs too.
    this.#begin = { tsc: now.tsc, ns: behind > NS ? now.ns : told };
    this.#last = now;
    this.#publish();
  }

  #publish(): void {
    this.#bank = (this.#bank + 1) % BANKS;
    const at = BANKS_AT + this.#bank * BANK.size;
    const set = (offset: number, value: bigint): void =>
      this.#view.setBigUint64(at + offset, BigInt.asUintN(64, value), true);
    const offsetOf = (clock: number): bigint => {
      const other = readPair(clock);
      return other.ns - this.#truth(other.tsc);
    };
    const tick = tickNs();
    set(BANK.tsc0, this.#begin.tsc);
    set(BANK.ns0, this.#begin.ns);
    set(BANK.mult, this.#mult);
    set(BANK.boot, offsetOf(CLOCK_BOOTTIME));
    set(BANK.tai, offsetOf(CLOCK_TAI));
    set(BANK.tick, tick);
    set(BANK.jiffies, BigInt.asUintN(32, -JIFFIES_BEFORE * (NS / tick)));
    const words = new BigUint64Array(this.#block.bytes.buffer, this.#block.bytes.byteOffset, 1);
    Atomics.store(words, 0, this.#block.address + BigInt(at));
  }

  #truth(tsc: bigint): bigint {
    return this.#last.ns + (((tsc - this.#last.tsc) * this.#mult) >> SCALE_BITS);
  }
}

function rate(from: { tsc: bigint; ns: bigint }, to: { tsc: bigint; ns: bigint }): bigint {
  return ((to.ns - from.ns) << SCALE_BITS) / (to.tsc - from.tsc);
}

/** A tick of the kernel's, ns: what its coarse clock steps by. */
function tickNs(): bigint {
  systemCall('clock_getres', SYS_CLOCK_GETRES, CLOCK_MONOTONIC_COARSE, addressOf(pair));
  return pair.readBigUInt64LE(0) * NS + pair.readBigUInt64LE(8);
}

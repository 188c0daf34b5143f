/**
 * What the tests and the benchmark of ring buffers stand on: rings and their machine code in this process, which other
 * programs can map as well. Not part of the package.
 */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { callCode, ftruncate, MAP, memfdCreate, mmap, munmap, PROT, viewMemory } from '../../../ffi/libc.js';
import { Assembler, type Label } from '../../../x86/assembler.js';
import type { Arena, Block } from '../region/arena.js';
import { mapRingHere, type RingMemory } from '../region/ring_region.js';
import { RINGBUF } from './ringbuf_layout.js';

const PAGE = 4096;

/** Machine code that this process runs, under names; others can map it from `fd`. */
export class PlacedCode implements Disposable {
  readonly fd: number;
  readonly size: number;
  readonly #base: bigint;
  readonly #assembler = new Assembler(8192);
  readonly #labels: ReadonlyMap<string, Label>;

  constructor(emit: (a: Assembler) => ReadonlyMap<string, Label>) {
    this.#labels = emit(this.#assembler);
    this.size = Math.ceil(this.#assembler.length / PAGE) * PAGE;
    this.fd = memfdCreate('multitrace-test-code');
    ftruncate(this.fd, this.size);
    const writable = mmap(0n, this.size, PROT.READ | PROT.WRITE, MAP.SHARED, this.fd, 0);
    this.#base = mmap(0n, this.size, PROT.READ | PROT.EXEC, MAP.SHARED, this.fd, 0);
    new Uint8Array(viewMemory(writable, this.size)).set(this.#assembler.finish(this.#base));
    munmap(writable, this.size);
  }

  get bytes(): number {
    return this.#assembler.length;
  }

  offset(name: string): number {
    const label = this.#labels.get(name);
    if (label === undefined) throw new RangeError(`no code is called ${name}`);
    return this.#assembler.offsetOf(label);
  }

  address(name: string): bigint {
    return this.#base + BigInt(this.offset(name));
  }

  /** Calls it with up to six arguments: rax. */
  call(name: string, ...args: (number | bigint)[]): bigint {
    return callCode(this.address(name), ...args);
  }

  [Symbol.dispose](): void {
    munmap(this.#base, this.size);
  }
}

/** Memory of this process for maps' blocks and other data; others can map it from `fd`. */
export class TestMemory implements Arena, Disposable {
  readonly fd: number;
  readonly size: number;
  readonly address: bigint;
  readonly #buffer: ArrayBuffer;
  #used = 0;

  constructor(size = 1 << 16) {
    this.size = size;
    this.fd = memfdCreate('multitrace-test');
    ftruncate(this.fd, size);
    this.address = mmap(0n, size, PROT.READ | PROT.WRITE, MAP.SHARED, this.fd, 0);
    this.#buffer = viewMemory(this.address, size);
  }

  alloc(size: number, align = 8): Block {
    const at = Math.ceil(this.#used / align) * align;
    if (at + size > this.size) throw new RangeError(`the test's memory has no ${size} bytes left`);
    this.#used = at + size;
    return { address: this.address + BigInt(at), bytes: new Uint8Array(this.#buffer, at, size), size };
  }

  free(): void {}

  [Symbol.dispose](): void {
    munmap(this.address, this.size);
  }
}

/** A `MapRing` for this process, and the file descriptors of what it mapped. */
export class RingsHere {
  readonly fds: number[] = [];
  readonly mapRing = (size: number): RingMemory => {
    const memory = mapRingHere(size);
    this.fds.push(memory.fd);
    return memory;
  };
}

/** A C program, without a red zone, that runs the code on threads of its own, compiled from `source` into a directory of its own. */
export class CProgram implements Disposable {
  readonly path: string;
  readonly #directory: string;

  constructor(source: string, defines: Readonly<Record<string, number>>) {
    this.#directory = mkdtempSync(join(tmpdir(), 'multitrace-ring-'));
    this.path = join(this.#directory, 'program');
    const given = Object.entries(defines).map(([name, value]) => `-D${name}=${value}`);
    execFileSync('gcc', [
      '-O2',
      '-Wall',
      '-Werror',
      '-pthread',
      '-mno-red-zone',
      ...given,
      source,
      '-o',
      this.path,
    ]);
  }

  [Symbol.dispose](): void {
    rmSync(this.#directory, { recursive: true });
  }
}

/** What `ringbuf_stress.c` does. */
export interface StressRun {
  readonly threads: number;
  /** Of each thread. */
  readonly records: number;
  readonly seed: number;
  /** Writers wait while the ring is half full. */
  readonly throttle?: boolean;
  /** Signals interrupt the writers, and their handlers write too. */
  readonly signals?: boolean;
  /** Records are appended whole, or reserved and submitted. */
  readonly by?: 'output' | 'reserve' | 'both';
  /** Instead of all that: something happens behind every single instruction of an append. */
  readonly steps?: boolean;
  /** Bytes of each record; random where left out. */
  readonly size?: number;
}

/** The arguments with which `ringbuf_stress.c` finds the ring and its code through /proc of this process. */
export function stressArguments(
  code: PlacedCode,
  memory: TestMemory,
  ring: { readonly address: bigint; readonly fd: number; readonly size: number },
  run: StressRun,
): string[] {
  const by = { reserve: 0, output: 1, both: 2 }[run.by ?? 'both'];
  return [
    ...[process.pid, memory.fd, memory.size, Number(ring.address - memory.address), ring.fd, ring.size],
    ...[code.fd, code.size],
    ...['helper_130', 'helper_131', 'helper_132', 'helper_133'].map(name => code.offset(name)),
    ...[run.threads, run.records, run.seed],
    (run.throttle === true ? 1 : 0) |
      (run.signals === true ? 2 : 0) |
      (by << 2) |
      (run.steps === true ? 16 : 0),
    run.size ?? 0,
  ].map(String);
}

/** Definitions for `ringbuf_stress.c`. */
export const STRESS_DEFINES = {
  AT_DATA: RINGBUF.DATA,
  AT_PRODUCER: RINGBUF.PRODUCER,
  AT_CONSUMER: RINGBUF.CONSUMER,
} as const;

/**
 * What the tests of the maps stand on: shared memory and executable routines in this process, other programs that
 * run the same routines on the same memory, and a look at every node of a hash map. Not part of the package.
 */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  callCode,
  ftruncate,
  MAP as MMAP,
  memfdCreate,
  mmap,
  munmap,
  PROT,
  viewMemory,
} from '../../../ffi/libc.js';
import { Assembler, type Label, mem, rcx, rdx } from '../../../x86/assembler.js';
import { BpfError } from '../../errno.js';
import type { Arena, Block } from '../region/arena.js';
import { CURSOR } from './iterate_code.js';
import { HASH, MAP, NODE, padded, WORD } from './layout.js';
import { mixKey } from './mix.js';
import { emitMapRoutines, type MapRoutines } from './routines.js';

const PAGE = 4096;

/** A memfd that this process has mapped; blocks are handed out upwards, and never again. */
export class SharedMemory implements Arena, Disposable {
  readonly fd: number;
  readonly size: number;
  readonly address: bigint;
  private readonly buffer: ArrayBuffer;
  private used = 0;

  constructor(size: number) {
    this.size = Math.ceil(size / PAGE) * PAGE;
    this.fd = memfdCreate('multitrace-test');
    ftruncate(this.fd, this.size);
    this.address = mmap(0n, this.size, PROT.READ | PROT.WRITE, MMAP.SHARED, this.fd, 0);
    this.buffer = viewMemory(this.address, this.size);
  }

  alloc(size: number, align = 8): Block {
    const at = Math.ceil(this.used / align) * align;
    if (at + size > this.size) throw new Error(`the test's memory has no ${size} bytes left`);
    this.used = at + size;
    return { address: this.address + BigInt(at), bytes: new Uint8Array(this.buffer, at, size), size };
  }

  free(): void {}

  /** The memory from an address on, to its end. */
  bytesFrom(address: bigint): Uint8Array {
    return new Uint8Array(this.buffer, Number(address - this.address));
  }

  [Symbol.dispose](): void {
    munmap(this.address, this.size);
  }
}

/** The routines, in memory that is writable under one address and executable under another. */
export class RoutinesInMemory implements Disposable {
  readonly fd: number;
  readonly size: number;
  private readonly base: bigint;
  private readonly assembler: Assembler;
  readonly routines: MapRoutines;
  /** mapIterate, with its second result stored where rdx points. */
  readonly iterateBoth: bigint;

  constructor() {
    this.assembler = new Assembler();
    this.routines = emitMapRoutines(this.assembler);
    const both = this.assembler.here();
    this.assembler.push(rdx);
    this.assembler.call(this.routines.mapIterate);
    this.assembler.pop(rcx);
    this.assembler.mov(mem(rcx), rdx);
    this.assembler.ret();
    this.size = Math.ceil(this.assembler.length / PAGE) * PAGE;
    this.fd = memfdCreate('multitrace-test-code');
    ftruncate(this.fd, this.size);
    const writable = mmap(0n, this.size, PROT.READ | PROT.WRITE, MMAP.SHARED, this.fd, 0);
    this.base = mmap(0n, this.size, PROT.READ | PROT.EXEC, MMAP.SHARED, this.fd, 0);
    new Uint8Array(viewMemory(writable, this.size)).set(this.assembler.finish(this.base));
    munmap(writable, this.size);
    this.iterateBoth = this.address(both);
  }

  offset(label: Label): number {
    return this.assembler.offsetOf(label);
  }

  address(label: Label): bigint {
    return this.base + BigInt(this.offset(label));
  }

  [Symbol.dispose](): void {
    munmap(this.base, this.size);
  }
}

/** A small, fast generator of pseudo-random numbers (mulberry32): the same sequence for the same seed. */
export function randomNumbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return below => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** The memory of a hash map, taken apart. */
export interface HashContents {
  /** Keys of live nodes, in hexadecimal, in list order. */
  keys: string[];
  /** Nodes that are deleted and still linked. */
  marked: number;
  free: number;
  spare: number;
  /** Nodes of the pool that are nowhere: taken by an operation that never ended. */
  lost: number;
}

/**
 * Walks every list of a hash map that nobody uses at the moment. Throws where a node is at two places, a link
 * leads outside the pool, a key is there twice, or a node is in a bucket that is not its key's.
 */
export function inspectHash(bytes: Uint8Array): HashContents {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const pool = Number(view.getBigUint64(HASH.POOL, true));
  const nodeSize = view.getUint32(HASH.NODE_SIZE, true);
  const nodes = Number(view.getBigUint64(HASH.NODES, true));
  const keySize = view.getUint32(MAP.KEY_SIZE, true);
  const seed = view.getBigUint64(HASH.SEED, true);
  const mask = view.getBigUint64(HASH.BUCKET_MASK, true);
  const seen = new Set<number>();
  const visit = (low: number, where: string): number => {
    const node = Math.floor(low / 4) * 8;
    if ((node - pool) % nodeSize !== 0 || node < pool || node >= pool + nodes * nodeSize) {
      throw new Error(`${where} leads to ${node}, where no node starts`);
    }
    if (seen.has(node)) throw new Error(`${where} leads to node ${node}, which is elsewhere too`);
    seen.add(node);
    return node;
  };
  const contents: HashContents = { keys: [], marked: 0, free: 0, spare: 0, lost: 0 };
  const unique = new Set<string>();
  for (let bucket = 0; bucket <= Number(mask); bucket++) {
    let low = view.getUint32(HASH.BUCKETS + bucket * 8, true);
    if ((low & WORD.FLAGS) !== 0) throw new Error(`the word of bucket ${bucket} has flags`);
    while (low >>> 2 !== 0) {
      const node = visit(low, `bucket ${bucket}`);
      low = view.getUint32(node + NODE.NEXT, true);
      if ((low & WORD.MARK) !== 0) {
        contents.marked++;
        continue;
      }
      const key = bytes.slice(node + NODE.KEY, node + NODE.KEY + padded(keySize));
      const words = new BigUint64Array(key.buffer);
      if (Number(mixKey(seed, words, words.length) & mask) !== bucket) {
        throw new Error(`node ${node} is in bucket ${bucket}, which is not its key's`);
      }
      const text = Buffer.from(key.subarray(0, keySize)).toString('hex');
      if (unique.has(text)) throw new Error(`key ${text} is in the map twice`);
      unique.add(text);
      contents.keys.push(text);
    }
  }
  for (const [list, head] of [
    ['free', HASH.FREE],
    ['spare', HASH.SPARE],
  ] as const) {
    for (let low = view.getUint32(head, true); low !== 0; contents[list]++) {
      low = view.getUint32(visit(low, `the ${list} list`) + NODE.NEXT_FREE, true);
    }
  }
  contents.lost = nodes - seen.size;
  return contents;
}

/** Compiles `stress.c` against the layout of layout.ts into a directory of its own. */
export class StressProgram implements Disposable {
  readonly path: string;
  private readonly directory: string;

  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), 'multitrace-maps-'));
    this.path = join(this.directory, 'stress');
    const source = join(dirname(fileURLToPath(import.meta.url)), 'stress.c');
    const layout = { MAP, HASH, NODE, WORD };
    const defines = Object.entries(layout).flatMap(([group, fields]) =>
      Object.entries(fields).map(([field, value]) => `-DAT_${group}_${field}=${value}`),
    );
    // Without a red zone, because the program pushes onto the stack behind the compiler's back.
    const options = ['-O2', '-Wall', '-Werror', '-pthread', '-mno-red-zone'];
    execFileSync('gcc', [...options, ...defines, source, '-o', this.path]);
  }

  /** The arguments with which the program finds `map` and the routines through /proc of this process. */
  arguments(code: RoutinesInMemory, memory: SharedMemory, mapAddress: bigint): string[] {
    const { routines } = code;
    return [
      ...[process.pid, memory.fd, memory.size, Number(mapAddress - memory.address), code.fd, code.size],
      ...[routines.hashLookup, routines.hashUpdate, routines.hashDelete].map(label => code.offset(label)),
    ].map(String);
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true });
  }
}

/** Arguments of a map operation as a program gives them. */
export interface ProgramArguments {
  readonly key?: Uint8Array;
  readonly value?: Uint8Array;
  readonly flags?: bigint;
  /** The thread's slot. */
  readonly slot?: number;
}

/** Calls routines the way compiled programs do, with keys and values at addresses that stay. */
export class ProgramSide {
  private readonly code: RoutinesInMemory;
  private readonly memory: SharedMemory;
  private readonly block: Block;

  constructor(code: RoutinesInMemory, memory: SharedMemory) {
    this.code = code;
    this.memory = memory;
    this.block = memory.alloc(16384, 4096);
  }

  /** Puts bytes at the end of a page, so that whoever reads beyond them sees other bytes than zeros. */
  place(bytes: Uint8Array, page: number): bigint {
    const end = (page + 1) * 4096 - 64;
    this.block.bytes.fill(0xa5, page * 4096, (page + 1) * 4096);
    this.block.bytes.set(bytes, end - bytes.length);
    return this.block.address + BigInt(end - bytes.length);
  }

  /** What stands where `place` put `size` bytes, and whether all around it is as it was. */
  placed(size: number, page: number): Uint8Array {
    const end = (page + 1) * 4096 - 64;
    const around = [
      this.block.bytes.subarray(page * 4096, end - size),
      this.block.bytes.subarray(end, (page + 1) * 4096),
    ];
    if (around.some(bytes => bytes.some(byte => byte !== 0xa5)))
      throw new Error('bytes beside a value were written');
    return this.block.bytes.slice(end - size, end);
  }

  private run(name: keyof MapRoutines, ...args: (bigint | number)[]): bigint {
    return BigInt.asIntN(64, callCode(this.code.address(this.code.routines[name]), ...args));
  }

  /** Lookup, with the map's own key size: a copy of `size` bytes of the value, or `undefined`. */
  lookup(
    name: keyof MapRoutines,
    map: { address: bigint },
    args: ProgramArguments,
    size: number,
  ): Uint8Array | undefined {
    const at = this.lookupAddress(name, map, args);
    return at === 0n ? undefined : this.memory.bytesFrom(at).slice(0, size);
  }

  lookupAddress(name: keyof MapRoutines, map: { address: bigint }, args: ProgramArguments): bigint {
    const key = this.place(args.key ?? new Uint8Array(0), 0);
    return this.run(name, map.address, key, args.flags ?? 0n, 0, 0, args.slot ?? 0);
  }

  /** Update and delete: 0 or -errno. */
  change(name: keyof MapRoutines, map: { address: bigint }, args: ProgramArguments): bigint {
    const key = this.place(args.key ?? new Uint8Array(0), 0);
    const value = args.value === undefined ? 0n : this.place(args.value, 1);
    return this.run(name, map.address, key, value, args.flags ?? 0n, 0, args.slot ?? 0);
  }

  /** Push: 0 or -errno. */
  push(name: keyof MapRoutines, map: { address: bigint }, value: Uint8Array, flags = 0n): bigint {
    return this.run(name, map.address, this.place(value, 1), flags);
  }

  /** Pop and peek: the result, and the value that was written. */
  take(name: keyof MapRoutines, map: { address: bigint }, size: number): [bigint, Uint8Array] {
    const at = this.place(new Uint8Array(size).fill(0x5a), 1);
    const result = this.run(name, map.address, at);
    return [result, this.placed(size, 1)];
  }

  /** All that `mapIterate` gives: copies of keys and values. */
  iterate(
    map: { address: bigint },
    keySize: number,
    valueSize: number,
    slot = 0,
  ): [Uint8Array, Uint8Array][] {
    const cursor = this.place(new Uint8Array(CURSOR.BYTES), 2);
    const found: [Uint8Array, Uint8Array][] = [];
    for (;;) {
      const both = this.memory.alloc(16);
      // rdx, the second result, is stored by a few instructions around the call.
      const key = callCode(this.code.iterateBoth, map.address, cursor, both.address, 0, 0, slot);
      if (key === 0n) return found;
      const value = new DataView(both.bytes.buffer, both.bytes.byteOffset).getBigUint64(0, true);
      found.push([
        this.memory.bytesFrom(key).slice(0, keySize),
        this.memory.bytesFrom(value).slice(0, valueSize),
      ]);
    }
  }
}

/** What a call did, as the machine code says it: 0 or -errno. */
export function asErrno(operation: () => void): bigint {
  try {
    operation();
    return 0n;
  } catch (error) {
    if (error instanceof BpfError) return BigInt(-error.errno);
    throw error;
  }
}

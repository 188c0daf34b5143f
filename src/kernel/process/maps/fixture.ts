/**
 * What the tests of the maps stand on: shared memory and executable routines in this process, other programs that
 * run the same routines on the same memory, and a look at every node of a hash map. Not part of the package.
 */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ftruncate, MAP as MMAP, memfdCreate, mmap, munmap, PROT, viewMemory } from '../../../ffi/libc.js';
import { Assembler, type Label } from '../../../x86/assembler.js';
import type { Arena, Block } from '../region/arena.js';
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

  constructor() {
    this.assembler = new Assembler();
    this.routines = emitMapRoutines(this.assembler);
    this.size = Math.ceil(this.assembler.length / PAGE) * PAGE;
    this.fd = memfdCreate('multitrace-test-code');
    ftruncate(this.fd, this.size);
    const writable = mmap(0n, this.size, PROT.READ | PROT.WRITE, MMAP.SHARED, this.fd, 0);
    this.base = mmap(0n, this.size, PROT.READ | PROT.EXEC, MMAP.SHARED, this.fd, 0);
    new Uint8Array(viewMemory(writable, this.size)).set(this.assembler.finish(this.base));
    munmap(writable, this.size);
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

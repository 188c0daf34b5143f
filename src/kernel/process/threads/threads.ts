/**
 * The table of threads of a process, from our side: maps it, takes back the slots of threads that are gone, keeps the
 * names of threads, and knows where a thread's id is found.
 */

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { MAP, PROT, SYS } from '../../../ffi/libc.js';
import { findFreeRange, readMappings } from '../../../process/mappings.js';
import { pokeWords } from '../../../process/poke.js';
import type { TracedProcess } from '../../../process/process.js';
import { R } from '../../../process/registers.js';
import type { RemoteThread } from '../../../process/remote.js';
import { BpfError } from '../../errno.js';
import type { Arena, Block } from '../region/arena.js';
import { planDataAddress } from '../region/region.js';
import type { Stop } from '../stopper.js';
import {
  BLOCK_SIZE,
  BLOCKS,
  COMM_BYTES,
  KEY,
  POSSIBLE_CPUS,
  SHARED,
  TABLE,
  TABLE_BYTES,
  THREAD,
  type ThreadCode,
} from './layout.js';
import { findThreadIdOffset, readThreadIds } from './thread_id.js';

const SYS_MADVISE = 28;
const MADV_WIPEONFORK = 18;
/** The table is best where its address fits into an instruction: below 2 GiB. */
const LOW_END = 0x7ff0_0000n;
const LOW_REACH = 0x7000_0000n;

const decoder = new TextDecoder();

export class Threads {
  readonly #table: bigint;
  #early = true;
  readonly #process: TracedProcess;
  readonly #block: Block;
  readonly #view: DataView;

  private constructor(process: TracedProcess, table: bigint, block: Block) {
    this.#process = process;
    this.#block = block;
    this.#view = new DataView(block.bytes.buffer, block.bytes.byteOffset, SHARED.size);
    this.#table = table;
  }

  /** What code is made with: take it anew for each program, what is made later may be shorter. */
  get code(): ThreadCode {
    return { table: this.#table, shared: this.#block.address, early: this.#early && canReadFsBase() };
  }

  /**
   * Takes note of whether every thread has a thread pointer by now, in a stop. Throws ENOSYS where one has none and the
   * processor or the kernel can't tell code so: a program that asks for its thread would harm it.
   */
  checkThreadPointers(stop: Stop): void {
    if (this.#early) this.#early = stop.threads.some(thread => thread.registers[R.fs_base] === 0n);
    if (this.#early && !canReadFsBase())
      throw new BpfError(
        'ENOSYS',
        `process ${this.#process.pid} has no thread pointer yet, and this kernel can not tell programs so (FSGSBASE, Linux 5.9); attach to it when it runs (-p)`,
      );
  }

  /** Where the table can be mapped; ask before the stop. */
  static plan(process: TracedProcess): bigint {
    const mappings = readMappings(process.task);
    return (
      findFreeRange(mappings, TABLE_BYTES, LOW_END, LOW_END, LOW_REACH) ??
      planDataAddress(process, TABLE_BYTES)
    );
  }

  /** Maps the table at `address` of a process whose threads are stopped. Throws where a kernel before 4.14 can't. */
  static map(process: TracedProcess, remote: RemoteThread, arena: Arena, address: bigint): Threads {
    const flags = MAP.PRIVATE | MAP.ANONYMOUS | MAP.FIXED_NOREPLACE;
    const got = remote.call('mmap', SYS.mmap, address, TABLE_BYTES, PROT.READ | PROT.WRITE, flags, -1, 0);
    if (BigInt.asUintN(64, got) !== address) {
      remote.call('munmap', SYS.munmap, got, TABLE_BYTES);
      throw new BpfError(
        'EEXIST',
        `process ${process.pid} mapped something where multitrace was about to; try again`,
      );
    }
    remote.call('madvise', SYS_MADVISE, address, TABLE_BYTES, MADV_WIPEONFORK);
    const threads = new Threads(process, address, arena.alloc(SHARED.size, 64));
    threads.#initialise();
    return threads;
  }

  #initialise(): void {
    for (let i = 0; i < POSSIBLE_CPUS / 64; i++)
      this.#view.setBigUint64(SHARED.free + i * 8, 0xffff_ffff_ffff_ffffn, true);
    this.#view.setBigUint64(SHARED.seed, randomBytes(8).readBigUInt64LE(), true);
    this.refresh();
  }

  /** Unmaps the table; no code of ours may run any more. */
  unmapRemote(remote: RemoteThread): void {
    remote.call('munmap', SYS.munmap, this.#table, TABLE_BYTES);
  }

  /** Says in the private table whether we follow the process, and which it is. In a stop, `tid` stands still. */
  setAttached(tid: number, attached: boolean): void {
    const tgid = BigInt(namespacePid(this.#process.pid));
    this.#poke(tid, [[TABLE.attached, (tgid << 32n) | (attached ? 1n : 0n)]]);
  }

  #poke(tid: number, words: readonly (readonly [offset: number, word: bigint])[]): void {
    const pairs = new BigUint64Array(words.flatMap(([at, word]) => [this.#table + BigInt(at), word]));
    if (pokeWords(tid, pairs) !== words.length)
      throw new BpfError(
        'EFAULT',
        `could not write the table of threads of process ${this.#process.pid}: the kernel refused it`,
      );
  }

  /** Where a thread's id lies behind %fs:0; `undefined` while it is not known. */
  get threadIdOffset(): number | undefined {
    return this.#view.getUint32(SHARED.tidOffset, true) || undefined;
  }

  /**
   * Looks for it, in a stop. Threads have their id there when the C library has set itself up; for a dynamic program
   * that is when its libraries are loaded.
   */
  findThreadId(stop: Stop): number | undefined {
    if (this.threadIdOffset !== undefined) return this.threadIdOffset;
    const offset = findThreadIdOffset(this.#process, stop.threads);
    if (offset === undefined) return undefined;
    // Blocks that were claimed before do not say whose they are; the next look at them does.
    this.#view.setUint32(SHARED.tidOffset, offset, true);
    return offset;
  }

  /** Threads that found no slot so far: all were taken. */
  get exhausted(): bigint {
    return this.#view.getBigUint64(SHARED.exhausted, true);
  }

  /** Slots that are free. */
  get freeSlots(): number {
    let free = 0;
    for (let slot = 0; slot < POSSIBLE_CPUS; slot++) if (this.#isFree(slot)) free++;
    return free;
  }

  #isFree(slot: number): boolean {
    return (this.#view.getUint32(SHARED.free + (slot >> 5) * 4, true) & (1 << (slot & 31))) !== 0;
  }

  /** Frees a slot. A child may take or free others at the same time: an atomic operation on our mapping. */
  #free(slot: number): void {
    const { bytes } = this.#block;
    const words = new BigUint64Array(bytes.buffer, bytes.byteOffset + SHARED.free, POSSIBLE_CPUS / 64);
    Atomics.or(words, slot >> 6, 1n << BigInt(slot & 63));
  }

  /** The thread that owns a slot, by its id as the process sees it; 0 where it is not known, or the slot is free. */
  ownerOf(slot: number): number {
    return this.#isFree(slot) ? 0 : this.#view.getUint32(SHARED.owners + slot * 4, true);
  }

  /**
   * Takes back blocks and slots of threads that are gone, in a stop. `quiet`: no thread is in code of ours nor will
   * return to it; then also those that a program left without leaving. Returns how many slots became free.
   */
  reclaim(stop: Stop, quiet: boolean): number {
    const bytes = this.#process.read(this.#table, TABLE_BYTES);
    const table = new DataView(bytes.buffer, bytes.byteOffset);
    const live = new Set<bigint>();
    for (const thread of stop.threads) {
      const base = thread.registers[R.fs_base];
      const word = base === 0n ? new Uint8Array(0) : this.#process.readMapped(base, 8);
      if (word.length === 8) live.add(new DataView(word.buffer, word.byteOffset).getBigUint64(0, true) + 1n);
    }
    const changes: [number, bigint][] = [];
    const kept = new Set<number>();
    const freed: number[] = [];
    for (let i = 0; i < BLOCKS; i++) {
      const at = TABLE.blocks + i * BLOCK_SIZE;
      const key = table.getBigUint64(at + THREAD.key, true);
      if (key === KEY.empty || key === KEY.gone) continue;
      const slot = table.getUint32(at + THREAD.slot, true);
      const isLive = (key & 7n) === 1n ? live.has(key) : !quiet;
      if (isLive) {
        if (key !== KEY.claiming) kept.add(slot);
        continue;
      }
      changes.push([at + THREAD.key, KEY.gone]);
      // One that died while it claimed may not have had a slot: those without an owner are looked for below.
      if (key !== KEY.claiming) freed.push(slot);
    }
    for (let slot = 0; slot < POSSIBLE_CPUS; slot++) {
      if (this.#isFree(slot) || kept.has(slot) || freed.includes(slot)) continue;
      // A child's: it has a table of its own.
      const owner = this.ownerOf(slot);
      if (owner !== 0 && !this.#exists(owner)) freed.push(slot);
    }
    if (changes.length > 0) this.#poke(stop.tid, changes);
    for (const slot of freed) {
      this.#view.setUint32(SHARED.owners + slot * 4, 0, true);
      this.#free(slot);
    }
    return freed.length;
  }

  #exists(tid: number): boolean {
    // In another namespace, ids of ours are not those of the process: it is not for us to say.
    if (namespacePid(this.#process.pid) !== this.#process.pid) return true;
    try {
      readFileSync(`/proc/${tid}/comm`);
      return true;
    } catch {
      return false;
    }
  }

  /** Publishes user, group and the names of threads, as they are now. Called some 20 times a second where used. */
  refresh(): void {
    const { pid } = this.#process;
    try {
      const status = readFileSync(`/proc/${this.#process.task}/status`, 'latin1');
      const id = (name: string): bigint =>
        BigInt(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
      this.#view.setBigUint64(SHARED.uidGid, (id('Gid') << 32n) | id('Uid'), true);
      this.#writeComm(SHARED.comm, readFileSync(`/proc/${this.#process.task}/comm`));
      if (this.threadIdOffset === undefined) return;
      const tids = namespacePid(pid) === pid ? undefined : readThreadIds(pid);
      for (let slot = 0; slot < POSSIBLE_CPUS; slot++) {
        const owner = this.ownerOf(slot);
        if (owner === 0) continue;
        const tid = tids === undefined ? owner : tids.get(owner);
        if (tid === undefined) continue;
        try {
          this.#writeComm(SHARED.comms + slot * COMM_BYTES, readFileSync(`/proc/${tid}/comm`));
        } catch {
          // It ended.
        }
      }
    } catch {
      // The process ended: nobody asks any more.
    }
  }

  #writeComm(at: number, line: Uint8Array): void {
    const name = new Uint8Array(COMM_BYTES);
    name.set(line.subarray(0, Math.min(COMM_BYTES - 1, line.length - 1)));
    const there = this.#block.bytes.subarray(at, at + COMM_BYTES);
    if (Buffer.compare(name, there) !== 0) there.set(name);
  }

  /** The name that a slot's thread has in programs. */
  commOf(slot: number): string {
    const at = SHARED.comms + slot * COMM_BYTES;
    const bytes = this.#block.bytes.slice(at, at + COMM_BYTES);
    return decoder.decode(bytes.subarray(0, bytes.indexOf(0)));
  }

  /** Ids of the threads that have a slot now, of children too. */
  owners(): Map<number, number> {
    const owners = new Map<number, number>();
    for (let slot = 0; slot < POSSIBLE_CPUS; slot++) {
      const owner = this.ownerOf(slot);
      if (owner !== 0) owners.set(slot, owner);
    }
    return owners;
  }
}

const AT_HWCAP2 = 26n;
const HWCAP2_FSGSBASE = 2n;
let fsBase: boolean | undefined;

/** Whether programs may use rdfsbase here. */
function canReadFsBase(): boolean {
  if (fsBase === undefined) {
    const auxv = readFileSync('/proc/self/auxv');
    fsBase = false;
    for (let at = 0; at + 16 <= auxv.length; at += 16)
      if (auxv.readBigUInt64LE(at) === AT_HWCAP2)
        fsBase = (auxv.readBigUInt64LE(at + 8) & HWCAP2_FSGSBASE) !== 0n;
  }
  return fsBase;
}

/** The id of process or thread `pid` in its own pid namespace. */
export function namespacePid(pid: number): number {
  try {
    const line = /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'));
    return line === null ? pid : Number(line[1].trim().split(/\s+/).at(-1));
  } catch {
    return pid;
  }
}

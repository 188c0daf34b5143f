/**
 * The metadata table: function address → record, in shared memory, read by global trampolines without a lock.
 *
 * Two cells to a bucket, linear probing over the cells. A cell holds the address of a record, 0 where none ever was,
 * or the address of a record with the key 0 where one was deleted. The table is reached through one word, the root:
 * it is resized by building the next one aside and storing its address there. A reader sees the one table or the
 * other; the old one is given to `retire`, to be freed when no thread can still read it.
 *
 * As in the kernel's series: 16 buckets at first, doubled above 90 % load, halved below 30 %.
 *
 *     root    u64 address of the table
 *     table   u64 shift (32 - log2 of the number of cells), u64 mask (cells - 1), u64 cells[]
 *     index   (func * GOLDEN mod 2^32) >> shift
 */

import { type Assembler, type Label, mem, type Reg, r10, r11, rcx, rdx } from '../../../x86/assembler.js';
import type { Arena, Block } from '../region/arena.js';
import { RECORD } from './record.js';

/** 2^32 divided by the golden ratio, odd: multiplicative hashing (Knuth, The Art of Computer Programming 6.4). */
const GOLDEN = 0x9e37_79b9;
const HASH_BITS = 32;
const TABLE = { shift: 0, mask: 8, cells: 16 } as const;
const CELL_BYTES = 8;
const CELLS_PER_BUCKET = 2;

export const MIN_BUCKETS = 16;
const GROW_ABOVE = 0.9;
const SHRINK_BELOW = 0.3;
/** Deleted cells lengthen the probing: above this share of used and deleted cells the table is made anew. */
const CLEAN_ABOVE = 0.75;

export class KfuncTable {
  readonly #arena: Arena;
  readonly #retire: (block: Block) => void;
  readonly #root: Block;
  readonly #deleted: Block;
  readonly #records = new Map<bigint, bigint>();
  #table: Block;
  #buckets = MIN_BUCKETS;
  #tombstones = 0;

  constructor(arena: Arena, retire: (block: Block) => void) {
    this.#arena = arena;
    this.#retire = retire;
    this.#root = arena.alloc(8);
    this.#deleted = arena.alloc(RECORD.size);
    this.#table = this.#build(MIN_BUCKETS);
  }

  /** Address of the root word, which trampolines read. */
  get root(): bigint {
    return this.#root.address;
  }

  /** Records in the table. */
  get size(): number {
    return this.#records.size;
  }

  get buckets(): number {
    return this.#buckets;
  }

  /** Address of the record of `func`. */
  lookup(func: bigint): bigint | undefined {
    return this.#records.get(func);
  }

  /** Adds records at once, growing at most once. A function must not be in the table already. */
  insert(entries: readonly { func: bigint; record: bigint }[]): void {
    for (const { func, record } of entries) this.#records.set(func, record);
    let buckets = this.#buckets;
    while (this.#records.size > buckets * GROW_ABOVE) buckets *= 2;
    const used = this.#records.size + this.#tombstones;
    if (buckets !== this.#buckets || used > this.#buckets * CELLS_PER_BUCKET * CLEAN_ABOVE)
      this.#resize(buckets);
    else for (const { func, record } of entries) this.#place(this.#table, this.#buckets, func, record);
  }

  /** Puts another record in the place of a function's: a reader finds the one or the other. */
  replace(func: bigint, record: bigint): void {
    const old = this.#records.get(func)!;
    this.#records.set(func, record);
    const cells = this.#cells(this.#table, this.#buckets);
    let i = hashIndex(func, cells.length);
    while (cells[i] !== old) i = (i + 1) & (cells.length - 1);
    cells[i] = record;
  }

  /** Removes records at once, shrinking at most once. */
  delete(funcs: readonly bigint[]): void {
    const gone: { func: bigint; record: bigint }[] = [];
    for (const func of funcs) {
      const record = this.#records.get(func);
      if (record !== undefined) gone.push({ func, record });
      this.#records.delete(func);
    }
    let buckets = this.#buckets;
    while (buckets > MIN_BUCKETS && this.#records.size < buckets * SHRINK_BELOW) buckets /= 2;
    if (buckets !== this.#buckets) this.#resize(buckets);
    else for (const { func, record } of gone) this.#bury(func, record);
  }

  #resize(buckets: number): void {
    const old = this.#table;
    this.#buckets = buckets;
    this.#table = this.#build(buckets);
    this.#retire(old);
  }

  #build(buckets: number): Block {
    const cells = buckets * CELLS_PER_BUCKET;
    const table = this.#arena.alloc(TABLE.cells + cells * CELL_BYTES);
    const view = new DataView(table.bytes.buffer, table.bytes.byteOffset);
    view.setBigUint64(TABLE.shift, BigInt(HASH_BITS - Math.log2(cells)), true);
    view.setBigUint64(TABLE.mask, BigInt(cells - 1), true);
    for (const [func, record] of this.#records) this.#place(table, buckets, func, record);
    this.#tombstones = 0;
    const root = this.#root.bytes;
    new BigUint64Array(root.buffer, root.byteOffset, 1)[0] = table.address;
    return table;
  }

  #cells(table: Block, buckets: number): BigUint64Array {
    return new BigUint64Array(
      table.bytes.buffer,
      table.bytes.byteOffset + TABLE.cells,
      buckets * CELLS_PER_BUCKET,
    );
  }

  #place(table: Block, buckets: number, func: bigint, record: bigint): void {
    const cells = this.#cells(table, buckets);
    let i = hashIndex(func, cells.length);
    // A deleted record's cell serves again: a function that comes and goes does not lengthen the probing.
    while (cells[i] !== 0n && cells[i] !== this.#deleted.address) i = (i + 1) & (cells.length - 1);
    if (cells[i] !== 0n) this.#tombstones--;
    cells[i] = record;
  }

  #bury(func: bigint, record: bigint): void {
    const cells = this.#cells(this.#table, this.#buckets);
    let i = hashIndex(func, cells.length);
    while (cells[i] !== record) i = (i + 1) & (cells.length - 1);
    cells[i] = this.#deleted.address;
    this.#tombstones++;
  }
}

function hashIndex(func: bigint, cells: number): number {
  return Math.imul(Number(func & 0xffff_ffffn), GOLDEN) >>> (HASH_BITS - Math.log2(cells));
}

/**
 * Emits the look-up: `key` holds a function address; on falling through, `record` holds its record. Changes rcx, rdx,
 * r10, r11. Jumps to `absent` where the table has none.
 */
export function emitTableLookup(a: Assembler, root: bigint, key: Reg, record: Reg, absent: Label): void {
  const probe = a.label();
  const found = a.label();
  a.imul3(r10, key, GOLDEN | 0, 4);
  a.movImm64(r11, root);
  a.mov(r11, mem(r11));
  a.mov(rcx, mem(r11, TABLE.shift), 4);
  a.shr(r10, 'cl', 4);
  a.bind(probe);
  a.mov(rdx, mem(r11, TABLE.cells, r10, CELL_BYTES));
  a.test(rdx, rdx);
  a.jcc('e', absent);
  a.cmp(mem(rdx, RECORD.func), key);
  a.jcc('e', found);
  a.inc(r10);
  a.and(r10, mem(r11, TABLE.mask));
  a.jmp(probe);
  a.bind(found);
  if (record !== rdx) a.mov(record, rdx);
}

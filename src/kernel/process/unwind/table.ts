/**
 * The unwinding table of a live process, in shared memory: which module holds an address, and that module's rows
 * (elf/unwind_rows.ts). Written by us, read by walk_code.ts in the process.
 *
 *   root:    u64 address of the modules block; changed with one store
 *   modules: u64 count, then for each module, sorted by start (byte offsets):
 *              0  u64 start     of the code that has rows, in the process
 *              8  u64 end
 *             16  u64 pcs       u32[count], from start
 *             24  u64 rules     u32[count]
 *             32  u64 count
 */

import type { ElfFile } from '../../../elf/file.js';
import { type UnwindRows, unwindRows } from '../../../elf/unwind_rows.js';
import type { Module } from '../../../process/image.js';
import type { Arena, Block } from '../region/arena.js';

export const UNWIND_MODULE = { start: 0, end: 8, pcs: 16, rules: 24, count: 32, size: 40 } as const;
/** Bytes in front of the modules of a block. */
export const UNWIND_HEADER = 8;
const ROOT_BYTES = 8;

/** Files are parsed once, whichever processes map them. */
const parsed = new WeakMap<ElfFile, UnwindRows>();

function rowsOf(elf: ElfFile): UnwindRows {
  let rows = parsed.get(elf);
  if (rows === undefined) {
    rows = unwindRows(elf);
    parsed.set(elf, rows);
  }
  return rows;
}

interface Placed {
  readonly rows: UnwindRows;
  readonly pcs: Block;
  readonly rules: Block;
}

export class UnwindTable {
  readonly #arena: Arena;
  readonly #root: Block;
  readonly #placed = new Map<Module, Placed>();

  constructor(arena: Arena) {
    this.#arena = arena;
    this.#root = arena.alloc(ROOT_BYTES);
    this.#publish([]);
  }

  /** Address of the root, in the process. */
  get root(): bigint {
    return this.#root.address;
  }

  /**
   * Makes the table that of `modules`. What threads may be reading stays as it is: the space of modules that are gone
   * is not used again.
   */
  update(modules: readonly Module[]): void {
    let changed = false;
    for (const module of this.#placed.keys())
      if (!modules.includes(module)) {
        this.#placed.delete(module);
        changed = true;
      }
    for (const module of modules) {
      if (this.#placed.has(module)) continue;
      const rows = rowsOf(module.elf);
      if (rows.pcs.length === 0) continue;
      this.#placed.set(module, { rows, pcs: this.#place(rows.pcs), rules: this.#place(rows.rules) });
      changed = true;
    }
    if (changed) this.#publish([...this.#placed]);
  }

  #place(words: Uint32Array): Block {
    const block = this.#arena.alloc(words.byteLength);
    block.bytes.set(new Uint8Array(words.buffer, words.byteOffset, words.byteLength));
    return block;
  }

  #publish(placed: readonly (readonly [Module, Placed])[]): void {
    const block = this.#arena.alloc(UNWIND_HEADER + placed.length * UNWIND_MODULE.size);
    const { bytes } = block;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    view.setBigUint64(0, BigInt(placed.length), true);
    const sorted = placed
      .map(([module, { rows, pcs, rules }]) => {
        const start = module.bias + BigInt(rows.base);
        const end = start + BigInt(rows.pcs.at(-1)!);
        return { start, end, pcs: pcs.address, rules: rules.address, count: BigInt(rows.pcs.length) };
      })
      .sort((a, b) => (a.start < b.start ? -1 : 1));
    for (const [i, module] of sorted.entries()) {
      const at = UNWIND_HEADER + i * UNWIND_MODULE.size;
      view.setBigUint64(at + UNWIND_MODULE.start, module.start, true);
      view.setBigUint64(at + UNWIND_MODULE.end, module.end, true);
      view.setBigUint64(at + UNWIND_MODULE.pcs, module.pcs, true);
      view.setBigUint64(at + UNWIND_MODULE.rules, module.rules, true);
      view.setBigUint64(at + UNWIND_MODULE.count, module.count, true);
    }
    const root = new BigUint64Array(this.#root.bytes.buffer, this.#root.bytes.byteOffset, 1);
    Atomics.store(root, 0, block.address);
  }
}

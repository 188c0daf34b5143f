/**
 * Loads in our code that may fault: where they are, and what happens then. The counterpart of the kernel's exception
 * table. The tracer sees the SIGSEGV or SIGBUS before the process does, sets a register to zero and goes on elsewhere.
 */

import type { Assembler, Label, Reg } from '../../../x86/assembler.js';
import { mem } from '../../../x86/assembler.js';

/** A load in our code that may fault; offsets in its block of code. */
export interface FaultFixup {
  /** Of the instruction that faults. */
  readonly at: number;
  /** Where the thread goes on. */
  readonly resume: number;
  /** Hardware number of the register set to zero, or -1. */
  readonly clear: number;
}

/** A fixup at its place in the process. */
export interface PlacedFixup {
  readonly resume: bigint;
  readonly clear: number;
}

/** Every load of a process's that may fault. */
export class Faults {
  readonly #at = new Map<bigint, PlacedFixup>();
  /** Changes whenever what it holds does. */
  generation = 0;

  get size(): number {
    return this.#at.size;
  }

  /** Enters the fixups of a block of code at `address`. */
  add(address: bigint, fixups: readonly FaultFixup[]): void {
    for (const { at, resume, clear } of fixups)
      this.#at.set(address + BigInt(at), { resume: address + BigInt(resume), clear });
    this.generation++;
  }

  /** Forgets those of a block of `size` bytes at `address`, where no thread is any more. */
  remove(address: bigint, size: number): void {
    for (const at of this.#at.keys()) if (at >= address && at < address + BigInt(size)) this.#at.delete(at);
    this.generation++;
  }

  find(rip: bigint): PlacedFixup | undefined {
    return this.#at.get(rip);
  }

  /** All of them, in order of address. */
  sorted(): [at: bigint, fixup: PlacedFixup][] {
    return [...this.#at].sort(([a], [b]) => (a < b ? -1 : 1));
  }
}

/** Fixups of code that is being written: the labels become offsets when it is done. */
export class FixupList {
  readonly #list: { readonly at: number; readonly resume: Label; readonly clear: number }[] = [];

  /** The instruction that `a` writes next may fault. */
  next(a: Assembler, resume: Label, clear?: Reg): void {
    this.#list.push({ at: a.length, resume, clear: clear?.code ?? -1 });
  }

  /** When all labels are bound. */
  finish(a: Assembler): FaultFixup[] {
    return this.#list.map(({ at, resume, clear }) => ({ at, resume: a.offsetOf(resume), clear }));
  }
}

/** The first pages are never mapped (vm.mmap_min_addr). */
const LOW = 0x10000;
const ADDRESS_BITS = 47;

/**
 * Goes to `bad` where `address + offset` is in the first 64 KiB or no user address: so common a bad pointer shall not
 * trap. Changes `scratch` and flags.
 */
export function emitAddressCheck(a: Assembler, address: Reg, scratch: Reg, bad: Label, offset = 0): void {
  a.lea(scratch, mem(address, offset - LOW));
  a.shr(scratch, ADDRESS_BITS);
  a.jcc('ne', bad);
}

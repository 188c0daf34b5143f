/**
 * Memory for programs under test in the interpreter, in pieces far from one another, each of which knows who may read
 * and write it: whatever else is touched is a `RangeError`.
 */

import type { BpfMemory } from '../../src/bpf/interpreter.js';
import type { AccessSize } from '../../src/bpf/operation.js';
import type { MapSpec } from '../../src/kernel/process/verifier/environment.js';
import { LOCK_SIZE } from '../../src/kernel/process/verifier/map_fields.js';

/** Every piece has four gigabytes of addresses to itself: who leaves one is in none. */
const WINDOW = 32n;
/** Where in its window a piece begins: pointers may be 512 MiB beside it, as long as nobody uses them. */
const START = 0x8000_0000;
const FIRST_WINDOW = 0x1000;

export interface Piece {
  readonly bytes: Uint8Array;
  readonly readable: boolean;
  readonly writable: boolean;
  /** bytes that helpers only may touch */
  readonly lock: number | undefined;
  readonly map: MapSpec | undefined;
  alive: boolean;
}

export class Memory implements BpfMemory {
  readonly #pieces: Piece[] = [];
  stack = 0n;
  context = 0n;
  /** the lowest byte of the stack that the running frame has */
  bottom = 0n;
  accessed: (offset: number) => void = () => undefined;

  add(bytes: Uint8Array, fields: Partial<Omit<Piece, 'bytes'>> = {}): bigint {
    const piece = { bytes, readable: true, writable: true, lock: undefined, map: undefined, alive: true };
    this.#pieces.push({ ...piece, ...fields });
    return (BigInt(FIRST_WINDOW + this.#pieces.length - 1) << WINDOW) + BigInt(START);
  }

  piece(address: bigint): Piece | undefined {
    return this.#pieces[Number(address >> WINDOW) - FIRST_WINDOW];
  }

  /** Where `address` is in its piece. */
  offset(address: bigint): number {
    return Number(BigInt.asUintN(Number(WINDOW), address)) - START;
  }

  /** The piece that may be used from `address` on for `size` bytes. */
  at(address: bigint, size: number, use: 'reads' | 'writes', byHelper = false): Uint8Array {
    const piece = this.piece(address);
    const offset = this.offset(address);
    const what = `${use} ${size} bytes at 0x${address.toString(16)}`;
    if (piece === undefined || offset < 0 || offset + size > piece.bytes.length) throw new RangeError(what);
    if (!piece.alive) throw new RangeError(`${what}, which was given back`);
    if (use === 'writes' ? !piece.writable : !piece.readable)
      throw new RangeError(`${what}, which it may not`);
    if (piece.lock !== undefined && offset < piece.lock + LOCK_SIZE && offset + size > piece.lock)
      throw new RangeError(`${what}, where a lock is`);
    if (address >= this.stack && address < this.bottom) throw new RangeError(`${what}, below its frame`);
    if (this.context <= address && address < this.context + BigInt(START) && !byHelper) this.accessed(offset);
    return piece.bytes.subarray(offset, offset + size);
  }

  load(address: bigint, size: AccessSize): bigint {
    const bytes = this.at(address, size, 'reads');
    let value = 0n;
    for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i] as number);
    return value;
  }

  store(address: bigint, size: AccessSize, value: bigint): void {
    const bytes = this.at(address, size, 'writes');
    for (let i = 0; i < size; i++) bytes[i] = Number((value >> BigInt(8 * i)) & 0xffn);
  }
}

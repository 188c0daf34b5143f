/**
 * The code symbols of /proc/kallsyms, by index, by name and by address. There are more than a hundred thousand, and few
 * are wanted: they are kept as numbers over the file's bytes, and names become strings when somebody asks.
 */

import { BpfError } from '../errno.js';
import { KERNEL_MODULE } from './kernel_types.js';

const NEWLINE = 0x0a;
const TAB = 0x09;
const SPACE = 0x20;
const BRACKET = 0x5b;
const CLOSING_BRACKET = 0x5d;
const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;
/** 2^32 and 2^64: kernel addresses are kept as their distance to the end of memory, which a double holds exactly. */
const WORD = 2 ** 32;
const END = 1n << 64n;
/** Hexadecimal digits of an address; a space, the type and a space follow. */
const ADDRESS_DIGITS = 16;
const NAME_AT = ADDRESS_DIGITS + 3;
/** Markers of the bytes that are padding in front of a function, which have symbols too. */
const PADDING_PREFIX = Buffer.from('__pfx_');
/** What stands in the place of a module's name for code that the kernel makes as it runs. */
const MADE = /^(bpf|__builtin__.*)$/;

const isCode = new Uint8Array(256);
for (const letter of 'tTwW') isCode[letter.charCodeAt(0)] = 1;
const hexDigit = new Uint8Array(256);
for (let digit = 0; digit < 16; digit++) hexDigit[digit.toString(16).charCodeAt(0)] = digit;

export class KernelSymbols {
  readonly #bytes: Buffer;
  /** The same as one string, which names are slices of. */
  readonly #text: string;
  readonly #starts: Uint32Array;
  readonly #ends: Uint32Array;
  readonly #hashes: Int32Array;
  /** Distance to 2^64, negative; -2^64 where the kernel hides it. */
  readonly #addresses: Float64Array;
  readonly #owners: Uint16Array;
  readonly count: number;
  /** `kernel`, then the modules that have code. */
  readonly modules: readonly string[];
  /** The kernel shows where its functions are. */
  readonly hasAddresses: boolean;
  readonly #heads: Int32Array;
  readonly #next: Int32Array;
  readonly #duplicate: Uint8Array;
  /** Indices in order of address; those of one module stay together where addresses are hidden. */
  readonly order: Uint32Array;
  /** Place of an index in `order`. */
  readonly #rank: Uint32Array;

  /** Throws EINVAL for text that is not kallsyms'. The bytes must not change afterwards. */
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.#text = bytes.toString('latin1');
    // The shortest line: an address, its type and a name of one letter.
    const most = Math.floor(bytes.length / (NAME_AT + 2)) + 1;
    const starts = new Uint32Array(most);
    const ends = new Uint32Array(most);
    const hashes = new Int32Array(most);
    const addresses = new Float64Array(most);
    const owners = new Uint16Array(most);
    const owner = new OwnerNames(bytes);
    let count = 0;
    let shown = false;
    for (let at = 0; at < bytes.length; ) {
      if (bytes[at + ADDRESS_DIGITS] !== SPACE || bytes[at + NAME_AT - 1] !== SPACE)
        throw new BpfError('EINVAL', `/proc/kallsyms has a line at byte ${at} that is no symbol`);
      if (isCode[bytes[at + NAME_AT - 2]] === 0) {
        at = bytes.indexOf(NEWLINE, at + NAME_AT) + 1;
        if (at === 0) break;
        continue;
      }
      const start = at + NAME_AT;
      let end = start;
      let hash = FNV_OFFSET;
      for (let byte = bytes[end]; byte > SPACE; byte = bytes[++end]) hash = Math.imul(hash ^ byte, FNV_PRIME);
      let next = end;
      let module = 0;
      if (bytes[end] === TAB && bytes[end + 1] === BRACKET) {
        next = bytes.indexOf(CLOSING_BRACKET, end);
        if (next < 0) break;
        module = owner.of(end + 2, next);
        next = bytes.indexOf(NEWLINE, next);
        if (next < 0) next = bytes.length;
      }
      if (module >= 0 && !startsWith(bytes, start, PADDING_PREFIX)) {
        const high = hexWord(bytes, at);
        const low = hexWord(bytes, at + ADDRESS_DIGITS / 2);
        if (high !== 0) shown = true;
        starts[count] = start;
        ends[count] = end;
        hashes[count] = hash ^ (hash >>> 15);
        addresses[count] = (high - WORD) * WORD + low;
        owners[count++] = module;
      }
      at = next + 1;
    }
    this.count = count;
    this.#starts = starts.slice(0, count);
    this.#ends = ends.slice(0, count);
    this.#hashes = hashes.slice(0, count);
    this.#addresses = addresses.slice(0, count);
    this.#owners = owners.slice(0, count);
    this.modules = owner.names;
    this.hasAddresses = shown;
    this.#heads = new Int32Array(2 ** Math.ceil(Math.log2(count + 2)));
    this.#next = new Int32Array(count);
    this.#duplicate = new Uint8Array(count);
    for (let index = count - 1; index >= 0; index--) this.#enter(index);
    this.order = this.#sorted();
    this.#rank = new Uint32Array(count);
    for (let place = 0; place < count; place++) this.#rank[this.order[place]] = place;
  }

  name(index: number): string {
    return this.#text.slice(this.#starts[index], this.#ends[index]);
  }

  /** Position in `modules`. */
  owner(index: number): number {
    return this.#owners[index];
  }

  /** Where it is; 0 where the kernel hides it. */
  address(index: number): bigint {
    return this.hasAddresses ? END + BigInt(this.#addresses[index]) : 0n;
  }

  /** Bytes to the next symbol of code; 0 for the last one, and where addresses are hidden. */
  size(index: number): number {
    if (!this.hasAddresses) return 0;
    const own = this.#addresses[index];
    for (let place = this.#rank[index] + 1; place < this.count; place++) {
      const other = this.order[place];
      if (this.#addresses[other] === own) continue;
      return this.#owners[other] === this.#owners[index] ? this.#addresses[other] - own : 0;
    }
    return 0;
  }

  /** Another symbol of its module has the same name and is elsewhere. */
  isDuplicate(index: number): boolean {
    return this.#duplicate[index] === 1;
  }

  /** Symbols of a name, in the order of the file. */
  find(name: string): number[] {
    const wanted = Buffer.from(name, 'latin1');
    const found: number[] = [];
    this.each(wanted, 0, wanted.length, index => found.push(index));
    return found;
  }

  /** Calls `symbol` with each index whose name is these bytes. */
  each(bytes: Uint8Array, start: number, end: number, symbol: (index: number) => void): void {
    let hash = FNV_OFFSET;
    for (let at = start; at < end; at++) hash = Math.imul(hash ^ bytes[at], FNV_PRIME);
    hash ^= hash >>> 15;
    for (let at = this.#heads[hash & (this.#heads.length - 1)]; at !== 0; at = this.#next[at - 1])
      if (this.#hashes[at - 1] === hash && this.#isNamed(at - 1, bytes, start, end)) symbol(at - 1);
  }

  /** All symbols at the address of one, itself among them; itself alone where addresses are hidden. */
  aliases(index: number): number[] {
    if (!this.hasAddresses) return [index];
    let first = this.#rank[index];
    while (first > 0 && this.#addresses[this.order[first - 1]] === this.#addresses[index]) first--;
    const found: number[] = [];
    for (let place = first; place < this.count; place++) {
      const other = this.order[place];
      if (this.#addresses[other] !== this.#addresses[index]) break;
      found.push(other);
    }
    return found;
  }

  /** Both are at one address of one module, as far as the kernel shows that. */
  isAlias(index: number, other: number): boolean {
    return (
      this.hasAddresses &&
      this.#addresses[index] === this.#addresses[other] &&
      this.#owners[index] === this.#owners[other]
    );
  }

  /** A symbol at exactly this address. */
  at(address: bigint): number | undefined {
    const index = this.before(address);
    return index !== undefined && this.address(index) === address ? index : undefined;
  }

  /** The last symbol that is not behind this address; of several at its place the first. */
  before(address: bigint): number | undefined {
    if (!this.hasAddresses) return undefined;
    const wanted = Number(address - END);
    let low = 0;
    let high = this.count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#addresses[this.order[middle]] <= wanted) low = middle + 1;
      else high = middle;
    }
    if (low === 0) return undefined;
    const place = this.#addresses[this.order[low - 1]];
    while (low > 1 && this.#addresses[this.order[low - 2]] === place) low--;
    return this.order[low - 1];
  }

  #isNamed(index: number, bytes: Uint8Array, start: number, end: number): boolean {
    const own = this.#starts[index];
    if (this.#ends[index] - own !== end - start) return false;
    for (let i = 0; i < end - start; i++) if (this.#bytes[own + i] !== bytes[start + i]) return false;
    return true;
  }

  /** Puts a symbol at the head of its chain, and marks it and those before it that have its name in its module. */
  #enter(index: number): void {
    const slot = this.#hashes[index] & (this.#heads.length - 1);
    for (let at = this.#heads[slot]; at !== 0; at = this.#next[at - 1]) {
      const other = at - 1;
      if (
        this.#hashes[other] !== this.#hashes[index] ||
        this.#owners[other] !== this.#owners[index] ||
        (this.hasAddresses && this.#addresses[other] === this.#addresses[index]) ||
        !this.#isNamed(other, this.#bytes, this.#starts[index], this.#ends[index])
      )
        continue;
      this.#duplicate[index] = 1;
      this.#duplicate[other] = 1;
    }
    this.#next[index] = this.#heads[slot];
    this.#heads[slot] = index + 1;
  }

  #sorted(): Uint32Array {
    const addresses = this.#addresses;
    const order = Array.from({ length: this.count }, (_, index) => index);
    // The kernel's own come sorted, which this sort is quick for.
    if (this.hasAddresses) order.sort((a, b) => addresses[a] - addresses[b]);
    return Uint32Array.from(order);
  }
}

/** Numbers the modules as they come. */
class OwnerNames {
  readonly names: string[] = [KERNEL_MODULE];
  readonly #bytes: Buffer;
  readonly #known = new Map<string, number>();

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** -1 for code that belongs to no module. */
  of(start: number, end: number): number {
    const name = this.#bytes.toString('latin1', start, end);
    let number = this.#known.get(name);
    if (number === undefined) {
      number = MADE.test(name) ? -1 : this.names.push(name) - 1;
      this.#known.set(name, number);
    }
    return number;
  }
}

function hexWord(bytes: Buffer, start: number): number {
  let value = 0;
  for (let at = start; at < start + 8; at++) value = (value << 4) | hexDigit[bytes[at]];
  return value >>> 0;
}

function startsWith(bytes: Buffer, start: number, prefix: Buffer): boolean {
  for (let i = 0; i < prefix.length; i++) if (bytes[start + i] !== prefix[i]) return false;
  return true;
}

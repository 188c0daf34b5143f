/**
 * The records of .eh_frame: CIEs and FDEs, decoded as far as ranges (frames.ts) and unwinding (unwind_rows.ts) need.
 *
 * Format: Linux Standard Base, "Exception Frames"; encodings from its "DWARF Exception Header Encoding".
 *
 *   CIE: | length u32 | 0 u32 | version u8 | augmentation "zPLR…" | code, data alignment, register | augmentation data | instructions |
 *   FDE: | length u32 | distance back to its CIE u32 | start | size | augmentation data | instructions |
 */

import type { ElfFile } from './file.js';
import { PT_GNU_EH_FRAME, readS64, readU64 } from './format.js';

/** Pointer encodings (DW_EH_PE_…): format in the low half, what it is relative to in the high. */
const OMIT = 0xff;
const FORMAT = 0x0f;
const RELATIVE_TO = 0x70;
const INDIRECT = 0x80;
const PCREL = 0x10;
const DATAREL = 0x30;

const EXTENDED_LENGTH = 0xffffffff;

/** Longest augmentation string and LEB128 number that are believed, in bytes; real ones have 5 and 10. */
const MAX_AUGMENTATION = 16;
const MAX_LEB = 10;

/** What all FDEs of one compilation unit share. */
export interface Cie {
  readonly encoding: number;
  /** Returned to by the kernel from a signal handler, not called. */
  readonly signalFrame: boolean;
  readonly codeAlignment: number;
  readonly dataAlignment: number;
  /** Exceptions stop in functions of this unit, or pass them by their clean-up code. */
  readonly personality: boolean;
  /** DWARF number of the return address's column. */
  readonly returnRegister: number;
  /** FDEs carry augmentation data, with its length. */
  readonly augmented: boolean;
  /** The initial instructions: where they begin and end in the frames' bytes. */
  readonly from: number;
  readonly to: number;
}

/** One FDE: addresses of the file, sizes in bytes; its instructions are `bytes` from `from` to `to`. */
export interface FrameEntry {
  readonly start: number;
  readonly size: number;
  readonly cie: Cie;
  readonly bytes: Buffer;
  readonly from: number;
  readonly to: number;
}

/** Every FDE that can be read: none for a file without .eh_frame. Throws ENOEXEC when the section lies outside the file. */
export function frameEntries(elf: ElfFile): Iterable<FrameEntry> {
  const frames = locateFrames(elf);
  return frames === undefined ? [] : decodeFrames(frames);
}

interface Frames {
  readonly bytes: Buffer;
  readonly address: number;
  /** A zero length ends the frames: their size is not known from a section header. */
  readonly endsAtZero: boolean;
}

function locateFrames(elf: ElfFile): Frames | undefined {
  const section = elf.section('.eh_frame');
  if (section) return { bytes: elf.sectionBytes(section), address: section.address, endsAtZero: false };
  // Without section headers .eh_frame_hdr, which the unwinder itself starts from, points to the frames:
  // | version u8 | encoding of the pointer u8 | encoding of the count u8 | of the table u8 | pointer |
  const header = elf.programHeaders.find(segment => segment.type === PT_GNU_EH_FRAME);
  const bytes = header && elf.bytesAt(header.vaddr, header.filesz);
  if (!header || !bytes || bytes.length < 4) return undefined;
  const reader = new Reader(bytes, header.vaddr, 4, bytes.length);
  const address = reader.pointer(bytes[1], header.vaddr);
  const frames = address === undefined ? undefined : elf.bytesFrom(address);
  return frames && address !== undefined ? { bytes: frames, address, endsAtZero: true } : undefined;
}

function* decodeFrames({ bytes, address, endsAtZero }: Frames): Generator<FrameEntry> {
  const cies = new Map<number, Cie | undefined>();
  let at = 0;
  while (at + 4 <= bytes.length) {
    const record = recordAt(bytes, at);
    if (!record) return;
    if (record.end === record.body) {
      // Between the parts of several object files a zero may stand; the section's size says where all ends.
      if (endsAtZero) return;
      at += 4;
      continue;
    }
    const back = bytes.readUInt32LE(record.body);
    if (back !== 0) {
      const cieAt = record.body - back;
      if (!cies.has(cieAt)) cies.set(cieAt, decodeCie(bytes, cieAt));
      const cie = cies.get(cieAt);
      const range = cie && decodeFde(bytes, address, record.body + 4, record.end, cie);
      if (range) yield range;
    }
    at = record.end;
  }
}

/** Where the body of the record at `at` starts and ends: `body` equals `end` for the zero terminator. */
function recordAt(bytes: Buffer, at: number): { body: number; end: number } | undefined {
  let length = bytes.readUInt32LE(at);
  let body = at + 4;
  if (length === 0) return { body, end: body };
  if (length === EXTENDED_LENGTH) {
    if (body + 8 > bytes.length) return undefined;
    length = readU64(bytes, body);
    body += 8;
  }
  if (length < 4 || body + length > bytes.length) return undefined;
  return { body, end: body + length };
}

function decodeFde(
  bytes: Buffer,
  address: number,
  at: number,
  end: number,
  cie: Cie,
): FrameEntry | undefined {
  const reader = new Reader(bytes, address, at, end);
  const start = reader.pointer(cie.encoding, undefined);
  // The size has the same format, relative to nothing.
  const size = reader.pointer(cie.encoding & FORMAT, undefined);
  if (start === undefined || size === undefined) return undefined;
  const from = cie.augmented ? reader.pastBlock() : reader.at;
  return { start, size, cie, bytes, from: from ?? end, to: end };
}

function decodeCie(bytes: Buffer, at: number): Cie | undefined {
  if (at < 0 || at + 4 > bytes.length) return undefined;
  const record = recordAt(bytes, at);
  if (!record || record.end === record.body || bytes.readUInt32LE(record.body) !== 0) return undefined;
  const reader = new Reader(bytes, 0, record.body + 4, record.end);
  const version = reader.u8();
  if (version !== 1 && version !== 3) return undefined;
  const augmentation = reader.augmentation();
  // Only augmentations that say their own length, which all compilers of x86-64 write, can be read in part.
  if (augmentation === undefined || (augmentation !== '' && !augmentation.startsWith('z'))) return undefined;
  const augmented = augmentation !== '';
  const codeAlignment = reader.uleb() ?? 1;
  const dataAlignment = reader.sleb() ?? 1;
  const returnRegister = (version === 1 ? reader.u8() : reader.uleb()) ?? 0;
  const from = augmented ? reader.blockEnd() : reader.at;
  if (from === undefined) return undefined;
  let encoding = 0;
  for (const letter of augmentation.slice(1)) {
    if (letter === 'R') encoding = reader.u8() ?? OMIT;
    else if (letter === 'L') reader.u8();
    else if (letter === 'P') reader.skipPointer(reader.u8() ?? OMIT);
    else if (letter !== 'S' && letter !== 'B') return undefined;
  }
  const readable = !reader.failed && encoding !== OMIT && !(encoding & INDIRECT);
  if (!readable) return undefined;
  const signalFrame = augmentation.includes('S');
  const { end } = record;
  return {
    encoding,
    signalFrame,
    personality: augmentation.includes('P'),
    codeAlignment,
    dataAlignment,
    returnRegister,
    augmented,
    from: Math.min(from, end),
    to: end,
  };
}

/** Reads forward through a record or its instructions; past its end everything is `undefined`, and `failed` is set. */
export class Reader {
  readonly #bytes: Buffer;
  readonly #address: number;
  readonly #end: number;
  #at: number;
  failed = false;

  /** `address` is that of `bytes[0]`; reading goes from `at` to `end`. */
  constructor(bytes: Buffer, address: number, at: number, end: number) {
    this.#bytes = bytes;
    this.#address = address;
    this.#at = at;
    this.#end = Math.min(end, bytes.length);
  }

  /** Where it stands, in the bytes. */
  get at(): number {
    return this.#at;
  }

  get done(): boolean {
    return this.failed || this.#at >= this.#end;
  }

  /** Where the block that its length begins ends; the reader stands at its contents. */
  blockEnd(): number | undefined {
    const length = this.uleb();
    return length === undefined ? undefined : this.#at + length;
  }

  /** Steps over a block that its length begins; where it ends. */
  pastBlock(): number | undefined {
    const end = this.blockEnd();
    if (end !== undefined) this.#at = end;
    return end;
  }

  unsigned(size: 1 | 2 | 4 | 8): number | undefined {
    const at = this.#take(size);
    if (at === undefined) return undefined;
    return size === 8 ? readU64(this.#bytes, at) : this.#bytes.readUIntLE(at, size);
  }

  /** Takes `count` bytes: their offset, or `undefined`. */
  #take(count: number): number | undefined {
    const at = this.#at;
    if (at + count > this.#end) {
      this.failed = true;
      return undefined;
    }
    this.#at = at + count;
    return at;
  }

  u8(): number | undefined {
    const at = this.#take(1);
    return at === undefined ? undefined : this.#bytes[at];
  }

  /** A short text that ends with a zero byte. */
  augmentation(): string | undefined {
    const limit = Math.min(this.#end, this.#at + MAX_AUGMENTATION);
    let end = this.#at;
    while (end < limit && this.#bytes[end] !== 0) end++;
    if (end === limit) {
      this.failed = true;
      return undefined;
    }
    const text = this.#bytes.toString('latin1', this.#at, end);
    this.#at = end + 1;
    return text;
  }

  /** An unsigned LEB128 number; also right for skipping a signed one. */
  uleb(): number | undefined {
    let value = 0;
    for (let i = 0; i < MAX_LEB; i++) {
      const byte = this.u8();
      if (byte === undefined) return undefined;
      value += (byte & 127) * 128 ** i;
      if (byte < 128) return value;
    }
    this.failed = true;
    return undefined;
  }

  sleb(): number | undefined {
    const start = this.#at;
    const value = this.uleb();
    if (value === undefined) return undefined;
    const negative = this.#bytes[this.#at - 1] & 64;
    return negative ? value - 128 ** (this.#at - start) : value;
  }

  /**
   * A pointer in one of the encodings; `dataBase` is what DATAREL is relative to. `undefined` for an encoding
   * that code addresses are not written in.
   */
  pointer(encoding: number, dataBase: number | undefined): number | undefined {
    const place = this.#address + this.#at;
    const value = this.#number(encoding & FORMAT);
    if (value === undefined) return undefined;
    const relativeTo = encoding & RELATIVE_TO;
    if (relativeTo === 0) return value;
    if (relativeTo === PCREL) return place + value;
    if (relativeTo === DATAREL && dataBase !== undefined) return dataBase + value;
    return undefined;
  }

  /** Steps over a pointer that is of no interest. */
  skipPointer(encoding: number): void {
    if (encoding !== OMIT && this.#number(encoding & FORMAT) === undefined) this.failed = true;
  }

  #number(format: number): number | undefined {
    if (format === 0x01) return this.uleb();
    if (format === 0x09) return this.sleb();
    const size = FORMAT_SIZES[format];
    const at = size === undefined ? undefined : this.#take(size);
    if (at === undefined) return undefined;
    if (format === 0x02) return this.#bytes.readUInt16LE(at);
    if (format === 0x0a) return this.#bytes.readInt16LE(at);
    if (format === 0x03) return this.#bytes.readUInt32LE(at);
    if (format === 0x0b) return this.#bytes.readInt32LE(at);
    return format === 0x0c ? readS64(this.#bytes, at) : readU64(this.#bytes, at);
  }
}

/** Sizes in bytes of the formats absptr, udata2, udata4, udata8, sdata2, sdata4, sdata8. */
const FORMAT_SIZES: Record<number, number> = { 0: 8, 2: 2, 3: 4, 4: 8, 10: 2, 11: 4, 12: 8 };

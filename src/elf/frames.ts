/**
 * Where functions begin and end, as .eh_frame says: unwinding needs it, so it survives `strip`, and compilers
 * write it for C too. One range is one FDE; a function that was split into a hot and a cold part has two.
 * Only the ranges are read: no unwinding here.
 *
 * Format: Linux Standard Base, "Exception Frames"; encodings from its "DWARF Exception Header Encoding".
 *
 *   CIE: | length u32 | 0 u32 | version u8 | augmentation "zPLR…" | code, data alignment, register | augmentation data |
 *   FDE: | length u32 | distance back to its CIE u32 | start | size | … |
 */

import type { ElfFile } from './file.js';
import { PF_X, PT_GNU_EH_FRAME, readS64, readU64 } from './format.js';
import { lastStartingAtOrBefore } from './ranges.js';

/** One range of code that belongs to one function; addresses of the file, sizes in bytes. */
export interface FrameRange {
  readonly start: number;
  readonly size: number;
  /** Returned to by the kernel from a signal handler, not called; it starts a byte before its symbol. */
  readonly signalFrame: boolean;
}

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

interface Cie {
  readonly encoding: number;
  readonly signalFrame: boolean;
}

/**
 * The ranges, sorted by start, each once. What can't be read is left out: a file without .eh_frame or with a
 * damaged one gives fewer ranges or none. Throws ENOEXEC only when the section lies outside the file.
 */
export function frameRanges(elf: ElfFile): FrameRange[] {
  const frames = locateFrames(elf);
  if (!frames) return [];
  const code = executableRanges(elf);
  const ranges: FrameRange[] = [];
  for (const range of decodeFrames(frames)) if (range.size > 0 && isInside(code, range)) ranges.push(range);
  ranges.sort((a, b) => a.start - b.start || a.size - b.size);
  return ranges.filter((range, i) => {
    const previous = ranges[i - 1];
    return i === 0 || range.start !== previous.start || range.size !== previous.size;
  });
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

interface Range {
  readonly start: number;
  end: number;
}

/** Executable segments, sorted, adjoining ones as one. */
function executableRanges(elf: ElfFile): Range[] {
  const ranges: Range[] = [];
  for (const segment of elf.segments) {
    if (!(segment.flags & PF_X)) continue;
    const end = segment.vaddr + segment.memsz;
    const last = ranges.at(-1);
    if (last && segment.vaddr <= last.end) last.end = Math.max(last.end, end);
    else ranges.push({ start: segment.vaddr, end });
  }
  return ranges;
}

function isInside(code: readonly Range[], { start, size }: FrameRange): boolean {
  const range = code[lastStartingAtOrBefore(code, start, ({ start }) => start)];
  return range !== undefined && start + size <= range.end;
}

function* decodeFrames({ bytes, address, endsAtZero }: Frames): Generator<FrameRange> {
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
): FrameRange | undefined {
  const reader = new Reader(bytes, address, at, end);
  const start = reader.pointer(cie.encoding, undefined);
  // The size has the same format, relative to nothing.
  const size = reader.pointer(cie.encoding & FORMAT, undefined);
  if (start === undefined || size === undefined) return undefined;
  return { start, size, signalFrame: cie.signalFrame };
}

function decodeCie(bytes: Buffer, at: number): Cie | undefined {
  if (at < 0 || at + 4 > bytes.length) return undefined;
  const record = recordAt(bytes, at);
  if (!record || record.end === record.body || bytes.readUInt32LE(record.body) !== 0) return undefined;
  const reader = new Reader(bytes, 0, record.body + 4, record.end);
  const version = reader.u8();
  if (version !== 1 && version !== 3) return undefined;
  const augmentation = reader.augmentation();
  if (augmentation === '') return { encoding: 0, signalFrame: false };
  // Only augmentations that say their own length, which all compilers of x86-64 write, can be read in part.
  if (!augmentation?.startsWith('z')) return undefined;
  reader.uleb();
  reader.uleb();
  if (version === 1) reader.u8();
  else reader.uleb();
  reader.uleb();
  let encoding = 0;
  for (const letter of augmentation.slice(1)) {
    if (letter === 'R') encoding = reader.u8() ?? OMIT;
    else if (letter === 'L') reader.u8();
    else if (letter === 'P') reader.skipPointer(reader.u8() ?? OMIT);
    else if (letter !== 'S' && letter !== 'B') return undefined;
  }
  const readable = !reader.failed && encoding !== OMIT && !(encoding & INDIRECT);
  return readable ? { encoding, signalFrame: augmentation.includes('S') } : undefined;
}

/** Reads forward through a record; past its end everything is `undefined`, and `failed` is set. */
class Reader {
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

  #sleb(): number | undefined {
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
    if (format === 0x09) return this.#sleb();
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

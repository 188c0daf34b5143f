/**
 * `.BTF.ext`: what belongs to a program's instructions and not to its types: the function that begins at an
 * instruction, its source line, and CO-RE relocations, by ELF section. The data is not trusted.
 *
 * Format: Linux documentation, "BPF Type Format (BTF)", ".BTF.ext section"; a table of records says itself how large a
 * record is, so newer and older ones are read alike.
 */

import { BpfError } from '../kernel/errno.js';
import type { Btf } from './btf.js';
import { BTF_MAGIC, BTF_VERSION } from './types.js';

/** The header with functions and lines only, as it once was; with CO-RE relocations it has 8 bytes more. */
const OLD_HEADER_SIZE = 24;
const CORE_HEADER_SIZE = 32;
const INSN_SIZE = 8;
/** Line and column share a word. */
const COLUMN_BITS = 10;

export interface FuncInfoRecord {
  /** Bytes from the section's start, as in every record. */
  readonly insnOffset: number;
  /** A `func` type. */
  readonly typeId: number;
}

export interface LineInfoRecord {
  readonly insnOffset: number;
  readonly file: string;
  /** The line's text. */
  readonly text: string;
  readonly line: number;
  readonly column: number;
}

/** What a CO-RE relocation asks for, by number (`enum bpf_core_relo_kind`). */
export const CORE_RELO_KINDS = [
  'field_byte_offset',
  'field_byte_size',
  'field_exists',
  'field_signed',
  'field_lshift_u64',
  'field_rshift_u64',
  'type_id_local',
  'type_id_target',
  'type_exists',
  'type_size',
  'enumval_exists',
  'enumval_value',
  'type_matches',
] as const;
export type CoreReloKind = (typeof CORE_RELO_KINDS)[number];

export interface CoreRelo {
  readonly insnOffset: number;
  /** The type in the program's own BTF. */
  readonly typeId: number;
  /** Indices of elements and members, `0:1:3`. */
  readonly access: string;
  readonly kind: CoreReloKind;
}

/** Records by section name, in the order of the file. */
export class BtfExt {
  readonly funcInfo: ReadonlyMap<string, FuncInfoRecord[]>;
  readonly lineInfo: ReadonlyMap<string, LineInfoRecord[]>;
  readonly coreRelos: ReadonlyMap<string, CoreRelo[]>;

  private constructor(reader: ExtReader) {
    this.funcInfo = reader.table(8, 8, 'function', (at, insnOffset) => {
      const typeId = reader.typeId(at + 4);
      if (reader.btf.type(typeId).kind !== 'func')
        reader.fail(`names type ${typeId} as a function, which is none`);
      return { insnOffset, typeId };
    });
    this.lineInfo = reader.table(16, 16, 'line', (at, insnOffset) => {
      const place = reader.word(at + 12);
      return {
        insnOffset,
        file: reader.btf.nameAt(reader.word(at + 4)),
        text: reader.btf.nameAt(reader.word(at + 8)),
        line: place >>> COLUMN_BITS,
        column: place & ((1 << COLUMN_BITS) - 1),
      };
    });
    this.coreRelos = reader.table(24, 16, 'relocation', (at, insnOffset) => {
      const number = reader.word(at + 12);
      const kind = CORE_RELO_KINDS[number];
      if (kind === undefined)
        throw new BpfError(
          'EOPNOTSUPP',
          `${reader.label}: a CO-RE relocation is of kind ${number}, which is not known; use an older compiler`,
        );
      return {
        insnOffset,
        typeId: reader.typeId(at + 4),
        access: reader.btf.nameAt(reader.word(at + 8)),
        kind,
      };
    });
  }

  /** `btf` is the `.BTF` of the same file. Throws EINVAL where the data is damaged. */
  static parse(bytes: Uint8Array, btf: Btf): BtfExt {
    return new BtfExt(new ExtReader(bytes, btf));
  }
}

class ExtReader {
  readonly btf: Btf;
  readonly label: string;
  readonly #view: DataView;
  readonly #headerSize: number;

  constructor(bytes: Uint8Array, btf: Btf) {
    this.btf = btf;
    this.label = `${btf.label}.ext`;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length < OLD_HEADER_SIZE) this.fail(`has ${bytes.length} bytes, which is no header`);
    const magic = this.#view.getUint16(0, true);
    if (magic !== BTF_MAGIC) this.fail(`begins with 0x${magic.toString(16)} and not with BTF's 0xeb9f`);
    if (this.#view.getUint8(2) !== BTF_VERSION)
      this.fail(`has version ${this.#view.getUint8(2)}, only 1 is known`);
    if (this.#view.getUint8(3) !== 0) this.fail('has flags in its header, none are known');
    this.#headerSize = this.word(4);
    if (this.#headerSize < OLD_HEADER_SIZE || this.#headerSize > bytes.length)
      this.fail(`has a header of ${this.#headerSize} bytes, of ${bytes.length} in all`);
  }

  fail(what: string): never {
    throw new BpfError('EINVAL', `${this.label} ${what}; compile the file again, or it is damaged`);
  }

  word(at: number): number {
    return this.#view.getUint32(at, true);
  }

  typeId(at: number): number {
    const id = this.word(at);
    if (id > this.btf.typeCount) this.fail(`refers to type ${id}, and there are ${this.btf.typeCount}`);
    return id;
  }

  /** One table: the size of a record, then for each section its name, a count and the records. */
  table<Entry>(
    headerAt: number,
    smallest: number,
    what: string,
    read: (at: number, insnOffset: number) => Entry,
  ): Map<string, Entry[]> {
    const sections = new Map<string, Entry[]>();
    // A header of the old size has no place for relocations.
    if (headerAt + 8 > this.#headerSize || (headerAt === 24 && this.#headerSize < CORE_HEADER_SIZE))
      return sections;
    const offset = this.word(headerAt);
    const length = this.word(headerAt + 4);
    if (length === 0) return sections;
    const start = this.#headerSize + offset;
    const end = start + length;
    if (offset % 4 !== 0 || end > this.#view.byteLength)
      this.fail(`has its ${what} table outside the section`);
    if (length < 4) this.fail(`has a ${what} table of ${length} bytes`);
    const recordSize = this.word(start);
    if (recordSize < smallest || recordSize % 4 !== 0)
      this.fail(`has ${what} records of ${recordSize} bytes`);
    for (let at = start + 4; at < end; ) {
      if (at + 8 > end) this.fail(`has a ${what} table that is cut short`);
      const name = this.btf.nameAt(this.word(at));
      const count = this.word(at + 4);
      at += 8;
      if (count === 0 || at + count * recordSize > end)
        this.fail(`has ${count} ${what} records for ${name}, which its table does not hold`);
      let entries = sections.get(name);
      if (!entries) {
        entries = [];
        sections.set(name, entries);
      }
      for (let index = 0; index < count; index++, at += recordSize) {
        const insnOffset = this.word(at);
        if (insnOffset % INSN_SIZE !== 0)
          this.fail(`has a ${what} record for byte ${insnOffset}, inside an instruction`);
        entries.push(read(at, insnOffset));
      }
    }
    return sections;
  }
}

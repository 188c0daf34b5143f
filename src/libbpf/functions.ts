/**
 * The functions of a BPF object: those of named sections are programs, those of `.text` (and any other that is called)
 * subprograms. Each is decoded by itself; where its calls go is linked for each program (link.ts).
 */

import { decodeProgram, SLOT_BYTES } from '../bpf/encoding.js';
import { type BpfInsn, CALL, CLASS, JMP } from '../bpf/instruction.js';
import { damaged } from '../elf/format.js';
import type { ElfSymbol } from '../elf/symbol_table.js';
import { BpfError } from '../kernel/errno.js';
import type { CodeSection, ObjectSections } from './sections.js';

const CALL_OPCODE = CLASS.JMP | JMP.CALL;

/** The section of subprograms. */
export const TEXT = '.text';

/** One function of the file. Positions are slots of 8 bytes. */
export interface BpfFunction {
  readonly name: string;
  readonly section: CodeSection;
  /** Its first slot in the section. */
  readonly start: number;
  readonly slots: number;
  readonly insns: readonly BpfInsn[];
  /** Other files of the program could call it; static functions are checked where they are called. */
  readonly global: boolean;
}

/** All functions, by section. */
export class Functions {
  readonly #bySection = new Map<number, BpfFunction[]>();
  readonly #bySlot = new Map<number, ReadonlyMap<number, BpfFunction>>();

  /** Throws ENOEXEC where functions overlap or lie outside their section, EINVAL for what is no instruction. */
  constructor(sections: ObjectSections) {
    const symbols = new Map<number, ElfSymbol[]>();
    for (const symbol of sections.symbols) {
      if (symbol.type !== 'FUNC') continue;
      const list = symbols.get(symbol.sectionIndex);
      if (list === undefined) symbols.set(symbol.sectionIndex, [symbol]);
      else list.push(symbol);
    }
    for (const section of sections.code) {
      const list = (symbols.get(section.index) ?? []).sort((a, b) => a.value - b.value);
      const functions = readFunctions(sections.path, section, list);
      this.#bySection.set(section.index, functions);
      this.#bySlot.set(section.index, new Map(functions.map(fn => [fn.start, fn])));
    }
  }

  /** In the order of the file. */
  of(section: CodeSection): readonly BpfFunction[] {
    return this.#bySection.get(section.index) ?? [];
  }

  /** Whether any function calls the helper. */
  callHelper(helper: number): boolean {
    const calls = ({ opcode, src, imm }: BpfInsn): boolean =>
      opcode === CALL_OPCODE && src === CALL.HELPER && imm === helper;
    return [...this.#bySection.values()].some(list => list.some(({ insns }) => insns.some(calls)));
  }

  /** The function that begins at a slot of a section. */
  at(section: number, slot: number): BpfFunction | undefined {
    return this.#bySlot.get(section)?.get(slot);
  }
}

function readFunctions(path: string, section: CodeSection, symbols: readonly ElfSymbol[]): BpfFunction[] {
  const functions: BpfFunction[] = [];
  let end = 0;
  for (const { name, value, size, bind } of symbols) {
    if (
      value % SLOT_BYTES !== 0 ||
      size % SLOT_BYTES !== 0 ||
      size === 0 ||
      value + size > section.bytes.length
    )
      throw damaged(path, `function ${name} is not a number of instructions inside section ${section.name}`);
    if (value < end) {
      // A second name of the function before.
      if (value === functions.at(-1)!.start * SLOT_BYTES && value + size === end) continue;
      throw damaged(path, `functions of section ${section.name} overlap`);
    }
    end = value + size;
    functions.push({
      name,
      section,
      start: value / SLOT_BYTES,
      slots: size / SLOT_BYTES,
      insns: decode(path, name, section.bytes.subarray(value, end)),
      global: bind !== 'LOCAL',
    });
  }
  return functions;
}

function decode(path: string, name: string, bytes: Uint8Array): BpfInsn[] {
  try {
    return decodeProgram(bytes);
  } catch (cause) {
    if (cause instanceof BpfError)
      throw new BpfError('EINVAL', `${path}: function ${name}: ${cause.message}`, { cause });
    throw cause;
  }
}

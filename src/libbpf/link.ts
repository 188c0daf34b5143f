/**
 * Links one program: itself, and behind it every function that it calls, each once; then relocations, against the maps
 * and types that are there. The result is what `Kernel.progLoad` takes.
 */

import { SLOT_BYTES } from '../bpf/encoding.js';
import { type BpfInsn, CALL, CLASS, JMP, LD_IMM64, loadImmediate64, PSEUDO } from '../bpf/instruction.js';
import { layoutOf } from '../bpf/layout.js';
import type { Btf } from '../btf/btf.js';
import { applyCoreRelo, computeCoreRelo } from '../btf/core.js';
import type { BtfExt, CoreRelo } from '../btf/ext.js';
import { R_BPF_64_32, R_BPF_64_64, SHF_EXECINSTR } from '../elf/format.js';
import { type ObjectRelocation, relocationsWithin } from '../elf/object_relocations.js';
import type { ElfSymbol } from '../elf/symbol_table.js';
import { BpfError } from '../kernel/errno.js';
import type { BpfMap, FuncInfo, KernelNames, LineInfo } from '../kernel/kernel.js';
import type { BpfFunction, Functions } from './functions.js';
import type { ObjectSections } from './sections.js';

/** BPF_COMPLEXITY_LIMIT_INSNS: no program is longer. */
const MAX_SLOTS = 1_000_000;

/**
 * `imm` of the helper call that stands where a weak kernel function that is not there would be called: no helper has
 * this number, so the verifier refuses the program if it can come there. libbpf's number.
 */
const MISSING_KFUNC = 2_002_000_000;

const CALL_OPCODE = CLASS.JMP | JMP.CALL;

/** What a program is linked against. */
export interface LinkInput {
  readonly sections: ObjectSections;
  readonly functions: Functions;
  readonly btf: Btf | undefined;
  readonly ext: BtfExt | undefined;
  /** Types that CO-RE looks at first: those of the modules that the program is for. */
  targets(): readonly Btf[];
  /** Those of the other modules, for types that the first do not have. */
  moreTargets(): readonly Btf[];
  /** The map that a symbol of `.maps` stands for, and that of a section of global data. Throws where it was left out. */
  mapAt(offset: number): BpfMap | undefined;
  dataMap(section: number): BpfMap | undefined;
  /** What there is of a kernel. */
  readonly names: KernelNames;
  /** Where a variable of `.kconfig` stands; `undefined` for other externs. */
  kconfig(name: string, weak: boolean): { readonly map: BpfMap; readonly offset: number } | undefined;
}

/** A program with everything that it needs. */
export interface LinkedProgram {
  readonly insns: readonly BpfInsn[];
  readonly funcInfo: readonly FuncInfo[];
  readonly lineInfo: readonly LineInfo[];
  readonly maps: readonly BpfMap[];
  /** What CO-RE did not find: what stands at these slots must not be reached. */
  readonly poisoned: readonly { readonly slot: number; readonly reason: string }[];
  /** The functions in the order in which they stand, the program itself first. */
  readonly parts: readonly { readonly name: string; readonly slot: number }[];
}

/** A place whose immediate is the distance to another function. */
interface Reference {
  readonly at: number;
  readonly slot: number;
  readonly target: BpfFunction;
  readonly kind: 'call' | 'address';
}

/** Links `main`. Throws EINVAL or ENOENT naming the function and what it refers to. */
export function linkProgram(main: BpfFunction, input: LinkInput): LinkedProgram {
  return new Linker(main, input).link();
}

class Linker {
  readonly #main: BpfFunction;
  readonly #input: LinkInput;
  readonly #insns: BpfInsn[] = [];
  readonly #funcInfo: FuncInfo[] = [];
  readonly #lineInfo: LineInfo[] = [];
  readonly #maps = new Map<number, BpfMap>();
  readonly #placed = new Map<BpfFunction, number>();
  readonly #queue: BpfFunction[] = [];
  readonly #references: Reference[] = [];
  readonly #poisoned: { readonly slot: number; readonly reason: string }[] = [];
  #slots = 0;

  constructor(main: BpfFunction, input: LinkInput) {
    this.#main = main;
    this.#input = input;
  }

  link(): LinkedProgram {
    this.#refer(this.#main);
    for (const fn of this.#queue) this.#append(fn);
    for (const { at, slot, target, kind } of this.#references) {
      const distance = this.#placed.get(target)! - (slot + 1);
      const insn = this.#insns[at];
      this.#insns[at] =
        kind === 'call'
          ? { ...insn, imm: distance }
          : loadImmediate64(insn.dst, PSEUDO.FUNC, BigInt.asUintN(32, BigInt(distance)));
    }
    return {
      insns: this.#insns,
      funcInfo: this.#funcInfo,
      lineInfo: this.#lineInfo,
      maps: [...this.#maps.values()],
      poisoned: this.#poisoned,
      parts: [...this.#placed].map(([{ name }, slot]) => ({ name, slot })),
    };
  }

  /** Gives a function its place behind those that are there. */
  #refer(fn: BpfFunction): void {
    if (this.#placed.has(fn)) return;
    if (this.#slots + fn.slots > MAX_SLOTS)
      throw new BpfError(
        'E2BIG',
        `program ${this.#main.name} has more than ${MAX_SLOTS} instructions with what it calls`,
      );
    this.#placed.set(fn, this.#slots);
    this.#slots += fn.slots;
    this.#queue.push(fn);
  }

  #append(fn: BpfFunction): void {
    const base = this.#placed.get(fn)!;
    const first = this.#insns.length;
    const { slotOf, indexAt } = layoutOf(fn.insns);
    const begin = fn.start * SLOT_BYTES;
    const end = begin + fn.slots * SLOT_BYTES;
    const inside = <T extends { readonly insnOffset: number }>(list: readonly T[] | undefined): T[] =>
      (list ?? []).filter(({ insnOffset }) => insnOffset >= begin && insnOffset < end);
    /** Index in `fn.insns` of the instruction at a byte of the section; throws where none begins there. */
    const indexOf = (offset: number): number => {
      const slot = (offset - begin) / SLOT_BYTES;
      const index = Number.isInteger(slot) ? indexAt[slot] : -1;
      if (index === undefined || index < 0)
        throw this.#error(
          'EINVAL',
          fn,
          (offset - begin) / SLOT_BYTES,
          'it is to be changed, and is no instruction',
        );
      return index;
    };

    const insns = [...fn.insns];
    const relocated = new Set<number>();
    const relocations = this.#input.sections.relocations.get(fn.section.index) ?? [];
    for (const relocation of relocationsWithin(relocations, begin, end)) {
      const index = indexOf(relocation.offset);
      relocated.add(index);
      insns[index] = this.#relocate(
        fn,
        insns[index],
        first + index,
        base + slotOf[index],
        slotOf[index],
        relocation,
      );
    }
    for (const [index, insn] of insns.entries()) {
      if (relocated.has(index) || insn.opcode !== CALL_OPCODE || insn.src !== CALL.SUBPROGRAM) continue;
      const target = fn.start + slotOf[index] + insn.imm + 1;
      this.#referTo(fn, fn.section.index, target, first + index, base + slotOf[index], 'call');
    }
    const { btf, ext } = this.#input;
    if (btf !== undefined && ext !== undefined) {
      for (const relo of inside(ext.coreRelos.get(fn.section.name))) {
        const index = indexOf(relo.insnOffset);
        const result = computeCoreRelo(relo, btf, this.#targetsOf(relo, btf));
        if (result.poison) this.#poisoned.push({ slot: base + slotOf[index], reason: result.reason });
        insns[index] = applyCoreRelo(insns[index], result, base + slotOf[index]);
      }
      const slotIn = (offset: number): number => base + (offset - begin) / SLOT_BYTES;
      for (const { insnOffset, typeId } of inside(ext.funcInfo.get(fn.section.name)))
        this.#funcInfo.push({ slot: slotIn(insnOffset), typeId });
      for (const { insnOffset, file, text, line, column } of inside(ext.lineInfo.get(fn.section.name)))
        this.#lineInfo.push({ slot: slotIn(insnOffset), file, text, line, column });
    }
    this.#insns.push(...insns);
  }

  /** The types to look in: those of the program's modules, unless only others have a type of this name. */
  #targetsOf({ typeId }: CoreRelo, btf: Btf): readonly Btf[] {
    const targets = this.#input.targets();
    const name = btf.name(typeId).replace(/___.*$/s, '');
    const has = (target: Btf): boolean => target.findEssential(name).length > 0;
    if (name === '' || targets.some(has)) return targets;
    return this.#input.moreTargets().filter(has);
  }

  #relocate(
    fn: BpfFunction,
    insn: BpfInsn,
    at: number,
    slot: number,
    ownSlot: number,
    { type, symbol }: ObjectRelocation,
  ): BpfInsn {
    if (type === R_BPF_64_32) return this.#relocateCall(fn, insn, at, slot, ownSlot, symbol);
    if (type !== R_BPF_64_64 || insn.opcode !== LD_IMM64)
      throw this.#error('EINVAL', fn, ownSlot, `a relocation of type ${type} does not fit this instruction`);
    if (symbol.sectionIndex === 0) return this.#relocateExtern(fn, insn, ownSlot, symbol);
    const section = this.#input.sections.elf.sections[symbol.sectionIndex];
    if (section === undefined)
      throw this.#error('EINVAL', fn, ownSlot, `it refers to ${symbol.name}, which is in no section`);
    const offset = symbol.value + insn.imm;
    if (section.flags & SHF_EXECINSTR) {
      if (offset % SLOT_BYTES !== 0)
        throw this.#error('EINVAL', fn, ownSlot, 'it refers to the middle of an instruction');
      this.#referTo(fn, symbol.sectionIndex, offset / SLOT_BYTES, at, slot, 'address');
      return insn;
    }
    if (symbol.sectionIndex === this.#input.sections.maps) {
      const map = this.#input.mapAt(offset);
      if (map === undefined)
        throw this.#error('EINVAL', fn, ownSlot, `there is no map at byte ${offset} of .maps`);
      return loadImmediate64(insn.dst, PSEUDO.MAP_FD, BigInt(this.#use(map).id));
    }
    const map = this.#input.dataMap(symbol.sectionIndex);
    if (map === undefined)
      throw this.#error(
        'EOPNOTSUPP',
        fn,
        ownSlot,
        `it refers to section ${section.name}, which is not loaded; global data is in .data, .bss and .rodata, and sections whose names begin so`,
      );
    return this.#mapValue(fn, insn, ownSlot, map, offset);
  }

  #mapValue(fn: BpfFunction, insn: BpfInsn, ownSlot: number, map: BpfMap, offset: number): BpfInsn {
    if (offset < 0 || offset >= map.valueSize)
      throw this.#error(
        'EINVAL',
        fn,
        ownSlot,
        `byte ${offset} is outside of ${map.name}, which has ${map.valueSize}`,
      );
    return loadImmediate64(insn.dst, PSEUDO.MAP_VALUE, (BigInt(offset) << 32n) | BigInt(this.#use(map).id));
  }

  #use(map: BpfMap): BpfMap {
    this.#maps.set(map.id, map);
    return map;
  }

  #relocateCall(
    fn: BpfFunction,
    insn: BpfInsn,
    at: number,
    slot: number,
    ownSlot: number,
    symbol: ElfSymbol,
  ): BpfInsn {
    if (insn.opcode !== CALL_OPCODE)
      throw this.#error('EINVAL', fn, ownSlot, 'a relocation of a call is on no call');
    if (symbol.sectionIndex !== 0) {
      const target = symbol.value / SLOT_BYTES + insn.imm + 1;
      this.#referTo(fn, symbol.sectionIndex, target, at, slot, 'call');
      return { ...insn, src: CALL.SUBPROGRAM };
    }
    const id = this.#input.names.kfuncNumber(symbol.name);
    if (id !== undefined) return { ...insn, src: CALL.KFUNC, imm: id };
    if (symbol.bind === 'WEAK') return { ...insn, src: CALL.HELPER, imm: MISSING_KFUNC };
    throw this.#error('ENOENT', fn, ownSlot, `it calls ${symbol.name}, ${NO_SUCH_KFUNC}`);
  }

  /** The address of a kernel function or variable: not zero says that it is there. */
  #relocateExtern(fn: BpfFunction, insn: BpfInsn, ownSlot: number, symbol: ElfSymbol): BpfInsn {
    const weak = symbol.bind === 'WEAK';
    const variable = this.#input.kconfig(symbol.name, weak);
    if (variable !== undefined) return this.#mapValue(fn, insn, ownSlot, variable.map, variable.offset);
    const typeId = this.#isTyped(symbol.name) ? this.#input.names.ksymTypeId(symbol.name) : undefined;
    if (typeId !== undefined) return loadImmediate64(insn.dst, PSEUDO.BTF_ID, BigInt(typeId));
    const address =
      this.#input.names.ksymAddress(symbol.name) ??
      // That it is not zero says that it is there.
      (this.#input.names.kfuncNumber(symbol.name) === undefined ? undefined : 1n);
    if (address !== undefined) return loadImmediate64(insn.dst, PSEUDO.IMM, address);
    if (weak) return loadImmediate64(insn.dst, PSEUDO.IMM, 0n);
    throw this.#error('ENOENT', fn, ownSlot, `it refers to ${symbol.name}, ${NO_SUCH_KSYM}`);
  }

  /** Whether the object says of an extern variable what it is, not only that it is there. */
  #isTyped(name: string): boolean {
    const { btf } = this.#input;
    const id = btf?.find(name, 'var');
    if (btf === undefined || id === undefined) return false;
    const variable = btf.type(id);
    return variable.kind === 'var' && btf.type(btf.resolve(variable.type)).kind !== 'void';
  }

  #referTo(
    fn: BpfFunction,
    section: number,
    slot: number,
    at: number,
    fromSlot: number,
    kind: Reference['kind'],
  ): void {
    const target = this.#input.functions.at(section, slot);
    if (target === undefined)
      throw this.#error(
        'EINVAL',
        fn,
        fromSlot - this.#placed.get(fn)!,
        `it calls slot ${slot} of a section, where no function begins`,
      );
    this.#refer(target);
    this.#references.push({ at, slot: fromSlot, target, kind });
  }

  #error(code: 'EINVAL' | 'ENOENT' | 'EOPNOTSUPP', fn: BpfFunction, slot: number, what: string): BpfError {
    const where = fn === this.#main ? '' : `, function ${fn.name}`;
    return new BpfError(code, `program ${this.#main.name}${where}, instruction ${slot}: ${what}`);
  }
}

const NO_SUCH_KFUNC =
  'a function that there is not: the kernel functions of a process are few, and there is no kernel behind it; declare it __weak and ask whether it is there';
const NO_SUCH_KSYM =
  'which there is not: a process has no variables of a kernel; declare it __weak and ask whether it is there';

/**
 * A BPF object: an ELF file that clang compiled for libbpf, with libbpf's life: open, set, load, attach, destroy. What
 * the file says is there from `open` on; maps, programs and links live in a machine (kernel/kernel.ts) from `load` and
 * `attach` on.
 */

import { basename } from 'node:path';
import { HELPER } from '../bpf/helpers.js';
import type { Btf } from '../btf/btf.js';
import { BtfExt } from '../btf/ext.js';
import { BpfError } from '../kernel/errno.js';
import type { BpfMap, Kernel, TargetFunction } from '../kernel/kernel.js';
import { Functions, TEXT } from './functions.js';
import { GlobalSection, type GlobalValues, sectionKey } from './globals.js';
import { type LinkedProgram, linkProgram } from './link.js';
import { type MapSpec, readMapSpecs } from './map_spec.js';
import { objectBtf } from './object_btf.js';
import { holdsObjects, ObjectMap } from './object_map.js';
import { type AttachOptions, ObjectProgram, type ProgramHost, programSpec } from './object_program.js';
import type { Pins } from './pins.js';
import { RingBuffer } from './ring_buffer.js';
import { MAX_DATA, type ObjectSections, readSections } from './sections.js';
import type { MapSnapshot } from './snapshot.js';

const KCONFIG = '.kconfig';

export interface LoadOptions {
  /** Where pinned maps and links are shared and kept; without it none is pinned. */
  readonly pins?: Pins;
  /** What the maps and variables hold from the beginning: those of the object in the program that execed this one. */
  readonly carried?: ObjectSnapshot;
  /** Programs whose selectors match nothing yet are loaded when they are attached. */
  readonly deferUnmatched?: boolean;
  /** The verifier's: 0 none, 1 at branches, 2 every instruction. */
  readonly logLevel?: number;
  /** Is told of each program that can't be loaded, which is left out then; without it, one fails the whole. */
  readonly refused?: (program: ObjectProgram, cause: BpfError) => void;
}

/** Contents of maps and variables, by name. */
export interface ObjectSnapshot {
  readonly maps: ReadonlyMap<string, MapSnapshot>;
  readonly globals: ReadonlyMap<string, Uint8Array>;
}

export class BpfObject implements Disposable {
  /** The file's name without `.bpf.o` or `.o`. */
  readonly name: string;
  readonly license: string;
  /** What `SEC("version")` says; nothing looks at it. */
  readonly kernelVersion: number | undefined;
  readonly btf: Btf | undefined;
  readonly programs: readonly ObjectProgram[];
  /** In the order of the file, without those of global data. */
  readonly maps: readonly ObjectMap[];
  readonly sections: readonly GlobalSection[];
  /** Variables by section and name: `obj.globals.data.limit`, `obj.globals.rodata_settings.debug`. */
  readonly globals: Record<string, GlobalValues>;
  readonly #sections: ObjectSections;
  readonly #functions: Functions;
  readonly #ext: BtfExt | undefined;
  readonly #dataSections = new Map<number, GlobalSection>();
  #kernel: Kernel | undefined;
  #logLevel: number | undefined;
  #pins: Pins | undefined;
  /** Types of modules, asked for once for each load. */
  readonly #moduleTypes = new Map<string, Btf | undefined>();
  readonly #rings = new Set<RingBuffer>();

  /**
   * Opens an object file, or its bytes. Nothing is loaded. Throws ENOENT and the like as the system says, ENOEXEC for
   * what is no BPF object or damaged, EINVAL for damaged types and instructions.
   */
  static open(source: string | Uint8Array, options: { readonly name?: string } = {}): BpfObject {
    const path = typeof source === 'string' ? source : (options.name ?? 'the object');
    const name = options.name ?? (typeof source === 'string' ? basename(source) : 'object');
    return new BpfObject(readSections(source, path), name.replace(/(\.bpf)?\.o$/, ''));
  }

  private constructor(sections: ObjectSections, name: string) {
    this.name = name;
    this.#sections = sections;
    this.license = sections.license;
    this.kernelVersion = sections.version;
    this.btf = objectBtf(sections);
    this.#ext =
      this.btf === undefined || sections.btfExt === undefined
        ? undefined
        : BtfExt.parse(sections.btfExt, this.btf);
    this.#functions = new Functions(sections);
    this.maps = this.#readMaps().map(spec => new ObjectMap(spec, this.btf));
    this.sections = this.#readGlobals();
    this.globals = {};
    for (const section of this.sections) {
      this.globals[sectionKey(section.name)] ??= section.values;
      this.globals[section.name] = section.values;
    }
    // Both names reach a section; only one is listed.
    for (const key of Object.keys(this.globals))
      if (key.startsWith('.')) Object.defineProperty(this.globals, key, { enumerable: false });
    this.programs = sections.code
      .filter(section => section.name !== TEXT)
      .flatMap(section =>
        this.#functions.of(section).map(fn => new ObjectProgram(programSpec(fn), () => this.#host())),
      );
  }

  #readMaps(): MapSpec[] {
    const { maps, relocations, path } = this.#sections;
    if (maps === undefined) return [];
    if (this.btf === undefined)
      throw new BpfError('EINVAL', `${path} has maps and no types (BTF); compile it with clang -g`);
    return readMapSpecs(this.btf, relocations.get(maps) ?? []);
  }

  #readGlobals(): GlobalSection[] {
    const { data, relocations, path } = this.#sections;
    const sections = data.map(({ index, name, kind, bytes }) => {
      const [first] = relocations.get(index) ?? [];
      if (first !== undefined)
        throw new BpfError(
          'EOPNOTSUPP',
          `${path}: section ${name} holds the address of ${first.symbol.name || 'something else'}, and addresses are known when the program runs only; fill it in there`,
        );
      const section = new GlobalSection(name, kind, bytes, this.btf);
      this.#dataSections.set(index, section);
      return section;
    });
    const id = this.btf?.find(KCONFIG, 'datasec');
    const kconfig = id === undefined ? undefined : this.btf!.type(id);
    if (kconfig?.kind === 'datasec' && kconfig.size > MAX_DATA)
      throw new BpfError('E2BIG', `${path}: its ${KCONFIG} variables have ${kconfig.size} bytes`);
    if (kconfig?.kind === 'datasec')
      sections.push(new GlobalSection(KCONFIG, 'kconfig', new Uint8Array(kconfig.size), this.btf));
    return sections;
  }

  /** Throws ENOENT for a name that there is not. */
  program(name: string): ObjectProgram {
    return (
      this.programs.find(program => program.name === name) ?? this.#missing('program', name, this.programs)
    );
  }

  /** Throws ENOENT for a name that there is not. */
  map(name: string): ObjectMap {
    return this.maps.find(map => map.name === name) ?? this.#missing('map', name, this.maps);
  }

  #missing(what: string, name: string, there: readonly { readonly name: string }[]): never {
    const names = there.slice(0, 12).map(one => one.name);
    throw new BpfError(
      'ENOENT',
      `${this.name} has no ${what} ${name}${names.length === 0 ? '' : `; it has ${names.join(', ')}`}`,
    );
  }

  /** The section that has a global variable. Throws ENOENT. */
  sectionOf(variable: string): GlobalSection {
    const section = this.sections.find(({ variables }) => variables.has(variable));
    if (section !== undefined) return section;
    return this.#missing(
      'global variable',
      variable,
      this.sections.flatMap(({ variables }) => [...variables.values()]),
    );
  }

  get loaded(): boolean {
    return this.#kernel !== undefined;
  }

  /**
   * Makes maps and loads programs. What can't be loaded fails the whole, and nothing is left. Throws EACCES or EINVAL
   * with the verifier's sentence, EOPNOTSUPP for what a process can't have.
   */
  load(kernel: Kernel, options: LoadOptions = {}): void {
    if (this.#kernel !== undefined) throw new BpfError('EBUSY', `${this.name} is loaded already`);
    this.#kernel = kernel;
    this.#logLevel = options.logLevel;
    this.#pins = options.pins;
    try {
      this.#fillKconfig(kernel);
      for (const section of this.sections)
        section.load(kernel, this.name, options.carried?.globals.get(section.name));
      for (const map of this.maps)
        if (map.autocreate) map.load(kernel, options.pins, options.carried?.maps.get(map.name));
      this.#fillMapsOfMaps();
      const tailCalled = this.#tailCalled();
      for (const program of this.programs) {
        if (!program.autoload) continue;
        this.#unlessRefused(program, options, () => {
          if (program.spec.refused !== undefined) throw program.spec.refused;
          const targets = program.matches(kernel).filter(({ unresolved }) => unresolved === undefined);
          const waits =
            options.deferUnmatched && program.selectors.length > 0 && !tailCalled.has(program.name);
          if (targets.length > 0 || !waits) program.load(targets);
        });
      }
      this.#fillProgramArrays(options);
    } catch (cause) {
      this.destroy();
      throw cause;
    }
  }

  #unlessRefused(program: ObjectProgram, { refused }: LoadOptions, load: () => void): void {
    try {
      load();
    } catch (cause) {
      if (refused === undefined || !(cause instanceof BpfError)) throw cause;
      refused(program, cause);
    }
  }

  #host(): ProgramHost {
    if (this.#kernel === undefined) throw new BpfError('EBADF', `${this.name} is not loaded; load it first`);
    return {
      kernel: this.#kernel,
      btf: this.btf,
      logLevel: this.#logLevel,
      tailCalled: this.#tailCalled(),
      license: this.license,
      sharesCpus: this.#functions.callHelper(HELPER.map_lookup_percpu_elem),
      link: (program, targets) => this.#link(program, targets),
    };
  }

  #link(program: ObjectProgram, targets: readonly TargetFunction[]): LinkedProgram {
    const modules = new Set(targets.map(({ module }) => module));
    return linkProgram(program.spec.fn, {
      sections: this.#sections,
      functions: this.#functions,
      btf: this.btf,
      ext: this.#ext,
      targets: () => this.#typesOf([...modules]),
      moreTargets: () => this.#typesOf(this.#kernel?.modules().filter(module => !modules.has(module)) ?? []),
      mapAt: offset => this.maps.find(map => map.spec.offset === offset)?.live.map,
      dataMap: section => this.#dataSections.get(section)?.map,
      names: this.#host().kernel.names,
      kconfig: (name, weak) => this.#kconfig(name, weak),
    });
  }

  #typesOf(modules: readonly string[]): Btf[] {
    return modules.flatMap(module => {
      if (!this.#moduleTypes.has(module)) this.#moduleTypes.set(module, this.#kernel?.moduleTypes(module));
      const btf = this.#moduleTypes.get(module);
      return btf === undefined ? [] : [btf];
    });
  }

  /** Settings that nobody gave have the machine's kernel's values. */
  #fillKconfig(kernel: Kernel): void {
    const section = this.sections.find(({ kind }) => kind === 'kconfig');
    if (section === undefined || this.btf === undefined) return;
    for (const { name, typeId } of section.variables.values()) {
      if (section.wasSet(name)) continue;
      const value = kernel.names.kconfig(name);
      if (value !== undefined) section.set(name, kconfigValue(this.btf, typeId, value));
    }
  }

  #kconfig(name: string, weak: boolean): { map: BpfMap; offset: number } | undefined {
    const section = this.sections.find(({ kind }) => kind === 'kconfig');
    const variable = section?.variables.get(name);
    if (section?.map === undefined || variable === undefined) return undefined;
    if (!weak && !section.wasSet(name))
      throw new BpfError(
        'ENOENT',
        `${name} is a setting of a kernel, and its value is not known (a process has none); set it (--set ${name}=VALUE), or declare it __weak to have 0`,
      );
    return { map: section.map, offset: variable.offset };
  }

  #fillMapsOfMaps(): void {
    for (const map of this.maps) {
      if (!map.loaded || map.spec.inner === undefined) continue;
      for (const { index, symbol } of map.spec.initial) {
        const inner =
          symbol.sectionIndex === this.#sections.maps
            ? this.maps.find(({ spec }) => spec.offset === symbol.value)
            : undefined;
        if (inner === undefined)
          throw new BpfError(
            'EINVAL',
            `map ${map.name}: its value ${index} is ${symbol.name}, which is no map`,
          );
        map.setObject(index, inner.live.map);
      }
    }
  }

  #fillProgramArrays(options: LoadOptions): void {
    for (const map of this.maps) {
      if (!map.loaded || map.spec.inner !== undefined || !holdsObjects(map.spec.type)) continue;
      for (const { index, symbol } of map.spec.initial) {
        const program = this.programs.find(({ name }) => name === symbol.name);
        if (program === undefined)
          throw new BpfError(
            'EINVAL',
            `map ${map.name}: its value ${index} is ${symbol.name}, which is no program`,
          );
        if (program.loaded) this.#unlessRefused(program, options, () => map.setObject(index, program.prog));
      }
    }
  }

  /** Programs that the file puts into program arrays: they need no target of their own. */
  #tailCalled(): Set<string> {
    const arrays = this.maps.filter(({ spec }) => spec.inner === undefined && holdsObjects(spec.type));
    return new Set(arrays.flatMap(({ spec }) => spec.initial.map(({ symbol }) => symbol.name)));
  }

  /**
   * Attaches every program that is to be attached by itself as its section says, and returns to how many functions. Links
   * have what libraries bring later by themselves; call it again then for programs that had no function so far.
   */
  attach(): number {
    const { tailCalled } = this.#host();
    let attached = 0;
    for (const program of this.programs) {
      if (!program.autoload || !program.autoattach) continue;
      if (program.selectors.length === 0 && tailCalled.has(program.name)) continue;
      attached += program.attach();
    }
    return attached;
  }

  /** Attaches one program, also one that does not attach by itself. */
  attachProgram(name: string, options: AttachOptions = {}): number {
    return this.program(name).attach(options);
  }

  /**
   * The records of a ring buffer as they come. `type`: the struct that they are, where the map's definition does not
   * say it (`__type(value, struct event)`).
   */
  ringBuffer(name: string, options: { readonly type?: string } = {}): RingBuffer {
    const map = this.map(name);
    const ring = new RingBuffer(map.live.map, map.recordCodec(options.type));
    this.#rings.add(ring);
    return ring;
  }

  /** What is in maps and variables now. */
  snapshot(): ObjectSnapshot {
    const maps = new Map<string, MapSnapshot>();
    for (const map of this.maps) {
      const snapshot = map.snapshot();
      if (snapshot !== undefined) maps.set(map.name, snapshot);
    }
    const globals = new Map(this.sections.map(section => [section.name, Uint8Array.from(section.bytes())]));
    return { maps, globals };
  }

  /** Detaches what is not pinned, lets go of programs and maps. It can be loaded again; variables keep their values. */
  destroy(): void {
    for (const ring of this.#rings) ring.close();
    for (const program of this.programs) program.unload(this.#pins);
    for (const map of this.maps) map.free();
    const sections = this.sections.map(section => section.map);
    this.forget();
    for (const map of sections) map?.free();
  }

  /** The machine is closed, which took everything out of it: keeps the values of variables, and no more. */
  forget(): void {
    for (const ring of this.#rings) ring.close();
    this.#rings.clear();
    for (const program of this.programs) program.forget();
    for (const map of this.maps) map.forget();
    for (const section of this.sections) section.forget();
    this.#moduleTypes.clear();
    this.#kernel = undefined;
  }

  [Symbol.dispose](): void {
    this.destroy();
  }
}

/** A setting as a variable holds it: y, m and n are a bool, a character, or 2, 1 and 0 of an enum. */
function kconfigValue(btf: Btf, typeId: number, value: bigint | string): bigint | string | number {
  if (typeof value === 'bigint' || !/^[ymn]$/.test(value)) return value;
  const { kind, size } = btf.type(btf.resolve(typeId)) as { kind: string; size?: number };
  if (kind === 'enum' || kind === 'enum64') return { y: 2, m: 1, n: 0 }[value] as number;
  if (kind !== 'int' || size !== 1) return value;
  return btf.typeName(btf.resolve(typeId)).includes('ool') ? Number(value === 'y') : value.charCodeAt(0);
}

/**
 * Global variables of an object: each section of them is a map of one entry, set before loading and shared with the
 * programs afterwards.
 */

import { MAP_FLAG, MAP_TYPE } from '../bpf/map_type.js';
import type { Btf } from '../btf/btf.js';
import { BpfError } from '../kernel/errno.js';
import type { BpfMap, Kernel } from '../kernel/kernel.js';
import { type BtfValue, codecFor } from './codec.js';
import type { DataKind } from './sections.js';

/** The key of the one entry. */
const KEY = new Uint8Array(4);
/** BPF_OBJ_NAME_LEN without its zero byte, and how much of it is the object's. */
const MAX_NAME = 15;
const MAX_PREFIX = 8;

/** One variable: its type and its place in the section. */
export interface GlobalVariable {
  readonly name: string;
  readonly typeId: number;
  readonly offset: number;
  readonly size: number;
}

/** A section's variables, by name: reading gives the value now, assigning sets it. */
export type GlobalValues = Record<string, BtfValue>;

export class GlobalSection {
  /** As in the file, such as `.rodata` or `.data.settings`. */
  readonly name: string;
  readonly kind: DataKind | 'kconfig';
  readonly btf: Btf | undefined;
  readonly variables: ReadonlyMap<string, GlobalVariable>;
  readonly values: GlobalValues;
  readonly #initial: Uint8Array;
  readonly #set = new Set<string>();
  #map: BpfMap | undefined;

  constructor(name: string, kind: DataKind | 'kconfig', bytes: Uint8Array, btf: Btf | undefined) {
    this.name = name;
    this.kind = kind;
    this.btf = btf;
    this.#initial = bytes;
    this.variables = btf === undefined ? new Map() : variablesOf(btf, name, bytes.length);
    this.values = {};
    for (const variable of this.variables.keys())
      Object.defineProperty(this.values, variable, {
        enumerable: true,
        get: () => this.get(variable),
        set: (value: BtfValue) => this.set(variable, value),
      });
  }

  /** Programs can't write it, and nobody after loading. */
  get readOnly(): boolean {
    return this.kind === 'rodata' || this.kind === 'kconfig';
  }

  /** The map, once it is loaded. */
  get map(): BpfMap | undefined {
    return this.#map;
  }

  /** Whether a variable was set before loading. */
  wasSet(name: string): boolean {
    return this.#set.has(name);
  }

  /** The value now. Throws ENOENT for a name that there is not. */
  get(name: string): BtfValue {
    const { typeId, offset, size } = this.#variable(name);
    const bytes = this.bytes().slice(offset, offset + size);
    return codecFor(size, this.btf, typeId, `variable ${name}`).decode(bytes);
  }

  /** Throws EINVAL for a value that does not fit, EPERM for read-only data once it is loaded. */
  set(name: string, value: BtfValue): void {
    const { typeId, offset, size } = this.#variable(name);
    let bytes: Uint8Array;
    try {
      bytes = codecFor(size, this.btf, typeId, `variable ${name}`).encode(value);
    } catch (cause) {
      if (!(cause instanceof BpfError)) throw cause;
      throw new BpfError(cause.code, `variable ${name} (${this.btf!.typeName(typeId)}): ${cause.message}`, {
        cause,
      });
    }
    if (this.#map === undefined) {
      this.#initial.set(bytes, offset);
      this.#set.add(name);
      return;
    }
    if (this.readOnly)
      throw new BpfError(
        'EPERM',
        `${name} is in ${this.name}, which is fixed once it is loaded; set it before`,
      );
    if (this.#map.memory !== undefined) this.#map.memory.set(bytes, offset);
    else {
      const whole = this.bytes().slice();
      whole.set(bytes, offset);
      this.#map.update(KEY, whole);
    }
  }

  /** The section as it is now; not to be written to. */
  bytes(): Uint8Array {
    if (this.#map === undefined) return this.#initial;
    return this.#map.memory ?? this.#map.lookup(KEY) ?? this.#initial;
  }

  /** Makes the map. `carried`: the contents that it has instead of the file's. */
  load(kernel: Kernel, objectName: string, carried?: Uint8Array): void {
    const valueSize = this.#initial.length;
    const map = kernel.mapCreate({
      type: MAP_TYPE.ARRAY,
      name: mapName(objectName, this.name),
      keySize: KEY.length,
      valueSize,
      maxEntries: 1,
      flags: MAP_FLAG.MMAPABLE | (this.readOnly ? MAP_FLAG.RDONLY_PROG : 0),
    });
    map.update(KEY, carried?.length === valueSize && !this.readOnly ? carried : this.#initial);
    if (this.readOnly) map.freeze();
    this.#map = map;
  }

  /** Lets go of the map; the values are those that it had. */
  forget(): void {
    if (this.#map === undefined) return;
    this.#initial.set(this.bytes().subarray(0, this.#initial.length));
    this.#map = undefined;
  }

  #variable(name: string): GlobalVariable {
    const variable = this.variables.get(name);
    if (variable !== undefined) return variable;
    const names = [...this.variables.keys()];
    throw new BpfError(
      'ENOENT',
      `section ${this.name} has no variable ${name}${names.length === 0 ? '' : `; it has ${names.slice(0, 12).join(', ')}`}`,
    );
  }
}

function variablesOf(btf: Btf, section: string, size: number): Map<string, GlobalVariable> {
  const variables = new Map<string, GlobalVariable>();
  const id = btf.find(section, 'datasec');
  const datasec = id === undefined ? undefined : btf.type(id);
  if (datasec?.kind !== 'datasec') return variables;
  for (const entry of datasec.vars) {
    const variable = btf.type(entry.type);
    if (variable.kind !== 'var' || variable.name === undefined) continue;
    const bytes = btf.sizeOf(variable.type);
    if (entry.offset + bytes > size)
      throw new BpfError(
        'EINVAL',
        `variable ${variable.name} lies outside section ${section}; compile the file again`,
      );
    variables.set(variable.name, {
      name: variable.name,
      typeId: variable.type,
      offset: entry.offset,
      size: bytes,
    });
  }
  return variables;
}

/** libbpf's names: `.bss` of `prog.bpf.o` is `prog.bss`; a section with a name of its own keeps it. */
function mapName(object: string, section: string): string {
  const own = section.indexOf('.', 1) > 0;
  const name = own
    ? section
    : `${object.slice(0, Math.min(MAX_PREFIX, MAX_NAME - section.length))}${section}`;
  return name.replace(/[^A-Za-z0-9_.]/g, '_').slice(0, MAX_NAME);
}

/** The name of a section in `obj.globals`: `data`, `rodata`, `data_settings`. */
export function sectionKey(name: string): string {
  return name.replace(/^\./, '').replace(/[^A-Za-z0-9_]/g, '_');
}

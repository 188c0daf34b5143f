/**
 * Maps as an object file defines them: variables of `SEC(".maps")` whose type, in BTF, says everything
 * (`__uint(type, …)`, `__type(key, …)`, `__array(values, …)` of bpf_helpers.h).
 */

import { isMapOfMaps, MAP_TYPE } from '../bpf/map_type.js';
import type { Btf } from '../btf/btf.js';
import type { BtfComposite, BtfMember } from '../btf/types.js';
import { R_BPF_64_ABS64 } from '../elf/format.js';
import { type ObjectRelocation, relocationsWithin } from '../elf/object_relocations.js';
import type { ElfSymbol } from '../elf/symbol_table.js';
import { BpfError } from '../kernel/errno.js';

/** One map of the file. Sizes are bytes. */
export interface MapSpec {
  readonly name: string;
  /** Bytes from the start of `.maps`: what relocations name it by. */
  readonly offset: number;
  readonly type: number;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
  readonly mapExtra: bigint;
  readonly numaNode: number | undefined;
  /** `__uint(pinning, LIBBPF_PIN_BY_NAME)`. */
  readonly pinned: boolean;
  readonly keyTypeId: number | undefined;
  readonly valueTypeId: number | undefined;
  /** What the maps of a map of maps are like. */
  readonly inner: MapSpec | undefined;
  /** Values that the file gives: a map or a program for an index. */
  readonly initial: readonly InitialValue[];
}

/** A value of a map of maps or a program array, as the file gives it. */
export interface InitialValue {
  readonly index: number;
  readonly symbol: ElfSymbol;
}

/** LIBBPF_PIN_NONE, LIBBPF_PIN_BY_NAME. */
const PIN_BY_NAME = 1;
/** Bytes of what a map of maps or a program array has as value: a file descriptor for bpf(2). */
const OBJECT_VALUE_SIZE = 4;
const POINTER_BYTES = 8;

/** Reads all maps, in the order of the file. Throws EINVAL, naming map and attribute. */
export function readMapSpecs(btf: Btf, relocations: readonly ObjectRelocation[]): MapSpec[] {
  const section = btf.find('.maps', 'datasec');
  if (section === undefined)
    throw new BpfError('EINVAL', 'the file has maps without types; compile it with -g');
  const type = btf.type(section);
  if (type.kind !== 'datasec') return [];
  const found = type.vars.map(({ type: id, offset, size }) => {
    const variable = btf.type(id);
    if (variable.kind !== 'var')
      throw new BpfError('EINVAL', 'section .maps holds something that is no variable');
    return readDefinition(btf, variable.name ?? '', variable.type, offset, size, relocations);
  });
  const names = new Set<string>();
  for (const { name } of found) {
    if (names.has(name)) throw new BpfError('EINVAL', `two maps are named ${name}`);
    names.add(name);
  }
  return found;
}

/** What members say, while they are read. */
interface Attributes {
  readonly numbers: Map<string, number>;
  keyTypeId?: number;
  valueTypeId?: number;
  inner?: MapSpec;
  valuesOffset?: number;
}

const NUMBERS = new Set([
  'type',
  'max_entries',
  'map_flags',
  'numa_node',
  'key_size',
  'value_size',
  'pinning',
  'map_extra',
]);

function readDefinition(
  btf: Btf,
  name: string,
  typeId: number,
  offset: number,
  size: number,
  relocations: readonly ObjectRelocation[],
): MapSpec {
  const attributes = readAttributes(btf, name, structOf(btf, typeId, name), false);
  const { valuesOffset } = attributes;
  const first = offset + (valuesOffset ?? size);
  const own = relocationsWithin(relocations, offset, offset + size);
  const initial = own.map(({ offset: at, type, symbol }): InitialValue => {
    if (at < first || (at - first) % POINTER_BYTES !== 0 || type !== R_BPF_64_ABS64)
      throw new BpfError('EINVAL', `map ${name}: only elements of its "values" can be given in the file`);
    return { index: (at - first) / POINTER_BYTES, symbol };
  });
  return toSpec(btf, name, offset, attributes, initial);
}

function structOf(btf: Btf, typeId: number, name: string): BtfComposite {
  const type = btf.type(btf.resolve(typeId));
  if (type.kind !== 'struct')
    throw new BpfError('EINVAL', `map ${name} is defined by a ${type.kind}, not by a struct`);
  return type;
}

function readAttributes(btf: Btf, map: string, struct: BtfComposite, inner: boolean): Attributes {
  const attributes: Attributes = { numbers: new Map() };
  for (const member of struct.members) {
    const { name } = member;
    if (NUMBERS.has(name)) attributes.numbers.set(name, numberOf(btf, map, member));
    else if (name === 'key') attributes.keyTypeId = pointee(btf, map, member);
    else if (name === 'value') attributes.valueTypeId = pointee(btf, map, member);
    else if (name === 'values') {
      if (inner) throw new BpfError('EINVAL', `map ${map}: maps of maps of maps are not allowed`);
      if (member !== struct.members.at(-1))
        throw new BpfError('EINVAL', `map ${map}: "values" must be its last attribute`);
      attributes.valuesOffset = member.bitOffset / 8;
      const element = elementOf(btf, map, member);
      const type = btf.type(element);
      if (type.kind === 'struct')
        attributes.inner = toSpec(
          btf,
          `${map}.inner`,
          -1,
          readAttributes(btf, `${map}.inner`, type, true),
          [],
        );
      else if (type.kind !== 'func_proto')
        throw new BpfError(
          'EINVAL',
          `map ${map}: "values" is an array of maps or of functions, not of ${type.kind}`,
        );
    } else throw new BpfError('EINVAL', `map ${map} has an attribute "${name}", which is not known`);
  }
  return attributes;
}

/** `int (*name)[N]` is how a definition says a number; newer headers use an enum for those of 64 bits. */
function numberOf(btf: Btf, map: string, member: BtfMember): number {
  const type = btf.type(btf.resolve(member.type));
  if (type.kind === 'enum' || type.kind === 'enum64') return Number(type.values[0]?.value ?? 0n);
  const array = type.kind === 'ptr' ? btf.type(btf.resolve(type.type)) : type;
  if (array.kind !== 'array')
    throw new BpfError(
      'EINVAL',
      `map ${map}: "${member.name}" is no number; write __uint(${member.name}, …)`,
    );
  return array.nelems;
}

function pointee(btf: Btf, map: string, member: BtfMember): number {
  const type = btf.type(btf.resolve(member.type));
  if (type.kind !== 'ptr')
    throw new BpfError('EINVAL', `map ${map}: "${member.name}" is no type; write __type(${member.name}, …)`);
  return type.type;
}

function elementOf(btf: Btf, map: string, member: BtfMember): number {
  const array = btf.type(btf.resolve(member.type));
  const pointer = array.kind === 'array' ? btf.type(btf.resolve(array.type)) : array;
  if (array.kind !== 'array' || pointer.kind !== 'ptr')
    throw new BpfError('EINVAL', `map ${map}: "values" is no array; write __array(values, …)`);
  return btf.resolve(pointer.type);
}

function toSpec(
  btf: Btf,
  name: string,
  offset: number,
  attributes: Attributes,
  initial: readonly InitialValue[],
): MapSpec {
  const { numbers, keyTypeId, valueTypeId, inner } = attributes;
  const type = numbers.get('type');
  if (type === undefined)
    throw new BpfError('EINVAL', `map ${name} has no type; write __uint(type, BPF_MAP_TYPE_…)`);
  const pinning = numbers.get('pinning') ?? 0;
  if (pinning > PIN_BY_NAME) throw new BpfError('EINVAL', `map ${name}: pinning ${pinning} is not known`);
  if (inner !== undefined && !isMapOfMaps(type))
    throw new BpfError('EINVAL', `map ${name} has maps as values, and is no map of maps`);
  if (
    initial.length > 0 &&
    type !== MAP_TYPE.ARRAY_OF_MAPS &&
    type !== MAP_TYPE.HASH_OF_MAPS &&
    type !== MAP_TYPE.PROG_ARRAY
  )
    throw new BpfError(
      'EINVAL',
      `map ${name}: only maps of maps and program arrays can have values in the file`,
    );
  const holdsObjects = isMapOfMaps(type) || type === MAP_TYPE.PROG_ARRAY;
  return {
    name,
    offset,
    type,
    keySize: sizeOf(btf, name, 'key', numbers.get('key_size'), keyTypeId),
    valueSize:
      sizeOf(btf, name, 'value', numbers.get('value_size'), valueTypeId) ||
      (holdsObjects ? OBJECT_VALUE_SIZE : 0),
    maxEntries: numbers.get('max_entries') ?? 0,
    flags: numbers.get('map_flags') ?? 0,
    mapExtra: BigInt(numbers.get('map_extra') ?? 0),
    numaNode: numbers.get('numa_node'),
    pinned: pinning === PIN_BY_NAME,
    keyTypeId,
    valueTypeId,
    inner,
    initial,
  };
}

function sizeOf(
  btf: Btf,
  map: string,
  what: string,
  given: number | undefined,
  typeId: number | undefined,
): number {
  if (typeId === undefined) return given ?? 0;
  const size = btf.sizeOf(typeId);
  if (given !== undefined && given !== size)
    throw new BpfError(
      'EINVAL',
      `map ${map}: ${what}_size is ${given}, and its ${what} type has ${size} bytes`,
    );
  return size;
}

/**
 * What a CO-RE relocation points to: the path from a type to a field, an enumerator, or the type itself, in the
 * program's types; and the same path by names in the target's types, where members may lie elsewhere, in anonymous
 * structs, or be missing.
 */

import { BpfError } from '../kernel/errno.js';
import type { Btf } from './btf.js';
import {
  fieldsAreCompatible,
  isComposite,
  isEnum,
  strip,
  typeMatches,
  typesAreCompatible,
} from './core_compat.js';
import type { CoreRelo, CoreReloKind } from './ext.js';
import { essentialName } from './name_index.js';
import type { BtfArray, BtfComposite } from './types.js';

/** Steps of a path; the kernel's loader has as many. */
const MAX_STEPS = 64;

/** One step: an element of an array, or a named member of a struct. Members without names are no steps. */
interface Accessor {
  /** The struct, or the element's type. */
  readonly type: number;
  readonly index: number;
  readonly name?: string;
}

export interface CoreSpec {
  readonly btf: Btf;
  readonly kind: CoreReloKind;
  /** The type, behind its typedefs and qualifiers for fields. */
  readonly root: number;
  readonly accessors: readonly Accessor[];
  readonly bitOffset: number;
}

export function isFieldKind(kind: CoreReloKind): boolean {
  return kind.startsWith('field_');
}

export function isTypeKind(kind: CoreReloKind): boolean {
  return kind.startsWith('type_');
}

/** A relocation whose own types do not fit it: a damaged file. */
export function badRelo(btf: Btf, { typeId, access, kind }: CoreRelo, what: string): BpfError {
  return new BpfError(
    'EINVAL',
    `${btf.label}: the CO-RE relocation ${kind} ${access} of type ${typeId} (${btf.typeName(typeId)}) ${what}`,
  );
}

/** The path in the program's own types. Throws EINVAL where it leads nowhere. */
export function localSpec(btf: Btf, relo: CoreRelo): CoreSpec {
  const { typeId, access, kind } = relo;
  const indices = access.split(':').map(part => (/^\d{1,9}$/.test(part) ? Number(part) : -1));
  if (indices.includes(-1)) throw badRelo(btf, relo, 'has no indices');
  if (indices.length > MAX_STEPS) throw badRelo(btf, relo, 'has too many indices');
  if (isTypeKind(kind)) {
    if (access !== '0') throw badRelo(btf, relo, 'is of a type, and goes into it');
    return { btf, kind, root: typeId, accessors: [], bitOffset: 0 };
  }
  const root = strip(btf, typeId);
  const first: Accessor = { type: root.id, index: indices[0] };
  if (!isFieldKind(kind)) {
    if (!isEnum(root.type) || indices.length !== 1 || indices[0] >= root.type.values.length)
      throw badRelo(btf, relo, 'names no value of an enum');
    const { name } = root.type.values[indices[0]];
    return { btf, kind, root: root.id, accessors: [{ ...first, name }], bitOffset: 0 };
  }
  const accessors = [first];
  let unnamed = false;
  let bitOffset = bitsOf(btf, root.id, indices[0]);
  let at = root;
  for (const index of indices.slice(1)) {
    const { type } = at;
    if (isComposite(type)) {
      const member = type.members[index];
      if (!member) throw badRelo(btf, relo, `goes to member ${index} of ${type.members.length}`);
      bitOffset += member.bitOffset;
      unnamed = member.name === '';
      if (!unnamed) accessors.push({ type: at.id, index, name: member.name });
      at = strip(btf, member.type);
    } else if (type.kind === 'array') {
      if (index >= type.nelems && !isFlexible(btf, accessors, type))
        throw badRelo(btf, relo, `goes to element ${index} of ${type.nelems}`);
      at = strip(btf, type.type);
      unnamed = false;
      accessors.push({ type: at.id, index });
      bitOffset += bitsOf(btf, at.id, index);
    } else throw badRelo(btf, relo, `goes into a ${type.kind}`);
  }
  if (unnamed) throw badRelo(btf, relo, 'ends at a member without a name');
  return { btf, kind, root: root.id, accessors, bitOffset };
}

/** Bits of `count` values; a type without a size may only be where it is. */
function bitsOf(btf: Btf, id: number, count: number): number {
  return count === 0 ? 0 : count * btf.sizeOf(id) * 8;
}

/** An array without a size as the last member of its struct: it may be indexed. */
function isFlexible(btf: Btf, accessors: readonly Accessor[], { nelems }: BtfArray): boolean {
  const last = accessors[accessors.length - 1];
  if (nelems > 0 || last.name === undefined) return false;
  const holder = btf.type(last.type);
  return isComposite(holder) && last.index === holder.members.length - 1;
}

/** The same path in the target's type `targetId`; `undefined` where that has not got it. */
export function matchSpec(local: CoreSpec, target: Btf, targetId: number): CoreSpec | undefined {
  const { kind } = local;
  if (isTypeKind(kind)) {
    const fits = kind === 'type_matches' ? typeMatches : typesAreCompatible;
    if (!fits(local.btf, local.root, target, targetId)) return undefined;
    return { btf: target, kind, root: targetId, accessors: [], bitOffset: 0 };
  }
  if (!isFieldKind(kind)) return matchEnumerator(local, target, targetId);
  const walk = new TargetWalk(target, strip(target, targetId).id);
  for (const [index, accessor] of local.accessors.entries()) {
    if (accessor.name === undefined) {
      if (!walk.element(accessor.index, index === 0)) return undefined;
    } else if (!walk.member(local, accessor)) return undefined;
  }
  return { btf: target, kind, root: targetId, accessors: walk.accessors, bitOffset: walk.bitOffset };
}

function matchEnumerator(local: CoreSpec, target: Btf, targetId: number): CoreSpec | undefined {
  const { id, type } = strip(target, targetId);
  if (!isEnum(type)) return undefined;
  const wanted = essentialName(local.accessors[0].name ?? '');
  const index = type.values.findIndex(({ name }) => essentialName(name) === wanted);
  if (index < 0) return undefined;
  const accessors = [{ type: id, index, name: type.values[index].name }];
  return { btf: target, kind: local.kind, root: targetId, accessors, bitOffset: 0 };
}

/** Goes along the target's types, step by step. */
class TargetWalk {
  readonly #btf: Btf;
  readonly accessors: Accessor[] = [];
  bitOffset = 0;
  #at: number;

  constructor(btf: Btf, root: number) {
    this.#btf = btf;
    this.#at = root;
  }

  element(index: number, isRoot: boolean): boolean {
    const btf = this.#btf;
    if (!isRoot) {
      const array = strip(btf, this.#at).type;
      if (array.kind !== 'array') return false;
      if (index >= array.nelems && !isFlexible(btf, this.accessors, array)) return false;
      this.#at = strip(btf, array.type).id;
    }
    this.accessors.push({ type: this.#at, index });
    this.bitOffset += bitsOf(btf, this.#at, index);
    return true;
  }

  member(local: CoreSpec, { type, index, name }: Accessor): boolean {
    const start = strip(this.#btf, this.#at);
    if (!isComposite(start.type) || name === undefined) return false;
    const found = this.#find(start.id, start.type, name, new Set());
    if (!found) return false;
    const holder = local.btf.type(type) as BtfComposite;
    const member = (this.#btf.type(found.type) as BtfComposite).members[found.index];
    if (!fieldsAreCompatible(local.btf, holder.members[index].type, this.#btf, member.type)) return false;
    this.accessors.push({ type: found.type, index: found.index, name });
    this.bitOffset += found.bitOffset;
    this.#at = member.type;
    return true;
  }

  /** The first member of the name, in the struct or in what it holds without a name; `seen` holds those without it. */
  #find(
    id: number,
    { members }: BtfComposite,
    name: string,
    seen: Set<number>,
  ): { type: number; index: number; bitOffset: number } | undefined {
    seen.add(id);
    for (const [index, member] of members.entries()) {
      if (member.name === name) return { type: id, index, bitOffset: member.bitOffset };
      if (member.name !== '') continue;
      const inner = strip(this.#btf, member.type);
      if (!isComposite(inner.type) || seen.has(inner.id)) continue;
      const found = this.#find(inner.id, inner.type, name, seen);
      if (found) return { ...found, bitOffset: found.bitOffset + member.bitOffset };
    }
    return undefined;
  }
}

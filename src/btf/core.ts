/**
 * CO-RE, "compile once, run everywhere": the compiler notes with each access which field of which type it is, and the
 * loader puts in where the target's types have that field. What the target has not is poisoned: the instruction becomes
 * one that the verifier refuses, if the program can come there at all.
 *
 * The rules are those of libbpf's relo_core: candidates are found by name without flavor, and several candidates must
 * agree.
 */

import { BpfError } from '../kernel/errno.js';
import type { Btf } from './btf.js';
import type { CoreResult, CoreValue } from './core_apply.js';
import { isComposite, isEnum, sameKind, strip } from './core_compat.js';
import { badRelo, type CoreSpec, isFieldKind, isTypeKind, localSpec, matchSpec } from './core_spec.js';
import type { CoreRelo } from './ext.js';
import { essentialName } from './name_index.js';

export {
  applyCoreRelo,
  type CorePoison,
  type CoreResult,
  type CoreValue,
  isPoisoned,
  POISON_CALL,
} from './core_apply.js';

/** Candidates of one name that are looked at: real files have a few. */
const MAX_CANDIDATES = 1024;

/**
 * What a relocation comes to. Targets are asked in order: the first that has types of the name, or all others together.
 * Throws EINVAL where the relocation is damaged or candidates disagree.
 */
export function computeCoreRelo(relo: CoreRelo, local: Btf, targets: readonly Btf[]): CoreResult {
  if (relo.kind === 'type_id_local') return { kind: 'value', value: BigInt(relo.typeId) };
  const spec = localSpec(local, relo);
  const original = evaluate(spec, relo, local);
  const found: { spec: CoreSpec; value: Evaluated }[] = [];
  for (const [target, id] of candidates(relo, local, targets)) {
    const match = matchSpec(spec, target, id);
    if (!match) continue;
    const value = evaluate(match, relo, local);
    const known = found[0];
    if (known && (known.spec.bitOffset !== match.bitOffset || known.value.value !== value.value))
      throw new BpfError(
        'EINVAL',
        `${describe(relo, local)} is ambiguous: type ${known.spec.root} of ${known.spec.btf.label} gives ${known.value.value}, type ${id} of ${target.label} gives ${value.value}; tell them apart with a flavor (name___flavor) or trace one of them only`,
      );
    found.push({ spec: match, value });
  }
  return found.length > 0 ? combine(original, found[0].value, found[0].spec.btf) : missing(relo, local);
}

/** A few words for a person: `field_byte_offset of task.pid`. */
export function describe({ kind, typeId, access }: CoreRelo, local: Btf): string {
  const names = [local.typeName(typeId)];
  if (isFieldKind(kind)) {
    let at = strip(local, typeId);
    for (const index of access.split(':').slice(1).map(Number)) {
      if (isComposite(at.type)) {
        const member = at.type.members[index];
        if (!member) break;
        if (member.name !== '') names.push(`.${member.name}`);
        at = strip(local, member.type);
      } else if (at.type.kind === 'array') {
        names.push(`[${index}]`);
        at = strip(local, at.type.type);
      }
    }
  } else if (!isTypeKind(kind)) {
    const { type } = strip(local, typeId);
    if (isEnum(type)) names.push(`::${type.values[Number(access)]?.name ?? access}`);
  }
  return `${kind} of ${names.join('')}`;
}

function candidates(relo: CoreRelo, local: Btf, targets: readonly Btf[]): [Btf, number][] {
  const type = local.type(relo.typeId);
  const name = essentialName(type.name ?? '');
  if (name === '')
    throw badRelo(
      local,
      relo,
      'is of a type without a name, which no other can be found for; give it a name',
    );
  const of = (target: Btf): [Btf, number][] =>
    target
      .findEssential(name)
      .filter(id => sameKind(type.kind, target.kindOf(id)))
      .map(id => [target, id]);
  const [first, ...others] = targets;
  let found = first ? of(first) : [];
  if (found.length === 0) found = others.flatMap(of);
  if (found.length > MAX_CANDIDATES)
    throw badRelo(local, relo, `could be ${found.length} types of that name, which are too many`);
  return found;
}

/** Nothing fits: a question is answered with no, everything else must not be used. */
function missing(relo: CoreRelo, local: Btf): CoreResult {
  switch (relo.kind) {
    case 'field_exists':
    case 'enumval_exists':
    case 'type_exists':
    case 'type_matches':
    case 'type_size':
    case 'type_id_target':
      return { kind: 'value', value: 0n };
    default:
      return {
        kind: 'poison',
        poison: true,
        reason: `${describe(relo, local)} is not in the target's types`,
      };
  }
}

interface Evaluated {
  readonly value: bigint;
  /** The instruction must hold this value before. */
  readonly exact: boolean;
  /** The field's bytes and type, where it is loaded whole. */
  readonly field?: { readonly size: number; readonly btf: Btf; readonly type: number };
}

function combine(original: Evaluated, now: Evaluated, target: Btf): CoreValue {
  const result: CoreValue = {
    kind: 'value',
    value: now.value,
    target,
    ...(original.exact ? { expected: original.value } : {}),
  };
  const from = original.field;
  const to = now.field;
  if (!from || !to || from.size === to.size) return result;
  return { ...result, size: { local: from.size, target: to.size }, misfit: !resizable(from, to) };
}

/** Pointers, and integers without a sign, may be loaded with fewer or more bytes: what is missing is zero. */
function resizable(from: NonNullable<Evaluated['field']>, to: NonNullable<Evaluated['field']>): boolean {
  const a = strip(from.btf, from.type).type;
  const b = strip(to.btf, to.type).type;
  if (a.kind === 'ptr' && b.kind === 'ptr') return true;
  return a.kind === 'int' && b.kind === 'int' && !a.encoding.signed && !b.encoding.signed;
}

/** What a relocation comes to for one path. */
function evaluate(spec: CoreSpec, relo: CoreRelo, local: Btf): Evaluated {
  const { btf, root } = spec;
  switch (spec.kind) {
    case 'field_exists':
    case 'enumval_exists':
    case 'type_exists':
    case 'type_matches':
      return { value: 1n, exact: true };
    case 'type_size':
      return { value: BigInt(btf.sizeOf(root)), exact: true };
    case 'type_id_target':
    case 'type_id_local':
      return { value: BigInt(root), exact: false };
    case 'enumval_value': {
      const { type, index } = spec.accessors[0];
      const holder = btf.type(type);
      return { value: isEnum(holder) ? holder.values[index].value : 0n, exact: true };
    }
    default:
      return evaluateField(spec, relo, local);
  }
}

function evaluateField(spec: CoreSpec, relo: CoreRelo, local: Btf): Evaluated {
  const { btf, kind, bitOffset } = spec;
  const last = spec.accessors[spec.accessors.length - 1];
  if (last.name === undefined) {
    // An element: it is where it is, and as large as its type.
    const size = btf.sizeOf(last.type);
    if (kind === 'field_byte_offset')
      return { value: BigInt(bitOffset / 8), exact: true, field: { size, btf, type: last.type } };
    if (kind === 'field_byte_size') return { value: BigInt(size), exact: true };
    throw badRelo(local, relo, 'asks for the bits of an element, which only members have');
  }
  const member = (btf.type(last.type) as Extract<ReturnType<Btf['type']>, { kind: 'struct' | 'union' }>)
    .members[last.index];
  const type = strip(btf, member.type).type;
  const isBitfield = member.bitSize > 0;
  let size = btf.sizeOf(member.type);
  let start = isBitfield ? Math.floor(bitOffset / 8 / size) * size : bitOffset / 8;
  const bits = isBitfield ? member.bitSize : size * 8;
  if (isBitfield)
    // The smallest load that holds all of its bits.
    for (; bitOffset + bits - start * 8 > size * 8; start = Math.floor(bitOffset / 8 / size) * size) {
      if (size >= 8) throw badRelo(local, relo, 'is a bitfield that no single load holds');
      size *= 2;
    }
  // Compilers differ in how they load a bitfield; what they put in is not compared.
  const exact = !isBitfield;
  switch (kind) {
    case 'field_byte_offset':
      return {
        value: BigInt(start),
        exact,
        ...(isBitfield ? {} : { field: { size, btf, type: member.type } }),
      };
    case 'field_byte_size':
      return { value: BigInt(size), exact };
    case 'field_signed': {
      const signed = type.kind === 'int' ? type.encoding.signed : isEnum(type) && type.signed;
      // Compilers did not agree on whether an enum has a sign.
      return { value: signed ? 1n : 0n, exact: !isEnum(type) };
    }
    case 'field_lshift_u64':
      return { value: BigInt(64 - (bitOffset + bits - start * 8)), exact };
    default:
      return { value: BigInt(64 - bits), exact };
  }
}

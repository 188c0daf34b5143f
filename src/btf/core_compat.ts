/**
 * When a type of the target's BTF stands for a type of the program's, by the rules that CO-RE has: names count without
 * their flavor (`name___flavor`), typedefs and qualifiers do not count.
 *
 * - two fields are compatible where both are structs or unions, both pointers, both integers of any size, both floats,
 *   both enums of one name, or arrays of such
 * - two types are compatible where their kinds are the same, and what they point to, hold, take and return
 * - a type matches another where every member, enumerator and parameter has its match there
 */

import { BpfError } from '../kernel/errno.js';
import type { Btf } from './btf.js';
import { essentialName } from './name_index.js';
import type { BtfComposite, BtfFuncProto, BtfKind, BtfMember, BtfType } from './types.js';

/** How deep types are followed; the loader of the kernel stops here too. */
const MAX_DEPTH = 32;

/** Pairs of types that one comparison may ask for: types that repeat each other ask without end. */
const MAX_QUESTIONS = 100_000;

export function isComposite(type: BtfType): type is BtfComposite {
  return type.kind === 'struct' || type.kind === 'union';
}

export function isEnum(type: BtfType): type is Extract<BtfType, { kind: 'enum' | 'enum64' }> {
  return type.kind === 'enum' || type.kind === 'enum64';
}

/** Kinds that may stand for each other: an enum does not care how wide it is. */
export function sameKind(a: BtfKind, b: BtfKind): boolean {
  return a === b || ((a === 'enum' || a === 'enum64') && (b === 'enum' || b === 'enum64'));
}

function tooDeep(btf: Btf): BpfError {
  return new BpfError('EINVAL', `${btf.label}: types are compared deeper than ${MAX_DEPTH} levels`);
}

/** The type behind typedefs, qualifiers and tags. */
export function strip(btf: Btf, id: number): { id: number; type: BtfType } {
  const resolved = btf.resolve(id);
  return { id: resolved, type: btf.type(resolved) };
}

/** A field of the program's type may be read as this field of the target's. */
export function fieldsAreCompatible(local: Btf, localId: number, target: Btf, targetId: number): boolean {
  let from = strip(local, localId).type;
  let to = strip(target, targetId).type;
  for (;;) {
    if (isComposite(from) && isComposite(to)) return true;
    if (!sameKind(from.kind, to.kind)) return false;
    switch (from.kind) {
      case 'ptr':
      case 'float':
        return true;
      case 'fwd':
      case 'enum':
      case 'enum64':
        return !from.name || !to.name || essentialName(from.name) === essentialName(to.name);
      case 'int':
        return from.offset === 0 && (to as typeof from).offset === 0;
      case 'array':
        from = strip(local, from.type).type;
        to = strip(target, (to as { type: number }).type).type;
        break;
      default:
        return false;
    }
  }
}

/** The types are of one kind, and so are those that they are made of; members are not looked at. */
export function typesAreCompatible(local: Btf, localId: number, target: Btf, targetId: number): boolean {
  if (!sameKind(local.kindOf(localId), target.kindOf(targetId))) return false;
  return partsAreCompatible(local, localId, target, targetId, MAX_DEPTH, { left: MAX_QUESTIONS });
}

function partsAreCompatible(
  local: Btf,
  localId: number,
  target: Btf,
  targetId: number,
  level: number,
  questions: { left: number },
): boolean {
  if (level === 0 || questions.left-- <= 0) throw tooDeep(target);
  let fromId = localId;
  let toId = targetId;
  for (let depth = 0; depth < MAX_DEPTH; depth++) {
    const from = strip(local, fromId).type;
    const to = strip(target, toId).type;
    if (!sameKind(from.kind, to.kind)) return false;
    switch (from.kind) {
      case 'void':
      case 'struct':
      case 'union':
      case 'enum':
      case 'enum64':
      case 'fwd':
      case 'float':
        return true;
      case 'int':
        return from.offset === 0 && (to as typeof from).offset === 0;
      case 'ptr':
      case 'array':
        fromId = from.type;
        toId = (to as typeof from).type;
        break;
      case 'func_proto': {
        const other = to as BtfFuncProto;
        if (from.params.length !== other.params.length) return false;
        const fit = from.params.every(({ type }, index) =>
          partsAreCompatible(local, type, target, other.params[index].type, level - 1, questions),
        );
        if (!fit) return false;
        fromId = from.returnType;
        toId = other.returnType;
        break;
      }
      default:
        return false;
    }
  }
  throw tooDeep(target);
}

/** Whether every part of the program's type has a match in the target's. */
export function typeMatches(local: Btf, localId: number, target: Btf, targetId: number): boolean {
  return new TypeMatch(local, target).match(localId, targetId, false, MAX_DEPTH);
}

class TypeMatch {
  readonly #local: Btf;
  readonly #target: Btf;
  readonly #byName = new Map<BtfComposite, Map<string, BtfMember[]>>();
  #questions = 0;

  constructor(local: Btf, target: Btf) {
    this.#local = local;
    this.#target = target;
  }

  match(localId: number, targetId: number, behindPointer: boolean, level: number): boolean {
    if (level === 0 || this.#questions++ > MAX_QUESTIONS) throw tooDeep(this.#target);
    let fromId = localId;
    let toId = targetId;
    let pointed = behindPointer;
    for (let depth = 0; depth < MAX_DEPTH; depth++) {
      const from = strip(this.#local, fromId).type;
      const to = strip(this.#target, toId).type;
      // "unsigned long" of one compiler is the "long unsigned int" of another: integers are what their bits are.
      if (from.kind !== 'int' && essentialName(from.name ?? '') !== essentialName(to.name ?? ''))
        return false;
      switch (from.kind) {
        case 'void':
          return to.kind === 'void';
        case 'fwd':
          if (pointed && isComposite(to)) return from.of === to.kind;
          return to.kind === 'fwd' && to.of === from.of;
        case 'enum':
        case 'enum64': {
          if (!isEnum(to) || from.values.length > to.values.length) return false;
          const names = new Set(to.values.map(({ name }) => essentialName(name)));
          return from.values.every(({ name }) => names.has(essentialName(name)));
        }
        case 'struct':
        case 'union':
          // A pointer only says that there is such a struct; what is in it is another question.
          if (pointed) return to.kind === from.kind || (to.kind === 'fwd' && to.of === from.kind);
          return isComposite(to) && to.kind === from.kind && this.#membersMatch(from, to, level);
        case 'int':
          return to.kind === 'int' && to.bits === from.bits && to.encoding.signed === from.encoding.signed;
        case 'float':
          return to.kind === 'float' && to.size === from.size;
        case 'ptr':
          if (to.kind !== 'ptr') return false;
          pointed = true;
          fromId = from.type;
          toId = to.type;
          break;
        case 'array':
          if (to.kind !== 'array' || to.nelems !== from.nelems) return false;
          fromId = from.type;
          toId = to.type;
          break;
        case 'func_proto': {
          if (to.kind !== 'func_proto' || to.params.length !== from.params.length) return false;
          const fit = from.params.every(({ type }, index) =>
            this.match(type, to.params[index].type, false, level - 1),
          );
          if (!fit) return false;
          fromId = from.returnType;
          toId = to.returnType;
          break;
        }
        default:
          return false;
      }
    }
    throw tooDeep(this.#target);
  }

  #membersMatch(from: BtfComposite, to: BtfComposite, level: number): boolean {
    if (from.members.length > to.members.length) return false;
    let byName = this.#byName.get(to);
    if (!byName) {
      byName = new Map();
      for (const member of to.members) {
        const name = essentialName(member.name);
        const known = byName.get(name);
        if (known) known.push(member);
        else byName.set(name, [member]);
      }
      this.#byName.set(to, byName);
    }
    const members = byName;
    return from.members.every(({ name, type }) =>
      (members.get(essentialName(name)) ?? []).some(other => this.match(type, other.type, false, level - 1)),
    );
  }
}

/**
 * Whether a program that was verified against one function may run on another: the kernel's check of a multi-link's
 * targets against the first. Only what the program reads must agree: each argument that it takes from its context, and
 * the result where it reads or replaces it. Types in, a sentence out; no process.
 *
 * | verified against | the other has | they agree where |
 * | --- | --- | --- |
 * | integer, enum | integer, enum | size and signedness are the same |
 * | pointer to a structure | pointer to a structure | name and shape are the same |
 * | pointer to anything else | pointer | always: the program has only an address |
 * | a structure by value | a structure by value | name and shape are the same |
 * | floating point | floating point | the size is the same |
 * | integer, enum, pointer to no structure | an opaque function | always |
 * | an opaque function | anything | always: the program has only numbers |
 */

import type { Btf } from '../btf/btf.js';
import type { BtfComposite, BtfMember } from '../btf/types.js';
import type { FunctionPrototype } from './kernel.js';

/** What a program takes of a call by the types that it was verified against. */
export interface TypedAccess {
  /** Positions of arguments, from 0. */
  readonly args: readonly number[];
  /** It reads the result, or gives another. */
  readonly result: boolean;
}

/** Members that one comparison looks at: types of other people's files may nest without end. */
const MAX_STEPS = 20_000;

/**
 * Why a program that was verified against `first` can't run on a function that takes and returns `other`: the end of a
 * sentence about that function. `undefined` where it can. A prototype is `undefined` for an opaque function.
 */
export function disagreement(
  first: FunctionPrototype | undefined,
  other: FunctionPrototype | undefined,
  { args, result }: TypedAccess,
): string | undefined {
  if (first === undefined) return undefined;
  for (const arg of args) {
    const why = partsDisagree(
      argument(first, arg),
      other === undefined ? 'opaque' : argument(other, arg),
      `argument ${arg + 1}`,
    );
    if (why !== undefined) return why;
  }
  if (!result) return undefined;
  return partsDisagree(resultOf(first), other === undefined ? 'opaque' : resultOf(other), 'result');
}

/** An argument or a result: its type, or that nothing is known of it, or that there is none. */
type Part = { readonly btf: Btf; readonly id: number } | 'opaque' | 'none';

function argument({ nargs, btf, args }: FunctionPrototype, position: number): Part {
  if (position >= nargs) return 'none';
  const id = args?.[position];
  return btf === undefined || id === undefined ? 'opaque' : { btf, id };
}

function resultOf({ btf, returns }: FunctionPrototype): Part {
  if (btf === undefined || returns === undefined) return 'opaque';
  return returns === 0 ? 'none' : { btf, id: returns };
}

function partsDisagree(first: Part, other: Part, what: string): string | undefined {
  if (first === 'opaque' || (first === 'none' && other === 'none')) return undefined;
  if (first !== 'none' && other === 'opaque')
    return isNumber(first.btf, first.id)
      ? undefined
      : `nothing is known of its types, and the program takes its ${what} for ${spelled(first)}`;
  if (
    first !== 'none' &&
    typeof other === 'object' &&
    typesAgree(first.btf, first.id, other.btf, other.id, true, { left: MAX_STEPS })
  )
    return undefined;
  return `its ${what} is ${spelled(other)}, and the program was verified for ${spelled(first)}`;
}

function spelled(part: Part): string {
  if (part === 'none') return 'none';
  return part === 'opaque' ? 'a number' : part.btf.typeName(part.id);
}

/** What the verifier takes for a number, and finds in an integer register. */
function isNumber(btf: Btf, id: number): boolean {
  const { kind } = btf.type(btf.resolve(id));
  if (kind === 'ptr') return structureBehind(btf, id) === undefined;
  return kind === 'int' || kind === 'enum' || kind === 'enum64';
}

/** The structure or union that a pointer leads to, if it is one that the verifier follows. */
function structureBehind(btf: Btf, id: number): number | undefined {
  const type = btf.type(btf.resolve(id));
  if (type.kind !== 'ptr') return undefined;
  const pointed = btf.resolve(type.type);
  const { kind } = btf.type(pointed);
  return kind === 'struct' || kind === 'union' ? pointed : undefined;
}

/** `inside`: structures behind pointers are compared by their members, too; else by their names. */
function typesAgree(
  firstBtf: Btf,
  firstId: number,
  otherBtf: Btf,
  otherId: number,
  inside: boolean,
  steps: { left: number },
): boolean {
  if (steps.left-- <= 0) return false;
  const first = firstBtf.type(firstBtf.resolve(firstId));
  const other = otherBtf.type(otherBtf.resolve(otherId));
  switch (first.kind) {
    case 'int':
    case 'enum':
    case 'enum64':
      return (
        (other.kind === 'int' || other.kind === 'enum' || other.kind === 'enum64') &&
        first.size === other.size &&
        isSigned(first) === isSigned(other)
      );
    case 'float':
      return other.kind === 'float' && first.size === other.size;
    case 'ptr': {
      if (other.kind !== 'ptr') return false;
      const structure = structureBehind(firstBtf, firstId);
      if (structure === undefined) return true;
      return structuresAgree(firstBtf, structure, otherBtf, otherBtf.resolve(other.type), inside, steps);
    }
    case 'struct':
    case 'union':
      return structuresAgree(
        firstBtf,
        firstBtf.resolve(firstId),
        otherBtf,
        otherBtf.resolve(otherId),
        true,
        steps,
      );
    case 'array':
      return (
        other.kind === 'array' &&
        first.nelems === other.nelems &&
        typesAgree(firstBtf, first.type, otherBtf, other.type, false, steps)
      );
    default:
      return first.kind === other.kind;
  }
}

function isSigned(
  type: { kind: 'int'; encoding: { signed: boolean } } | { kind: 'enum' | 'enum64'; signed: boolean },
): boolean {
  return type.kind === 'int' ? type.encoding.signed : type.signed;
}

/** Resolved ids. A structure that the other module only declares is known by its name. */
function structuresAgree(
  firstBtf: Btf,
  firstId: number,
  otherBtf: Btf,
  otherId: number,
  inside: boolean,
  steps: { left: number },
): boolean {
  if (firstBtf === otherBtf && firstId === otherId) return true;
  const first = firstBtf.type(firstId) as BtfComposite;
  const other = otherBtf.type(otherId);
  if (other.kind === 'fwd')
    return first.name !== undefined && first.name === other.name && first.kind === other.of;
  if (other.kind !== first.kind || first.name !== other.name) return false;
  if (!inside && first.name !== undefined) return true;
  if (first.size !== other.size || first.members.length !== other.members.length) return false;
  return first.members.every((member, i) =>
    membersAgree(firstBtf, member, otherBtf, other.members[i], steps),
  );
}

function membersAgree(
  firstBtf: Btf,
  first: BtfMember,
  otherBtf: Btf,
  other: BtfMember,
  steps: { left: number },
): boolean {
  return (
    first.name === other.name &&
    first.bitOffset === other.bitOffset &&
    first.bitSize === other.bitSize &&
    typesAgree(firstBtf, first.type, otherBtf, other.type, false, steps)
  );
}

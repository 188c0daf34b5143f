/**
 * What a function takes and returns, for people: each argument with its name, its type and the words of a program's context
 * that hold it, by its module's types. How values are read as these types.
 */

import type { Btf } from '../btf/btf.js';
import { formatValue, isBool, isChar } from '../btf/value.js';
import type { FunctionPrototype, Kernel, TargetFunction } from '../kernel/kernel.js';
import { type ArgumentWords, callLayout, MOST_RESULT_WORDS } from '../process/symbols/call_layout.js';

export interface Argument {
  /** Empty where the types have none. */
  readonly name: string;
  /** A type id of the signature's types. */
  readonly type: number;
  /** Words of a program's context; `undefined` where no program sees it. */
  readonly words: ArgumentWords | undefined;
  /** A `char *`. */
  readonly text: boolean;
}

export interface Signature {
  readonly btf: Btf;
  readonly args: readonly Argument[];
  /** Words of a program's context that all arguments take. */
  readonly words: number;
  readonly variadic: boolean;
  /** A type id; 0: void. */
  readonly returns: number;
  /** The result is a `char *`. */
  readonly returnsText: boolean;
  /** A program sees the result; the address of a structure that is returned in memory is none. */
  readonly seesResult: boolean;
}

/** A target with all its names, where the machine knows them. */
type Named = TargetFunction & { readonly aliases?: readonly string[] };

/** `undefined` where nothing is known of the function. May take seconds at a module's first function. */
export function signatureOf(kernel: Kernel, target: Named): Signature | undefined {
  const prototype = kernel.prototypeOf(target);
  if (prototype?.btf === undefined) return undefined;
  return describe(prototype.btf, prototype, target.aliases ?? [target.name]);
}

function describe(btf: Btf, prototype: FunctionPrototype, names: readonly string[]): Signature | undefined {
  const proto = names.map(name => declared(btf, name)).find(found => found !== undefined);
  if (proto === undefined) return undefined;
  const variadic = prototype.variadic === true;
  const params = variadic ? proto.params.slice(0, -1) : proto.params;
  const { words, args, result, resultInMemory } = callLayout(prototype);
  return {
    btf,
    args: params.map(({ name, type }, i) => ({ name, type, words: args[i], text: isText(btf, type) })),
    words: words.length,
    variadic,
    returns: proto.returnType,
    returnsText: isText(btf, proto.returnType),
    seesResult:
      result !== undefined && result.length > 0 && result.length <= MOST_RESULT_WORDS && !resultInMemory,
  };
}

function declared(btf: Btf, name: string) {
  const id = btf.find(name, 'func');
  const func = id === undefined ? undefined : btf.type(id);
  const proto = func?.kind === 'func' ? btf.type(func.type) : undefined;
  return proto?.kind === 'func_proto' ? proto : undefined;
}

function isText(btf: Btf, id: number): boolean {
  if (id === 0) return false;
  const type = btf.type(btf.resolve(id));
  return type.kind === 'ptr' && type.type !== 0 && isChar(btf, type.type);
}

/** The bytes of some words. */
export function bytesOf(words: BigUint64Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}

/** The value in some words as the type says, in the manner of C. */
export function formatWords(btf: Btf, type: number, words: BigUint64Array): string {
  const resolved = btf.type(btf.resolve(type));
  if (resolved.kind === 'ptr') return formatPointer(words[0]);
  // The callee looks at the lowest byte alone.
  if (resolved.kind === 'int' && isBool(resolved)) return (words[0] & 0xffn) === 0n ? 'false' : 'true';
  return formatValue(btf, type, bytesOf(words));
}

export function formatPointer(word: bigint): string {
  return word === 0n ? 'NULL' : `0x${word.toString(16)}`;
}

/** How a result compares with a number: its size in bytes, and whether it may be negative. */
export interface ResultSize {
  readonly bytes: number;
  readonly signed: boolean;
}

/** By the type; `undefined` for a result that no program sees, or none. */
export function resultSize(signature: Signature): ResultSize | undefined {
  if (!signature.seesResult) return undefined;
  const { btf, returns } = signature;
  const type = btf.type(btf.resolve(returns));
  if (type.kind === 'ptr') return { bytes: 8, signed: false };
  if (type.kind === 'int')
    return { bytes: btf.sizeOf(returns), signed: type.encoding.signed && !isBool(type) };
  if (type.kind === 'enum' || type.kind === 'enum64')
    return { bytes: btf.sizeOf(returns), signed: type.signed };
  return undefined;
}

/** A result as a number, by its size. */
export function resultAs(word: bigint, { bytes, signed }: ResultSize): bigint {
  return signed ? BigInt.asIntN(bytes * 8, word) : BigInt.asUintN(bytes * 8, word);
}

/**
 * A result of a function of which nothing is known, as a number: of 32 bits where the upper half is zero, since most
 * functions return an int, and a negative one leaves zeros above it.
 */
export function opaqueResult(word: bigint): bigint {
  return word >> 32n === 0n ? BigInt.asIntN(32, word) : BigInt.asIntN(64, word);
}

/** Smaller numbers are counts and error codes; others are addresses, most likely. */
const MOST_NUMBER = 1n << 31n;

/** The same for people: numbers decimal, addresses hexadecimal. */
export function formatOpaque(word: bigint): string {
  const value = opaqueResult(word);
  return value > -MOST_NUMBER && value < MOST_NUMBER ? value.toString() : `0x${word.toString(16)}`;
}

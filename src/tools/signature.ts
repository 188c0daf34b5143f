/**
 * What a function takes and returns, for people: each argument with its name, its type and the register that it is in,
 * by its module's types. How values are read as these types.
 */

import type { Btf } from '../btf/btf.js';
import { formatValue, isBool, isChar } from '../btf/value.js';
import type { FunctionPrototype, Kernel, TargetFunction } from '../kernel/kernel.js';
import { argumentRegisters } from '../process/symbols/argument_registers.js';

export interface Argument {
  /** Empty where the types have none. */
  readonly name: string;
  /** A type id of the signature's types. */
  readonly type: number;
  /** Position in a program's context; `undefined` where no program sees it. */
  readonly slot: number | undefined;
  /** A `char *`. */
  readonly text: boolean;
}

export interface Signature {
  readonly btf: Btf;
  readonly args: readonly Argument[];
  readonly variadic: boolean;
  /** A type id; 0: void. */
  readonly returns: number;
  /** The result is a `char *`. */
  readonly returnsText: boolean;
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
  const types = params.map(({ type }) => type);
  const args: Argument[] = [];
  let used = argumentRegisters(btf, [], proto.returnType).length;
  for (const [i, { name, type }] of params.entries()) {
    const registers = argumentRegisters(btf, types.slice(0, i + 1), proto.returnType);
    const whole = registers.length === used + 1 && registers[used] === type;
    args.push({ name, type, slot: whole ? used : undefined, text: isText(btf, type) });
    used = registers.length;
  }
  return {
    btf,
    args,
    variadic,
    returns: proto.returnType,
    returnsText: isText(btf, proto.returnType),
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

/** Whether a program sees the result: a word, not a structure or a floating-point number. */
export function seesResult({ btf, returns }: Signature): boolean {
  return returns !== 0 && isWord(btf, returns);
}

function isWord(btf: Btf, id: number): boolean {
  switch (btf.type(btf.resolve(id)).kind) {
    case 'ptr':
    case 'enum':
    case 'enum64':
      return true;
    case 'int':
      return btf.sizeOf(id) <= 8;
    default:
      return false;
  }
}

/** A register's value as the type says, in the manner of C. */
export function formatWord(btf: Btf, type: number, word: bigint): string {
  const resolved = btf.type(btf.resolve(type));
  if (resolved.kind === 'ptr') return formatPointer(word);
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, word, true);
  // The callee looks at the lowest byte alone.
  if (resolved.kind === 'int' && isBool(resolved)) return (word & 0xffn) === 0n ? 'false' : 'true';
  return formatValue(btf, type, bytes);
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
  if (!seesResult(signature)) return undefined;
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

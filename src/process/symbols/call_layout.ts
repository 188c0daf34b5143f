/**
 * Where a C function's arguments and result are, by the calling convention of x86-64 (System V ABI AMD64, 3.2.3
 * "Parameter Passing"), as words of 8 bytes: the context of a program has them in this order. An argument of 8 bytes or
 * less is one word; a structure by value and a number of 16 bytes are as many as they have. Floating-point numbers are
 * their raw bits. Types only, and bytes of none.
 */

import type { Btf } from '../../btf/btf.js';
import type { FunctionPrototype } from '../../kernel/kernel.js';

/** Integer registers that arguments are passed in: rdi, rsi, rdx, rcx, r8, r9. */
export const ARGUMENT_REGISTERS = 6;
const VECTOR_REGISTERS = 8;
/** MAX_BPF_FUNC_ARGS: no context has more words of arguments. */
export const MOST_ARGUMENT_WORDS = 12;
/** Words that a result can have. */
export const MOST_RESULT_WORDS = 2;

const WORD = 8;
/** A struct in registers has two words at most. */
const MAX_REGISTER_STRUCT = 16;
/** Members that are looked at: types that repeat each other would never end. */
const MAX_STEPS = 1000;

/** Where a word is when the function is entered. */
export type WordPlace =
  /** The n-th integer register of arguments. */
  | { readonly in: 'register'; readonly index: number }
  /** The low 8 bytes of a vector register, by its number. */
  | { readonly in: 'vector'; readonly index: number }
  /** So many bytes above the return address. */
  | { readonly in: 'stack'; readonly offset: number }
  /** Nowhere: padding; the context has 0 for it. */
  | { readonly in: 'nothing' };

/** Where a word of a result is when the function returns; `nowhere`: it is 0. */
export type ResultPlace = 'rax' | 'rdx' | 'xmm0' | 'xmm1' | 'nowhere';

/** The words of one argument: the first, and how many. */
export interface ArgumentWords {
  readonly first: number;
  readonly count: number;
}

export interface CallLayout {
  /** The words of the arguments, in order. */
  readonly words: readonly WordPlace[];
  /** By position of the argument; `undefined` where it can't be laid out, nor can those behind it. */
  readonly args: readonly (ArgumentWords | undefined)[];
  /** The words of the result: none for void, `undefined` where it is where we do not look (long double, vectors). */
  readonly result: readonly ResultPlace[] | undefined;
  /** It is a structure in memory, and the word of the result its address. */
  readonly resultInMemory: boolean;
}

/** Where eight bytes of a value are: an integer register, a vector register, or nowhere (padding). */
type WordClass = 'integer' | 'sse' | 'none';
/** `x87`: a long double, which is passed in memory and returned where we do not look. */
type ValueClass = readonly WordClass[] | 'memory' | 'x87' | 'unknown';

/** Six integers in registers and an integer result: what a function without a known prototype counts as. */
export const OPAQUE_LAYOUT: CallLayout = layoutOfIntegers(ARGUMENT_REGISTERS);

const layouts = new WeakMap<FunctionPrototype, CallLayout>();

/** The layout of a function; `OPAQUE_LAYOUT` where nothing is known of it. */
export function callLayout(prototype: FunctionPrototype | undefined): CallLayout {
  if (prototype === undefined) return OPAQUE_LAYOUT;
  let layout = layouts.get(prototype);
  if (layout === undefined) {
    const { btf, args, returns = 0, nargs } = prototype;
    layout = btf === undefined || args === undefined ? layoutOfIntegers(nargs) : layOut(btf, args, returns);
    layouts.set(prototype, layout);
  }
  return layout;
}

/** The layout of a function with `count` arguments that are integers, and an integer result. */
export function layoutOfIntegers(count: number, result: readonly ResultPlace[] = ['rax']): CallLayout {
  const words: WordPlace[] = [];
  for (let i = 0; i < Math.min(count, MOST_ARGUMENT_WORDS); i++)
    words.push(
      i < ARGUMENT_REGISTERS
        ? { in: 'register', index: i }
        : { in: 'stack', offset: WORD * (i - ARGUMENT_REGISTERS + 1) },
    );
  const args = Array.from({ length: count }, (_, i) =>
    i < words.length ? { first: i, count: 1 } : undefined,
  );
  return { words, args, result, resultInMemory: false };
}

function layOut(btf: Btf, params: readonly number[], returnType: number): CallLayout {
  const words: WordPlace[] = [];
  const args: (ArgumentWords | undefined)[] = [];
  const returned = returnType === 0 ? [] : classOf(btf, returnType);
  // The address of a structure that is returned in memory comes first.
  let integers = returned === 'memory' ? 1 : 0;
  let vectors = 0;
  // Behind the return address.
  let stack = WORD;
  let known = true;
  for (const id of params) {
    const found = classOf(btf, id);
    const size = sizeOf(btf, id);
    const count = Math.ceil(size / WORD);
    if (found === 'unknown' || words.length + count > MOST_ARGUMENT_WORDS) known = false;
    if (!known || found === 'unknown') {
      args.push(undefined);
      continue;
    }
    args.push({ first: words.length, count });
    const inRegisters = typeof found === 'string' ? undefined : found;
    const needs = (kind: WordClass): number => inRegisters?.filter(word => word === kind).length ?? 0;
    // A value is in registers as a whole, or not at all.
    if (
      inRegisters !== undefined &&
      integers + needs('integer') <= ARGUMENT_REGISTERS &&
      vectors + needs('sse') <= VECTOR_REGISTERS
    ) {
      for (const word of inRegisters) {
        if (word === 'integer') words.push({ in: 'register', index: integers++ });
        else if (word === 'sse') words.push({ in: 'vector', index: vectors++ });
        else words.push({ in: 'nothing' });
      }
      continue;
    }
    // Counted from the first argument on the stack, whose address is a multiple of 16.
    const align = Math.max(WORD, Math.min(16, alignmentOf(btf, id, { left: MAX_STEPS })));
    stack = Math.ceil((stack - WORD) / align) * align + WORD;
    for (let i = 0; i < count; i++, stack += WORD) words.push({ in: 'stack', offset: stack });
  }
  return { words, args, result: resultOf(returned), resultInMemory: returned === 'memory' };
}

function resultOf(returned: ValueClass): readonly ResultPlace[] | undefined {
  if (returned === 'unknown' || returned === 'x87') return undefined;
  if (returned === 'memory') return ['rax'];
  const integers: ResultPlace[] = ['rax', 'rdx'];
  const vectors: ResultPlace[] = ['xmm0', 'xmm1'];
  const places: ResultPlace[] = [];
  for (const word of returned) {
    // A word of padding is in no register: the result is not laid out.
    if (word === 'none') return undefined;
    places.push((word === 'integer' ? integers : vectors).shift()!);
  }
  return places;
}

function sizeOf(btf: Btf, id: number): number {
  const { kind } = btf.type(btf.resolve(id));
  return kind === 'void' || kind === 'fwd' || kind === 'func' || kind === 'func_proto' ? 0 : btf.sizeOf(id);
}

/**
 * Bytes of the multiple at which a value of the type lies in memory. A packed structure of nothing but numbers of 16 bytes
 * can't be told from one that is not.
 */
function alignmentOf(btf: Btf, id: number, steps: { left: number }): number {
  if (steps.left-- <= 0) return WORD;
  const type = btf.type(btf.resolve(id));
  switch (type.kind) {
    case 'struct':
    case 'union': {
      let align = 1;
      for (const { type: member, bitOffset, bitSize } of type.members) {
        let own = alignmentOf(btf, member, steps);
        // Types do not say that they are packed: where members lie, and how large the whole is, does.
        while (bitSize === 0 && (bitOffset / 8) % own !== 0) own /= 2;
        align = Math.max(align, own);
      }
      while (type.size % align !== 0) align /= 2;
      return align;
    }
    case 'array':
      return alignmentOf(btf, type.type, steps);
    case 'int':
    case 'float':
    case 'enum':
    case 'enum64':
      return type.size;
    default:
      return WORD;
  }
}

/** A struct or union of nothing but one long double. */
function isLongDouble(btf: Btf, id: number, steps: { left: number }): boolean {
  if (steps.left-- <= 0) return false;
  const type = btf.type(btf.resolve(id));
  if (type.kind === 'float') return type.size > WORD;
  if (type.kind === 'array') return type.nelems === 1 && isLongDouble(btf, type.type, steps);
  if (type.kind !== 'struct' && type.kind !== 'union') return false;
  return type.members.length > 0 && type.members.every(m => isLongDouble(btf, m.type, steps));
}

/** A complex number is an integer of its size to who made the types. */
function isComplex(name: string | undefined): boolean {
  return name !== undefined && /complex/i.test(name);
}

function classOf(btf: Btf, id: number): ValueClass {
  const resolved = btf.resolve(id);
  const type = btf.type(resolved);
  switch (type.kind) {
    case 'int':
      if (isComplex(type.name)) return 'unknown';
      return type.size > WORD ? ['integer', 'integer'] : ['integer'];
    case 'enum':
    case 'enum64':
    case 'ptr':
      return ['integer'];
    case 'float':
      if (isComplex(type.name)) return 'unknown';
      return type.size > WORD ? 'x87' : ['sse'];
    case 'struct':
    case 'union': {
      if (type.size > MAX_REGISTER_STRUCT) return 'memory';
      const words = new Array<WordClass>(Math.ceil(type.size / WORD)).fill('none');
      if (merge(btf, resolved, 0, words, { left: MAX_STEPS })) return words;
      return isLongDouble(btf, resolved, { left: MAX_STEPS }) ? 'x87' : 'memory';
    }
    default:
      // An array is a vector; nothing else is passed.
      return 'unknown';
  }
}

/** Adds what a part of a struct says about its words; false where the struct is in memory. */
function merge(btf: Btf, id: number, at: number, words: WordClass[], steps: { left: number }): boolean {
  if (steps.left-- <= 0) return false;
  const type = btf.type(btf.resolve(id));
  switch (type.kind) {
    case 'struct':
    case 'union':
      return type.members.every(({ type: member, bitOffset, bitSize }) => {
        if (bitSize === 0) return merge(btf, member, at + bitOffset / 8, words, steps);
        words[Math.floor((at + bitOffset / 8) / WORD)] = 'integer';
        return true;
      });
    case 'array': {
      const size = btf.sizeOf(type.type);
      for (let index = 0; index < type.nelems; index++)
        if (!merge(btf, type.type, at + index * size, words, steps)) return false;
      return true;
    }
    case 'float':
    case 'int':
    case 'enum':
    case 'enum64':
    case 'ptr': {
      const size = type.kind === 'ptr' ? WORD : type.size;
      // Parts that do not lie on a multiple of their size make the whole go to memory; so does long double.
      if (at % size !== 0 || (type.kind === 'float' && size > WORD)) return false;
      for (let word = Math.floor(at / WORD); word * WORD < at + size; word++)
        if (type.kind !== 'float') words[word] = 'integer';
        else if (words[word] === 'none') words[word] = 'sse';
      return true;
    }
    default:
      return false;
  }
}

/**
 * Where a C function's arguments and result are, by the calling convention of x86-64 (System V ABI AMD64, 3.2.3
 * "Parameter Passing"), as words of 8 bytes: the context of a program has them in this order. An argument of 8 bytes or
 * less is one word; a structure by value and a number of 16 bytes are as many as they have. Floating-point numbers are
 * their raw bits. Types only, and bytes of none.
 */

import type { Btf, BtfType } from '../../btf/btf.js';
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

/**
 * Where eight bytes of a value are: an integer register, a vector register, the first or the second half of a register of
 * long doubles, or nowhere (padding).
 */
type WordClass = 'integer' | 'sse' | 'x87' | 'x87up' | 'none';
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

/**
 * Whether types leave open how a number is passed: to who made them complex and decimal numbers are integers of their size,
 * which they are not passed as; and of those with a point only a long double has 16 bytes and is in no vector register.
 */
function isOddNumber({ kind, name = '', size }: BtfType & { readonly kind: 'int' | 'float' }): boolean {
  return /complex|_Decimal/i.test(name) || (kind === 'float' && size > WORD && name !== 'long double');
}

function classOf(btf: Btf, id: number): ValueClass {
  const resolved = btf.resolve(id);
  const type = btf.type(resolved);
  switch (type.kind) {
    case 'int':
      if (isOddNumber(type)) return 'unknown';
      return type.size > WORD ? ['integer', 'integer'] : ['integer'];
    case 'enum':
    case 'enum64':
    case 'ptr':
      return ['integer'];
    case 'float':
      if (isOddNumber(type)) return 'unknown';
      return type.size > WORD ? 'x87' : ['sse'];
    case 'struct':
    case 'union': {
      if (type.size > MAX_REGISTER_STRUCT) return 'memory';
      const words = new Array<WordClass>(Math.ceil(type.size / WORD)).fill('none');
      const steps = { left: MAX_STEPS, known: true };
      const inRegisters = merge(btf, resolved, 0, words, steps);
      if (!steps.known) return 'unknown';
      if (!inRegisters) return 'memory';
      return words.includes('x87') ? 'x87' : words;
    }
    default:
      // An array is a vector; nothing else is passed.
      return 'unknown';
  }
}

interface Steps {
  left: number;
  /** Nothing was found that can't be told. */
  known: boolean;
}

/**
 * Adds what a part of a struct says about its words; false where the struct is in memory. The order of members matters where
 * they overlap, as it does to compilers.
 */
function merge(btf: Btf, id: number, at: number, words: WordClass[], steps: Steps): boolean {
  if (steps.left-- <= 0) {
    steps.known = false;
    return false;
  }
  const type = btf.type(btf.resolve(id));
  switch (type.kind) {
    case 'struct':
    case 'union': {
      // For itself first: what goes to memory by itself does so within another.
      const own = new Array<WordClass>(words.length).fill('none');
      const inRegisters = type.members.every(({ type: member, bitOffset, bitSize }) =>
        bitSize === 0
          ? merge(btf, member, at + bitOffset / 8, own, steps)
          : add(own, Math.floor((at + bitOffset / 8) / WORD), 'integer'),
      );
      // The second half of a long double whose first half something else took.
      if (!inRegisters || own.some((word, i) => word === 'x87up' && own[i - 1] !== 'x87')) return false;
      return own.every((word, i) => add(words, i, word));
    }
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
      if ((type.kind === 'int' || type.kind === 'float') && isOddNumber(type)) steps.known = false;
      // Parts that do not lie on a multiple of their size make the whole go to memory.
      if (at % size !== 0) return false;
      const first = Math.floor(at / WORD);
      if (type.kind === 'float' && size > WORD)
        return add(words, first, 'x87') && add(words, first + 1, 'x87up');
      for (let word = first; word * WORD < at + size; word++)
        if (!add(words, word, type.kind === 'float' ? 'sse' : 'integer')) return false;
      return true;
    }
    default:
      return false;
  }
}

/** Two parts share a word: false where that is in memory. */
function add(words: WordClass[], index: number, more: WordClass): boolean {
  const there = words[index];
  if (there === more || more === 'none') return true;
  if (there === 'none' || more === 'integer') words[index] = more;
  else if (there !== 'integer') return false;
  return true;
}

/**
 * Which of a C function's parameters are in which of the six argument registers, by the calling convention of x86-64
 * (System V ABI AMD64, 3.2.3 "Parameter Passing"): floating-point numbers and large structs are elsewhere, small structs
 * take one register or two, and a function that returns a large struct has an address before its parameters.
 */

import type { Btf } from '../../btf/btf.js';

/** Integer registers that arguments are passed in. */
export const ARGUMENT_REGISTERS = 6;

const WORD = 8;
/** A struct in registers has two of them at most. */
const MAX_REGISTER_STRUCT = 16;
/** Members that are looked at: types that repeat each other would never end. */
const MAX_STEPS = 1000;

/** Where eight bytes of a value are: an integer register, a vector register, or nowhere special (padding). */
type WordClass = 'integer' | 'sse' | 'none';
type ValueClass = readonly WordClass[] | 'memory';

/**
 * Type ids by register, in order: 0 where the register is a part of a struct, or the address of the result. Registers
 * behind the last one are not the function's.
 */
export function argumentRegisters(btf: Btf, params: readonly number[], returnType: number): number[] {
  const registers: number[] = [];
  if (returnType !== 0 && classOf(btf, returnType) === 'memory' && isAggregate(btf, returnType))
    registers.push(0);
  for (const id of params) {
    const words = classOf(btf, id);
    if (words === 'memory') continue;
    const needed = words.filter(word => word === 'integer').length;
    // A struct is in registers as a whole, or not at all.
    if (registers.length + needed > ARGUMENT_REGISTERS) continue;
    const whole = needed === 1 && words.length === 1 && !isAggregate(btf, id);
    for (let index = 0; index < needed; index++) registers.push(whole ? id : 0);
  }
  return registers;
}

function isAggregate(btf: Btf, id: number): boolean {
  const kind = btf.kindOf(btf.resolve(id));
  return kind === 'struct' || kind === 'union' || kind === 'array';
}

function classOf(btf: Btf, id: number): ValueClass {
  const resolved = btf.resolve(id);
  const type = btf.type(resolved);
  switch (type.kind) {
    case 'int':
      return type.size > WORD ? ['integer', 'integer'] : ['integer'];
    case 'float':
      return type.size > WORD ? 'memory' : ['sse'];
    case 'struct':
    case 'union': {
      if (type.size > MAX_REGISTER_STRUCT) return 'memory';
      const words = new Array<WordClass>(Math.ceil(type.size / WORD)).fill('none');
      return merge(btf, resolved, 0, words, { left: MAX_STEPS }) ? words : 'memory';
    }
    default:
      return ['integer'];
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

/**
 * What of a function's prototype a trampoline can lay out: integers and pointers in registers. The rest of the calling
 * convention (vector registers, the stack, structures by value) is not laid out: programs that read it are refused.
 */

import type { Btf } from '../../../btf/btf.js';
import type { FunctionPrototype } from '../../kernel.js';

/** A function without a known prototype counts as having six integer arguments. */
export const OPAQUE_ARGS = 6;
const WORD = 8;

/** How many arguments from the first on are in the context; those behind them are not. */
export function laidOutArgs(prototype: FunctionPrototype | undefined): number {
  if (prototype === undefined) return OPAQUE_ARGS;
  const { btf, args, returns } = prototype;
  if (btf === undefined || args === undefined) return Math.min(prototype.nargs, OPAQUE_ARGS);
  // The address of a structure that is returned comes first, and moves every argument by one.
  if (returns !== undefined && isAggregate(btf, returns)) return 0;
  const other = args.findIndex(type => !isWord(btf, type));
  return Math.min(other < 0 ? args.length : other, OPAQUE_ARGS);
}

/** Whether the function's result is in rax as a whole, or there is none. */
export function returnsWord({ btf, returns }: FunctionPrototype): boolean {
  return btf === undefined || returns === undefined || returns === 0 || isWord(btf, returns);
}

function isWord(btf: Btf, id: number): boolean {
  const { kind } = btf.type(btf.resolve(id));
  switch (kind) {
    case 'ptr':
      return true;
    case 'int':
    case 'enum':
    case 'enum64':
      return btf.sizeOf(id) <= WORD;
    default:
      return false;
  }
}

function isAggregate(btf: Btf, id: number): boolean {
  const { kind } = btf.type(btf.resolve(id));
  return kind === 'struct' || kind === 'union';
}

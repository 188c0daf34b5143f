/**
 * Checks that BTF types end: no chain of pointers, qualifiers, names and arrays comes back to where it began, and no
 * struct is a part of itself; and that neither goes so deep that code which follows it would run out of stack.
 */

import { BpfError } from '../kernel/errno.js';
import type { BtfTable } from './table.js';
import { isModifierKind, KIND } from './types.js';

/** Types in one chain, and structs within structs. The kernel stops at 32; types of C++ go deeper. */
const MAX_DEPTH = 256;

const UNSEEN = 0;
const OPEN = 1;
const DONE = 2;

export function validateLoops(table: BtfTable): void {
  validateChains(table);
  validateContainment(table);
}

function tooDeep(table: BtfTable, id: number): BpfError {
  return new BpfError('EINVAL', `${table.raw.label}: type ${id} is nested deeper than ${MAX_DEPTH} types`);
}

function circular(table: BtfTable, id: number): BpfError {
  return new BpfError('ELOOP', `${table.raw.label}: type ${id} contains itself; the file is damaged`);
}

/** The one type that a type is written around; 0 where there is none. */
function successor(table: BtfTable, id: number): number {
  const kind = table.kind(id);
  if (kind === KIND.ARRAY) return table.word(id, 3);
  return kind === KIND.PTR || kind === KIND.VAR || kind === KIND.FUNC || isModifierKind(kind)
    ? table.third(id)
    : 0;
}

/** Every type has one successor at most, so a walk that meets its own mark is a circle. */
function validateChains(table: BtfTable): void {
  const { firstId } = table.raw;
  const depth = new Uint16Array(table.typeCount + 1 - firstId);
  const walk: number[] = [];
  const onWalk = MAX_DEPTH + 1;
  for (let id = firstId; id <= table.typeCount; id++) {
    let at = id;
    while (at >= firstId && depth[at - firstId] === 0) {
      depth[at - firstId] = onWalk;
      walk.push(at);
      at = successor(table, at);
    }
    if (at >= firstId && depth[at - firstId] === onWalk) throw circular(table, at);
    let below = at >= firstId ? depth[at - firstId] : 0;
    for (let index = walk.length - 1; index >= 0; index--) {
      if (++below > MAX_DEPTH) throw tooDeep(table, walk[index]);
      depth[walk[index] - firstId] = below;
    }
    walk.length = 0;
  }
}

/** How many types a type has as parts: its members, its elements, the type that it is another name for. */
function partCount(table: BtfTable, id: number): number {
  const kind = table.kind(id);
  if (kind === KIND.STRUCT || kind === KIND.UNION) return table.count(id);
  return kind === KIND.ARRAY || kind === KIND.VAR || isModifierKind(kind) ? 1 : 0;
}

function part(table: BtfTable, id: number, index: number): number {
  const kind = table.kind(id);
  if (kind === KIND.STRUCT || kind === KIND.UNION) return table.word(id, 4 + 3 * index);
  return kind === KIND.ARRAY ? table.word(id, 3) : table.third(id);
}

/** A depth-first walk with marks; the stack is as deep as the types are. */
function validateContainment(table: BtfTable): void {
  const { firstId } = table.raw;
  const state = new Uint8Array(table.typeCount + 1 - firstId);
  const height = new Uint16Array(state.length);
  const stack: number[] = [];
  const next: number[] = [];
  for (let id = firstId; id <= table.typeCount; id++) {
    if (state[id - firstId] !== UNSEEN) continue;
    stack.push(id);
    next.push(0);
    state[id - firstId] = OPEN;
    while (stack.length > 0) {
      const top = stack.length - 1;
      const at = stack[top];
      if (next[top] === partCount(table, at)) {
        state[at - firstId] = DONE;
        const own = height[at - firstId] + 1;
        if (own > MAX_DEPTH) throw tooDeep(table, at);
        height[at - firstId] = own;
        stack.pop();
        next.pop();
        if (top > 0) {
          const parent = stack[top - 1] - firstId;
          if (own > height[parent]) height[parent] = own;
        }
        continue;
      }
      const child = part(table, at, next[top]++);
      if (child < firstId) continue;
      const seen = state[child - firstId];
      if (seen === OPEN) throw circular(table, child);
      if (seen === DONE) {
        if (height[child - firstId] > height[at - firstId]) height[at - firstId] = height[child - firstId];
        continue;
      }
      state[child - firstId] = OPEN;
      stack.push(child);
      next.push(0);
    }
  }
}

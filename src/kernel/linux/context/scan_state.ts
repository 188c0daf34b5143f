/** What the scan (scan.ts) knows of registers and the stack at an instruction, and how two such come together. */

/** It may be the context. */
export const CONTEXT = 'context';
/** It may be an address on the function's own stack; with a known offset it is one. */
export const FRAME = 'frame';
/** `offset` where something unknown was added, or several come together. */
export const ANY_OFFSET = 'any';

export type Value =
  | { readonly kind: typeof CONTEXT; readonly offset: number | typeof ANY_OFFSET }
  | { readonly kind: typeof FRAME; readonly offset: number | typeof ANY_OFFSET }
  | { readonly kind: 'constant'; readonly value: bigint }
  /** Anything else, and no context. */
  | { readonly kind: 'nothing' };

export const NOTHING: Value = { kind: 'nothing' };

/** A number, modulo 2^64. */
export function constant(value: bigint): Value {
  return { kind: 'constant', value: BigInt.asUintN(64, value) };
}

/** Changes as it is walked. */
export interface State {
  /** r0 to r9. */
  readonly registers: Value[];
  /** By offset from the frame pointer, what 8 bytes hold; what is left out is nothing. */
  readonly stack: Map<number, Value>;
}

const REGISTERS = 10;

/** What a function begins with: these arguments. Addresses of the caller's stack are nothing to it. */
export function stateOfCall(args: readonly Value[]): State {
  const registers = new Array<Value>(REGISTERS).fill(NOTHING);
  for (const [index, value] of args.entries()) if (value.kind !== FRAME) registers[1 + index] = value;
  return { registers, stack: new Map() };
}

/** What is one or the other. A context that is there on one way only counts. */
export function merge(a: Value, b: Value): Value {
  if (a === b) return a;
  if (a.kind === CONTEXT || b.kind === CONTEXT) {
    if (a.kind !== CONTEXT) return b;
    if (b.kind !== CONTEXT || a.offset === b.offset) return a;
    return a.offset === ANY_OFFSET ? a : { kind: CONTEXT, offset: ANY_OFFSET };
  }
  if (a.kind === 'constant' && b.kind === 'constant' && a.value === b.value) return a;
  if (a.kind === FRAME || b.kind === FRAME) {
    if (a.kind === FRAME && (a.offset === ANY_OFFSET || (b.kind === FRAME && a.offset === b.offset)))
      return a;
    return { kind: FRAME, offset: ANY_OFFSET };
  }
  return a.kind === 'nothing' ? a : NOTHING;
}

/** Adds what `more` knows to `known`; whether that changed it. */
export function joinInto(known: State, more: State): boolean {
  let changed = false;
  for (let register = 0; register < REGISTERS; register++) {
    const merged = merge(known.registers[register], more.registers[register]);
    if (merged !== known.registers[register]) {
      known.registers[register] = merged;
      changed = true;
    }
  }
  for (const at of new Set([...known.stack.keys(), ...more.stack.keys()])) {
    const before = known.stack.get(at) ?? NOTHING;
    const merged = merge(before, more.stack.get(at) ?? NOTHING);
    if (merged === before) continue;
    known.stack.set(at, merged);
    changed = true;
  }
  return changed;
}

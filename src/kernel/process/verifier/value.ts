/**
 * What a register or a stack slot holds, as far as the verifier knows (the kernel's `bpf_reg_state`), and how
 * a message names it.
 */

import type { MapSpec } from './environment.js';
import { constant, coversScalar, describeScalar, isConstant, type Scalar } from './scalar.js';

/** Nothing that may be read. */
export interface Uninitialised {
  readonly kind: 'not_init';
}

/** The program's context. */
export interface ContextPointer {
  readonly kind: 'ctx';
}

/** The frame pointer plus a constant. */
export interface StackPointer {
  readonly kind: 'fp';
  readonly offset: number;
}

/** A map itself, for helpers. */
export interface MapPointer {
  readonly kind: 'map_ptr';
  readonly map: MapSpec;
}

/** What a lookup returned, before it was compared with zero. Copies of one result have the same `id`. */
export interface MaybeMapValue {
  readonly kind: 'map_value_or_null';
  readonly map: MapSpec;
  readonly id: number;
}

/** A pointer into a map's value: at `offset + variable` bytes. */
export interface MapValuePointer {
  readonly kind: 'map_value';
  readonly map: MapSpec;
  readonly offset: number;
  readonly variable: Scalar;
}

export type Value =
  | Uninitialised
  | Scalar
  | ContextPointer
  | StackPointer
  | MapPointer
  | MaybeMapValue
  | MapValuePointer;

export const NOT_INIT: Uninitialised = { kind: 'not_init' };
export const CONTEXT: ContextPointer = { kind: 'ctx' };
export const ZERO = constant(0);

/** The start of a value of `map`, plus `offset` bytes. */
export function mapValue(map: MapSpec, offset = 0): MapValuePointer {
  return { kind: 'map_value', map, offset, variable: ZERO };
}

/** For messages: the kernel's notation, `map_value(map=counts,ks=4,vs=8,off=0)`, `fp-8`. */
export function describeValue(value: Value): string {
  switch (value.kind) {
    case 'not_init':
      return '?';
    case 'scalar':
      return describeScalar(value);
    case 'ctx':
      return 'ctx()';
    case 'fp':
      return `fp${value.offset}`;
    case 'map_ptr':
    case 'map_value_or_null':
      return `${value.kind}(${describeMap(value.map)})`;
    case 'map_value': {
      const variable = isConstant(value.variable) ? '' : `,${describeScalar(value.variable)}`;
      return `map_value(${describeMap(value.map)},off=${value.offset}${variable})`;
    }
  }
}

function describeMap(map: MapSpec): string {
  return `map=${map.name},ks=${map.keySize},vs=${map.valueSize}`;
}

/**
 * Whether a path that was found safe with `old` is safe with `now`: every content that `now` allows was allowed
 * by `old`. `ids` pairs the lookup results of the old state with those of the new one.
 */
export function covers(old: Value, now: Value, ids: Map<number, number>): boolean {
  if (old.kind === 'not_init') return true;
  // Lookup results are paired even where they are the same one: another register may hold a different one.
  if (old === now && old.kind !== 'map_value_or_null') return true;
  switch (old.kind) {
    case 'scalar':
      return now.kind === 'scalar' && coversScalar(old, now);
    case 'ctx':
      return now.kind === 'ctx';
    case 'fp':
      return now.kind === 'fp' && now.offset === old.offset;
    case 'map_ptr':
      return now.kind === 'map_ptr' && now.map === old.map;
    case 'map_value_or_null': {
      if (now.kind !== 'map_value_or_null' || now.map !== old.map) return false;
      const paired = ids.get(old.id);
      if (paired === undefined) ids.set(old.id, now.id);
      return paired === undefined || paired === now.id;
    }
    case 'map_value':
      return (
        now.kind === 'map_value' &&
        now.map === old.map &&
        now.offset === old.offset &&
        coversScalar(old.variable, now.variable)
      );
  }
}

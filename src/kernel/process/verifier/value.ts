/**
 * What a register or a stack slot holds, as far as the verifier knows (the kernel's `bpf_reg_state`), and how
 * a message names it. Values never change: a register gets another one.
 */

import type { Btf } from '../../../btf/btf.js';
import type { MapSpec } from './environment.js';
import { constant, describeScalar, isConstant, type Scalar } from './scalar.js';

/** Nothing that may be read. */
export interface Uninitialised {
  readonly kind: 'not_init';
  /** it pointed to what was given back */
  readonly released: boolean;
}

/** The program's context. */
export interface ContextPointer {
  readonly kind: 'ctx';
  readonly offset: number;
}

/** The frame pointer of frame `frame`, plus `offset + variable` bytes. */
export interface StackPointer {
  readonly kind: 'fp';
  readonly frame: number;
  readonly offset: number;
  readonly variable: Scalar;
}

/** A map itself, for helpers. `maybeNull`: a map of maps gave it. */
export interface MapPointer {
  readonly kind: 'map_ptr';
  readonly map: MapSpec;
  readonly id: number;
  readonly maybeNull: boolean;
  /** out of a map of maps: which map it is, is known at run time only */
  readonly inner: boolean;
}

/** A pointer to memory of known size, `offset + variable` bytes into it. */
export interface MemoryPointer {
  readonly kind: 'map_value' | 'map_key' | 'mem' | 'ringbuf_mem' | 'rdonly_mem';
  /** of a map's value or key */
  readonly map: MapSpec | undefined;
  readonly size: number;
  readonly offset: number;
  readonly variable: Scalar;
  /** copies of one result have the same id while that matters, else it is 0 */
  readonly id: number;
  readonly maybeNull: boolean;
  /** the reference that must be given back, or 0 */
  readonly ref: number;
  /** the dynptr whose memory it is, or 0 */
  readonly dynptr: number;
}

/** A pointer that the traced process made, to a type of its own. */
export interface BtfPointer {
  readonly kind: 'ptr_';
  readonly btf: Btf;
  /** a struct or union */
  readonly type: number;
  readonly offset: number;
  /** handed to the traced function, not found in memory */
  readonly trusted: boolean;
}

/** A subprogram's address. */
export interface FunctionPointer {
  readonly kind: 'func';
  readonly subprogram: number;
}

export type Pointer =
  | ContextPointer
  | StackPointer
  | MapPointer
  | MemoryPointer
  | BtfPointer
  | FunctionPointer;
export type Value = Uninitialised | Scalar | Pointer;

export const NOT_INIT: Uninitialised = { kind: 'not_init', released: false };
export const RELEASED: Uninitialised = { kind: 'not_init', released: true };
export const CONTEXT: ContextPointer = { kind: 'ctx', offset: 0 };
export const ZERO = constant(0);

/** Whether `value` points to memory of known size. */
export function isMemory(value: Value): value is MemoryPointer {
  switch (value.kind) {
    case 'map_value':
    case 'map_key':
    case 'mem':
    case 'ringbuf_mem':
    case 'rdonly_mem':
      return true;
    default:
      return false;
  }
}

/** The frame pointer of frame `frame`, plus `offset`. */
export function stackPointer(frame: number, offset = 0): StackPointer {
  return { kind: 'fp', frame, offset, variable: ZERO };
}

/** The start of memory. */
export function memory(
  kind: MemoryPointer['kind'],
  size: number,
  fields: Partial<Omit<MemoryPointer, 'kind' | 'size'>> = {},
): MemoryPointer {
  const { map, offset = 0, variable = ZERO, id = 0, maybeNull = false, ref = 0, dynptr = 0 } = fields;
  return { kind, map, size, offset, variable, id, maybeNull, ref, dynptr };
}

/** The pointer with another offset. Written out, as a copy with changes takes several times as long. */
export function pointerAt<P extends StackPointer | MemoryPointer>(
  pointer: P,
  offset: number,
  variable: Scalar,
): StackPointer | MemoryPointer {
  if (pointer.kind === 'fp') return { kind: 'fp', frame: pointer.frame, offset, variable };
  const { kind, map, size, id, maybeNull, ref, dynptr } = pointer;
  return { kind, map, size, offset, variable, id, maybeNull, ref, dynptr };
}

/** The start of a value of `map`, plus `offset` bytes. */
export function mapValue(map: MapSpec, offset = 0, id = 0): MemoryPointer {
  return memory('map_value', map.valueSize, { map, offset, id });
}

/** The kind as the kernel names it in messages: `map_value_or_null`, `ptr_file`. */
export function kindName(value: Value): string {
  if (value.kind === 'ptr_') {
    const name = value.btf.name(value.type) || '(anon)';
    return value.trusted ? `trusted_ptr_${name}` : `untrusted_ptr_${name}`;
  }
  return 'maybeNull' in value && value.maybeNull ? `${value.kind}_or_null` : value.kind;
}

/** For messages: the kernel's notation, `map_value(map=counts,ks=4,vs=8,off=0)`, `fp-8`. */
export function describeValue(value: Value): string {
  switch (value.kind) {
    case 'not_init':
      return '?';
    case 'scalar':
      return describeNumber(value);
    case 'ctx':
      return value.offset === 0 ? 'ctx()' : `ctx(off=${value.offset})`;
    case 'fp': {
      const frame = value.frame === 0 ? '' : `[${value.frame}]`;
      return `fp${frame}${value.offset}${isConstant(value.variable) ? '' : `+${describeScalar(value.variable)}`}`;
    }
    case 'map_ptr':
      return `${kindName(value)}(${describeMap(value.map)})`;
    case 'ptr_':
      return `${kindName(value)}(off=${value.offset})`;
    case 'func':
      return `func(subprog=${value.subprogram})`;
    default: {
      const parts: string[] = [];
      if (value.maybeNull && value.id !== 0) parts.push(`id=${value.id}`);
      if (value.map !== undefined) parts.push(describeMap(value.map));
      else parts.push(`sz=${value.size}`);
      if (value.ref !== 0) parts.push(`ref_obj_id=${value.ref}`);
      if (value.offset !== 0) parts.push(`off=${value.offset}`);
      if (!isConstant(value.variable)) parts.push(describeScalar(value.variable));
      return `${kindName(value)}(${parts.join(',')})`;
    }
  }
}

/** A number that is linked to others: `scalar(id=3+4,umax=7)`. */
function describeNumber(value: Scalar): string {
  const text = describeScalar(value);
  if (value.id === 0 || isConstant(value)) return text;
  const sum = `${value.delta > 0 ? '+' : ''}${value.delta}${value.narrow ? ' as u32' : ''}`;
  const delta = value.delta === 0 && !value.narrow ? '' : sum;
  return text.replace('(', `(id=${value.id}${delta}${text === 'scalar()' ? '' : ','}`);
}

function describeMap(map: MapSpec): string {
  return `map=${map.name},ks=${map.keySize},vs=${map.valueSize}`;
}

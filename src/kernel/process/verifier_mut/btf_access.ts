/**
 * Loads through pointers of the traced process's own types: that they hit a member, and what they give (the kernel's
 * `btf_struct_access`).
 */

import type { Btf } from '../../../btf/btf.js';
import type { Step } from './path.js';
import { UNKNOWN, unknownOf } from './scalar.js';
import type { BtfPointer, Value } from './value.js';

const POINTER_BYTES = 8;

/** A pointer of type `typeId` as a value: typed where it points to a struct or union, else a number. */
export function valueOfType(btf: Btf, typeId: number, trusted: boolean): Value {
  const type = btf.type(btf.resolve(typeId));
  if (type.kind !== 'ptr') return UNKNOWN;
  const pointed = btf.resolve(type.type);
  if (pointed === 0) return UNKNOWN;
  const target = btf.type(pointed);
  if (target.kind !== 'struct' && target.kind !== 'union') return UNKNOWN;
  return { kind: 'ptr_', btf, type: pointed, offset: 0, trusted };
}

/** `size` bytes at `offset` behind where `pointer` points. */
export function loadTyped(
  step: Step,
  register: number,
  pointer: BtfPointer,
  offset: number,
  size: number,
): Value {
  const { btf } = pointer;
  let at = pointer.offset + offset;
  const name = btf.name(pointer.type) || '(anon)';
  if (at < 0) step.fail('EACCES', `R${register} is ptr_${name} invalid negative access: off=${at}`, register);
  let typeId = pointer.type;
  for (;;) {
    const type = btf.type(typeId);
    if (type.kind === 'struct' || type.kind === 'union') {
      if (at + size > type.size && !endsInFlexibleArray(btf, typeId)) {
        const reason = `access beyond struct ${btf.name(typeId) || name} at off ${at} size ${size}`;
        step.fail('EACCES', reason, register);
      }
      const candidates = type.members.filter(member => {
        const begin = Math.floor(member.bitOffset / 8);
        const bytes =
          member.bitSize > 0
            ? Math.ceil((member.bitOffset + member.bitSize) / 8) - begin
            : sizeOf(btf, member.type);
        return at >= begin && (at < begin + bytes || isOpenArray(btf, member.type));
      });
      // Bytes between members, and bits, are numbers.
      const bitfield = candidates.some(member => member.bitSize > 0);
      if (candidates.length === 0 || bitfield) return unknownOf(size * 8);
      // Members of a union: the one that the access fits is meant, a number where several do.
      const fitting =
        candidates.length === 1
          ? candidates
          : candidates.filter(m => fits(btf, m.type, at - m.bitOffset / 8, size));
      if (fitting.length !== 1) {
        if (fitting.length === 0) return refuse(step, register, btf, candidates[0]?.type ?? 0, at, size);
        const whole = fitting.find(m => btf.type(btf.resolve(m.type)).kind === 'ptr');
        if (whole === undefined || type.kind === 'struct') return unknownOf(size * 8);
        return size === POINTER_BYTES ? valueOfType(btf, whole.type, false) : unknownOf(size * 8);
      }
      const member = fitting[0]!;
      at -= member.bitOffset / 8;
      typeId = btf.resolve(member.type);
      continue;
    }
    if (type.kind === 'array') {
      const element = sizeOf(btf, type.type);
      if (element === 0) return unknownOf(size * 8);
      at %= element;
      typeId = btf.resolve(type.type);
      continue;
    }
    if (type.kind === 'ptr') {
      if (at !== 0 || size !== POINTER_BYTES) {
        const reason = `cannot access ptr member of ${name} with size ${size} at its byte ${at}: pointers are read whole`;
        step.fail('EACCES', reason, register);
      }
      return valueOfType(btf, typeId, false);
    }
    const whole = sizeOf(btf, typeId);
    if (at + size > whole) return refuse(step, register, btf, typeId, at, size);
    return unknownOf(size * 8);
  }
}

function refuse(step: Step, register: number, btf: Btf, typeId: number, at: number, size: number): never {
  const type = btf.typeName(typeId);
  return step.fail(
    'EACCES',
    `access beyond the end of member of type ${type}: off ${at} size ${size}`,
    register,
  );
}

function sizeOf(btf: Btf, typeId: number): number {
  const kind = btf.type(btf.resolve(typeId)).kind;
  return kind === 'void' || kind === 'fwd' || kind === 'func' || kind === 'func_proto'
    ? 0
    : btf.sizeOf(typeId);
}

function isOpenArray(btf: Btf, typeId: number): boolean {
  const type = btf.type(btf.resolve(typeId));
  return type.kind === 'array' && type.nelems === 0;
}

function endsInFlexibleArray(btf: Btf, typeId: number): boolean {
  const type = btf.type(typeId);
  if (type.kind !== 'struct') return false;
  const last = type.members[type.members.length - 1];
  return last !== undefined && isOpenArray(btf, last.type);
}

/** Whether `size` bytes at `at` are whole things of the type. */
function fits(btf: Btf, typeId: number, at: number, size: number): boolean {
  const type = btf.type(btf.resolve(typeId));
  if (type.kind === 'ptr') return at === 0 && size === POINTER_BYTES;
  return at + size <= sizeOf(btf, typeId) || isOpenArray(btf, typeId);
}

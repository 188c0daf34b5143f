/**
 * Loads, stores and atomics: that each stays within memory that the program may use (the kernel's
 * `check_mem_access`), and what a load finds there.
 */

import { STACK_SIZE } from '../../../bpf/instruction.js';
import type { AccessSize } from '../../../bpf/operation.js';
import type { Step } from './path.js';
import { isConstant, lowHalf, type Scalar, UNKNOWN, unknownOf } from './scalar.js';
import { scalarBinary, scalarSignExtend } from './scalar_alu.js';
import { STACK_SLOT } from './state.js';
import type { MapValuePointer, Value } from './value.js';

/** Bytes of an argument in the context. */
const ARGUMENT_SIZE = 8;

type Use = 'read' | 'write';

/** Refuses an access of `size` bytes at stack offset `offset` that leaves the stack. */
export function checkStackRange(step: Step, register: number, offset: number, size: number, use: Use): void {
  if (offset < -STACK_SIZE || offset + size > 0) {
    const where = use === 'read' ? 'read from' : 'write to';
    step.fail('EACCES', `invalid ${where} stack R${register} off=${offset} size=${size}`, register);
  }
  step.findings.useStack(offset);
}

/** Refuses an access of `size` bytes, `offset` from where `pointer` points, that leaves the map's value. */
export function checkMapValueRange(
  step: Step,
  register: number,
  pointer: MapValuePointer,
  offset: number,
  size: number,
): void {
  const fixed = pointer.offset + offset;
  const lowest = fixed + Number(pointer.variable.min);
  const highest = fixed + Number(pointer.variable.max);
  if (lowest < 0 || highest + size > pointer.map.valueSize) {
    const off = lowest < 0 ? lowest : highest;
    const reason = `invalid access to map value, value_size=${pointer.map.valueSize} off=${off} size=${size}`;
    step.fail('EACCES', reason, register);
  }
}

/** Whether every address that `pointer + offset` can be is a multiple of `size`; values start at multiples of 8. */
function isAligned(pointer: MapValuePointer, offset: number, size: number): boolean {
  const low = BigInt(size - 1);
  const fixed = BigInt.asUintN(64, BigInt(pointer.offset + offset));
  return ((fixed + pointer.variable.value) & low) === 0n && (pointer.variable.mask & low) === 0n;
}

function stackOffset(step: Step, register: number, base: number, size: number, use: Use): number {
  const offset = base + step.insn.offset;
  checkStackRange(step, register, offset, size, use);
  if (offset % size !== 0) {
    step.fail('EACCES', `misaligned stack access off ${offset} size ${size}`, register);
  }
  return offset;
}

/** Checks that `size` bytes at `offset` of the stack were written, and gives what they hold. */
function readStack(step: Step, register: number, offset: number, size: AccessSize): Value {
  const { state } = step;
  if (!state.isWritten(offset, size)) {
    step.fail('EACCES', `invalid read from stack off ${offset}+0 size ${size}: not written before`, register);
  }
  const spilled = state.spilled(offset);
  if (spilled !== undefined && spilled.kind !== 'scalar') {
    if (size !== STACK_SLOT) step.fail('EACCES', 'invalid size of register fill', register);
    return spilled;
  }
  if (spilled !== undefined && isConstant(spilled)) {
    const skip = BigInt(((offset % STACK_SLOT) + STACK_SLOT) % STACK_SLOT) * 8n;
    const bits = BigInt(size) * 8n;
    const value = (spilled.min >> skip) & ((1n << bits) - 1n);
    return { kind: 'scalar', min: value, max: value, value, mask: 0n };
  }
  if (spilled !== undefined && size === STACK_SLOT) return spilled;
  return unknownOf(size * 8);
}

function readContext(step: Step, register: number, size: number): Scalar {
  const { insn, env, findings } = step;
  const offset = insn.offset;
  if (offset < 0 || size !== ARGUMENT_SIZE || offset % ARGUMENT_SIZE !== 0) {
    const rule = `arguments are ${ARGUMENT_SIZE} bytes each, at multiples of ${ARGUMENT_SIZE}`;
    step.fail('EACCES', `invalid bpf_context access off=${offset} size=${size}: ${rule}`, register);
  }
  const argument = offset / ARGUMENT_SIZE;
  if (argument < env.nargs) {
    findings.accessedArgs.add(argument);
    return UNKNOWN;
  }
  if (argument === env.nargs && env.attachType !== 'fentry') {
    findings.readsReturnValue = true;
    return UNKNOWN;
  }
  const returned = env.attachType === 'fentry' ? '' : ' and its return value behind them';
  const holds = `the traced function has ${env.nargs} arguments${returned}`;
  return step.fail('EACCES', `invalid bpf_context access off=${offset} size=${size}: ${holds}`, register);
}

/** `dst = *(size *)(src + offset)`: what `dst` gets. */
export function checkLoad(step: Step, size: AccessSize, signed: boolean): Value {
  const { src, offset } = step.insn;
  const pointer = step.read(src);
  let value: Value;
  switch (pointer.kind) {
    case 'fp':
      value = readStack(step, src, stackOffset(step, src, pointer.offset, size, 'read'), size);
      break;
    case 'ctx':
      value = readContext(step, src, size);
      break;
    case 'map_value':
      checkMapValueRange(step, src, pointer, offset, size);
      value = unknownOf(size * 8);
      break;
    default:
      return step.fail('EACCES', `R${src} invalid mem access '${pointer.kind}'`, src);
  }
  if (!signed) return value;
  // A pointer is filled as 8 bytes only, which has no signed form.
  return value.kind === 'scalar' ? scalarSignExtend((size * 8) as 8 | 16 | 32, 64, value) : value;
}

/** `*(size *)(dst + offset) = stored`; `src` is the register stored, if it is one. */
export function checkStore(step: Step, size: AccessSize, stored: Value, src: number | undefined): void {
  const { state } = step;
  const { dst } = step.insn;
  const pointer = step.read(dst);
  switch (pointer.kind) {
    case 'fp': {
      const offset = stackOffset(step, dst, pointer.offset, size, 'write');
      if (size === STACK_SLOT) {
        state.spill(offset, stored);
        return;
      }
      if (stored.kind !== 'scalar') step.fail('EACCES', 'invalid size of register spill', src ?? dst);
      if (state.pointerWithin(offset, size) !== undefined) {
        step.fail('EACCES', 'attempt to corrupt spilled pointer on stack', dst);
      }
      state.overwrite(offset, size);
      return;
    }
    case 'map_value':
      if (stored.kind !== 'scalar') step.fail('EACCES', `R${src} leaks addr into map`, src ?? dst);
      checkMapValueRange(step, dst, pointer, step.insn.offset, size);
      return;
    case 'ctx':
      step.fail('EACCES', 'cannot write into ctx', dst);
      break;
    default:
      step.fail('EACCES', `R${dst} invalid mem access '${pointer.kind}'`, dst);
  }
}

/** An atomic on `*(size *)(dst + offset)`: what the register that fetches gets. */
export function checkAtomic(step: Step, size: 4 | 8): Scalar {
  const { state } = step;
  const { dst, offset } = step.insn;
  const pointer = step.read(dst);
  switch (pointer.kind) {
    case 'fp': {
      const at = stackOffset(step, dst, pointer.offset, size, 'write');
      const old = readStack(step, dst, at, size);
      if (old.kind !== 'scalar') step.fail('EACCES', 'attempt to corrupt spilled pointer on stack', dst);
      state.overwrite(at, size);
      return old;
    }
    case 'map_value':
      checkMapValueRange(step, dst, pointer, offset, size);
      // Across a cache line it would be slow for the whole machine, and Linux may kill the process for it.
      if (!isAligned(pointer, offset, size)) {
        step.fail('EACCES', `misaligned atomic access, size ${size}, which can not be proved aligned`, dst);
      }
      return unknownOf(size * 8);
    default:
      return step.fail('EACCES', `BPF_ATOMIC stores into R${dst} ${pointer.kind} is not allowed`, dst);
  }
}

/** The largest offset that a pointer may get, either way (the kernel's BPF_MAX_VAR_OFF). */
const LARGEST_OFFSET = 2 ** 29;

/** `pointer + number` or, with `negative`, `pointer - number`. `register` is the pointer's. */
export function movePointer(
  step: Step,
  register: number,
  pointer: Value,
  number: Scalar,
  negative: boolean,
): Value {
  if (pointer.kind !== 'fp' && pointer.kind !== 'map_value') {
    const hint = pointer.kind === 'map_value_or_null' ? ', null-check it first' : '';
    step.fail('EACCES', `R${register} pointer arithmetic on ${pointer.kind} prohibited${hint}`, register);
  }
  if (isConstant(number)) {
    const distance = Number(BigInt.asIntN(64, number.min));
    const offset = pointer.offset + (negative ? -distance : distance);
    if (Math.abs(offset) > LARGEST_OFFSET) {
      step.fail('EACCES', `value ${distance} makes ${pointer.kind} pointer be out of bounds`, register);
    }
    return { ...pointer, offset };
  }
  if (pointer.kind === 'fp') {
    step.fail(
      'EACCES',
      `R${register} variable stack access is prohibited: the offset must be a constant`,
      register,
    );
  }
  if (negative || number.max > BigInt(LARGEST_OFFSET)) {
    const reason = negative ? 'is subtracted' : 'is unbounded';
    step.fail(
      'EACCES',
      `math between map_value pointer and a register that ${reason} is not allowed`,
      step.insn.dst,
      step.insn.src,
    );
  }
  const variable = scalarBinary('add', 64, pointer.variable, lowHalf(number));
  if (variable.max > BigInt(LARGEST_OFFSET)) {
    step.fail('EACCES', `R${register} offset of map_value pointer is out of bounds`, register);
  }
  return { ...pointer, variable };
}

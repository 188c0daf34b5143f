/**
 * Loads, stores and atomics: that each stays within memory that the program may use (the kernel's
 * `check_mem_access`), and what a load finds there.
 */

import { isPerCpu, MAP_TYPE } from '../../../bpf/map_type.js';
import type { AccessSize } from '../../../bpf/operation.js';
import { loadTyped, valueOfType } from './btf_access.js';
import { type AttachType, attachTypeOf, contextLayout, type MapSpec } from './environment.js';
import { isConstantMap, isReadable, isWritable, LOCK_SIZE, lockOffset } from './map_fields.js';
import { note, type Step } from './path.js';
import { constant, isConstant, type Scalar, UNKNOWN, unknownOf, withId } from './scalar.js';
import { scalarSignExtend } from './scalar_alu.js';
import { loadStack, storeStack } from './stack_access.js';
import { type ContextPointer, isMemory, kindName, type MemoryPointer, type Value } from './value.js';

/** Bytes of an argument in the context. */
const ARGUMENT_SIZE = 8;

/** Refuses an access of `size` bytes, `offset` from where `pointer` points, that leaves its memory. */
export function checkMemoryRange(
  step: Step,
  register: number,
  pointer: MemoryPointer,
  offset: number,
  size: number,
): void {
  const fixed = pointer.offset + offset;
  const lowest = fixed + Number(pointer.variable.smin);
  const highest = fixed + Number(pointer.variable.smax);
  if (lowest < 0 || highest + size > pointer.size) {
    const off = lowest < 0 ? lowest : highest;
    const what = pointer.kind === 'map_value' ? 'map value, value_size' : `${named(pointer)}, mem_size`;
    step.fail('EACCES', `invalid access to ${what}=${pointer.size} off=${off} size=${size}`, register);
  }
  const lock = pointer.map === undefined ? undefined : lockOffset(pointer.map);
  if (
    lock !== undefined &&
    pointer.kind === 'map_value' &&
    lowest < lock + LOCK_SIZE &&
    highest + size > lock
  ) {
    step.fail('EACCES', 'bpf_spin_lock cannot be accessed directly by load/store', register);
  }
}

function named(pointer: MemoryPointer): string {
  return pointer.kind === 'map_key' ? 'map key' : 'memory';
}

/** Refuses to read or write memory that is not for that. An atomic writes by one instruction. */
export function checkMemoryUse(
  step: Step,
  register: number,
  pointer: MemoryPointer,
  write: boolean | 'atomic',
): void {
  const { map } = pointer;
  if (write === true && pointer.kind === 'map_value' && map !== undefined && isPerCpu(map.type))
    step.findings.storesPerCpu = true;
  if (write && (pointer.kind === 'rdonly_mem' || pointer.kind === 'map_key')) {
    step.fail('EACCES', `R${register} cannot write into ${pointer.kind}`, register);
  }
  if (map === undefined || pointer.kind !== 'map_value') return;
  if (write ? !isWritable(map) : !isReadable(map)) {
    const what = write ? 'write into' : 'read from';
    step.fail('EACCES', `${what} map forbidden, value_size=${map.valueSize}`, register);
  }
}

/** Whether every address that `pointer + offset` can be is a multiple of `size`; memory starts at multiples of 8. */
function isAligned(pointer: MemoryPointer, offset: number, size: number): boolean {
  const low = BigInt(size - 1);
  const fixed = BigInt.asUintN(64, BigInt(pointer.offset + offset));
  return ((fixed + pointer.variable.value) & low) === 0n && (pointer.variable.mask & low) === 0n;
}

/** Refuses a pointer to somewhere in the context: it is used as it was given only. */
export function checkWholeContext(step: Step, register: number, pointer: ContextPointer): void {
  if (pointer.offset === 0) return;
  const reason = `dereference of modified ctx ptr R${register} off=${pointer.offset} disallowed`;
  step.fail('EACCES', reason, register);
}

function readContext(step: Step, register: number, pointer: ContextPointer, size: number): Value {
  const { env, findings } = step;
  checkWholeContext(step, register, pointer);
  const { offset } = step.insn;
  if (offset < 0 || size !== ARGUMENT_SIZE || offset % ARGUMENT_SIZE !== 0) {
    const rule = `arguments are ${ARGUMENT_SIZE} bytes each, at multiples of ${ARGUMENT_SIZE}`;
    step.fail('EACCES', `invalid bpf_context access off=${offset} size=${size}: ${rule}`, register);
  }
  const word = offset / ARGUMENT_SIZE;
  const { words, args, result } = contextLayout(env);
  const attachType = attachTypeOf(env);
  const { btf, args: types, returns } = env.prototype ?? {};
  if (word < words.length) {
    const argument = args.findIndex(a => a !== undefined && word >= a.first && word < a.first + a.count);
    findings.accessedArgs.add(argument);
    findings.typedArgs.add(argument);
    const typeId = types?.[argument];
    // A word of a structure, or of floating point, is a number.
    return btf === undefined || typeId === undefined ? UNKNOWN : valueOfType(btf, typeId, true);
  }
  // A function that returns nothing has a word there all the same.
  const returned = result === undefined ? 0 : Math.max(1, result.length);
  if (attachType !== 'fentry' && word < words.length + returned) {
    findings.readsReturnValue = true;
    findings.typedResult = true;
    return btf === undefined || returns === undefined ? UNKNOWN : valueOfType(btf, returns, true);
  }
  const holds = `the traced function has ${spelled(args.length, words.length)}${behind(attachType, returned)}`;
  return step.fail('EACCES', `invalid bpf_context access off=${offset} size=${size}: ${holds}`, register);
}

function spelled(args: number, words: number): string {
  return args === words ? `${args} arguments` : `${args} arguments, of which ${words} words are laid out`;
}

function behind(attachType: AttachType, returned: number): string {
  if (attachType === 'fentry') return '';
  return returned === 0 ? ', and a result that is not laid out' : ' and its return value behind them';
}

/** Eight constant bytes or fewer of a map that nobody changes. */
function readConstantMap(map: MapSpec, offset: number, size: number): Scalar | undefined {
  const bytes = map.readConstant?.(offset, size);
  if (bytes === undefined || bytes.length !== size) return undefined;
  let value = 0n;
  for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i] as number);
  return constant(value);
}

function loadMemory(step: Step, register: number, pointer: MemoryPointer, size: number): Value {
  const { offset } = step.insn;
  checkMemoryUse(step, register, pointer, false);
  checkMemoryRange(step, register, pointer, offset, size);
  const { map } = pointer;
  if (
    pointer.kind === 'map_value' &&
    map !== undefined &&
    isConstantMap(map) &&
    isConstant(pointer.variable)
  ) {
    return readConstantMap(map, pointer.offset + offset, size) ?? unknownOf(size * 8);
  }
  return unknownOf(size * 8);
}

/** The JIT makes a load that may fault of one instruction, or one that may not: never both. */
function noteLoad(step: Step, register: number, probe: boolean): void {
  const { loads } = step.findings;
  const kind = probe ? 1 : 2;
  if (loads[step.index] === 0) loads[step.index] = kind;
  else if (loads[step.index] !== kind) {
    step.fail('EINVAL', 'same insn cannot be used with different pointers', register);
  }
}

/** `dst = *(size *)(src + offset)`: what `dst` gets. */
export function checkLoad(step: Step, size: AccessSize, signed: boolean): Value {
  const { src, offset } = step.insn;
  const pointer = step.read(src);
  let value: Value;
  noteLoad(step, src, pointer.kind === 'ptr_');
  if (pointer.kind === 'fp') value = loadStack(step, src, pointer, offset, size);
  else if (pointer.kind === 'ctx') value = readContext(step, src, pointer, size);
  else if (pointer.kind === 'ptr_') value = loadTyped(step, src, pointer, offset, size);
  else if (isMemory(pointer) && !pointer.maybeNull) value = loadMemory(step, src, pointer, size);
  else return step.fail('EACCES', `R${src} invalid mem access '${kindName(pointer)}'`, src);
  if (!signed) return value;
  // A pointer is filled as 8 bytes only, which has no signed form.
  return value.kind === 'scalar' ? scalarSignExtend((size * 8) as 8 | 16 | 32, 64, value) : value;
}

/** `*(size *)(dst + offset) = stored`; `src` is the register stored, if it is one. */
export function checkStore(step: Step, size: AccessSize, stored: Value, src: number | undefined): void {
  const { dst, offset } = step.insn;
  const pointer = step.read(dst);
  if (pointer.kind === 'fp') {
    let spilled = stored;
    // The register and the slot hold the same number: what is learnt of one is learnt of the other.
    if (
      src !== undefined &&
      size === 8 &&
      stored.kind === 'scalar' &&
      stored.id === 0 &&
      !isConstant(stored)
    ) {
      spilled = withId(stored, step.findings.newId());
      step.state.set(src, spilled);
    }
    storeStack(step, dst, pointer, offset, size, spilled);
    return;
  }
  if (isMemory(pointer) && !pointer.maybeNull) {
    // What the traced process had in its own registers is no secret; addresses of ours are.
    if (stored.kind !== 'scalar' && stored.kind !== 'ptr_') {
      step.fail(
        'EACCES',
        `R${src} leaks addr into ${pointer.kind === 'map_value' ? 'map' : 'mem'}`,
        src ?? dst,
      );
    }
    checkMemoryUse(step, dst, pointer, true);
    checkMemoryRange(step, dst, pointer, offset, size);
    return;
  }
  if (pointer.kind === 'ctx') step.fail('EACCES', 'cannot write into ctx', dst);
  if (pointer.kind === 'ptr_') {
    step.fail('EACCES', `only read is supported: R${dst} points into the traced process's own data`, dst);
  }
  step.fail('EACCES', `R${dst} invalid mem access '${kindName(pointer)}'`, dst);
}

/** A value that belongs to the thread alone, as nobody looks up those of other threads. */
function isOwnValue({ env }: Step, pointer: Value): boolean {
  if (!isMemory(pointer) || pointer.kind !== 'map_value' || pointer.map === undefined) return false;
  const { id, type } = pointer.map;
  return type === MAP_TYPE.PERCPU_ARRAY && env.maps.get(id) === pointer.map;
}

/** An atomic on `*(size *)(dst + offset)`: what the register that fetches gets. */
export function checkAtomic(step: Step, size: 4 | 8): Scalar {
  const { dst, offset } = step.insn;
  const pointer = step.read(dst);
  note(step.findings.ownAtomics, step.index, isOwnValue(step, pointer));
  if (pointer.kind === 'fp') {
    if (!isConstant(pointer.variable)) {
      step.fail('EACCES', 'atomics on the stack need a constant offset', dst);
    }
    const old = loadStack(step, dst, pointer, offset, size);
    if (old.kind !== 'scalar') step.fail('EACCES', 'attempt to corrupt spilled pointer on stack', dst);
    storeStack(step, dst, pointer, offset, size, unknownOf(size * 8));
    return old;
  }
  if (
    isMemory(pointer) &&
    !pointer.maybeNull &&
    pointer.kind !== 'map_key' &&
    pointer.kind !== 'rdonly_mem'
  ) {
    checkMemoryUse(step, dst, pointer, 'atomic');
    checkMemoryUse(step, dst, pointer, false);
    checkMemoryRange(step, dst, pointer, offset, size);
    // Across a cache line it would be slow for the whole machine, and Linux may kill the process for it.
    if (!isAligned(pointer, offset, size)) {
      step.fail('EACCES', `misaligned atomic access, size ${size}, which can not be proved aligned`, dst);
    }
    return unknownOf(size * 8);
  }
  return step.fail('EACCES', `BPF_ATOMIC stores into R${dst} ${kindName(pointer)} is not allowed`, dst);
}

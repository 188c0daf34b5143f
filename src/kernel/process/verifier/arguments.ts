/**
 * What is handed to helpers and kernel functions: that each argument is what the prototype asks for (the kernel's
 * `check_func_arg`).
 */

import { MAP_TYPE } from '../../../bpf/map_type.js';
import { checkDynptr, makeDynptr } from './dynptr.js';
import type { MapSpec } from './environment.js';
import { isConstantMap, lockOffset } from './map_fields.js';
import { checkMemoryRange, checkMemoryUse, checkWholeContext } from './memory_access.js';
import { note, type Step } from './path.js';
import type { ArgumentType, HelperPrototype } from './prototypes.js';
import { isConstant, type Scalar } from './scalar.js';
import { type DynptrSlot, STACK_SLOT } from './stack.js';
import { checkReadable, checkStackRange, clobberStack, noteStackRead } from './stack_access.js';
import type { State } from './state.js';
import { isMemory, kindName, RELEASED, type StackPointer, type Value } from './value.js';

const LONG = 8;
/** The largest size that may be handed over (BPF_MAX_VAR_SIZ). */
const LARGEST_SIZE = 1 << 29;
const FIRST = 1;

/** What the arguments of one call were found to be. */
export interface Arguments {
  map: MapSpec | undefined;
  /** bytes, of the last size argument: at most, and exactly where it is a constant */
  size: number;
  exactSize: number | undefined;
  /** a reference given back */
  released: number;
  dynptr: DynptrSlot | undefined;
  /** subprogram called back */
  callback: number | undefined;
  /** where a dynptr is made: applied after the other arguments were checked */
  newDynptr: { readonly register: number; readonly type: 'local' | 'ringbuf' } | undefined;
  lock: { readonly id: number; readonly map: number } | undefined;
  /** where a format or string begins: memory whose bytes are known */
  text: { readonly map: MapSpec; readonly offset: number; readonly register: number } | undefined;
}

/** Refuses an argument whose type is not one of `expected`. */
export function wrongType(step: Step, register: number, expected: string): never {
  const name = kindName(step.state.get(register));
  return step.fail('EACCES', `R${register} type=${name} expected=${expected}`, register);
}

/** Checks r1, r2, … against the prototype; what a helper writes is not known afterwards. */
export function checkArguments(step: Step, prototype: HelperPrototype): Arguments {
  const found: Arguments = {
    map: undefined,
    size: 0,
    exactSize: undefined,
    released: 0,
    dynptr: undefined,
    callback: undefined,
    newDynptr: undefined,
    lock: undefined,
    text: undefined,
  };
  prototype.args.forEach((type, i) => {
    checkArgument(step, prototype, found, type, FIRST + i, prototype.args[i - 1]);
  });
  if (found.newDynptr !== undefined) makeDynptr(step, found.newDynptr.register, found.newDynptr.type);
  return found;
}

function checkArgument(
  step: Step,
  prototype: HelperPrototype,
  found: Arguments,
  type: ArgumentType,
  register: number,
  before: ArgumentType | undefined,
): void {
  const value = step.read(register);
  switch (type) {
    case 'map':
      found.map = checkMap(step, register, prototype);
      return;
    case 'key':
    case 'value':
    case 'valueOrNull':
    case 'uninitValue':
      checkKeyOrValue(step, register, type, found.map as MapSpec);
      return;
    case 'ctx':
      if (value.kind !== 'ctx') wrongType(step, register, 'ctx');
      checkWholeContext(step, register, value);
      return;
    case 'anything':
      // Flags and indices of the kernel's take anything; a number of the process's own is a number.
      if (value.kind !== 'scalar' && value.kind !== 'ptr_') wrongType(step, register, 'scalar');
      return;
    case 'address':
      return;
    case 'mem':
    case 'memOrNull':
    case 'uninitMem':
    case 'uninitMemOrNull':
      // With its size, which follows.
      return;
    case 'size':
    case 'sizeOrZero':
      checkSized(step, found, register, before as ArgumentType, type === 'sizeOrZero', prototype);
      return;
    case 'allocSize':
      checkAllocSize(step, found, register);
      return;
    case 'long':
      checkFixed(step, register, LONG, true, 'fp, map_value');
      return;
    case 'constString':
      checkConstantString(step, found, register);
      return;
    case 'func':
      if (value.kind !== 'func') wrongType(step, register, 'func');
      found.callback = value.subprogram;
      return;
    case 'callbackContext':
      if (value.kind === 'fp' || isZero(value)) {
        if (value.kind === 'scalar') step.matters(register);
        return;
      }
      wrongType(step, register, 'fp, or 0');
      return;
    case 'lock':
      found.lock = checkLock(step, register);
      return;
    case 'currentTask':
      if (!isZero(value)) {
        const why = 'the only task that a process knows is the thread that runs: pass 0';
        step.fail('EACCES', `R${register} must be the constant 0: ${why}`, register);
      }
      step.matters(register);
      return;
    case 'reserved':
      found.released = checkReserved(step, register);
      return;
    case 'dynptr':
      found.dynptr = checkDynptr(step, register, false);
      return;
    case 'releaseDynptr':
      found.dynptr = checkDynptr(step, register, true);
      found.released = found.dynptr.ref;
      return;
    case 'uninitDynptr':
    case 'uninitRingbufDynptr':
      if (value.kind !== 'fp') wrongType(step, register, 'fp');
      found.newDynptr = { register, type: type === 'uninitDynptr' ? 'local' : 'ringbuf' };
      return;
  }
}

function isZero(value: Value): boolean {
  return value.kind === 'scalar' && isConstant(value) && value.min === 0n;
}

function checkMap(step: Step, register: number, prototype: HelperPrototype): MapSpec {
  const value = step.read(register);
  if (value.kind !== 'map_ptr' || value.maybeNull) wrongType(step, register, 'map_ptr');
  const { map } = value;
  if (prototype.maps !== undefined && !prototype.maps.includes(map.type)) {
    const id = step.insn.imm;
    step.fail('EINVAL', `cannot pass map_type ${map.type} into func ${prototype.name}#${id}`, register);
  }
  const { callMaps, dynamicMaps } = step.findings;
  const before = callMaps.get(step.index);
  if (before !== undefined && before !== map) {
    // The JIT makes code for one kind of map at each call.
    const alike =
      before.type === map.type && before.keySize === map.keySize && before.valueSize === map.valueSize;
    if (!alike) {
      const both = `map ${before.name} on one path and map ${map.name} on another`;
      step.fail('EINVAL', `this call is for ${both}; write two calls`, register);
    }
    dynamicMaps.add(step.index);
  } else callMaps.set(step.index, map);
  if (value.inner) dynamicMaps.add(step.index);
  return map;
}

function checkKeyOrValue(
  step: Step,
  register: number,
  type: 'key' | 'value' | 'valueOrNull' | 'uninitValue',
  map: MapSpec,
): void {
  if (type === 'key') {
    checkFixed(step, register, map.keySize, false, 'fp, map_value');
    const pointer = step.state.get(register);
    const here =
      pointer.kind === 'fp' && pointer.frame === step.state.frames.length - 1 && isConstant(pointer.variable);
    note(step.findings.keyOffsets, step.index, here ? (pointer as StackPointer).offset : undefined);
    return;
  }
  if (type === 'valueOrNull' && isZero(step.read(register))) {
    step.matters(register);
    return;
  }
  // A bloom filter is asked for a value, and gives none.
  const writes = type === 'uninitValue' && map.type !== MAP_TYPE.BLOOM_FILTER;
  checkFixed(step, register, map.valueSize, writes, 'fp, map_value');
}

/** Memory of `size` bytes that is read, all of it written before, or that is written. */
export function checkFixed(
  step: Step,
  register: number,
  size: number,
  write: boolean,
  expected: string,
  nullable = false,
): void {
  const pointer = step.read(register);
  if (isMemory(pointer) && (nullable || !pointer.maybeNull)) {
    checkMemoryUse(step, register, pointer, write);
    checkMemoryRange(step, register, pointer, 0, size);
    return;
  }
  if (pointer.kind !== 'fp') wrongType(step, register, expected);
  checkStackMemory(step, register, pointer, size, write);
  if (write && size === LONG && isConstant(pointer.variable) && pointer.offset % STACK_SLOT !== 0) {
    step.fail('EACCES', `misaligned stack access off ${pointer.offset} size ${size}`, register);
  }
}

/** Helpers that print: addresses among what they are handed are followed, or printed as such. */
const PRINTERS = ['bpf_snprintf', 'bpf_trace_vprintk'];

function checkStackMemory(
  step: Step,
  register: number,
  pointer: StackPointer,
  size: number,
  write: boolean,
  pointersToo = false,
): void {
  const range = checkStackRange(step, register, pointer, 0, size, write ? 'write' : 'read');
  if (size === 0) return;
  if (write) {
    clobberStack(step, register, pointer.frame, range.low, range.high);
    return;
  }
  noteStackRead(step, pointer.frame, range.low, range.high);
  checkReadable(step, register, pointer.frame, range.low, range.high, !range.fixed);
  for (let at = range.low; at < range.high && !pointersToo; at++) {
    const slot = step.state.frames[pointer.frame]?.slot((-at - 1) >> 3);
    const held = slot?.value;
    if (held !== undefined && held.kind !== 'scalar' && held.kind !== 'ptr_') {
      const what = 'a pointer is spilled in what it points to';
      step.fail('EACCES', `R${register} leaks addr into map: ${what}`, register);
    }
  }
}

function sizeOf(step: Step, register: number, zeroAllowed: boolean): Scalar {
  const size = step.readScalar(
    register,
    `R${register} is a pointer, and the size of memory must be a number`,
  );
  step.matters(register);
  if (size.smin < 0n) {
    const hint = "either use unsigned or 'var &= const'";
    step.fail('EACCES', `R${register} min value is negative, ${hint}`, register);
  }
  if (size.min === 0n && !zeroAllowed) {
    step.fail('EACCES', `R${register} invalid zero-sized read: u64=[${size.min},${size.max}]`, register);
  }
  if (size.max >= BigInt(LARGEST_SIZE)) {
    const hint = "use 'var &= const' or 'if (var < const)'";
    step.fail('EACCES', `R${register} unbounded memory access, ${hint}`, register);
  }
  return size;
}

/** Memory and its size: the register before `register`, and `register`. */
function checkSized(
  step: Step,
  found: Arguments,
  register: number,
  memory: ArgumentType,
  zeroAllowed: boolean,
  prototype: HelperPrototype,
): void {
  const pointer = register - 1;
  const size = sizeOf(step, register, zeroAllowed);
  const most = Number(size.max);
  found.size = most;
  found.exactSize = isConstant(size) ? most : undefined;
  const value = step.read(pointer);
  const nullable = memory === 'memOrNull' || memory === 'uninitMemOrNull';
  if (isZero(value) && nullable) {
    step.matters(pointer);
    if (most !== 0 && memory !== 'uninitMemOrNull') {
      step.fail(
        'EACCES',
        `R${pointer} is null, and R${register} says that ${most} bytes are there`,
        pointer,
        register,
      );
    }
    return;
  }
  const writes = memory === 'uninitMem' || memory === 'uninitMemOrNull';
  if (value.kind !== 'fp' && !(isMemory(value) && !value.maybeNull)) {
    wrongType(step, pointer, 'fp, map_key, map_value, mem');
  }
  if (prototype.name === 'bpf_dynptr_from_mem' && value.kind !== 'map_value')
    wrongType(step, pointer, 'map_value');
  noteText(step, found, pointer, value);
  if (isMemory(value)) {
    checkMemoryUse(step, pointer, value, writes);
    checkMemoryRange(step, pointer, value, 0, most);
    return;
  }
  checkStackMemory(step, pointer, value, most, writes, PRINTERS.includes(prototype.name));
}

function noteText(_step: Step, found: Arguments, register: number, value: Value): void {
  if (found.text !== undefined || value.kind !== 'map_value' || value.map === undefined) return;
  if (!isConstantMap(value.map) || !isConstant(value.variable)) return;
  found.text = { map: value.map, offset: value.offset + Number(value.variable.smin), register };
}

function checkAllocSize(step: Step, found: Arguments, register: number): void {
  const size = step.readScalar(register, `R${register} is a pointer, and the size must be a number`);
  step.matters(register);
  if (!isConstant(size)) step.fail('EACCES', `R${register} is not a known constant`, register);
  if (size.max >= BigInt(LARGEST_SIZE))
    step.fail('EACCES', `R${register} size ${size.max} is too large`, register);
  found.size = Number(size.max);
  found.exactSize = found.size;
}

function checkConstantString(step: Step, found: Arguments, register: number): void {
  const value = step.read(register);
  if (value.kind !== 'map_value' || value.map === undefined) wrongType(step, register, 'map_value');
  const { map } = value;
  if (!isConstantMap(map)) {
    step.fail('EACCES', `R${register} does not point to a readonly map`, register);
  }
  if (!isConstant(value.variable)) step.fail('EACCES', `R${register} is not a constant address`, register);
  const offset = value.offset + Number(value.variable.smin);
  if (offset < 0 || offset >= map.valueSize) checkMemoryRange(step, register, value, 0, 1);
  const bytes = map.readConstant?.(offset, map.valueSize - offset);
  if (bytes === undefined || !bytes.includes(0))
    step.fail('EINVAL', 'string is not zero-terminated', register);
  found.text = { map, offset, register };
}

function checkLock(step: Step, register: number): { id: number; map: number } {
  const value = step.read(register);
  if (value.kind !== 'map_value' || value.maybeNull || value.map === undefined) {
    return wrongType(step, register, 'map_value');
  }
  const offset = lockOffset(value.map);
  if (offset === undefined) {
    return step.fail(
      'EINVAL',
      `map '${value.map.name}' has no valid bpf_spin_lock: its value's type must have one`,
      register,
    );
  }
  if (!isConstant(value.variable)) {
    step.fail(
      'EINVAL',
      `R${register} doesn't have constant offset. bpf_spin_lock has to be at the constant offset`,
      register,
    );
  }
  const at = value.offset + Number(value.variable.smin);
  if (at !== offset)
    step.fail('EINVAL', `off ${at} doesn't point to 'struct bpf_spin_lock' that is at ${offset}`, register);
  return { id: value.id, map: value.map.id };
}

function checkReserved(step: Step, register: number): number {
  const value = step.read(register);
  if (value.kind !== 'ringbuf_mem' || value.maybeNull) return wrongType(step, register, 'ringbuf_mem');
  if (value.ref === 0 || value.dynptr !== 0)
    step.fail('EINVAL', `R${register} was not reserved by bpf_ringbuf_reserve`, register);
  if (value.offset !== 0 || !isConstant(value.variable) || value.variable.min !== 0n) {
    const rule = 'must have zero offset when passed to release func or trusted arg to kfunc';
    step.fail('EINVAL', `R${register} ${rule}: it is ${value.offset} bytes into the record`, register);
  }
  return value.ref;
}

/** Everything that pointed to what `ref` stands for is of no use any more. */
export function forget(state: State, ref: number): void {
  state.replace(old => (isMemory(old) && old.ref === ref ? RELEASED : old));
}

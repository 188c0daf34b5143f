/**
 * Calls of helpers: that each argument is what the prototype asks for (the kernel's `check_helper_call`), and
 * what registers and memory hold afterwards.
 */

import { helperName } from '../../../bpf/helpers.js';
import { FIRST_ARGUMENT, LAST_ARGUMENT, RESULT } from '../../../bpf/instruction.js';
import type { MapSpec } from './environment.js';
import { checkMapValueRange, checkStackRange } from './memory_access.js';
import { note, type Step } from './path.js';
import { type ArgumentType, prototypeOf } from './prototypes.js';
import { isConstant, UNKNOWN } from './scalar.js';
import { STACK_SLOT } from './state.js';
import { NOT_INIT, type Value } from './value.js';

const LONG = 8;

/** Refuses an argument whose type is not one of `expected`. */
function wrongType(step: Step, register: number, expected: string): never {
  const { kind } = step.state.get(register);
  return step.fail('EACCES', `R${register} type=${kind} expected=${expected}`, register);
}

/** An argument that is read: `size` bytes, all of them written before. */
function checkMemoryRead(step: Step, register: number, size: number): void {
  const pointer = step.read(register);
  if (pointer.kind === 'map_value') {
    checkMapValueRange(step, register, pointer, 0, size);
    return;
  }
  if (pointer.kind !== 'fp') wrongType(step, register, 'fp, map_value');
  checkStackRange(step, register, pointer.offset, size, 'read');
  for (let i = 0; i < size; i++) {
    if (!step.state.isWritten(pointer.offset + i, 1)) {
      const reason = `invalid indirect read from stack R${register} off ${pointer.offset}+${i} size ${size}`;
      step.fail('EACCES', reason, register);
    }
  }
  if (step.state.pointerWithin(pointer.offset, size) !== undefined) {
    step.fail(
      'EACCES',
      `R${register} leaks addr into map: a pointer is spilled in what it points to`,
      register,
    );
  }
}

/** An argument that the helper writes 8 bytes to. */
function checkMemoryWrite(step: Step, register: number): void {
  const pointer = step.read(register);
  if (pointer.kind === 'map_value') {
    checkMapValueRange(step, register, pointer, 0, LONG);
    return;
  }
  if (pointer.kind !== 'fp') wrongType(step, register, 'fp, map_value');
  checkStackRange(step, register, pointer.offset, LONG, 'write');
  if (pointer.offset % STACK_SLOT !== 0) {
    step.fail('EACCES', `misaligned stack access off ${pointer.offset} size ${LONG}`, register);
  }
  step.state.overwrite(pointer.offset, LONG);
}

function checkMap(step: Step, register: number): MapSpec {
  const value = step.read(register);
  if (value.kind !== 'map_ptr') wrongType(step, register, 'map_ptr');
  // The JIT makes code for one map at each call.
  const before = step.findings.callMaps.get(step.index);
  if (before !== undefined && before !== value.map) {
    const both = `map ${before.name} on one path and map ${value.map.name} on another`;
    step.fail('EINVAL', `this call is for ${both}; write two calls`, register);
  }
  step.findings.callMaps.set(step.index, value.map);
  return value.map;
}

function checkArgument(step: Step, register: number, type: ArgumentType, map: MapSpec | undefined): void {
  switch (type) {
    case 'const_map_ptr':
      return;
    case 'map_key': {
      checkMemoryRead(step, register, (map as MapSpec).keySize);
      const pointer = step.state.get(register);
      note(step.findings.keyOffsets, step.index, pointer.kind === 'fp' ? pointer.offset : undefined);
      return;
    }
    case 'map_value':
      checkMemoryRead(step, register, (map as MapSpec).valueSize);
      return;
    case 'ctx':
      if (step.read(register).kind !== 'ctx') wrongType(step, register, 'ctx');
      return;
    case 'anything':
      if (step.read(register).kind !== 'scalar') wrongType(step, register, 'scalar');
      return;
    case 'ptr_to_uninit_long':
      checkMemoryWrite(step, register);
  }
}

/** get_func_arg reads the argument that r2 names: any, where that is not known. */
function noteAccessedArgument(step: Step): void {
  const number = step.state.get(FIRST_ARGUMENT + 1);
  const { nargs } = step.env;
  const known =
    number.kind === 'scalar' && isConstant(number) ? Number(BigInt.asUintN(32, number.min)) : undefined;
  for (let argument = 0; argument < nargs; argument++) {
    if (known === undefined || known === argument) step.findings.accessedArgs.add(argument);
  }
}

/** Checks the call of a helper and applies what it does to the state. */
export function checkHelperCall(step: Step): void {
  const { state, findings } = step;
  const id = step.insn.imm;
  const prototype = prototypeOf(id);
  if (prototype === undefined) {
    const name = helperName(id);
    step.fail(
      'EINVAL',
      name === undefined
        ? `invalid func unknown#${id}`
        : `program of this type cannot use helper ${name}#${id}`,
    );
  }
  let map: MapSpec | undefined;
  prototype.arguments.forEach((type, i) => {
    const register = FIRST_ARGUMENT + i;
    if (type === 'const_map_ptr') map = checkMap(step, register);
    checkArgument(step, register, type, map);
    if (type === 'ptr_to_uninit_long') noteAccessedArgument(step);
  });
  findings.usedHelpers.add(id);

  for (let register = FIRST_ARGUMENT; register <= LAST_ARGUMENT; register++) state.set(register, NOT_INIT);
  let result: Value = UNKNOWN;
  if (prototype.returns === 'map_value_or_null') {
    result = { kind: 'map_value_or_null', map: map as MapSpec, id: findings.newLookup() };
  }
  state.set(RESULT, result);
}

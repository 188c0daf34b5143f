/**
 * Calls of kernel functions (bpf/kfuncs.ts), as the kernel's `check_kfunc_call` does by their BTF.
 */

import { RESULT } from '../../../bpf/instruction.js';
import { KFUNC, kfuncName } from '../../../bpf/kfuncs.js';
import { wrongType } from './arguments.js';
import { clobberArguments } from './callback.js';
import { attachTypeOf } from './environment.js';
import { checkWholeContext } from './memory_access.js';
import type { Step } from './path.js';
import { fromRange, isConstant, UNKNOWN } from './scalar.js';
import { EMPTY, type IteratorSlot, objectSlot, STACK_SLOT, slotAt } from './stack.js';
import { checkStackRange, clobberStack, noteStackRead } from './stack_access.js';
import type { Frame } from './state.js';
import { memory, NOT_INIT, type StackPointer, type Value, ZERO } from './value.js';

/** Bytes of `struct bpf_iter_num`, and of the number that it gives. */
const ITERATOR_SIZE = 8;
const NUMBER_SIZE = 4;
const COOKIE_SIZE = 8;

/** Checks the call of a kernel function and applies what it does to the state. */
export function checkKfuncCall(step: Step): void {
  const id = step.insn.imm;
  const name = kfuncName(id);
  if (name === undefined)
    step.fail('EINVAL', `calling kernel function #${id} is not allowed: a process has none`);
  if (step.state.lock !== undefined)
    step.fail('EINVAL', 'function calls are not allowed while holding a lock');
  step.findings.usedKfuncs.add(id);
  const result = call(step, id);
  clobberArguments(step);
  step.state.set(RESULT, result);
}

function call(step: Step, id: number): Value {
  switch (id) {
    case KFUNC.bpf_iter_num_new:
      return newIterator(step);
    case KFUNC.bpf_iter_num_next:
      return nextNumber(step);
    case KFUNC.bpf_iter_num_destroy:
      return destroyIterator(step);
    case KFUNC.bpf_rdonly_cast:
      return cast(step);
    default:
      return session(step, id);
  }
}

function place(step: Step): { pointer: StackPointer; frame: Frame; slot: number } {
  const pointer = step.read(1);
  if (pointer.kind !== 'fp' || !isConstant(pointer.variable) || pointer.offset % STACK_SLOT !== 0) {
    return step.fail('EINVAL', 'arg#0 expected pointer to an iterator on stack', 1);
  }
  checkStackRange(step, 1, pointer, 0, ITERATOR_SIZE, 'write');
  return { pointer, frame: step.state.frames[pointer.frame] as Frame, slot: slotAt(pointer.offset) };
}

function newIterator(step: Step): Value {
  const { state, findings } = step;
  for (const register of [2, 3]) step.readScalar(register, `R${register} type must be a number`);
  const { pointer, frame, slot } = place(step);
  if (frame.slot(slot).object !== undefined) {
    step.fail('EINVAL', 'expected uninitialized iter_num as arg #0', 1);
  }
  clobberStack(step, 1, pointer.frame, pointer.offset, pointer.offset + ITERATOR_SIZE);
  const ref = findings.newId();
  state.acquire(ref, step.slot);
  frame.setSlot(slot, objectSlot({ kind: 'iter', ref, drained: false, depth: 0 }));
  return UNKNOWN;
}

function iterator(step: Step): { frame: Frame; slot: number; object: IteratorSlot } {
  const { pointer, frame, slot } = place(step);
  noteStackRead(step, pointer.frame, pointer.offset, pointer.offset + ITERATOR_SIZE);
  const { object } = frame.slot(slot);
  if (object?.kind !== 'iter') return step.fail('EINVAL', 'expected an initialized iter_num as arg #0', 1);
  return { frame, slot, object };
}

/** Two ways: there is another number, or there is none any more. */
function nextNumber(step: Step): Value {
  const { frame, slot, object } = iterator(step);
  const { state, analysis, index } = step;
  frame.setSlot(slot, objectSlot({ ...object, drained: true }));
  const ended = state.copy();
  for (let register = 1; register <= 5; register++) ended.set(register, NOT_INIT);
  ended.set(RESULT, ZERO);
  analysis.pend(index + 1, ended);
  frame.setSlot(slot, objectSlot({ ...object, drained: false, depth: object.depth + 1 }));
  return memory('rdonly_mem', NUMBER_SIZE);
}

function destroyIterator(step: Step): Value {
  const { frame, slot, object } = iterator(step);
  step.state.release(object.ref);
  frame.setSlot(slot, EMPTY);
  return NOT_INIT;
}

function cast(step: Step): Value {
  const address = step.read(1);
  if (address.kind !== 'scalar' && address.kind !== 'ptr_') wrongType(step, 1, 'scalar, ptr_');
  const type = step.readScalar(2, 'R2 must be a known constant: the type to cast to');
  step.matters(2);
  const btf = step.env.prototype?.btf;
  if (btf === undefined) {
    return step.fail('EINVAL', 'bpf_rdonly_cast needs the types of the traced module, and it has none');
  }
  if (!isConstant(type)) step.fail('EINVAL', 'R2 is not a known constant', 2);
  const id = Number(type.min);
  const target = id > 0 && id <= btf.typeCount ? btf.resolve(id) : 0;
  const { kind } = btf.type(target);
  if (kind !== 'struct' && kind !== 'union') {
    step.fail('EINVAL', `kfunc bpf_rdonly_cast type ID argument must be of a struct, and ${id} is not`, 2);
  }
  return { kind: 'ptr_', btf, type: target, offset: 0, trusted: false };
}

function session(step: Step, id: number): Value {
  if (attachTypeOf(step.env) !== 'fsession') {
    step.fail(
      'EINVAL',
      `calling kernel function ${kfuncName(id)} is not allowed: it is for session programs`,
    );
  }
  const context = step.read(1);
  if (context.kind !== 'ctx') wrongType(step, 1, 'ctx');
  checkWholeContext(step, 1, context);
  if (id === KFUNC.bpf_session_is_return) return fromRange(0n, 1n);
  return id === KFUNC.bpf_session_frame ? UNKNOWN : memory('mem', COOKIE_SIZE);
}

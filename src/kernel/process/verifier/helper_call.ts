/**
 * Calls of helpers: that the program may call them, with what their prototypes ask for (the kernel's
 * `check_helper_call`), and what registers, memory and references are afterwards.
 */

import { helperName } from '../../../bpf/helpers.js';
import { FIRST_ARGUMENT, RESULT } from '../../../bpf/instruction.js';
import { isMapOfMaps } from '../../../bpf/map_type.js';
import { type Arguments, checkArguments, forget } from './arguments.js';
import { clobberArguments, enterCallback } from './callback.js';
import { attachTypeOf, contextLayout, type MapSpec } from './environment.js';
import { checkConstantFormat } from './format_check.js';
import type { Step } from './path.js';
import { type HelperPrototype, prototypeOf, whyImpossible } from './prototypes.js';
import { fromRange, fromSignedRange, isConstant, UNKNOWN } from './scalar.js';
import { memory, NOT_INIT, type Value } from './value.js';

const TAIL_CALL = 12;
const SMP_PROCESSOR_ID = 8;
const OVERRIDE_RETURN = 58;
const SPIN_LOCK = 93;
const SPIN_UNLOCK = 94;
const GET_FUNC_ARG = 183;
const GET_FUNC_RET = 184;
/** Errors are numbers from -4095 to -1 (MAX_ERRNO). */
const MAX_ERRNO = 4095n;
/** Threads that have values of their own at most (threads/layout.ts). */
const SLOTS = 128n;

/** The number that the relocation of something that is not there leaves in a call (libbpf's poison). */
const POISON = 0xbad0000;

function refuseUnknown(step: Step, id: number): never {
  const name = helperName(id);
  const why = whyImpossible(id);
  if (name === undefined && why === undefined) {
    if (id === 0xbad2310 || (id & ~0xffff) === POISON) {
      step.fail(
        'EINVAL',
        `invalid func unknown#${id}: a CO-RE relocation found nothing in the target's types here`,
      );
    }
    step.fail('EINVAL', `invalid func unknown#${id}`);
  }
  const reason = why === undefined ? '' : `: ${why}`;
  return step.fail('EINVAL', `program of this type cannot use helper ${name ?? 'unknown'}#${id}${reason}`);
}

/** Refuses helpers that the program can't call where it is attached, or as it is called. */
function checkAllowed(step: Step, id: number, prototype: HelperPrototype): void {
  const attachType = attachTypeOf(step.env);
  const wrong =
    (id === OVERRIDE_RETURN && attachType !== 'fmod_ret') || (id === GET_FUNC_RET && attachType === 'fentry');
  if (wrong)
    step.fail(
      'EINVAL',
      `program of this type cannot use helper ${prototype.name}#${id}: it is ${attachType}`,
    );
  if (prototype.sleepable && step.env.sleepable !== true) {
    step.fail('EINVAL', `helper call might sleep in a non-sleepable prog: ${prototype.name}#${id}`);
  }
  if (step.state.lock !== undefined && id !== SPIN_UNLOCK) {
    step.fail('EINVAL', 'function calls are not allowed while holding a lock');
  }
}

/** get_func_arg reads the word of arguments that r2 names: any, where that is not known. */
function noteAccessedArgument(step: Step): void {
  const number = step.state.get(FIRST_ARGUMENT + 1);
  const known =
    number.kind === 'scalar' && isConstant(number) ? Number(BigInt.asUintN(32, number.min)) : undefined;
  if (known !== undefined) step.matters(FIRST_ARGUMENT + 1);
  for (const [argument, words] of contextLayout(step.env).args.entries()) {
    if (words === undefined) continue;
    if (known === undefined || (known >= words.first && known < words.first + words.count))
      step.findings.accessedArgs.add(argument);
  }
}

function lock(step: Step, args: Arguments, take: boolean): void {
  const { state } = step;
  const { lock: asked } = args;
  if (asked === undefined) return;
  if (take) {
    state.lock = asked;
    return;
  }
  if (state.lock === undefined) step.fail('EINVAL', 'bpf_spin_unlock without taking a lock');
  if (state.lock.id !== asked.id || state.lock.map !== asked.map) {
    step.fail('EINVAL', 'bpf_spin_unlock of different lock', FIRST_ARGUMENT);
  }
  state.lock = undefined;
}

/** Checks the call of a helper and applies what it does to the state. */
export function checkHelperCall(step: Step): void {
  const { state, findings } = step;
  const id = step.insn.imm;
  const prototype = prototypeOf(id);
  if (prototype === undefined) refuseUnknown(step, id);
  checkAllowed(step, id, prototype);
  const args = checkArguments(step, prototype);
  findings.usedHelpers.add(id);
  checkConstantFormat(step, id, args);
  if (id === GET_FUNC_ARG) noteAccessedArgument(step);
  else if (id === GET_FUNC_RET) findings.readsReturnValue = true;
  else if (id === SPIN_LOCK || id === SPIN_UNLOCK) lock(step, args, id === SPIN_LOCK);
  else if (id === TAIL_CALL && state.references.length > 0) {
    step.fail('EINVAL', 'tail_call would lead to reference leak: give back what was acquired before');
  }
  if (args.released !== 0) {
    state.release(args.released);
    forget(state, args.released);
  }
  if (args.callback !== undefined) {
    findings.callbacks.set(step.index, args.callback);
    enterCallback(step, id, args);
  }
  const result = resultOf(step, id, prototype, args);
  clobberArguments(step);
  state.set(RESULT, result);
}

function resultOf(step: Step, id: number, prototype: HelperPrototype, args: Arguments): Value {
  const { findings, state } = step;
  switch (prototype.returns) {
    case 'void':
      return NOT_INIT;
    case 'integer':
      return id === SMP_PROCESSOR_ID ? fromRange(0n, SLOTS - 1n) : UNKNOWN;
    case 'length':
      return fromSignedRange(-MAX_ERRNO, BigInt(args.size));
    case 'valueOrNull': {
      const map = args.map as MapSpec;
      const fresh = { id: findings.newId(), maybeNull: true };
      if (!isMapOfMaps(map.type)) return memory('map_value', map.valueSize, { map, ...fresh });
      if (map.innerMap === undefined) {
        return step.fail('EINVAL', `map '${map.name}' does not say what its maps look like`);
      }
      return { kind: 'map_ptr', map: map.innerMap, inner: true, ...fresh };
    }
    case 'reservedOrNull': {
      const ref = findings.newId();
      state.acquire(ref, step.slot);
      return memory('ringbuf_mem', args.size, { id: ref, ref, maybeNull: true });
    }
    case 'dynptrMemoryOrNull': {
      const { id: dynptr = 0 } = args.dynptr ?? {};
      return memory('mem', args.size, { id: findings.newId(), dynptr, maybeNull: true });
    }
  }
}

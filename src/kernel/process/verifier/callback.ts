/**
 * Subprograms that helpers call back: what they are handed, how often, and what they may return. A call that calls back
 * is walked again and again, with what each callback left on the stack, until nothing new comes.
 */

import { FIRST_ARGUMENT, LAST_ARGUMENT, RESULT } from '../../../bpf/instruction.js';
import type { Arguments } from './arguments.js';
import type { MapSpec } from './environment.js';
import type { Step } from './path.js';
import { UNKNOWN } from './scalar.js';
import { Frame, type State } from './state.js';
import { mapValue, memory, NOT_INIT } from './value.js';

const FOR_EACH = 164;
/** Frames of calls in progress (MAX_CALL_FRAMES). */
export const DEEPEST_CALL = 8;

/** After a call r1 to r5 hold nothing. */
export function clobberArguments(step: Step): void {
  for (let register = FIRST_ARGUMENT; register <= LAST_ARGUMENT; register++)
    step.state.set(register, NOT_INIT);
}

/** Refuses a call that is too deep. */
export function checkDepth(step: Step, state: State): void {
  if (state.frames.length >= DEEPEST_CALL) {
    step.fail('E2BIG', `the call stack of ${state.frames.length + 1} frames is too deep`);
  }
}

/** Puts the way aside on which the helper calls back once more; the state itself goes on behind the call. */
export function enterCallback(step: Step, helper: number, args: Arguments): void {
  const { state, analysis } = step;
  const subprogram = args.callback as number;
  checkDepth(step, state);
  const inside = state.copy();
  const caller = inside.frame;
  if (caller.call === 0) caller.call = step.findings.newId();
  caller.unrolled++;
  const callback = { helper, references: state.references };
  const frame = Frame.enter(subprogram, step.index, inside.frames.length, step.findings.newId(), callback);
  const { registers } = frame;
  if (helper === FOR_EACH) {
    const map = args.map as MapSpec;
    registers[1] = { kind: 'map_ptr', map, id: 0, maybeNull: false, inner: true };
    registers[2] = memory('map_key', map.keySize, { map });
    registers[3] = mapValue(map, 0, step.findings.newId());
    registers[4] = caller.registers[3] ?? NOT_INIT;
  } else {
    registers[1] = UNKNOWN;
    registers[2] = caller.registers[3] ?? NOT_INIT;
  }
  inside.frames.push(frame);
  analysis.pend(analysis.program.subprograms.list[subprogram]?.start ?? 0, inside);
  endCall(state);
}

function endCall(state: State): void {
  state.frame.call = 0;
  state.frame.unrolled = 0;
}

/**
 * A callback returns: the call goes on where it was, with the caller's registers as they were; behind it where the
 * callback said to stop. Gives the index of the instruction to go on at.
 */
export function leaveCallback(step: Step, frame: Frame): number {
  const { state } = step;
  const result = step.read(RESULT);
  step.matters(RESULT);
  if (result.kind !== 'scalar' || result.max > 1n) {
    step.fail('EINVAL', 'At callback return the register R0 should have been in [0, 1]', RESULT);
  }
  const before = frame.callback?.references ?? [];
  const left = state.references.find(reference => !before.includes(reference));
  if (left !== undefined) {
    step.fail(
      'EINVAL',
      `Unreleased reference id=${left.id} alloc_insn=${left.at}: the callback must give it back`,
    );
  }
  if (before.some(reference => !state.references.includes(reference))) {
    step.fail(
      'EINVAL',
      'a callback must not give back what its caller acquired: it may be called more than once',
    );
  }
  if (state.lock !== undefined) step.fail('EINVAL', 'a callback must give back its lock');
  state.frames.pop();
  if (result.min === 0n) return frame.callsite;
  endCall(state);
  clobberArguments(step);
  state.set(RESULT, UNKNOWN);
  return frame.callsite + 1;
}

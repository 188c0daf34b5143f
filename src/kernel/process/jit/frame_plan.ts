/**
 * The frame of each function of a program:
 *
 *     r10       ->  +----------------------+
 *                   | the program's stack  |
 *                   | words of our own     |   FrameWord
 *     rsp       ->  +----------------------+
 *
 * A function that calls nothing and needs little leaves rsp where it is: all this lies in the red zone below it.
 */

import { FRAME_POINTER } from '../../../bpf/instruction.js';
import type { RegisterSet } from '../../../bpf/liveness.js';
import type { Reg } from '../../../x86/assembler.js';
import type { FunctionFacts } from './facts.js';
import { CALLER_SAVED, homesOf, maskOf } from './register_map.js';

/** Bytes of what a frame can hold besides the program's stack. */
const WORDS = {
  /** how often may_goto still goes on */
  mayGoto: 8,
  /** address of the number of tail calls made */
  tailCalls: 8,
  /** address of the thread's block */
  thread: 8,
  /** what a loop over callbacks keeps (loops.ts) */
  loop: 48,
  /** what the function shall return in place of the function's own; 0 for nothing */
  override: 8,
} as const;

export type FrameWord = keyof typeof WORDS;

export interface FunctionPlan extends FunctionFacts {
  /** registers to save, because the caller keeps them and the function changes them */
  readonly saved: readonly Reg[];
  /** from rsp, once registers are saved, up to r10 */
  readonly frameSize: number;
  /** bytes to take from rsp: `frameSize`, or 0 where the stack fits below rsp */
  readonly reserved: number;
  /** where our own words are, from rsp */
  readonly words: ReadonlyMap<FrameWord, number>;
}

/** Bytes below rsp that signal handlers leave alone (System V ABI, "red zone"). */
const RED_ZONE = 128;
const STACK_ALIGNMENT = 8;

/** Plans the frame of a function that uses the registers `used` and calls what writes below rsp if `calls`. */
export function planFrame(
  facts: FunctionFacts,
  used: RegisterSet,
  calls: boolean,
  words: ReadonlySet<FrameWord>,
): FunctionPlan {
  const frameUsed = (used & (1 << FRAME_POINTER)) !== 0;
  const stack = frameUsed ? Math.ceil(facts.stackDepth / STACK_ALIGNMENT) * STACK_ALIGNMENT : 0;
  let own = 0;
  for (const word of words) own += WORDS[word];
  const reserved = !calls && stack + own <= RED_ZONE ? 0 : stack + own;
  const places = new Map<FrameWord, number>();
  let at = reserved - stack - own;
  for (const word of words) {
    places.set(word, at);
    at += WORDS[word];
  }
  const { start, end, stackDepth } = facts;
  const saved = homesOf(used).filter(register => (maskOf(register) & CALLER_SAVED) === 0);
  return { start, end, stackDepth, saved, frameSize: reserved, reserved, words: places };
}

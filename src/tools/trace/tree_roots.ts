/**
 * Where trees have chosen roots: the part of the session program that looks whether the call is in a tree. A hash map has,
 * for each thread, the frame of the call that its tree begins with.
 */

import {
  type ProgramBuilder,
  type ProgramLabel,
  R0,
  R1,
  R2,
  R3,
  R4,
  R6,
  R7,
  R8,
  R9,
  R10,
} from '../../bpf/builder.js';
import { HELPER } from '../../bpf/helpers.js';
import type { MapId } from './maps.js';
import { COOKIE } from './records.js';

/** Stack of the program: what these parts use, and the frame of an outer root that goes on when this one returns. */
export const ROOT_STACK = { thread: -8, frame: -16, saved: -32 } as const;
/**
 * A root's frame that lies above the last root's by no more than this is on the same stack: the last one was left
 * without a return. One that lies higher is on another stack, and the last one goes on when it returns.
 */
const SAME_STACK_BYTES = 64 << 10;

/**
 * Goes on where the call is in a tree, or begins one. r7 = thread, r8 = frame. A root that was left without a return
 * stays in the map until the thread's next one: what comes between is written, and its reader knows better.
 */
export function emitRoot(b: ProgramBuilder, roots: MapId, out: ProgramLabel): void {
  const go = b.label();
  const none = b.label();
  const begin = b.label();
  b.store(8, R10, ROOT_STACK.thread, R7);
  b.ldMap(R1, roots);
  b.mov(R2, R10);
  b.add(R2, ROOT_STACK.thread);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, none);
  b.mov(R9, R0);
  emitIsRoot(b);
  b.load(8, R2, R9);
  const other = b.label();
  b.jump('ne', R0, 0, other);
  b.jump('eq', R2, 0, out);
  b.goto(go);
  b.bind(other);
  b.jump('eq', R2, 0, begin);
  // Called by the root that is there.
  b.jump('gt', R2, R8, go);
  b.mov(R3, R8);
  b.sub(R3, R2);
  b.jump('le', R3, SAME_STACK_BYTES, begin);
  b.store(8, R10, ROOT_STACK.saved, R2);
  b.bind(begin);
  b.store(8, R9, 0, R8);
  b.goto(go);

  b.bind(none);
  emitIsRoot(b);
  b.jump('eq', R0, 0, out);
  b.store(8, R10, ROOT_STACK.frame, R8);
  b.ldMap(R1, roots);
  b.mov(R2, R10);
  b.add(R2, ROOT_STACK.thread);
  b.mov(R3, R10);
  b.add(R3, ROOT_STACK.frame);
  b.mov(R4, 0);
  b.call(HELPER.map_update_elem);
  b.bind(go);
}

/** r0 = whether a tree may begin at the function. */
function emitIsRoot(b: ProgramBuilder): void {
  b.mov(R1, R6);
  b.call(HELPER.get_attach_cookie);
  b.rsh(R0, COOKIE.root);
  b.and(R0, 1);
}

/** The thread's tree ends where its root returns. r7 = thread, r8 = frame, r9 = the call's cookie. */
export function emitRootReturned(b: ProgramBuilder, roots: MapId): void {
  const inner = b.label();
  b.store(8, R10, ROOT_STACK.thread, R7);
  b.ldMap(R1, roots);
  b.mov(R2, R10);
  b.add(R2, ROOT_STACK.thread);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, inner);
  b.load(8, R2, R0);
  b.jump('ne', R2, R8, inner);
  b.rsh(R9, 1);
  b.store(8, R0, 0, R9);
  b.bind(inner);
}

/**
 * The BPF program behind `trace`: it runs at the entry and the return of every function (fsession) and writes a record
 * at each (records.ts); one form of it also reads the texts that arguments point to, which takes loads that may fault.
 *
 * A call either has both its records or none: an entry is dropped while the ring is nearly full, so that there is room
 * for the returns of those calls that have been entered, and what is dropped is counted.
 */

import { ProgramBuilder, type ProgramLabel, R0, R1, R2, R3, R6, R7, R8, R9, R10 } from '../../bpf/builder.js';
import { HELPER } from '../../bpf/helpers.js';
import type { BpfInsn } from '../../bpf/instruction.js';
import { KFUNC } from '../../bpf/kfuncs.js';
import { emitThread, type ThreadOptions } from '../thread_choice.js';
import { LOST, type TraceMaps } from './maps.js';
import {
  COOKIE,
  ENTERED,
  ENTERED_TEXT,
  enteredSize,
  MAX_TEXTS,
  RESULT_WORDS,
  RETURNED,
  RETURNED_TEXT,
  TEXT_BYTES,
} from './records.js';
import { emitRoot, emitRootReturned, ROOT_STACK } from './tree_roots.js';

export interface TraceProgramOptions extends ThreadOptions {
  /** Words of arguments in the program's context (`argumentWords`), all of which it writes. */
  readonly words: number;
  /** Read texts; takes `MANY_WORDS`. */
  readonly texts: boolean;
  /** Texts may be in the kernel's memory too. */
  readonly readsKernel?: boolean;
}

/** Stack of the program. */
const STACK = { word: -24, saved: ROOT_STACK.saved } as const;
/** The ring may be filled so far by entries: 7 of 8 parts. */
const ENTRY_SHARE = 7 / 8;
/** What `bpf_ringbuf_query` is asked: BPF_RB_AVAIL_DATA. */
const AVAIL_DATA = 0;

/**
 *     if (is_return) { if (*cookie) { write the result } }
 *     else if (thread and tree are wanted) { if (there is room) { *cookie = 1; write the arguments } else lost++ }
 */
export function traceProgram(maps: TraceMaps, options: TraceProgramOptions): BpfInsn[] {
  const b = new ProgramBuilder();
  const out = b.label();
  const returned = b.label();
  b.mov(R6, R1);
  b.callKfunc(KFUNC.bpf_session_is_return);
  b.jump('ne', R0, 0, returned);
  emitEntered(b, maps, options, out);
  b.bind(returned);
  emitReturned(b, maps, options, out);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

function emitEntered(
  b: ProgramBuilder,
  maps: TraceMaps,
  options: TraceProgramOptions,
  out: ProgramLabel,
): void {
  const { words, texts, readsKernel } = options;
  const lost = b.label();
  emitThread(b, options, out);
  b.mov(R1, R6);
  b.callKfunc(KFUNC.bpf_session_frame);
  b.mov(R8, R0);
  b.store(8, R10, STACK.saved, 0);
  if (maps.roots !== undefined) emitRoot(b, maps.roots, out);

  b.ldMap(R1, maps.records);
  b.mov(R2, AVAIL_DATA);
  b.call(HELPER.ringbuf_query);
  b.jump('gt', R0, Math.floor(maps.records.maxEntries * ENTRY_SHARE), lost);
  b.ldMap(R1, maps.records);
  b.mov(R2, texts ? ENTERED_TEXT.size : enteredSize(words));
  b.mov(R3, 0);
  b.call(HELPER.ringbuf_reserve);
  b.jump('eq', R0, 0, lost);
  b.mov(R9, R0);
  b.store(8, R9, ENTERED.thread, R7);
  b.store(8, R9, ENTERED.frame, R8);
  for (let i = 0; i < words; i++) {
    b.load(8, R1, R6, 8 * i);
    b.store(8, R9, ENTERED.words + 8 * i, R1);
  }
  b.ldMapValue(R1, maps.lost, LOST.calls);
  b.load(8, R1, R1);
  b.store(8, R9, ENTERED.lost, R1);
  b.mov(R1, R6);
  b.call(HELPER.get_attach_cookie);
  b.mov(R7, R0);
  b.store(8, R9, ENTERED.cookie, R7);
  if (texts) emitTexts(b, readsKernel);
  b.mov(R1, R6);
  b.callKfunc(KFUNC.bpf_session_cookie);
  b.load(8, R1, R10, STACK.saved);
  b.lsh(R1, 1);
  b.or(R1, 1);
  b.store(8, R0, 0, R1);
  // Last, so that what is measured is the function.
  b.call(HELPER.ktime_get_ns);
  b.store(8, R9, ENTERED.time, R0);
  b.mov(R1, R9);
  b.mov(R2, 0);
  b.call(HELPER.ringbuf_submit);
  b.goto(out);

  b.bind(lost);
  b.mov(R2, 1);
  b.ldMapValue(R1, maps.lost, LOST.calls);
  b.atomicAdd(8, R1, 0, R2);
  b.goto(out);
}

/** r0 = the length of the text at r3, up to r2 bytes of which go to r1; negative where it can't be read. */
function emitReadText(b: ProgramBuilder, readsKernel: boolean | undefined): void {
  const done = b.label();
  if (readsKernel) {
    const ofUser = b.label();
    // The kernel has the upper half of addresses.
    b.jump('sge', R3, 0, ofUser);
    b.call(HELPER.probe_read_kernel_str);
    b.goto(done);
    b.bind(ofUser);
  }
  b.call(HELPER.probe_read_user_str);
  b.bind(done);
}

/** r9 = the record, r7 = the cookie. Changes r8. */
function emitTexts(b: ProgramBuilder, readsKernel: boolean | undefined): void {
  const done = b.label();
  b.store(8, R9, ENTERED_TEXT.lengths, 0);
  for (let i = 0; i < MAX_TEXTS; i++) {
    const unreadable = b.label();
    b.mov(R2, R7);
    b.rsh(R2, COOKIE.texts + COOKIE.textBits * i);
    b.and(R2, COOKIE.noText);
    b.jump('eq', R2, COOKIE.noText, done);
    b.mov(R1, R6);
    b.mov(R3, R10);
    b.add(R3, STACK.word);
    b.call(HELPER.get_func_arg);
    b.mov(R1, R9);
    b.add(R1, ENTERED_TEXT.texts + TEXT_BYTES * i);
    b.mov(R2, TEXT_BYTES);
    b.load(8, R3, R10, STACK.word);
    emitReadText(b, readsKernel);
    b.jump('slt', R0, 0, unreadable);
    b.store(2, R9, ENTERED_TEXT.lengths + 2 * i, R0);
    b.bind(unreadable);
  }
  b.bind(done);
}

function emitReturned(
  b: ProgramBuilder,
  maps: TraceMaps,
  { ids, words, texts, readsKernel }: TraceProgramOptions,
  out: ProgramLabel,
): void {
  const lost = b.label();
  b.mov(R1, R6);
  b.callKfunc(KFUNC.bpf_session_cookie);
  b.load(8, R9, R0);
  b.jump('eq', R9, 0, out);
  b.call(HELPER.ktime_get_ns);
  b.store(8, R10, STACK.word, R0);
  // A call whose entry was written is of a thread that is wanted.
  emitThread(b, { ids }, out);
  b.mov(R1, R6);
  b.callKfunc(KFUNC.bpf_session_frame);
  b.mov(R8, R0);
  if (maps.roots !== undefined) emitRootReturned(b, maps.roots);
  const write = (size: number, also: () => void): void => {
    b.ldMap(R1, maps.records);
    b.mov(R2, size);
    b.mov(R3, 0);
    b.call(HELPER.ringbuf_reserve);
    b.jump('eq', R0, 0, lost);
    b.mov(R9, R0);
    b.load(8, R1, R10, STACK.word);
    b.store(8, R9, RETURNED.time, R1);
    b.store(8, R9, RETURNED.thread, R7);
    b.store(8, R9, RETURNED.frame, R8);
    for (let i = RESULT_WORDS - 1; i >= 0; i--) {
      b.load(8, R3, R6, 8 * (words + i));
      b.store(8, R9, RETURNED.result + 8 * i, R3);
    }
    b.ldMapValue(R1, maps.lost, LOST.calls);
    b.load(8, R1, R1);
    b.store(8, R9, RETURNED.lost, R1);
    also();
    b.mov(R1, R9);
    b.mov(R2, 0);
    b.call(HELPER.ringbuf_submit);
    b.goto(out);
  };
  if (texts) {
    const plain = b.label();
    b.mov(R1, R6);
    b.call(HELPER.get_attach_cookie);
    b.rsh(R0, COOKIE.resultText);
    b.and(R0, 1);
    b.jump('eq', R0, 0, plain);
    write(RETURNED_TEXT.size, () => {
      const unreadable = b.label();
      b.store(8, R9, RETURNED_TEXT.length, 0);
      b.mov(R1, R9);
      b.add(R1, RETURNED_TEXT.text);
      b.mov(R2, TEXT_BYTES);
      emitReadText(b, readsKernel);
      b.jump('slt', R0, 0, unreadable);
      b.store(2, R9, RETURNED_TEXT.length, R0);
      b.bind(unreadable);
    });
    b.bind(plain);
  }
  write(RETURNED.size, () => {});

  b.bind(lost);
  b.mov(R2, 1);
  b.ldMapValue(R1, maps.lost, LOST.returns);
  b.atomicAdd(8, R1, 0, R2);
  b.goto(out);
}

/**
 * Full trampolines: for functions that have more than plain fentry programs. At entry they run the fentry and fsession
 * programs, then the modify-return programs until one returns non-zero; where programs run at the return they see to it
 * that the function returns to our return trampoline (return.ts).
 *
 * The original is never called from here with a frame of ours: what a caller passed on the stack stays where the
 * function looks for it. It is entered by a `call` that stands right in front of the return trampoline, with the stack
 * pointer where it was before the caller's own `call`: the address that this one pushes takes the place of the caller's,
 * which the call table keeps. So each return goes where the processor predicts it: the function's to the trampoline, and
 * the trampoline's to the caller.
 *
 * The slot jumps here with rax pushed and the record's address in rax.
 */

import type { WordPlace } from '../../../process/symbols/call_layout.js';
import { type Assembler, type Label, mem, r8, rax, rcx, rdi, rdx, rsi, rsp } from '../../../x86/assembler.js';
import {
  CALL,
  CALL_CONTEXT,
  type CallTablePlace,
  emitClaimCall,
  MOST_DEPTH,
} from '../kfunc_md/call_table.js';
import { ITEM, LIST_END, LISTS } from '../kfunc_md/lists.js';
import { RECORD } from '../kfunc_md/record.js';
import { bit, CALLER_SAVED, ContextFrame, placesKey, WORD } from './context_frame.js';
import { FRAME } from './frame.js';
import { CALL_THUNK_LENGTH, RETURN_STRIDE } from './return.js';

/** Where the process has what calls with a return need. */
export interface ReturnPlace {
  readonly table: CallTablePlace;
  /** The first of the return trampolines. */
  readonly trampoline: bigint;
}

/** What sets one full trampoline apart from another. */
export interface FullSpec {
  /** The words of the context: as far as programs read them, and the result's for modify-return programs. */
  readonly words: readonly WordPlace[];
  /** Programs run at the return ("call the original"). */
  readonly claim: boolean;
  /** How many of the words those programs read, at most. */
  readonly keep: number;
  /** Programs have a session cookie. */
  readonly sessions: boolean;
  /** How many programs run at entry, and how many of modify-return: then their calls stand one behind the other. */
  readonly entries: number | 'many';
  readonly modReturns: number | 'many';
  /** From the record to the displaced instructions. */
  readonly displaced: number;
  /**
   * For one target alone: how far its lists are from the record. Left out for a global trampoline, which finds them by
   * the record.
   */
  readonly lists?: number;
}

/** Two specs with one key share a trampoline. */
export function fullSpecKey(spec: FullSpec): string {
  const { words, claim, keep, sessions, entries, modReturns, displaced, lists } = spec;
  return `full.${placesKey(words)}.${claim}.${keep}.${sessions}.${entries}.${modReturns}.${displaced}.${lists}`;
}

/** Below the context, beside the words of frame.ts: the call's entry (0: none), and what a return value stands for. */
const CLAIMED = FRAME.isReturn - WORD;
const SWAPPED = CLAIMED - WORD;
/** rax is saved by the slot. */
const CHANGED = CALLER_SAVED.reduce((mask, reg) => mask | bit(reg), 0) & ~bit(rax);

/**
 * Emits one full trampoline:
 *
 *     save; lay out the arguments
 *     lists = those of the record
 *     if (claim) entry = claim(stack word)
 *     for each entry program: run
 *     for each modify-return program: if ((value = run) != 0) { skip the original; break }
 *     restore
 *     if (entry) call the original, from in front of the return trampoline; else jump to it
 *
 * `place` is where programs at the return have their trampoline; needed with `claim`.
 */
export function emitFullTrampoline(a: Assembler, spec: FullSpec, place: ReturnPlace | undefined): void {
  new FullTrampoline(a, spec, place).emit();
}

class FullTrampoline {
  readonly #a: Assembler;
  readonly #spec: FullSpec;
  readonly #place: ReturnPlace | undefined;
  readonly #frame: ContextFrame;
  /** From the context to the lowest word of the frame. */
  readonly #bottom: number;
  /** From the context up to the words above it: where to go on, from where (claim), rax, the function's return address. */
  readonly #target: number;
  readonly #thunk: number;
  readonly #savedRax: number;
  readonly #stackWord: number;

  constructor(a: Assembler, spec: FullSpec, place: ReturnPlace | undefined) {
    this.#a = a;
    this.#spec = spec;
    this.#place = place;
    this.#frame = new ContextFrame(spec.words, CHANGED);
    const { claim, sessions, modReturns } = spec;
    this.#bottom = modReturns !== 0 ? SWAPPED : claim ? CLAIMED : sessions ? FRAME.isReturn : FRAME.stack;
    const { size } = this.#frame;
    this.#thunk = size;
    this.#target = claim ? size + WORD : size;
    this.#savedRax = this.#target + WORD;
    this.#stackWord = this.#savedRax + WORD;
  }

  /** A word of the frame, by its distance from the context. */
  #at(offset: number): ReturnType<typeof mem> {
    return mem(rsp, offset - this.#bottom);
  }

  emit(): void {
    const a = this.#a;
    const { claim, sessions, entries, modReturns, displaced } = this.#spec;
    a.push(rax);
    if (claim) a.push(rax);
    this.#frame.emitSave(a, claim ? 3 * WORD : 2 * WORD);
    a.push(rax);
    a.push(rax);
    a.lea(rdx, mem(rsp, this.#stackWord + 2 * WORD));
    a.push(rdx);
    if (this.#bottom !== FRAME.stack) a.lea(rsp, mem(rsp, this.#bottom - FRAME.stack));
    if (sessions) a.mov(this.#at(FRAME.isReturn), 0);
    a.lea(rcx, mem(rax, displaced));
    a.mov(this.#at(this.#target), rcx);
    this.#emitLists();
    if (claim) this.#emitClaim();
    const skip = a.label();
    if (entries === 'many' || modReturns === 'many') {
      this.#emitEntries();
      if (modReturns !== 0) this.#emitModReturns(skip);
    } else {
      this.#emitFewEntries(entries);
      this.#emitFewModReturns(entries, modReturns, skip);
    }
    const original = a.label();
    const claimed = a.label();
    if (claim) {
      a.cmp(this.#at(CLAIMED), 0);
      a.jcc('e', original);
      a.bind(claimed);
      this.#emitRestore();
      a.lea(rsp, mem(rsp, this.#stackWord - this.#frame.size + WORD));
      a.jmpReg(mem(rsp, this.#thunk - this.#stackWord - WORD));
    }
    a.bind(original);
    this.#emitRestore();
    a.lea(rsp, mem(rsp, this.#stackWord - this.#frame.size));
    a.jmpReg(mem(rsp, this.#target - this.#stackWord));
    if (modReturns !== 0) this.#emitSkip(skip, claimed);
  }

  /** rsi = lists, given the record in rax. */
  #emitLists(): void {
    const a = this.#a;
    const { lists } = this.#spec;
    if (lists === undefined) {
      a.mov(rsi, mem(rax, RECORD.flags), 4);
      a.add(rsi, rax);
    } else a.lea(rsi, mem(rax, lists));
  }

  /** rsi = the item so many bytes behind the first; the lists are in rsi still where no program ran yet. */
  #emitItem(offset: number, ran: boolean): void {
    if (ran) {
      this.#a.mov(rax, this.#at(FRAME.record));
      this.#emitLists();
    }
    this.#a.add(rsi, LISTS.entries + offset);
  }

  /** Registers are as they were, rsp behind the context's frame. */
  #emitRestore(): void {
    const a = this.#a;
    a.lea(rsp, this.#at(0));
    this.#frame.emitRestore(a);
    a.mov(rax, mem(rsp, this.#savedRax - this.#frame.size));
  }

  /** rsi = lists, rdx = stack word. Keeps rsi. */
  #emitClaim(): void {
    const a = this.#a;
    const { keep, sessions } = this.#spec;
    if (this.#place === undefined) throw new RangeError('programs at the return have no trampoline here');
    const { table, trampoline } = this.#place;
    const none = a.label();
    const missed = a.label();
    const claim = a.label();
    a.xor(r8, r8, 4);
    a.mov(rax, mem(rdx));
    a.movImm64(rcx, trampoline);
    a.sub(rax, rcx);
    a.cmp(rax, MOST_DEPTH * RETURN_STRIDE);
    a.jcc('ae', claim);
    // Called by a tail call: the word holds a return trampoline of ours already.
    a.mov(r8, rax);
    a.shr(r8, Math.log2(RETURN_STRIDE));
    a.inc(r8, 4);
    a.cmp(r8, MOST_DEPTH, 4);
    a.jcc('e', missed);
    a.bind(claim);
    emitClaimCall(a, table, missed);
    a.mov(this.#at(CLAIMED), rcx);
    a.mov(rax, mem(rdx));
    a.mov(mem(rcx, CALL.original), rax);
    a.mov(rax, mem(rsi, LISTS.serial));
    a.mov(mem(rcx, CALL.serial), rax);
    a.mov(mem(rcx, CALL.stack), rdx);
    a.mov(rax, this.#at(FRAME.record));
    a.mov(mem(rcx, CALL.record), rax);
    a.shl(r8, Math.log2(RETURN_STRIDE));
    a.movImm64(rax, trampoline - BigInt(CALL_THUNK_LENGTH));
    a.add(rax, r8);
    a.mov(this.#at(this.#thunk), rax);
    for (let i = 0; i < keep; i++) {
      a.mov(rax, this.#at(i * WORD));
      a.mov(mem(rcx, CALL_CONTEXT + i * WORD), rax);
    }
    if (sessions)
      for (let offset = CALL.sessions; offset < CALL.size; offset += WORD) a.mov(mem(rcx, offset), 0);
    a.jmp(none);

    a.bind(missed);
    a.mov(this.#at(CLAIMED), 0);
    a.mov(rdi, mem(rsi, LISTS.exits), 4);
    a.add(rdi, rsi);
    const next = a.here();
    a.cmp(mem(rdi, ITEM.bpfFunc), 0);
    a.jcc('e', none);
    a.mov(rax, mem(rdi, ITEM.missed));
    a.lock('inc', mem(rax));
    a.add(rdi, ITEM.size);
    a.jmp(next);
    a.bind(none);
  }

  /** Runs the program of the item rsi, which is noted. Jumps to `skip` where it is a session without an entry. */
  #emitEntry(skip: Label): void {
    const a = this.#a;
    a.mov(this.#at(FRAME.entry), rsi);
    if (this.#spec.sessions) {
      const run = a.label();
      a.mov(rax, mem(rsi, ITEM.session), 4);
      a.test(rax, rax);
      a.jcc('e', run);
      // A session that can't see the return does not see the entry either.
      a.mov(rcx, this.#at(CLAIMED));
      a.test(rcx, rcx);
      a.jcc('e', skip);
      a.add(rax, rcx);
      a.mov(this.#at(FRAME.cookie), rax);
      a.bind(run);
    }
    a.lea(rdi, this.#at(0));
    a.callReg(mem(rsi, ITEM.bpfFunc));
  }

  /** Runs the programs at entry. rsi = lists; afterwards the item that ends them is noted. */
  #emitEntries(): void {
    const a = this.#a;
    const done = a.label();
    const skip = a.label();
    a.add(rsi, LISTS.entries);
    const next = a.here();
    a.cmp(mem(rsi, ITEM.bpfFunc), 0);
    a.jcc('e', done);
    this.#emitEntry(skip);
    a.bind(skip);
    a.mov(rsi, this.#at(FRAME.entry));
    a.add(rsi, ITEM.size);
    a.jmp(next);
    a.bind(done);
    if (this.#spec.modReturns !== 0) a.mov(this.#at(FRAME.entry), rsi);
  }

  #emitFewEntries(count: number): void {
    for (let i = 0; i < count; i++) {
      const skip = this.#a.label();
      this.#emitItem(i * ITEM.size, i > 0);
      this.#emitEntry(skip);
      this.#a.bind(skip);
    }
  }

  /** Runs the program of the item rsi, which is noted; rax is what it returns. */
  #emitModReturn(): void {
    const a = this.#a;
    a.mov(this.#at(FRAME.entry), rsi);
    a.lea(rdi, this.#at(0));
    a.mov(rax, mem(rsi, ITEM.returnAt), 4);
    a.mov(rdx, mem(rdi, 0, rax, 1));
    a.mov(this.#at(SWAPPED), rdx);
    a.mov(mem(rdi, 0, rax, 1), 0);
    a.callReg(mem(rsi, ITEM.bpfFunc));
    a.mov(rsi, this.#at(FRAME.entry));
    a.mov(rdx, mem(rsi, ITEM.returnAt), 4);
    a.mov(rcx, this.#at(SWAPPED));
    a.mov(mem(rsp, -this.#bottom, rdx, 1), rcx);
    a.test(rax, rax);
  }

  /** Runs the modify-return programs, which follow the entry programs' end. */
  #emitModReturns(skip: Label): void {
    const a = this.#a;
    const done = a.label();
    a.mov(rsi, this.#at(FRAME.entry));
    a.add(rsi, LIST_END);
    const next = a.here();
    a.cmp(mem(rsi, ITEM.bpfFunc), 0);
    a.jcc('e', done);
    this.#emitModReturn();
    a.jcc('ne', skip);
    a.add(rsi, ITEM.size);
    a.jmp(next);
    a.bind(done);
  }

  #emitFewModReturns(entries: number, count: number, skip: Label): void {
    for (let i = 0; i < count; i++) {
      this.#emitItem((entries + i) * ITEM.size + LIST_END, entries > 0 || i > 0);
      this.#emitModReturn();
      this.#a.jcc('ne', skip);
    }
  }

  /** Its caller gets the value in rax; programs at the return see it first, as if the function had returned it. */
  #emitSkip(skip: Label, claimed: Label): void {
    const a = this.#a;
    const straight = a.label();
    a.bind(skip);
    a.mov(this.#at(this.#savedRax), rax);
    if (this.#spec.claim) {
      a.cmp(this.#at(CLAIMED), 0);
      a.jcc('e', straight);
      a.add(this.#at(this.#thunk), CALL_THUNK_LENGTH);
      a.jmp(claimed);
      a.bind(straight);
    }
    this.#emitRestore();
    a.lea(rsp, mem(rsp, this.#stackWord - this.#frame.size));
    a.ret();
  }
}

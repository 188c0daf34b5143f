/**
 * Machine code that finds the block of the thread it runs on, and that keeps a program from being entered again on
 * one thread. No system call, no libc, nothing that waits; a signal handler may run it in the middle of itself.
 */

import {
  type Assembler,
  fs,
  type Label,
  Mem,
  mem,
  type Reg,
  r8,
  r9,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from '../../../x86/assembler.js';
import {
  BLOCK_SIZE,
  BLOCKS,
  COMM_BYTES,
  HASH,
  KEY,
  POSSIBLE_CPUS,
  SHARED,
  TABLE,
  THREAD,
  type ThreadCode,
} from './layout.js';

const SEGMENT_FS = 0x64;
/** Below the stack pointer, code without calls may keep data. */
const RED_ZONE = 128;
const RANDOM_FACTOR = 0x9e3779b97f4a7c15n;

/** `fs:[reg]`. */
export function fsAt(reg: Reg): Mem {
  return new Mem(reg, undefined, 1, 0, SEGMENT_FS, undefined);
}

/** rdfsbase: `reg` = the address behind fs. */
function emitReadFsBase(a: Assembler, reg: Reg): void {
  a.byte(0xf3, 0x48 | (reg.code >> 3), 0x0f, 0xae, 0xc0 | (reg.code & 7));
}

/** What a search for the thread's block left to do. */
export interface ThreadSearch {
  /** The search begins here. */
  readonly again: Label;
  /**
   * Writes the part that runs once for each thread. Call it once, where the code before does not fall into: behind the
   * program's end.
   */
  cold(): void;
}

/** Whether an address can stand in an instruction itself. */
const isLow = (address: bigint): boolean => address < 0x7fff_0000n;

/**
 * out = address of this thread's block, claimed at its first use; 8 instructions and one cache line from then on. Goes
 * to `none` where the thread has no thread pointer, or all slots are taken. Changes flags and `scratch`; the part of
 * `cold()` moves the stack pointer beyond the red zone and back.
 */
export function emitThreadBlock(
  a: Assembler,
  thread: ThreadCode,
  out: Reg,
  scratch: readonly [Reg, Reg],
  none: Label,
): ThreadSearch {
  const [offset, base] = scratch;
  const blocks = thread.table + BigInt(TABLE.blocks);
  const cold = a.label();
  const done = a.label();
  const again = a.here();
  if (thread.early === true) {
    // Without a thread pointer, fs:0 is address 0.
    emitReadFsBase(a, out);
    a.test(out, out);
    a.jcc('e', none);
  }
  a.mov(out, fs(0));
  a.imul3(offset, out, HASH.factor, 4);
  a.shr(offset, HASH.shift, 4);
  a.and(offset, HASH.mask, 4);
  // The key is one more, so that no thread pointer finds an empty block.
  a.add(out, 1);
  let block: Mem;
  if (isLow(blocks)) block = mem(offset, Number(blocks));
  else {
    a.movImm64(base, blocks);
    block = mem(base, 0, offset);
  }
  a.cmp(block, out);
  a.jcc('ne', cold);
  a.lea(out, block);
  a.bind(done);
  return {
    again,
    cold: () => {
      a.bind(cold);
      emitClaim(a, thread, out, offset, done, none);
    },
  };
}

const SAVED: readonly Reg[] = [rax, rcx, rdx, rsi, rdi, r8, r9];

/**
 * Searches further than the first block, and claims one:
 *
 *     for each block from `offset` on, until one is empty: if it is the key's, done
 *     take the first that was gone, or the empty one: empty|gone -> claiming
 *     take a slot; fill in the block; claiming -> key
 *
 * Only a thread itself enters its key. Should a signal handler claim in the middle of this, the thread has two blocks,
 * and two slots, until it ends: both are right.
 */
function emitClaim(a: Assembler, thread: ThreadCode, out: Reg, offset: Reg, done: Label, none: Label): void {
  const [key, block, blocks, at] = [rdi, rdx, r8, rsi];
  const noBlock = a.label();
  const found = a.label();
  const restore = (): void => {
    for (const reg of SAVED.toReversed()) a.pop(reg);
  };
  a.lea(rsp, mem(rsp, -RED_ZONE));
  a.push(rax);
  for (const reg of SAVED) a.push(reg);
  a.push(out);
  a.push(offset);
  a.pop(r9);
  a.pop(key);
  const noThread = a.label();
  a.cmp(key, 1);
  a.jcc('e', noThread);
  a.movImm64(blocks, thread.table + BigInt(TABLE.blocks));

  const search = a.here();
  const empty = a.label();
  const next = a.label();
  const choose = a.label();
  a.mov(at, r9, 4);
  a.mov(rcx, BLOCKS, 4);
  a.xor(block, block, 4);
  const look = a.here();
  a.mov(rax, mem(blocks, 0, at));
  a.cmp(rax, key);
  a.jcc('e', found);
  a.test(rax, rax);
  a.jcc('e', empty);
  a.cmp(rax, Number(KEY.gone));
  a.jcc('ne', next);
  a.test(block, block);
  a.jcc('ne', next);
  a.lea(block, mem(blocks, 0, at));
  a.bind(next);
  a.add(at, BLOCK_SIZE, 4);
  a.and(at, HASH.mask, 4);
  a.dec(rcx, 4);
  a.jcc('ne', look);
  a.test(block, block);
  a.jcc('e', noBlock);
  a.jmp(choose);
  a.bind(empty);
  a.test(block, block);
  a.jcc('ne', choose);
  a.lea(block, mem(blocks, 0, at));

  a.bind(choose);
  const take = a.label();
  a.mov(rax, mem(block));
  a.test(rax, rax);
  a.jcc('e', take);
  a.cmp(rax, Number(KEY.gone));
  a.jcc('ne', search);
  a.bind(take);
  a.mov(rcx, Number(KEY.claiming), 4);
  a.lockCmpxchg(mem(block), rcx);
  a.jcc('ne', search);

  const shared = rsi;
  const noSlot = a.label();
  const give = a.label();
  a.movImm64(shared, thread.shared);
  emitTakeSlot(a, shared, noSlot);
  emitFillIn(a, shared, block, key);
  // From here on it is found.
  a.mov(mem(block), key);
  a.jmp(give);

  a.bind(found);
  a.lea(block, mem(blocks, 0, at));
  a.bind(give);
  a.mov(mem(rsp, SAVED.length * 8), block);
  restore();
  a.pop(out);
  a.lea(rsp, mem(rsp, RED_ZONE));
  a.jmp(done);

  a.bind(noSlot);
  a.mov(mem(block), Number(KEY.gone));
  a.bind(noBlock);
  a.movImm64(rsi, thread.shared);
  a.lock('inc', mem(rsi, SHARED.exhausted));
  a.bind(noThread);
  restore();
  a.lea(rsp, mem(rsp, RED_ZONE + 8));
  a.jmp(none);
}

/** rax = the number of a slot that was free; changes rcx, r9. `shared` is kept. */
function emitTakeSlot(a: Assembler, shared: Reg, noSlot: Label): void {
  const taken = a.label();
  for (let word = 0; word < POSSIBLE_CPUS / 64; word++) {
    const free = mem(shared, SHARED.free + word * 8);
    const next = a.label();
    const again = a.here();
    a.mov(rax, free);
    a.test(rax, rax);
    a.jcc('e', next);
    a.lea(rcx, mem(rax, -1));
    a.and(rcx, rax);
    a.lockCmpxchg(free, rcx);
    a.jcc('ne', again);
    a.bsf(rax, rax);
    if (word > 0) a.add(rax, word * 64, 4);
    a.jmp(taken);
    a.bind(next);
  }
  a.jmp(noSlot);
  a.bind(taken);
}

/** Fills in a block that is being claimed; slot in rax. Changes rax, rcx, r9. */
function emitFillIn(a: Assembler, shared: Reg, block: Reg, key: Reg): void {
  const noTid = a.label();
  a.mov(mem(block, THREAD.slot), rax, 4);
  a.mov(mem(block, THREAD.active), 0);
  a.mov(rcx, mem(shared, SHARED.tidOffset), 4);
  a.test(rcx, rcx, 4);
  a.jcc('e', noTid);
  a.mov(rcx, fsAt(rcx), 4);
  a.bind(noTid);
  emitOwn(a, shared, block, rcx, rax, rcx);
  a.mov(rcx, mem(block, THREAD.claim));
  a.movImm64(r9, RANDOM_FACTOR);
  a.imul(rcx, r9);
  a.xor(rcx, mem(shared, SHARED.seed));
  a.add(rcx, key);
  a.mov(mem(block, THREAD.random), rcx);
}

/** Makes thread `tid` the owner of the block and its slot, whose number is in `slot`. Changes all three registers. */
function emitOwn(a: Assembler, shared: Reg, block: Reg, tid: Reg, slot: Reg, scratch: Reg): void {
  a.mov(mem(shared, SHARED.owners, slot, 4), tid, 4);
  a.mov(mem(block, THREAD.tid), tid, 4);
  // What of a thread's is kept by the number of its slot.
  a.shl(slot, Math.log2(COMM_BYTES), 4);
  for (let i = 0; i < COMM_BYTES; i += 8) {
    a.mov(scratch, mem(shared, SHARED.comm + i));
    a.mov(mem(shared, SHARED.comms + i, slot), scratch);
  }
  a.mov(scratch, 1, 4);
  a.lockXadd(mem(shared, SHARED.claims), scratch);
  a.inc(scratch);
  a.mov(mem(block, THREAD.claim), scratch);
}

/**
 * Makes sure that a block is this thread's in all that it says, not that of a thread which ended and whose place in
 * memory this one took: then it has the thread's id, another `claim`, and the slot the name of the process. For those
 * who read these. Changes the scratch registers and flags.
 */
export function emitSameThread(
  a: Assembler,
  thread: ThreadCode,
  block: Reg,
  scratch: readonly [Reg, Reg, Reg],
): void {
  const [shared, tid, slot] = scratch;
  const same = a.label();
  a.movImm64(shared, thread.shared);
  a.mov(tid, mem(shared, SHARED.tidOffset), 4);
  a.test(tid, tid, 4);
  a.jcc('e', same);
  a.mov(tid, fsAt(tid), 4);
  a.cmp(tid, mem(block, THREAD.tid), 4);
  a.jcc('e', same);
  a.mov(slot, mem(block, THREAD.slot), 4);
  emitOwn(a, shared, block, tid, slot, tid);
  a.bind(same);
}

/**
 * Enters a part that one thread must not enter again, from a signal handler in the middle of it. Comes right behind
 * `emitThreadBlock`, whose result is in `block` and whose search is `search`. Entered again, counts in the u64 at
 * `missed` and goes to `busy`. Returns the part that is rarely run, to be written behind the program's end.
 *
 * The part may never have been left: by a longjmp out of a signal handler, or at the end of a thread whose place
 * another one took. A stack pointer below the one kept says that the program is still under way; above it, it need not
 * be (the handler may have a stack of its own): then the block is left to whoever may use it, and another is taken.
 * Leave with the same `block`, kept in a register or on the stack: a second search may find another.
 */
export function emitGuardEnter(
  a: Assembler,
  thread: ThreadCode,
  block: Reg,
  scratch: Reg,
  search: ThreadSearch,
  missed: bigint,
  busy: Label,
): () => void {
  const occupied = a.label();
  const enter = a.label();
  const active = mem(block, THREAD.active);
  a.cmp(active, 0);
  a.jcc('ne', occupied);
  a.bind(enter);
  a.mov(active, rsp);
  return () => {
    const nested = a.label();
    const noTid = a.label();
    a.bind(occupied);
    // Another thread than the one that claimed the block: that one is gone.
    a.movImm64(scratch, thread.shared);
    a.mov(scratch, mem(scratch, SHARED.tidOffset), 4);
    a.test(scratch, scratch, 4);
    a.jcc('e', noTid);
    a.mov(scratch, fsAt(scratch), 4);
    a.cmp(scratch, mem(block, THREAD.tid), 4);
    // Its tid is put right by those who read it.
    a.jcc('ne', enter);
    a.bind(noTid);
    a.cmp(active, rsp);
    a.jcc('a', nested);
    a.mov(mem(block, THREAD.key), Number(KEY.retired));
    a.jmp(search.again);
    a.bind(nested);
    a.movImm64(scratch, missed);
    a.lock('inc', mem(scratch));
    a.jmp(busy);
  };
}

/** Leaves what `emitGuardEnter` entered; changes nothing else, flags included. */
export function emitGuardLeave(a: Assembler, block: Reg): void {
  a.mov(mem(block, THREAD.active), 0);
}

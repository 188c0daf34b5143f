/**
 * Machine code of per-CPU arrays and hash maps. A "CPU" is a thread's slot (threads/layout.ts); programs that use these
 * maps are not entered again on one thread, so a value has one writer at a time, and plain instructions do.
 */

import { UPDATE } from '../../../bpf/map_type.js';
import {
  type Assembler,
  type Label,
  mem,
  r8,
  r9,
  r10,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { POSSIBLE_CPUS } from '../threads/layout.js';
import { emitMarkUsed, type HashRoutines } from './hash_code.js';
import { ARRAY, HASH, MAP, PER_CPU } from './layout.js';

/** Entry points; all but the last two take the thread's slot in r9d, and preserve it. */
export interface PerCpuRoutines {
  /** rdi = map, rsi = key → rax = address of this CPU's value, or 0. */
  readonly percpuArrayLookup: Label;
  /** rdi = map, rsi = key, rdx = value, rcx = flags → rax = 0 or -errno: this CPU's value only. */
  readonly percpuArrayUpdate: Label;
  /** As percpuArrayLookup; 0 too where the map has no such key. */
  readonly percpuHashLookup: Label;
  /** This CPU's value of a key that is there; a new key has zeros for the others. */
  readonly percpuHashUpdate: Label;
  /** rdi = map, rsi = key, edx = CPU → rax = address of that CPU's value, or 0 (bpf_map_lookup_percpu_elem). */
  readonly percpuArrayLookupCpu: Label;
  readonly percpuHashLookupCpu: Label;
}

/** rax = address of CPU r9d's value number rax of the array rdi; clobbers r8. */
function emitElementAddress(a: Assembler): void {
  a.mov(r8, mem(rdi, ARRAY.STRIDE), 4);
  a.imul(rax, r8);
  a.mov(r8, r9, 4);
  a.imul(r8, mem(rdi, ARRAY.SLOT_STRIDE));
  a.add(rax, r8);
  a.lea(rax, mem(rdi, ARRAY.VALUES, rax));
}

/** Calls `lookup` for CPU edx instead of the own. */
function emitLookupCpu(a: Assembler, lookup: Label): Label {
  const absent = a.label();
  a.align(16);
  const start = a.here();
  a.cmp(rdx, POSSIBLE_CPUS, 4);
  a.jcc('ae', absent);
  a.mov(r9, rdx, 4);
  a.jmp(lookup);
  a.bind(absent);
  a.xor(rax, rax, 4);
  a.ret();
  return start;
}

function emitArray(a: Assembler, copyPadded: Label): { lookup: Label; update: Label } {
  const absent = a.label();
  a.align(16);
  const lookup = a.here();
  a.mov(rax, mem(rsi), 4);
  a.cmp(rax, mem(rdi, MAP.MAX_ENTRIES), 4);
  a.jcc('ae', absent);
  emitElementAddress(a);
  a.ret();
  a.bind(absent);
  a.xor(rax, rax, 4);
  a.ret();

  const refusals = { EINVAL: a.label(), E2BIG: a.label(), EEXIST: a.label() };
  a.align(16);
  const update = a.here();
  a.cmp(rcx, Number(UPDATE.EXIST));
  a.jcc('a', refusals.EINVAL);
  a.mov(rax, mem(rsi), 4);
  a.cmp(rax, mem(rdi, MAP.MAX_ENTRIES), 4);
  a.jcc('ae', refusals.E2BIG);
  a.cmp(rcx, Number(UPDATE.NOEXIST));
  a.jcc('e', refusals.EEXIST);
  emitElementAddress(a);
  a.mov(rcx, rax);
  a.mov(r10, rdx);
  a.mov(rax, mem(rdi, MAP.VALUE_SIZE), 4);
  a.call(copyPadded);
  a.xor(rax, rax, 4);
  a.ret();
  for (const error of ['EINVAL', 'E2BIG', 'EEXIST'] as const) {
    a.bind(refusals[error]);
    a.mov(rax, -errnoNumber(error));
    a.ret();
  }
  return { lookup, update };
}

/**
 * rax = address of CPU r9d's value, from rax = that of a node's own value; the first time, it is made zero.
 * Clobbers rcx, rdx, r8, r10, r11.
 *
 *     if bit `cpu` of node.mask is clear: zero the value; set the bit
 *     return map + node.offset + cpu * slot_stride
 */
export function emitCpuValue(a: Assembler): void {
  const known = a.label();
  a.mov(rcx, r9, 4);
  a.shr(rcx, 6, 4);
  a.lea(r10, mem(rax, PER_CPU.MASK, rcx, 8));
  a.mov(rcx, r9, 4);
  a.mov(rdx, 1, 4);
  a.shl(rdx, 'cl');
  a.mov(r8, r9, 4);
  a.imul(r8, mem(rdi, HASH.SLOT_STRIDE));
  a.add(r8, mem(rax, PER_CPU.OFFSET));
  a.lea(rax, mem(rdi, 0, r8));
  a.test(rdx, mem(r10));
  a.jcc('ne', known);
  a.mov(rcx, mem(rdi, HASH.PER_CPU_SIZE), 4);
  a.add(rcx, 7, 4);
  a.and(rcx, -8, 4);
  const word = a.here();
  a.mov(mem(rax, -8, rcx), 0);
  a.sub(rcx, 8, 4);
  a.jcc('ne', word);
  a.lock('or', mem(r10), rdx);
  a.bind(known);
}

function emitHashLookup(a: Assembler, hashLookup: Label): Label {
  const done = a.label();
  const plain = a.label();
  a.align(16);
  const start = a.here();
  a.push(r9);
  a.call(hashLookup);
  a.pop(r9);
  a.test(rax, rax);
  a.jcc('e', done);
  a.cmp(mem(rdi, HASH.REF_DELTA), 0, 4);
  a.jcc('e', plain);
  emitMarkUsed(a);
  a.bind(plain);
  emitCpuValue(a);
  a.bind(done);
  a.ret();
  return start;
}

/**
 *     repeat
 *       value = lookup(key)
 *       if value: [NOEXIST: EEXIST]; *value = new; return
 *       [EXIST: ENOENT]; insert key with an empty mask, if it is not there      // errors but EEXIST: return
 */
function emitHashUpdate(a: Assembler, lookup: Label, hashUpdate: Label, copyPadded: Label): Label {
  const VALUE = 0;
  const FLAGS = 8;
  const SLOT = 16;
  const EMPTY = 24;
  const FRAME = EMPTY + PER_CPU.MASK_BYTES;
  const invalid = a.label();
  const found = a.label();
  const finish = a.label();
  const missing = a.label();
  const exists = a.label();
  a.align(16);
  const start = a.here();
  a.cmp(rcx, Number(UPDATE.EXIST));
  a.jcc('a', invalid);
  a.sub(rsp, FRAME);
  a.mov(mem(rsp, VALUE), rdx);
  a.mov(mem(rsp, FLAGS), rcx);
  a.mov(mem(rsp, SLOT), r9);
  const again = a.here();
  a.mov(r9, mem(rsp, SLOT));
  a.call(lookup);
  a.test(rax, rax);
  a.jcc('ne', found);
  a.cmp(mem(rsp, FLAGS), Number(UPDATE.EXIST));
  a.jcc('e', missing);
  for (let at = 0; at < PER_CPU.MASK_BYTES; at += 8) a.mov(mem(rsp, EMPTY + at), 0);
  a.lea(rdx, mem(rsp, EMPTY));
  a.mov(rcx, Number(UPDATE.NOEXIST), 4);
  a.call(hashUpdate);
  a.test(rax, rax);
  const inserted = a.label();
  a.jcc('e', inserted);
  a.cmp(rax, -errnoNumber('EEXIST'));
  a.jcc('ne', finish);
  a.jmp(again);
  a.bind(inserted);
  a.mov(mem(rsp, FLAGS), Number(UPDATE.ANY));
  a.jmp(again);

  a.bind(found);
  a.cmp(mem(rsp, FLAGS), Number(UPDATE.NOEXIST));
  a.jcc('e', exists);
  a.mov(rcx, rax);
  a.mov(r10, mem(rsp, VALUE));
  a.mov(rax, mem(rdi, HASH.PER_CPU_SIZE), 4);
  a.call(copyPadded);
  a.xor(rax, rax, 4);
  a.bind(finish);
  a.mov(r9, mem(rsp, SLOT));
  a.add(rsp, FRAME);
  a.ret();
  for (const [label, error] of [
    [missing, 'ENOENT'],
    [exists, 'EEXIST'],
  ] as const) {
    a.bind(label);
    a.mov(rax, -errnoNumber(error));
    a.jmp(finish);
  }
  a.bind(invalid);
  a.mov(rax, -errnoNumber('EINVAL'));
  a.ret();
  return start;
}

/** Emits the routines. They clobber rax, rcx, rdx, r8, r10, r11. */
export function emitPerCpuRoutines(a: Assembler, hash: HashRoutines, copyPadded: Label): PerCpuRoutines {
  const array = emitArray(a, copyPadded);
  const percpuHashLookup = emitHashLookup(a, hash.hashLookup);
  return {
    percpuArrayLookup: array.lookup,
    percpuArrayUpdate: array.update,
    percpuHashLookup,
    percpuHashUpdate: emitHashUpdate(a, percpuHashLookup, hash.hashUpdate, copyPadded),
    percpuArrayLookupCpu: emitLookupCpu(a, array.lookup),
    percpuHashLookupCpu: emitLookupCpu(a, percpuHashLookup),
  };
}

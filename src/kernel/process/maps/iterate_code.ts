/**
 * Machine code that goes over the elements of a map, for bpf_for_each_map_elem: the JIT writes the loop and the call
 * of the callback, this finds the next element. Arrays and everything made of hash tables.
 */

import { MAP_TYPE } from '../../../bpf/map_type.js';
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
} from '../../../x86/assembler.js';
import { ARRAY, HASH, MAP, NODE, WORD } from './layout.js';
import { emitCpuValue } from './percpu_code.js';

/** Bytes of the cursor, which the caller keeps on its stack: u64 number of the next element, u32 key of an array. */
export const CURSOR = { NEXT: 0, KEY: 8, BYTES: 16 } as const;

export interface IterateRoutines {
  /**
   * rdi = map, rsi = cursor (16 bytes, zero at first), r9d = slot → rax = address of the next element's key, or 0 behind
   * the last; rdx = address of its value (this CPU's, in per-CPU maps). Preserves rdi, rsi, r9. An array's key is in the
   * cursor.
   */
  readonly mapIterate: Label;
}

/**
 *     hash:  repeat: node = pool[next++]; until it is in the map (unmarked)
 *     array: index = next++
 *
 * Every key that is in the map all the time is found; one that is replaced meanwhile may be found twice, or not.
 */
export function emitIterateRoutines(a: Assembler): IterateRoutines {
  const array = a.label();
  const end = a.label();
  a.align(16);
  const mapIterate = a.here();
  for (const type of [MAP_TYPE.ARRAY, MAP_TYPE.PERCPU_ARRAY]) {
    a.cmp(mem(rdi, MAP.TYPE), type, 4);
    a.jcc('e', array);
  }

  const again = a.here();
  a.mov(rax, mem(rsi, CURSOR.NEXT));
  a.cmp(rax, mem(rdi, HASH.NODES));
  a.jcc('ae', end);
  a.inc(mem(rsi, CURSOR.NEXT));
  a.mov(rcx, mem(rdi, HASH.NODE_SIZE), 4);
  a.imul(rax, rcx);
  a.add(rax, mem(rdi, HASH.POOL));
  a.add(rax, rdi);
  a.test(mem(rax, NODE.NEXT), WORD.MARK, 1);
  a.jcc('ne', again);
  const perCpu = a.label();
  a.mov(rdx, mem(rdi, HASH.VALUE_OFFSET), 4);
  a.add(rdx, rax);
  a.add(rax, NODE.KEY);
  a.cmp(mem(rdi, HASH.PER_CPU_SIZE), 0, 4);
  a.jcc('ne', perCpu);
  a.ret();
  a.bind(perCpu);
  a.push(rax);
  a.mov(rax, rdx);
  emitCpuValue(a);
  a.mov(rdx, rax);
  a.pop(rax);
  a.ret();

  a.bind(array);
  const plain = a.label();
  a.mov(rcx, mem(rsi, CURSOR.NEXT));
  a.mov(rdx, mem(rdi, MAP.MAX_ENTRIES), 4);
  a.cmp(rcx, rdx);
  a.jcc('ae', end);
  a.inc(mem(rsi, CURSOR.NEXT));
  a.mov(mem(rsi, CURSOR.KEY), rcx, 4);
  a.mov(rdx, mem(rdi, ARRAY.STRIDE), 4);
  a.imul(rdx, rcx);
  a.lea(rdx, mem(rdi, ARRAY.VALUES, rdx));
  a.mov(r8, mem(rdi, ARRAY.SLOT_STRIDE));
  a.test(r8, r8);
  a.jcc('e', plain);
  a.mov(r10, r9, 4);
  a.imul(r8, r10);
  a.add(rdx, r8);
  a.bind(plain);
  a.lea(rax, mem(rsi, CURSOR.KEY));
  a.ret();

  a.bind(end);
  a.xor(rax, rax, 4);
  a.ret();
  return { mapIterate };
}

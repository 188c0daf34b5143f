/**
 * Atomic operations. x86-64 has what BPF has, but for the bitwise ones that fetch: those retry a compare and
 * exchange, whose accumulator is rax, r0's.
 */

import { RESULT } from '../../../bpf/instruction.js';
import type { Operation } from '../../../bpf/operation.js';
import { mem, type Reg, rax } from '../../../x86/assembler.js';
import type { Emitter } from './emitter.js';
import { homeOf } from './register_map.js';

type Atomic = Operation & { readonly kind: 'atomic' };

export function emitAtomic(e: Emitter, index: number, operation: Atomic): void {
  const { a } = e;
  const { dst, src, offset } = e.insnAt(index);
  const { name, size, fetch } = operation;
  const where = e.memory(dst, offset);
  switch (name) {
    case 'xchg':
      a.xchg(where, e.target(src), size);
      return;
    case 'cmpxchg':
      e.target(RESULT);
      a.lockCmpxchg(where, homeOf(src), size);
      // It writes eax only where the comparison fails: the upper half is cleared here.
      if (size === 4) a.mov(rax, rax, 4);
      return;
    default:
      if (!fetch) {
        const operand = e.plan.immediates.get(index) ?? homeOf(src);
        // Of one thread's own: one instruction is enough, as a signal can't come in the middle of it.
        if (e.program.ownAtomics.get(index) === true && e.env.sharesPerCpu !== true)
          a[name](where, operand, size);
        else a.lock(name, where, operand, size);
      } else if (name === 'add') a.lockXadd(where, e.target(src), size);
      else emitFetchBitwise(e, index, name, size);
  }
}

/**
 *     old = memory
 *     do { new = old OP src } while (!compare_exchange(memory, &old, new))
 *     src = old
 *
 * `old` is rax. Where that is r0's own value, it is kept aside; r0 may be the address or the operand, too.
 */
function emitFetchBitwise(e: Emitter, index: number, name: 'or' | 'and' | 'xor', size: 4 | 8): void {
  const { a } = e;
  const { dst, src, offset } = e.insnAt(index);
  const result = e.target(src);
  const next = e.borrow(rax);
  let kept: Reg | undefined;
  if (!e.isFree(rax)) {
    kept = e.borrow(rax);
    a.mov(kept, rax);
  }
  e.changing(rax);
  const where = dst === RESULT ? mem(kept as Reg, offset) : e.memory(dst, offset);
  const operand = src === RESULT ? (kept as Reg) : result;
  a.mov(rax, where, size);
  const again = a.here();
  a.mov(next, rax);
  if (name === 'or') a.or(next, operand, size);
  else if (name === 'and') a.and(next, operand, size);
  else a.xor(next, operand, size);
  a.lockCmpxchg(where, next, size);
  a.jcc('ne', again);
  if (size === 4) a.mov(result, rax, 4);
  else if (result !== rax) a.mov(result, rax);
  if (kept !== undefined && src !== RESULT) a.mov(rax, kept);
}

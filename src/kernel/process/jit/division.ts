/**
 * Division and modulo. x86-64 divides rdx:rax only and traps where BPF has a result: by zero, and the smallest
 * number by -1.
 */

import type { Operation } from '../../../bpf/operation.js';
import { type Reg, rax, rdx } from '../../../x86/assembler.js';
import { emitConstant } from './alu.js';
import { bytesOf, type Emitter } from './emitter.js';
import { homeOf } from './register_map.js';

type Alu = Operation & { readonly kind: 'alu' };

/** Division by a power of two, and by -1: no division. Returns whether that was possible. */
function emitEasyDivision(e: Emitter, operation: Alu, target: Reg, divisor: number): boolean {
  const size = bytesOf(operation.width);
  const { name } = operation;
  if (name === 'sdiv' || name === 'smod') {
    if (divisor !== -1) return false;
    if (name === 'sdiv') e.a.neg(target, size);
    else e.a.xor(target, target, 4);
    return true;
  }
  if (divisor <= 0 || (divisor & (divisor - 1)) !== 0) return false;
  if (name === 'mod') e.a.and(target, divisor - 1, size);
  else if (divisor !== 1) e.a.shr(target, Math.log2(divisor), size);
  else if (size === 4) e.a.mov(target, target, 4);
  return true;
}

/** div, sdiv, mod, smod. */
export function emitDivision(e: Emitter, index: number, operation: Alu): void {
  const { dst, src, imm } = e.insnAt(index);
  const { a } = e;
  const size = bytesOf(operation.width);
  const { name } = operation;
  const signed = name === 'sdiv' || name === 'smod';
  const quotient = name === 'div' || name === 'sdiv';
  const target = e.target(dst);
  if (operation.immediate && emitEasyDivision(e, operation, target, imm)) return;

  const done = a.label();
  let divisor: Reg;
  if (operation.immediate) {
    divisor = e.borrow(rax, rdx);
    emitConstant(a, divisor, BigInt(imm));
  } else {
    divisor = homeOf(src);
    if (divisor === rax || divisor === rdx) {
      const copy = e.borrow(rax, rdx);
      a.mov(copy, divisor);
      divisor = copy;
    }
    emitChecks(e, operation, target, divisor, done);
  }

  const keep = (register: Reg): Reg | undefined => {
    if (register === target || e.isFree(register)) return undefined;
    const copy = e.borrow(rax, rdx);
    a.mov(copy, register);
    return copy;
  };
  const keptRax = keep(rax);
  const keptRdx = keep(rdx);
  e.changing(rax);
  e.changing(rdx);
  if (target !== rax) a.mov(rax, target);
  if (!signed) a.xor(rdx, rdx, 4);
  else if (size === 8) a.cqo();
  else a.cdq();
  if (signed) a.idiv(divisor, size);
  else a.div(divisor, size);
  const result = quotient ? rax : rdx;
  if (target !== result) a.mov(target, result);
  if (keptRax !== undefined) a.mov(rax, keptRax);
  if (keptRdx !== undefined) a.mov(rdx, keptRdx);
  a.bind(done);
}

/** What happens for a divisor that x86-64 would trap on: by 0 gives 0, modulo 0 nothing; by -1 negates. */
function emitChecks(
  e: Emitter,
  operation: Alu,
  target: Reg,
  divisor: Reg,
  done: ReturnType<Emitter['labelOf']>,
): void {
  const { a } = e;
  const size = bytesOf(operation.width);
  const { name } = operation;
  const quotient = name === 'div' || name === 'sdiv';
  a.test(divisor, divisor, size);
  if (!quotient && size === 8) {
    a.jcc('e', done);
  } else {
    const byZero = a.label();
    a.jcc('e', byZero);
    e.apart(() => {
      a.bind(byZero);
      if (quotient) a.xor(target, target, 4);
      else a.mov(target, target, 4);
      a.jmp(done);
    });
  }
  if (name !== 'sdiv' && name !== 'smod') return;
  const byMinusOne = a.label();
  a.cmp(divisor, -1, size);
  a.jcc('e', byMinusOne);
  e.apart(() => {
    a.bind(byMinusOne);
    if (quotient) a.neg(target, size);
    else a.xor(target, target, 4);
    a.jmp(done);
  });
}

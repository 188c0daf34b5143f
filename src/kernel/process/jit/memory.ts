/** Loads and stores. */

import { PSEUDO } from '../../../bpf/instruction.js';
import type { Operation } from '../../../bpf/operation.js';
import { type Mem, mem, type Reg, ripLabel } from '../../../x86/assembler.js';
import { emitAddressCheck } from '../faults/fixup.js';
import { emitConstant } from './alu.js';
import { type Emitter, lowBytes } from './emitter.js';
import { isArray, type JitMap } from './environment.js';
import { homeOf } from './register_map.js';

type Kind<K extends Operation['kind']> = Operation & { readonly kind: K };

export function emitLoad(e: Emitter, index: number, operation: Kind<'load'>): void {
  const { dst, src, offset } = e.insnAt(index);
  if (e.program.probeLoads[index] === 1) {
    emitProbe(e, index, operation);
    return;
  }
  const from = e.memory(src, offset);
  const target = e.target(dst);
  emitLoadFrom(e, from, target, operation);
}

function emitLoadFrom(e: Emitter, from: Mem, target: Reg, operation: Kind<'load'>): void {
  const { size } = operation;
  if (size === 8) e.a.mov(target, from);
  else if (operation.signed) e.a.movsx(target, from, size);
  else if (size === 4) e.a.mov(target, from, 4);
  else e.a.movzx(target, from, size);
}

/**
 * A load through a pointer that may be bad, which gives 0 then. What can't be an address is not tried; what faults all
 * the same is put right by who traces.
 */
function emitProbe(e: Emitter, index: number, operation: Kind<'load'>): void {
  const { a } = e;
  const { dst, src, offset } = e.insnAt(index);
  const bad = a.label();
  const resume = a.label();
  const scratch = e.borrow();
  const base = homeOf(src);
  const target = e.target(dst);
  emitAddressCheck(a, base, scratch, bad, offset);
  e.fixups.next(a, resume, target);
  emitLoadFrom(e, mem(base, offset), target, operation);
  a.bind(resume);
  e.apart(() => {
    a.bind(bad);
    a.xor(target, target, 4);
    a.jmp(resume);
  });
}

export function emitStore(e: Emitter, index: number, operation: Kind<'store'>): void {
  const { dst, src, offset, imm } = e.insnAt(index);
  const value = operation.immediate ? lowBytes(imm, operation.size) : e.source(src);
  e.a.mov(e.memory(dst, offset), value, operation.size);
}

/** The 16-byte load: a number, a map, an address in an array's value, or a function's. */
export function emitLoadImmediate(e: Emitter, index: number): void {
  const insn = e.insnAt(index);
  const value = insn.imm64 as bigint;
  const target = e.target(insn.dst);
  if (insn.src === PSEUDO.FUNC) {
    e.a.lea(target, ripLabel(e.entryOf(e.plan.functionLoads.get(index) as number)));
    return;
  }
  if (insn.src === PSEUDO.IMM) {
    emitConstant(e.a, target, value);
    return;
  }
  const id = Number(value & 0xffff_ffffn);
  const map = e.env.maps.get(id);
  if (map === undefined) throw new RangeError(`map ${id} has no code in this environment`);
  emitConstant(e.a, target, insn.src === PSEUDO.MAP_FD ? map.address : valueAddress(map, value >> 32n));
}

function valueAddress(map: JitMap, offset: bigint): bigint {
  if (!isArray(map)) throw new RangeError('only an array map has values at fixed addresses');
  return map.values + offset;
}

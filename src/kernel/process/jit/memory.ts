/** Loads and stores. */

import { PSEUDO } from '../../../bpf/instruction.js';
import type { Operation } from '../../../bpf/operation.js';
import { emitConstant } from './alu.js';
import { type Emitter, lowBytes } from './emitter.js';
import { isArray, type JitMap } from './environment.js';

type Kind<K extends Operation['kind']> = Operation & { readonly kind: K };

export function emitLoad(e: Emitter, index: number, operation: Kind<'load'>): void {
  const { dst, src, offset } = e.insnAt(index);
  const from = e.memory(src, offset);
  const target = e.target(dst);
  const { size } = operation;
  if (size === 8) e.a.mov(target, from);
  else if (operation.signed) e.a.movsx(target, from, size);
  else if (size === 4) e.a.mov(target, from, 4);
  else e.a.movzx(target, from, size);
}

export function emitStore(e: Emitter, index: number, operation: Kind<'store'>): void {
  const { dst, src, offset, imm } = e.insnAt(index);
  const value = operation.immediate ? lowBytes(imm, operation.size) : e.source(src);
  e.a.mov(e.memory(dst, offset), value, operation.size);
}

/** The 16-byte load: a number, a map, or an address in an array's value. */
export function emitLoadImmediate(e: Emitter, index: number): void {
  const insn = e.insnAt(index);
  const value = insn.imm64 as bigint;
  const target = e.target(insn.dst);
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

/**
 * The eight-byte form of instructions, little-endian (RFC 9669, section 3): what ELF files and bpf(2) carry.
 *
 * ```
 *   byte 0    byte 1           bytes 2-3   bytes 4-7
 *   opcode    src:4 | dst:4    offset      imm          (a second such slot holds the high half of imm64)
 * ```
 */

import { BpfError } from '../kernel/errno.js';
import { type BpfInsn, LD_IMM64, loadImmediate64, slotsOf } from './instruction.js';
import { operationOf } from './operation.js';

/** Bytes of a slot. */
export const SLOT_BYTES = 8;

/**
 * The bytes of a program. Throws `BpfError` EINVAL, naming the slot, for an instruction that does not exist or
 * whose offset (16 bits, signed) or immediate (32 bits, signed) does not fit.
 */
export function encodeProgram(insns: readonly BpfInsn[]): Uint8Array {
  const slots = insns.reduce((sum, insn) => sum + slotsOf(insn), 0);
  const bytes = new Uint8Array(slots * SLOT_BYTES);
  const view = new DataView(bytes.buffer);
  let slot = 0;
  for (const insn of insns) {
    operationOf(insn, slot);
    const at = slot * SLOT_BYTES;
    view.setUint8(at, insn.opcode);
    view.setUint8(at + 1, (insn.src << 4) | insn.dst);
    view.setInt16(at + 2, insn.offset, true);
    view.setInt32(at + 4, insn.imm, true);
    if (insn.imm64 !== undefined) {
      view.setUint32(at + 4, Number(insn.imm64 & 0xffffffffn), true);
      view.setUint32(at + SLOT_BYTES + 4, Number((insn.imm64 >> 32n) & 0xffffffffn), true);
    }
    slot += slotsOf(insn);
  }
  return bytes;
}

/**
 * The instructions in `bytes`. Throws `BpfError` EINVAL, naming the slot, where there is no such instruction, a
 * field that it does not use is not zero, or a 16-byte load is cut off.
 */
export function decodeProgram(bytes: Uint8Array): BpfInsn[] {
  if (bytes.length % SLOT_BYTES !== 0) {
    throw new BpfError('EINVAL', `a BPF program is a multiple of ${SLOT_BYTES} bytes, not ${bytes.length}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const slots = bytes.length / SLOT_BYTES;
  const insns: BpfInsn[] = [];
  for (let slot = 0; slot < slots; slot++) {
    const at = slot * SLOT_BYTES;
    const registers = view.getUint8(at + 1);
    let insn: BpfInsn = {
      opcode: view.getUint8(at),
      dst: registers & 0x0f,
      src: registers >> 4,
      offset: view.getInt16(at + 2, true),
      imm: view.getInt32(at + 4, true),
    };
    const first = slot;
    if (insn.opcode === LD_IMM64) {
      slot++;
      const next = slot * SLOT_BYTES;
      // The second slot holds nothing but the high half.
      if (slot >= slots || view.getUint32(next, true) !== 0) {
        throw new BpfError('EINVAL', `insn ${first}: invalid bpf_ld_imm64 insn: its second half is missing`);
      }
      if (insn.offset !== 0) {
        throw new BpfError('EINVAL', `insn ${first}: BPF_LD_IMM64 uses reserved fields`);
      }
      const high = BigInt(view.getUint32(next + 4, true));
      insn = loadImmediate64(insn.dst, insn.src, (high << 32n) | BigInt(view.getUint32(at + 4, true)));
    }
    operationOf(insn, first);
    insns.push(insn);
  }
  return insns;
}

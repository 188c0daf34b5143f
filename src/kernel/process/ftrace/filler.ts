/**
 * What assemblers and linkers put between functions: int3 and nops. Read from the bytes alone, which is much faster than
 * decoding: every short function has filler behind it that is looked at.
 */

const INT3 = 0xcc;
const NOP = 0x90;
const OPERAND_SIZE = 0x66;
const CS = 0x2e;
/** 0f 1f /0: nop r/m, of any length. */
const LONG_NOP = [0x0f, 0x1f];
const MODRM_REG = 0x38;
/** The processor takes no longer instruction. */
const LONGEST = 15;

/** The length of the filler instruction at `offset`; 0 where there is none. */
export function fillerLength(bytes: Uint8Array, offset: number): number {
  if (bytes[offset] === INT3) return 1;
  let o = offset;
  while (bytes[o] === OPERAND_SIZE || bytes[o] === CS) o++;
  if (bytes[o] === NOP) o++;
  else {
    const modrm = bytes[o + 2];
    if (bytes[o] !== LONG_NOP[0] || bytes[o + 1] !== LONG_NOP[1] || (modrm & MODRM_REG) !== 0) return 0;
    o += 3 + operandLength(modrm, bytes[o + 3]);
  }
  const length = o - offset;
  return o <= bytes.length && length <= LONGEST ? length : 0;
}

/** Bytes of SIB and displacement behind a ModRM byte. */
function operandLength(modrm: number, sib: number): number {
  const mod = modrm >>> 6;
  const rm = modrm & 7;
  if (mod === 3) return 0;
  const hasSib = rm === 4;
  const base = hasSib ? sib & 7 : rm;
  const displacement = mod === 1 ? 1 : mod === 2 || base === 5 ? 4 : 0;
  return (hasSib ? 1 : 0) + displacement;
}

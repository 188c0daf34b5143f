/** Reads and writes integers and floating-point numbers of any size that BTF can say, little-endian. */

/** The integer of `bits` bits that begins at bit `at` of the bytes, unsigned; what lies outside is zero. */
export function readBits(bytes: Uint8Array, at: number, bits: number): bigint {
  const first = Math.floor(at / 8);
  const last = Math.min(bytes.length, Math.ceil((at + bits) / 8));
  let value = 0n;
  for (let index = last - 1; index >= first; index--) value = (value << 8n) | BigInt(bytes[index]);
  return BigInt.asUintN(bits, value >> BigInt(at % 8));
}

/** Writes the low `bits` bits of a value, and leaves the bits around them as they are. */
export function writeBits(bytes: Uint8Array, at: number, bits: number, value: bigint): void {
  let rest = BigInt.asUintN(bits, value);
  let left = bits;
  let shift = at % 8;
  for (let index = Math.floor(at / 8); left > 0; index++) {
    const width = Math.min(8 - shift, left);
    const mask = ((1 << width) - 1) << shift;
    bytes[index] = (bytes[index] & ~mask) | ((Number(rest & 0xffn) << shift) & mask);
    rest >>= BigInt(width);
    left -= width;
    shift = 0;
  }
}

const EXTENDED_BIAS = 16383;

/** A float of 2, 4, 8 bytes (IEEE 754) or 12, 16 (the 80-bit format of x87, padded); precision beyond double is lost. */
export function readFloat(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length === 4) return view.getFloat32(0, true);
  if (bytes.length === 8) return view.getFloat64(0, true);
  if (bytes.length === 2) return readHalf(view.getUint16(0, true));
  if (bytes.length < 10) return Number.NaN;
  const head = view.getUint16(8, true);
  const fraction = view.getBigUint64(0, true);
  const sign = head & 0x8000 ? -1 : 1;
  const exponent = head & 0x7fff;
  if (exponent === 0x7fff) return BigInt.asUintN(63, fraction) === 0n ? sign * Infinity : Number.NaN;
  if (fraction === 0n) return sign * 0;
  // In two steps: 2 to the whole power may be too small for a double.
  const power = exponent - EXTENDED_BIAS - 63;
  return sign * Number(fraction) * 2 ** Math.ceil(power / 2) * 2 ** Math.floor(power / 2);
}

function readHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : Number.NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

/** The inverse of `readFloat`; `bytes` must be zero before. False where the size is one that can't be written (2 bytes). */
export function writeFloat(bytes: Uint8Array, value: number): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length === 4) view.setFloat32(0, value, true);
  else if (bytes.length === 8) view.setFloat64(0, value, true);
  else if (bytes.length >= 10) writeExtended(view, value);
  else return false;
  return true;
}

function writeExtended(view: DataView, value: number): void {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  if (!Number.isFinite(value)) {
    view.setBigUint64(0, Number.isNaN(value) ? 0xc000_0000_0000_0000n : 0x8000_0000_0000_0000n, true);
    view.setUint16(8, sign | 0x7fff, true);
    return;
  }
  let rest = Math.abs(value);
  if (rest === 0) {
    view.setUint16(8, sign, true);
    return;
  }
  let exponent = 0;
  for (; rest < 2 ** 63; exponent--) rest *= 2;
  for (; rest >= 2 ** 64; exponent++) rest /= 2;
  view.setBigUint64(0, BigInt(rest), true);
  view.setUint16(8, sign | (exponent + EXTENDED_BIAS + 63), true);
}

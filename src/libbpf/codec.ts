/**
 * Keys and values of maps as JavaScript values, by their types in BTF. Where there is no type, 1, 2, 4 and 8 bytes are
 * an unsigned number and everything else hexadecimal text.
 */

import type { Btf } from '../btf/btf.js';
import { type BtfValue, decodeValue, encodeValue } from '../btf/value.js';
import { BpfError } from '../kernel/errno.js';

export type { BtfValue } from '../btf/value.js';

/** Bytes to values and back. */
export interface Codec {
  readonly size: number;
  /** The type, where there is one. */
  readonly btf: Btf | undefined;
  readonly typeId: number | undefined;
  decode(bytes: Uint8Array): BtfValue;
  /** Throws EINVAL for a value that does not fit. */
  encode(value: BtfValue): Uint8Array;
}

/** `what` names the thing in errors, such as `key of map hits`. */
export function codecFor(
  size: number,
  btf: Btf | undefined,
  typeId: number | undefined,
  what: string,
): Codec {
  if (btf === undefined || typeId === undefined) return untyped(size, what);
  return {
    size,
    btf,
    typeId,
    decode: bytes => decodeValue(btf, typeId, bytes),
    encode: value => encodeValue(btf, typeId, value),
  };
}

function untyped(size: number, what: string): Codec {
  const isNumber = size === 1 || size === 2 || size === 4 || size === 8;
  return {
    size,
    btf: undefined,
    typeId: undefined,
    decode(bytes) {
      if (!isNumber) return hex(bytes);
      const value = littleEndian(bytes);
      return size === 8 ? value : Number(value);
    },
    encode(value) {
      if (isNumber && (typeof value === 'number' || typeof value === 'bigint'))
        return numberBytes(value, size, what);
      if (typeof value === 'string' && new RegExp(`^[0-9a-f]{${size * 2}}$`, 'i').test(value))
        return Uint8Array.from(Buffer.from(value, 'hex'));
      throw new BpfError(
        'EINVAL',
        `the ${what} has no type: give ${isNumber ? 'a number or ' : ''}${size * 2} hexadecimal digits`,
      );
    },
  };
}

/** Two digits for each byte. */
export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}

function littleEndian(bytes: Uint8Array): bigint {
  let value = 0n;
  for (let i = bytes.length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]);
  return value;
}

function numberBytes(value: number | bigint, size: number, what: string): Uint8Array {
  if (typeof value === 'number' && !Number.isSafeInteger(value))
    throw new BpfError('EINVAL', `${value} is no whole number, as the ${what} is`);
  const wide = BigInt(value);
  const bits = size * 8;
  if (BigInt.asUintN(bits, wide) !== wide && BigInt.asIntN(bits, wide) !== wide)
    throw new BpfError('EINVAL', `${wide} does not fit into the ${size} bytes of the ${what}`);
  const bytes = new Uint8Array(size);
  for (let i = 0, rest = BigInt.asUintN(bits, wide); i < size; i++, rest >>= 8n)
    bytes[i] = Number(rest & 0xffn);
  return bytes;
}

/** Machine code as text, for people: Intel syntax, as iced-x86 prints it. */

import { createRequire } from 'node:module';
import type * as Iced from 'iced-x86';

/** One instruction. */
export interface ListedInstruction {
  /** Bytes from the start of the code. */
  readonly offset: number;
  readonly text: string;
}

/** Decodes `code`, which stands (or will stand) at `address`. Bytes that are no instruction are listed as such. */
export function listCode(code: Uint8Array, address: bigint): ListedInstruction[] {
  // Loaded where it is used: it is a large module (decoder.ts).
  const { Decoder, DecoderOptions, Formatter, FormatterSyntax } = createRequire(import.meta.url)(
    'iced-x86',
  ) as typeof Iced;
  const decoder = new Decoder(64, code, DecoderOptions.None);
  const formatter = new Formatter(FormatterSyntax.Intel);
  formatter.spaceAfterOperandSeparator = true;
  formatter.smallHexNumbersInDecimal = true;
  formatter.hexPrefix = '0x';
  formatter.hexSuffix = '';
  formatter.uppercaseHex = false;
  const listed: ListedInstruction[] = [];
  try {
    decoder.ip = address;
    while (decoder.canDecode) {
      const offset = decoder.position;
      const instruction = decoder.decode();
      listed.push({ offset, text: formatter.format(instruction) });
      instruction.free();
    }
  } finally {
    formatter.free();
    decoder.free();
  }
  return listed;
}

/**
 * Moves existing x86-64 instructions to another address, so that they do there what they did in place. It makes a
 * template: bytes and the fields to fill in once the address is known (`placeCode`). It decides nothing about
 * whether code may be moved at all (who jumps to it, who reads it): that is for the caller.
 *
 * A call is moved as a push of the address behind the original call, then a jump: the return address is the
 * original one, so that stack walks and exceptions see no frame of ours, and the callee returns to the original
 * code by itself. Encodings: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2.
 */

import { BpfError } from '../kernel/errno.js';
import { type CodeDecoder, Flow } from './decoder.js';

/** Instructions ready to stand at any address within reach. Addresses are file virtual addresses. */
export interface DisplacedCode {
  /** The instructions, with zeros where `fixups` and `absolutes` say. */
  readonly bytes: Uint8Array;
  /** 32-bit fields at `offset`: `target` minus the runtime address behind the field. */
  readonly fixups: readonly { readonly offset: number; readonly target: number }[];
  /** 64-bit fields at `offset`: the runtime address of `target`. */
  readonly absolutes: readonly { readonly offset: number; readonly target: number }[];
  /** Where instructions start: `from` counts from the first original byte, `to` in `bytes`. For a thread's rip. */
  readonly boundaries: readonly { readonly from: number; readonly to: number }[];
  /** False where control never reaches the end of `bytes` (a jmp, a ret, a call that returns to the original). */
  readonly resumes: boolean;
  /** The original address behind the moved instructions, to jump to from the end of `bytes`. */
  readonly resumeAt: number;
}

/** Why an instruction can't be moved. */
export type RelocationFailure = 'trap' | 'far-transfer' | 'transaction' | 'unrelocatable';

const OPCODE_GROUP5 = 0xff; // inc, dec, call, callf, jmp, jmpf, push of r/m
const MODRM_REG_MASK = 0x38;
const GROUP5_JMP = 4 << 3;

const NOTHING: readonly never[] = [];

/** Collects moved instructions, in order, from one stretch of original code; `restart` begins the next. */
export class Relocator {
  /** True once control can't fall through to what would follow. */
  ended = false;
  /** The address behind the last moved instruction. */
  resumeAt = 0;
  #start = 0;
  readonly #bytes: number[] = [];
  readonly #fixups: { offset: number; target: number }[] = [];
  readonly #boundaries: { from: number; to: number }[] = [];
  /** Fields that refer to an 8-byte constant behind the code: the field's offset and the constant. */
  readonly #constants: { field: number; target: number }[] = [];

  constructor(start: number) {
    this.restart(start);
  }

  /** Forgets everything: the next instruction is to be the one at `start`. */
  restart(start: number): void {
    this.#start = this.resumeAt = start;
    this.ended = false;
    this.#bytes.length = this.#fixups.length = this.#boundaries.length = this.#constants.length = 0;
  }

  /** Moves the decoder's current instruction; says why where that can't be done. */
  append(decoder: CodeDecoder): RelocationFailure | undefined {
    const to = this.#bytes.length;
    const failure = this.#relocate(decoder);
    if (failure !== undefined) return failure;
    this.#boundaries.push({ from: decoder.address - this.#start, to });
    this.resumeAt = decoder.end;
    return undefined;
  }

  /** The moved instructions as a template. Thousands of them are kept: they are as small as they can be. */
  finish(): DisplacedCode {
    const code = this.#bytes.length;
    const bytes = new Uint8Array(code + 8 * this.#constants.length);
    for (let i = 0; i < code; i++) bytes[i] = this.#bytes[i];
    return {
      bytes,
      fixups: this.#fixups.length === 0 ? NOTHING : this.#fixups.slice(),
      absolutes: this.#constants.length === 0 ? NOTHING : this.#placeConstants(bytes),
      boundaries: this.#boundaries.slice(),
      resumes: !this.ended,
      resumeAt: this.resumeAt,
    };
  }

  #placeConstants(bytes: Uint8Array): { offset: number; target: number }[] {
    return this.#constants.map(({ field, target }, i) => {
      const offset = this.#bytes.length + 8 * i;
      // A distance below 128: a call ends the code, so there is one constant.
      bytes[field] = offset - (field + 4);
      return { offset, target };
    });
  }

  #relocate(decoder: CodeDecoder): RelocationFailure | undefined {
    switch (decoder.flow) {
      case Flow.next:
        return this.#copy(decoder);
      case Flow.jump:
        this.#bytes.push(0xe9);
        this.#relative(decoder.branchTarget());
        this.ended = true;
        return undefined;
      case Flow.jumpIf:
        this.#bytes.push(0x0f, 0x80 | condition(decoder));
        this.#relative(decoder.branchTarget());
        return undefined;
      case Flow.loop: {
        // The instruction itself hops over the jump that skips the far jump: L: jrcxz +2; jmp +5; jmp target.
        const { bytes, base, address, length } = decoder;
        const from = address - base;
        for (let i = 0; i < length - 1; i++) this.#bytes.push(bytes[from + i]);
        this.#bytes.push(2, 0xeb, 5, 0xe9);
        this.#relative(decoder.branchTarget());
        return undefined;
      }
      case Flow.jumpIndirect:
        this.ended = true;
        return this.#copy(decoder);
      case Flow.return:
        this.ended = true;
        return this.#copy(decoder);
      case Flow.call:
        this.#pushConstant(decoder.end);
        this.#bytes.push(0xe9);
        this.#relative(decoder.branchTarget());
        this.ended = true;
        return undefined;
      case Flow.callIndirect:
        return this.#callIndirect(decoder);
      case Flow.trap:
        return 'trap';
      case Flow.far:
        return 'far-transfer';
      case Flow.transaction:
        return 'transaction';
      case Flow.invalid:
        return 'unrelocatable';
    }
  }

  #callIndirect(decoder: CodeDecoder): RelocationFailure | undefined {
    const { bytes, base, address } = decoder;
    // The push moves rsp before the jump reads it.
    if (decoder.usesStackPointer()) return 'unrelocatable';
    const opcode = decoder.opcodeOffset();
    if (bytes[address - base + opcode] !== OPCODE_GROUP5) return 'unrelocatable';
    this.#pushConstant(decoder.end);
    const modrm = this.#bytes.length + opcode + 1;
    const failure = this.#copy(decoder);
    if (failure !== undefined) return failure;
    this.#bytes[modrm] = (this.#bytes[modrm] & ~MODRM_REG_MASK) | GROUP5_JMP;
    this.ended = true;
    return undefined;
  }

  #copy(decoder: CodeDecoder): RelocationFailure | undefined {
    const { bytes, base, address, length, ripOffset } = decoder;
    const at = this.#bytes.length;
    const from = address - base;
    if (ripOffset >= 0) {
      // An address-size prefix cuts the sum to 32 bits: that depends on where the code stands.
      if (decoder.hasAddressSizePrefix() && decoder.isEipRelative()) return 'unrelocatable';
      // The processor counts from the end of the instruction; a fixup counts from the end of its field.
      const behind = length - (ripOffset + 4);
      this.#fixups.push({ offset: at + ripOffset, target: decoder.memoryTarget() - behind });
    }
    for (let i = 0; i < length; i++) this.#bytes.push(bytes[from + i]);
    return undefined;
  }

  #relative(target: number): void {
    this.#fixups.push({ offset: this.#bytes.length, target });
    this.#bytes.push(0, 0, 0, 0);
  }

  /** `push qword [rip + constant]` */
  #pushConstant(target: number): void {
    this.#bytes.push(OPCODE_GROUP5, 0x35);
    this.#constants.push({ field: this.#bytes.length, target });
    this.#bytes.push(0, 0, 0, 0);
  }
}

/** The condition of a jcc: the low bits of its opcode (70 to 7f, or 0f 80 to 8f). */
function condition(decoder: CodeDecoder): number {
  const { bytes, address, base } = decoder;
  const opcode = address - base + decoder.opcodeOffset();
  return bytes[bytes[opcode] === 0x0f ? opcode + 1 : opcode] & 0x0f;
}

/**
 * The bytes of `code` as they must stand at runtime address `at`, where the file's addresses are `bias` lower than
 * the runtime's. Throws `BpfError` ERANGE where a 32-bit distance does not reach.
 */
export function placeCode(code: DisplacedCode, at: bigint, bias: bigint): Uint8Array {
  const bytes = code.bytes.slice();
  if (code.fixups.length === 0 && code.absolutes.length === 0) return bytes;
  const view = new DataView(bytes.buffer);
  for (const { offset, target } of code.fixups) {
    // Addresses of user space are exact as numbers, and so is their distance.
    const distance = target - offset - 4 + Number(bias - at);
    if (distance !== (distance | 0)) {
      throw new BpfError(
        'ERANGE',
        `moved code at 0x${at.toString(16)} can't reach 0x${(BigInt(target) + bias).toString(16)}: ` +
          'allocate it within 2 GiB of the module that it came from',
      );
    }
    view.setInt32(offset, distance, true);
  }
  for (const { offset, target } of code.absolutes) view.setBigUint64(offset, BigInt(target) + bias, true);
  return bytes;
}

/**
 * Reads existing x86-64 machine code, one instruction at a time. It says what an instruction is and how control
 * leaves it; it neither moves code (relocator.ts) nor writes new code (assembler.ts).
 *
 * Common instructions are read by plain.ts, all others by iced-x86. iced-x86 is WebAssembly: an object or a property
 * of it costs about as much as decoding, so there is one decoder and one `Instruction` for a whole section.
 */

import { createRequire } from 'node:module';
import type * as Iced from 'iced-x86';
import { ARITHMETIC_FLAGS, Flow, PlainReader } from './plain.js';

export { ARITHMETIC_FLAGS, Flow };

type IcedModule = typeof Iced;
let loadedIced: IcedModule | undefined;

/** iced-x86, loaded when first needed. `import` would search its 0.9 MB of JavaScript for exports first: 60 ms. */
function loadIced(): IcedModule {
  loadedIced ??= createRequire(import.meta.url)('iced-x86') as IcedModule;
  return loadedIced;
}

/** Loads iced-x86 now (some 50 ms) and not when the first instruction needs it: for time that is spent waiting. */
export function preloadDecoder(): void {
  loadIced();
}

const ADDRESS_SIZE = 0x67;
const LEGACY_PREFIXES = new Set([0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65]);
/** Opcodes with an 8-bit distance: jcc, loopne, loope, loop, jrcxz, jmp. */
const SHORT_BRANCHES = new Set([
  ...Array.from({ length: 16 }, (_, i) => 0x70 + i),
  0xe0,
  0xe1,
  0xe2,
  0xe3,
  0xeb,
]);

/** Bytes of `endbr64`. */
export const ENDBR64_LENGTH = 4;

/** True where `endbr64` (f3 0f 1e fa) stands at `offset`: a place that indirect branches may go to. */
export function isEndbr64(bytes: Uint8Array, offset: number): boolean {
  return (
    bytes[offset] === 0xf3 &&
    bytes[offset + 1] === 0x0f &&
    bytes[offset + 2] === 0x1e &&
    bytes[offset + 3] === 0xfa
  );
}

function classify(iced: IcedModule, instruction: Iced.Instruction): Flow {
  const { Code, FlowControl, Mnemonic } = iced;
  const { code } = instruction;
  switch (instruction.flowControl) {
    case FlowControl.Next:
      return code === Code.Hlt ? Flow.trap : Flow.next;
    case FlowControl.UnconditionalBranch:
      return instruction.isJmpShortOrNear ? Flow.jump : Flow.far;
    case FlowControl.IndirectBranch:
      return instruction.isJmpNearIndirect ? Flow.jumpIndirect : Flow.far;
    case FlowControl.ConditionalBranch:
      return instruction.isJccShortOrNear ? Flow.jumpIf : Flow.loop;
    case FlowControl.Return:
      return instruction.mnemonic === Mnemonic.Ret ? Flow.return : Flow.far;
    case FlowControl.Call:
      if (instruction.isCallNear) return Flow.call;
      return code === Code.Syscall ? Flow.next : Flow.far;
    case FlowControl.IndirectCall:
      return instruction.isCallNearIndirect ? Flow.callIndirect : Flow.far;
    case FlowControl.XbeginXabortXend:
      return instruction.mnemonic === Mnemonic.Xbegin ? Flow.transaction : Flow.next;
    default:
      return code === Code.INVALID ? Flow.invalid : Flow.trap;
  }
}

/**
 * A cursor over the code of one section. `decode` moves it; everything else tells about the instruction it is on.
 * Addresses are file virtual addresses.
 */
export class CodeDecoder {
  readonly bytes: Uint8Array;
  /** The address of `bytes[0]`. */
  readonly base: number;
  /** The address of the current instruction. */
  address = 0;
  readonly #current = new PlainReader();
  #decoder: Iced.Decoder | undefined;
  #instruction: Iced.Instruction | undefined;
  /** The address of the instruction that iced has decoded last, and the address it stands at. */
  #icedAddress = -1;
  #icedNext = -1;

  constructor(bytes: Uint8Array, base: number) {
    this.bytes = bytes;
    this.base = base;
  }

  /** Decodes the instruction at `address`: how control leaves it, `Flow.invalid` where there is none. */
  decode(address: number): Flow {
    this.address = address;
    if (!this.#current.read(this.bytes, address - this.base)) this.#readByIced();
    return this.#current.flow;
  }

  /** Bytes of the current instruction. */
  get length(): number {
    return this.#current.length;
  }

  /** The address behind the current instruction. */
  get end(): number {
    return this.address + this.#current.length;
  }

  /** How control leaves the current instruction. */
  get flow(): Flow {
    return this.#current.flow;
  }

  /** Arithmetic flags that the current instruction reads (`ARITHMETIC_FLAGS`). */
  get flagsRead(): number {
    return this.#current.flagsRead;
  }

  /** Arithmetic flags that it writes or leaves undefined. */
  get flagsWritten(): number {
    return this.#current.flagsWritten;
  }

  /** True for `nop` of any length. */
  get isNop(): boolean {
    return this.#current.isNop;
  }

  /** Offset in the instruction of the 32-bit distance of a rip-relative memory operand; -1 where there is none. */
  get ripOffset(): number {
    return this.#current.ripOffset;
  }

  /** Offset in the current instruction of its opcode, behind legacy and REX prefixes. */
  opcodeOffset(): number {
    const { bytes } = this;
    const from = this.address - this.base;
    let o = from;
    while (LEGACY_PREFIXES.has(bytes[o])) o++;
    if ((bytes[o] & 0xf0) === 0x40) o++;
    return o - from;
  }

  /** True where the current instruction computes addresses in 32 bits. */
  hasAddressSizePrefix(): boolean {
    const from = this.address - this.base;
    for (let o = this.opcodeOffset() - 1; o >= 0; o--) if (this.bytes[from + o] === ADDRESS_SIZE) return true;
    return false;
  }

  /** Where a jmp, jcc, loop, call or xbegin goes: the distance is the instruction's last bytes. */
  branchTarget(): number {
    const { bytes, end } = this;
    const behind = end - this.base;
    const short = SHORT_BRANCHES.has(bytes[this.address - this.base + this.opcodeOffset()]);
    const distance = short
      ? (bytes[behind - 1] << 24) >> 24
      : bytes[behind - 4] | (bytes[behind - 3] << 8) | (bytes[behind - 2] << 16) | (bytes[behind - 1] << 24);
    return end + distance;
  }

  /** The address that the rip-relative memory operand names. */
  memoryTarget(): number {
    const { bytes } = this;
    const o = this.address - this.base + this.ripOffset;
    return this.end + (bytes[o] | (bytes[o + 1] << 8) | (bytes[o + 2] << 16) | (bytes[o + 3] << 24));
  }

  /** True where rsp is a register operand or the base of a memory operand. */
  usesStackPointer(): boolean {
    const { Register } = loadIced();
    const instruction = this.#byIced();
    const base = instruction.memoryBase;
    return base === Register.RSP || base === Register.ESP || instruction.op0Register === Register.RSP;
  }

  /** True where the memory operand is rip-relative but cut to 32 bits (eip-relative). */
  isEipRelative(): boolean {
    return this.#byIced().memoryBase === loadIced().Register.EIP;
  }

  /** True where the current instruction reads or writes memory below rsp: the red zone of a leaf function. */
  touchesRedZone(): boolean {
    const instruction = this.#byIced();
    if (instruction.memoryBase !== loadIced().Register.RSP) return false;
    return BigInt.asIntN(64, instruction.memoryDisplacementU64) < 0n;
  }

  /** Offset in the current instruction of its immediate; -1 where it has none. */
  immediateOffset(): number {
    const instruction = this.#byIced();
    const offsets = this.#decoder!.getConstantOffsets(instruction);
    const offset = offsets.hasImmediate ? offsets.immediateOffset : -1;
    offsets.free();
    return offset;
  }

  /** Gives the WebAssembly memory back, a copy of the section among it. */
  free(): void {
    this.#decoder?.free();
    this.#instruction?.free();
    this.#decoder = this.#instruction = undefined;
  }

  /** The current instruction as iced sees it. */
  #byIced(): Iced.Instruction {
    if (!this.#decoder || !this.#instruction) {
      const iced = loadIced();
      this.#decoder = new iced.Decoder(64, this.bytes, iced.DecoderOptions.None);
      this.#instruction = new iced.Instruction();
    }
    const { address } = this;
    if (address === this.#icedAddress) return this.#instruction;
    if (address !== this.#icedNext) {
      this.#decoder.position = address - this.base;
      this.#decoder.ip = BigInt(address);
    }
    this.#decoder.decodeOut(this.#instruction);
    this.#icedAddress = address;
    this.#icedNext = address + this.#instruction.length;
    return this.#instruction;
  }

  #readByIced(): void {
    const current = this.#current;
    const offset = this.address - this.base;
    if (offset < 0 || offset >= this.bytes.length) {
      current.length = 0;
      current.flow = Flow.invalid;
      return;
    }
    const instruction = this.#byIced();
    const iced = loadIced();
    current.length = instruction.length;
    current.flow = classify(iced, instruction);
    current.isNop = instruction.mnemonic === iced.Mnemonic.Nop;
    // The kernel gives the flags back as they were; that r11 holds them nobody relies on.
    const isSyscall = instruction.code === iced.Code.Syscall;
    current.flagsRead = isSyscall ? 0 : instruction.rflagsRead & ARITHMETIC_FLAGS;
    current.flagsWritten = isSyscall ? 0 : instruction.rflagsModified & ARITHMETIC_FLAGS;
    current.ripOffset = -1;
    if (current.flow !== Flow.invalid && instruction.isIpRelMemoryOperand) {
      const offsets = this.#decoder!.getConstantOffsets(instruction);
      current.ripOffset = offsets.displacementOffset;
      offsets.free();
    }
  }
}

/**
 * Reads the few dozen x86-64 instructions that most code is made of, in JavaScript: length, effect on flags, how
 * control leaves, where a rip-relative distance stands. Everything else it leaves to iced-x86 (decoder.ts uses
 * both), which knows every instruction but costs ten times as much for each, and far more in a process that has
 * just started. What it says of an instruction is what iced-x86 says; decoder.test.ts compares them over whole
 * libraries. Opcodes: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, appendix A.
 */

/** How control leaves an instruction. `syscall` counts as `next`: it comes back behind itself. */
export const Flow = {
  /** to the next instruction */
  next: 0,
  /** `jmp rel` */
  jump: 1,
  /** `jmp reg`, `jmp [mem]` */
  jumpIndirect: 2,
  /** `jcc rel` */
  jumpIf: 3,
  /** `loop`, `loope`, `loopne`, `jecxz`, `jrcxz`: only with an 8-bit distance */
  loop: 4,
  /** near `ret` */
  return: 5,
  /** `call rel` */
  call: 6,
  /** `call reg`, `call [mem]` */
  callIndirect: 7,
  /** int3, int n, ud2, hlt: it raises a signal */
  trap: 8,
  /** between segments or privilege levels: far jmp, call and ret, iret, sysret, sysenter, vmcall */
  far: 9,
  /** `xbegin`: a branch target that the processor itself jumps to */
  transaction: 10,
  /** not an instruction */
  invalid: 11,
} as const;
export type Flow = (typeof Flow)[keyof typeof Flow];

/** The arithmetic flags, in iced-x86's bits. */
export const OF = 1;
export const SF = 2;
export const ZF = 4;
export const AF = 8;
export const CF = 16;
export const PF = 32;
export const ARITHMETIC_FLAGS = OF | SF | ZF | AF | CF | PF;

/** Flags that each pair of conditions (o, b, e, be, s, p, l, le and their opposites) reads. */
const CONDITION_READS = [OF, CF, ZF, CF | ZF, SF, PF, SF | OF, ZF | SF | OF];

// What is known of an opcode: the low bits say what follows it, then what it does.
const MODRM = 1;
const IMM8 = 2;
const IMM32 = 4; // 16 bits with the operand-size prefix: then it is left to iced
const REL8 = 8;
const REL32 = 16;
const IMM64 = 32; // 64 bits with REX.W, else 32
const WRITES = 64; // all arithmetic flags
const READS_CF = 128;
const CONDITION = 256; // the low four bits of the opcode are a condition
const NO_REG = 512; // mod must not be 3
const GROUP = 1024; // the reg field of modrm tells instructions apart: see `inGroup`
const KNOWN = 2048;
const PLAIN = 4096; // no prefix 66
const ALONE = 8192; // neither 66, f2 nor f3

const ONE = new Uint16Array(256);
const TWO = new Uint16Array(256);

for (let op = 0; op < 8; op++) {
  const effect = KNOWN | WRITES | (op === 2 || op === 3 ? READS_CF : 0); // adc and sbb
  for (let form = 0; form < 4; form++) ONE[op * 8 + form] = effect | MODRM;
  ONE[op * 8 + 4] = effect | IMM8;
  ONE[op * 8 + 5] = effect | IMM32 | PLAIN;
}
ONE.fill(KNOWN, 0x50, 0x60); // push, pop
ONE[0x63] = KNOWN | MODRM | PLAIN; // movsxd
ONE[0x68] = KNOWN | IMM32 | PLAIN; // push
ONE[0x69] = KNOWN | MODRM | IMM32 | WRITES | PLAIN; // imul
ONE[0x6a] = KNOWN | IMM8; // push
ONE[0x6b] = KNOWN | MODRM | IMM8 | WRITES; // imul
ONE.fill(KNOWN | REL8 | CONDITION | ALONE, 0x70, 0x80); // jcc
ONE[0x80] = ONE[0x83] = KNOWN | MODRM | IMM8 | GROUP;
ONE[0x81] = KNOWN | MODRM | IMM32 | GROUP | PLAIN;
ONE[0x84] = ONE[0x85] = KNOWN | MODRM | WRITES; // test
ONE.fill(KNOWN | MODRM, 0x88, 0x8c); // mov
ONE[0x8d] = KNOWN | MODRM | NO_REG; // lea
ONE[0x90] = KNOWN; // nop
ONE[0x98] = ONE[0x99] = KNOWN; // cdqe, cqo
ONE[0xa8] = KNOWN | IMM8 | WRITES; // test
ONE[0xa9] = KNOWN | IMM32 | WRITES | PLAIN;
ONE.fill(KNOWN | IMM8, 0xb0, 0xb8); // mov
ONE.fill(KNOWN | IMM64 | PLAIN, 0xb8, 0xc0);
ONE[0xc0] = ONE[0xc1] = KNOWN | MODRM | GROUP; // shifts
ONE[0xc3] = KNOWN | ALONE; // ret
ONE[0xc6] = KNOWN | MODRM | IMM8 | GROUP; // mov
ONE[0xc7] = KNOWN | MODRM | IMM32 | GROUP | PLAIN;
ONE[0xc9] = KNOWN | PLAIN; // leave
ONE[0xe8] = ONE[0xe9] = KNOWN | REL32 | ALONE; // call, jmp
ONE[0xeb] = KNOWN | REL8 | ALONE;
ONE[0xf6] = ONE[0xf7] = ONE[0xfe] = KNOWN | MODRM | GROUP;
ONE[0xff] = KNOWN | MODRM | GROUP | ALONE;

TWO[0x05] = KNOWN | ALONE; // syscall
TWO[0x1f] = KNOWN | MODRM; // nop
TWO.fill(KNOWN | MODRM | CONDITION, 0x40, 0x50); // cmovcc
TWO.fill(KNOWN | REL32 | CONDITION | ALONE, 0x80, 0x90); // jcc
TWO.fill(KNOWN | MODRM | CONDITION, 0x90, 0xa0); // setcc
TWO[0xaf] = KNOWN | MODRM | WRITES; // imul
TWO[0xb6] = TWO[0xb7] = TWO[0xbe] = TWO[0xbf] = KNOWN | MODRM; // movzx, movsx

/** SSE moves and zeroing: bit 0 without prefix, 1 with 66, 2 with f2, 3 with f3. */
const SSE = new Uint8Array(256);
SSE[0x10] = SSE[0x11] = 0b1111; // movups, movupd, movsd, movss
SSE[0x28] = SSE[0x29] = SSE[0x57] = SSE[0xef] = SSE[0x6e] = 0b0011; // movaps, xorps, pxor, movd
SSE[0x6c] = 0b0010; // punpcklqdq
SSE[0x6f] = SSE[0x7f] = SSE[0x7e] = 0b1011; // movq, movdqa, movdqu, movd

/** The longest instruction, in bytes. */
export const MAX_LENGTH = 15;

/** One instruction as `PlainReader.read` or iced-x86 found it. */
export class PlainReader {
  /** Bytes. */
  length = 0;
  flow: Flow = Flow.next;
  flagsRead = 0;
  /** Flags written, or left undefined. */
  flagsWritten = 0;
  /** Offset in the instruction of the 32-bit distance of a rip-relative memory operand, or -1. */
  ripOffset = -1;
  isNop = false;

  /** Reads the instruction at `o`; false where it is not one that is known here (or `bytes` may end in it). */
  read(bytes: Uint8Array, o: number): boolean {
    if (o < 0 || o + MAX_LENGTH > bytes.length) return false;
    let p = o;
    let byte = bytes[p];
    if (byte === 0xf3 && bytes[o + 1] === 0x0f && bytes[o + 2] === 0x1e && bytes[o + 3] === 0xfa) {
      this.#plain(4); // endbr64
      return true;
    }
    let prefix = 0;
    let sizePrefix = false;
    // fs: of thread variables, cs: in padding.
    if (byte === 0x64) byte = bytes[++p];
    if (byte === 0x66) {
      sizePrefix = true;
      byte = bytes[++p];
    }
    if (byte === 0x2e) byte = bytes[++p];
    if (byte === 0xf2 || byte === 0xf3) {
      prefix = byte;
      byte = bytes[++p];
    }
    let rex = 0;
    if (byte >= 0x40 && byte < 0x50) {
      rex = byte;
      byte = bytes[++p];
    }
    let twoByte = false;
    let info: number;
    if (byte === 0x0f) {
      twoByte = true;
      byte = bytes[++p];
      const sse = SSE[byte];
      if (sse !== 0) {
        if (sizePrefix && prefix !== 0) return false;
        const form = sizePrefix ? 2 : prefix === 0 ? 1 : prefix === 0xf2 ? 4 : 8;
        if ((sse & form) === 0) return false;
        info = KNOWN | MODRM;
      } else {
        info = TWO[byte];
        if (prefix !== 0) return false;
      }
    } else {
      info = ONE[byte];
      if (prefix !== 0) return false;
    }
    if ((info & KNOWN) === 0) return false;
    if (sizePrefix && (info & (PLAIN | ALONE)) !== 0) return false;
    // A segment means nothing to a branch, or is a hint: those are left to iced.
    if ((info & ALONE) !== 0 && p - o > (rex !== 0 ? 1 : 0) + (twoByte ? 1 : 0)) return false;

    this.#plain(0);
    const opcode = byte;
    if (twoByte) this.isNop = opcode === 0x1f;
    else if (opcode === 0x90) {
      if (rex !== 0) return false; // xchg with r8
      this.isNop = true;
    }
    p++;
    if ((info & MODRM) !== 0) {
      const modrm = bytes[p++];
      const mod = modrm >> 6;
      const rm = modrm & 7;
      if (mod !== 3) {
        if (rm === 4) {
          const sib = bytes[p++];
          if (mod === 0 && (sib & 7) === 5) p += 4;
        } else if (mod === 0 && rm === 5) {
          this.ripOffset = p - o;
          p += 4;
        }
        if (mod === 1) p += 1;
        else if (mod === 2) p += 4;
      } else if ((info & NO_REG) !== 0) return false;
      if (this.isNop && (modrm & 0x38) !== 0) return false; // reserved nops
      if ((info & GROUP) !== 0) {
        const immediate = this.#inGroup(opcode, (modrm >> 3) & 7, mod, sizePrefix, bytes[p]);
        if (immediate < 0) return false;
        p += immediate;
      }
    }
    if ((info & WRITES) !== 0) this.flagsWritten = ARITHMETIC_FLAGS;
    if ((info & READS_CF) !== 0) this.flagsRead = CF;
    if ((info & CONDITION) !== 0) this.flagsRead = CONDITION_READS[(opcode & 15) >> 1];
    if ((info & (IMM8 | REL8)) !== 0) p += 1;
    else if ((info & (IMM32 | REL32)) !== 0) p += 4;
    else if ((info & IMM64) !== 0) p += (rex & 8) !== 0 ? 8 : 4;
    if ((info & (REL8 | REL32)) !== 0) {
      this.flow = (info & CONDITION) !== 0 ? Flow.jumpIf : opcode === 0xe8 ? Flow.call : Flow.jump;
    } else if (!twoByte && opcode === 0xc3) this.flow = Flow.return;
    this.length = p - o;
    return true;
  }

  /** An instruction without effects on flags and flow, to be added to. */
  #plain(length: number): void {
    this.length = length;
    this.flow = Flow.next;
    this.flagsRead = 0;
    this.flagsWritten = 0;
    this.ripOffset = -1;
    this.isNop = false;
  }

  /** The effects of an opcode that the reg field completes; the bytes of an immediate not yet counted, or -1. */
  #inGroup(opcode: number, reg: number, mod: number, sizePrefix: boolean, behind: number): number {
    switch (opcode) {
      case 0xc0:
      case 0xc1: // (rol, ror, rcl, rcr), shl, shr, (shl), sar; by 0 they leave the flags alone
        if (reg < 4 || reg === 6 || (behind & 0x1f) === 0) return -1;
        this.flagsWritten = ARITHMETIC_FLAGS;
        return 1;
      case 0xc6:
      case 0xc7: // mov; 7 is xabort, xbegin
        return reg === 0 ? 0 : -1;
      case 0xf6:
      case 0xf7: // test, (test), not, neg, mul, imul, div, idiv
        if (reg === 1) return -1;
        if (reg !== 2) this.flagsWritten = ARITHMETIC_FLAGS;
        if (reg !== 0) return 0;
        if (opcode === 0xf6) return 1;
        return sizePrefix ? -1 : 4;
      case 0xfe:
      case 0xff:
        if (reg < 2)
          this.flagsWritten = ARITHMETIC_FLAGS & ~CF; // inc, dec
        else if (opcode === 0xfe) return -1;
        else if (reg === 2) this.flow = Flow.callIndirect;
        else if (reg === 4) this.flow = Flow.jumpIndirect;
        else if (reg !== 6 || mod === 3) return -1; // 6 is push
        return 0;
      default: // 80, 81, 83: add, or, adc, sbb, and, sub, xor, cmp
        if (reg === 2 || reg === 3) this.flagsRead = CF;
        this.flagsWritten = ARITHMETIC_FLAGS;
        return 0;
    }
  }
}

/**
 * Functions that read their own return address before they have a frame: a setjmp or a switch of stacks by another name,
 * written by hand; thunks; those that ask who calls them. From their first instructions, up to the first that moves the
 * stack pointer or goes elsewhere.
 */

import { CodeDecoder, Flow } from '../../../x86/decoder.js';

/** So many instructions are looked at, in so many bytes. */
const MOST_INSTRUCTIONS = 24;
const MOST_BYTES = 160;

const PUSH_REGISTER = 0x50;
const POP_REGISTER = 0x58;
const PUSH_IMMEDIATES: ReadonlySet<number> = new Set([0x68, 0x6a]);
const MOV_FROM_MEMORY = 0x8b;
/** Its `/6` is `push`, its `/4` is `jmp`. */
const GROUP_5 = 0xff;
const STACK_BASE = 0x24;
/** The prefix whose bits R and B stand before the numbers of registers. */
const REX = 0x40;
const REX_R = 4;
const REX_B = 1;

/** Whether the code of a function, which begins with `code`, reads its return address at once. */
export function readsReturnAddress(code: Uint8Array): boolean {
  const decoder = new CodeDecoder(code.subarray(0, MOST_BYTES), 0);
  try {
    let address = 0;
    for (let i = 0; i < MOST_INSTRUCTIONS; i++) {
      const flow = decoder.decode(address);
      if (flow !== Flow.next && flow !== Flow.jumpIndirect) return false;
      const at = address + decoder.opcodeOffset();
      const [opcode, modrm, sib, disp] = code.subarray(at, at + 4);
      const rex = at > address && (code[at - 1] & 0xf0) === REX ? code[at - 1] : 0;
      const register = opcode & 0xf8;
      if (register === POP_REGISTER) return true;
      const onTop =
        sib === STACK_BASE &&
        (rex & REX_B) === 0 &&
        ((modrm & 0xc7) === 0x04 || ((modrm & 0xc7) === 0x44 && disp === 0));
      if ((opcode === MOV_FROM_MEMORY || opcode === GROUP_5) && onTop) return true;
      if (flow !== Flow.next || register === PUSH_REGISTER || PUSH_IMMEDIATES.has(opcode)) return false;
      if (movesStackPointer(opcode, modrm, rex)) return false;
      address = decoder.end;
    }
    return false;
  } finally {
    decoder.free();
  }
}

const ENTER = 0xc8;
const LEA = 0x8d;
const ARITHMETIC: ReadonlySet<number> = new Set([0x81, 0x83]);
const MOVES: ReadonlySet<number> = new Set([0x89, MOV_FROM_MEMORY]);
const RSP = 4;

function movesStackPointer(opcode: number, modrm: number, rex: number): boolean {
  const reg = ((modrm >> 3) & 7) | ((rex & REX_R) << 1);
  const rm = (modrm & 7) | ((rex & REX_B) << 3);
  const isRegister = modrm >> 6 === 3;
  if (opcode === ENTER) return true;
  if (opcode === LEA) return reg === RSP;
  if (ARITHMETIC.has(opcode)) return isRegister && rm === RSP;
  // To rsp: from a register or memory by the one, from a register by the other.
  return MOVES.has(opcode) && (opcode === MOV_FROM_MEMORY ? reg === RSP : isRegister && rm === RSP);
}

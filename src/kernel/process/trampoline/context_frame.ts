/**
 * What every trampoline begins and ends with: it saves the registers that will change, and lays out the words of the
 * context from where the function has them. A word that is in a register is its own copy to restore from.
 *
 *     …              saved registers that carry no word
 *     ctx + 8*i      the words
 *
 * Vector registers are read, never written. Registers that carry no word of the context and do not change stay.
 */

import type { WordPlace } from '../../../process/symbols/call_layout.js';
import {
  type Assembler,
  mem,
  type Reg,
  r8,
  r9,
  r10,
  r11,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from '../../../x86/assembler.js';

/** Integer arguments in registers, in order (System V ABI). */
export const ARGUMENTS: readonly Reg[] = [rdi, rsi, rdx, rcx, r8, r9];
export const CALLER_SAVED: readonly Reg[] = [rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11];
export const WORD = 8;

export const bit = (reg: Reg): number => 1 << reg.code;

/** A key that two lists of places share if they are the same. */
export function placesKey(words: readonly WordPlace[]): string {
  return words
    .map(word => {
      if (word.in === 'stack') return `s${word.offset}`;
      return word.in === 'nothing' ? '-' : `${word.in[0]}${word.index}`;
    })
    .join('');
}

export class ContextFrame {
  readonly #words: readonly WordPlace[];
  readonly #saved: readonly Reg[];

  /** `changed`: a mask of 1 << register number. */
  constructor(words: readonly WordPlace[], changed: number) {
    this.#words = words;
    const carrying = new Set(words.flatMap(word => (word.in === 'register' ? [ARGUMENTS[word.index]] : [])));
    this.#saved = CALLER_SAVED.filter(reg => (changed & bit(reg)) !== 0 && !carrying.has(reg));
  }

  /** Bytes that it takes of the stack. */
  get size(): number {
    return (this.#saved.length + this.#words.length) * WORD;
  }

  /** Afterwards rsp is the context. `above`: bytes from rsp up to the word with the function's return address. */
  emitSave(a: Assembler, above: number): void {
    let down = above;
    for (const reg of this.#saved) {
      a.push(reg);
      down += WORD;
    }
    for (const word of this.#words.toReversed()) {
      switch (word.in) {
        case 'register':
          a.push(ARGUMENTS[word.index]);
          break;
        case 'vector':
          a.push(rax);
          emitStoreVector(a, word.index);
          break;
        case 'stack':
          a.push(mem(rsp, down + word.offset));
          break;
        case 'nothing':
          a.push(0);
      }
      down += WORD;
    }
  }

  /** The other way round: rsp is the context. */
  emitRestore(a: Assembler): void {
    let passed = 0;
    for (const word of this.#words) {
      if (word.in !== 'register') {
        passed += WORD;
        continue;
      }
      if (passed > 0) a.lea(rsp, mem(rsp, passed));
      passed = 0;
      a.pop(ARGUMENTS[word.index]);
    }
    if (passed > 0) a.lea(rsp, mem(rsp, passed));
    for (const reg of this.#saved.toReversed()) a.pop(reg);
  }
}

/** `movq [rsp], xmmN`, N below 8. */
export function emitStoreVector(a: Assembler, vector: number): void {
  a.byte(0x66, 0x0f, 0xd6, (vector << 3) | 4, 0x24);
}

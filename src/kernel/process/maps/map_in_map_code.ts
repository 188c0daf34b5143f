/** Machine code of lookups in maps of maps: the value is the inner map's address, which the lookup gives. */

import { type Assembler, type Label, mem, rax } from '../../../x86/assembler.js';

export interface MapInMapRoutines {
  /** rdi = map, rsi = key → rax = address of the inner map, or 0. */
  readonly arrayOfMapsLookup: Label;
  readonly hashOfMapsLookup: Label;
}

export function emitMapInMapRoutines(a: Assembler, lookups: { array: Label; hash: Label }): MapInMapRoutines {
  const emit = (lookup: Label): Label => {
    const absent = a.label();
    a.align(16);
    const start = a.here();
    a.call(lookup);
    a.test(rax, rax);
    a.jcc('e', absent);
    a.mov(rax, mem(rax));
    a.bind(absent);
    a.ret();
    return start;
  };
  return { arrayOfMapsLookup: emit(lookups.array), hashOfMapsLookup: emit(lookups.hash) };
}

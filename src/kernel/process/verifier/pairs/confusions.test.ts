/**
 * What has got past verifiers before, most of it with a CVE number: what a register was believed to hold and what it
 * held were two things. Beside each the nearest program where both are the same.
 */

import { type ProgramBuilder, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 } from '../../../../bpf/builder.js';
import { HELPER } from '../../../../bpf/helpers.js';
import { KFUNC } from '../../../../bpf/kfuncs.js';
import { end, found, MAPS, type Rule, type Write } from '../rules_fixture.js';
import {
  at,
  discardDynptr,
  keyed,
  reserved,
  reservedDynptr,
  submit,
  testPairs,
  withExit,
} from './fixture.js';

/** Byte `base` + r7 of 32 is read, where r7 is made of arguments in r7 and r8; `out` is the end. */
const index =
  (make: (p: ProgramBuilder, out: ReturnType<ProgramBuilder['label']>) => unknown, base = 0): Write =>
  p => {
    found(p.mov(R6, R1), MAPS.wide).mov(R9, R0).load(8, R7, R6).load(8, R8, R6, 8).load(8, R5, R6, 16);
    const out = p.label();
    make(p, out);
    p.add(R9, base).add(R9, R7).load(1, R2, R9).bind(out);
    return end(p);
  };

const OUTSIDE = /invalid access to map value|unbounded min value|R9 .*out of bounds|math between/;

const PAIRS: readonly Rule[] = [
  {
    // CVE-2020-8835
    name: 'a 32-bit comparison says nothing of the upper half',
    accept: index((p, out) => p.jump32('gt', R7, 31, out).mov32(R7, R7)),
    refuse: index((p, out) => p.jump32('gt', R7, 31, out)),
    because: OUTSIDE,
  },
  {
    // CVE-2021-31440
    name: 'a 64-bit bound is not one of the lower half of more',
    accept: index((p, out) => p.jump('gt', R7, 31, out).mov32(R7, R7)),
    refuse: index((p, out) => {
      p.ldImm64(R2, 0x1_0000_001fn).jump('gt', R7, R2, out).mov32(R7, R7);
    }),
    because: OUTSIDE,
  },
  {
    // CVE-2021-31440, the other way: at least 2^32 + 1 is not at least 1 in the lower half
    name: 'a least 64-bit number is not a least lower half',
    accept: index((p, out) => p.jump('lt', R7, 1, out).jump('gt', R7, 32, out).mov32(R7, R7).sub(R7, 1)),
    refuse: index((p, out) => {
      p.ldImm64(R2, 0x1_0000_0001n).jump('lt', R7, R2, out).mov32(R7, R7).jump('gt', R7, 32, out).sub(R7, 1);
    }),
    because: OUTSIDE,
  },
  {
    // CVE-2021-3490
    name: 'a 32-bit and with a number of which half is known',
    accept: index(p => p.ldImm64(R2, 0xffff_ffff_0000_001fn).and(R2, R8).and32(R7, R2)),
    refuse: index(p => p.ldImm64(R2, 0xffff_ffff_0000_003fn).and(R2, R8).and32(R7, R2)),
    because: OUTSIDE,
  },
  {
    // CVE-2020-27194, CVE-2021-3490
    name: 'a 32-bit or has bits of both',
    accept: index(p => p.and(R7, 15).and(R8, 16).or32(R7, R8)),
    refuse: index(p => p.and(R7, 15).ldImm64(R2, 0x1_0000_0020n).and(R8, R2).or32(R7, R8)),
    because: OUTSIDE,
  },
  {
    // CVE-2021-3490
    name: 'a 32-bit xor turns bits on',
    accept: index(p => p.and(R7, 15).and(R8, 31).xor32(R7, R8)),
    refuse: index(p => p.and(R7, 15).and(R8, 32).xor32(R7, R8)),
    because: OUTSIDE,
  },
  {
    // CVE-2017-16995
    name: 'a 32-bit constant is not extended by its sign',
    accept: index((p, out) => p.mov32(R2, -1).mov32(R3, -1).jump('ne', R2, R3, out).and(R7, 31)),
    refuse: index((p, out) => {
      const other = p.label();
      // r2 is 2^32 - 1, and no -1: the way on is the one that is not bounded.
      p.mov32(R2, -1).jump('ne', R2, -1, other).and(R7, 31).jump('eq', R8, 3, out).bind(other);
    }),
    because: OUTSIDE,
  },
  {
    // CVE-2018-18445
    name: 'a 32-bit shift to the right begins at bit 31',
    accept: index(p => p.rsh32(R7, 27)),
    refuse: index(p => p.rsh(R7, 32).ldImm64(R2, 0x1_0000_0000n).or(R7, R2).rsh(R7, 27)),
    because: OUTSIDE,
  },
  {
    // CVE-2021-45402
    name: 'a 32-bit move of what may be negative is large',
    accept: index((p, out) => p.jump('sgt', R7, 31, out).jump('slt', R7, 0, out).mov32(R7, R7)),
    refuse: index((p, out) => p.jump('sgt', R7, 31, out).jump('slt', R7, -1, out).mov32(R7, R7)),
    because: OUTSIDE,
  },
  {
    // CVE-2021-3444
    name: 'a 32-bit remainder by zero is the lower half of the number',
    accept: index((p, out) => p.mod32(R7, R8).jump('gt', R7, 31, out)),
    refuse: index(p => p.and(R8, 31).mod32(R7, R8)),
    because: OUTSIDE,
  },
  {
    // CVE-2021-3600
    name: 'a divisor is what is left of it at 32 bits',
    accept: index((p, out) => p.mov32(R8, R8).jump('eq', R8, 0, out).and(R7, 31).div32(R7, R8)),
    refuse: index((p, out) => p.jump('eq', R8, 0, out).mod32(R7, R8).jump('ge', R7, R8, out)),
    because: OUTSIDE,
  },
  {
    name: 'the smallest number divided by -1 is itself',
    accept: index(p => p.and(R7, 31).sdiv(R7, 1)),
    refuse: index((p, out) => p.jump('sgt', R7, 0, out).sdiv(R7, -1).jump('sgt', R7, 31, out)),
    because: OUTSIDE,
  },
  {
    name: 'a signed remainder may be negative',
    accept: index(p => p.smod(R7, 16), 15),
    refuse: index(p => p.smod(R7, 18), 15),
    because: OUTSIDE,
  },
  {
    name: 'the negative of the smallest number is negative',
    accept: index((p, out) => p.jump('sgt', R7, 0, out).jump('slt', R7, -31, out).neg(R7)),
    refuse: index((p, out) => p.jump('sgt', R7, 0, out).neg(R7).jump('sgt', R7, 31, out)),
    because: OUTSIDE,
  },
  {
    // CVE-2024-41003: both sides of a comparison are learnt of, and a constant is not
    name: 'a comparison of what is known with what is not',
    accept: index((p, out) => p.mov(R2, 31).jump('lt', R2, R7, out)),
    refuse: index((p, out) => p.mov(R2, 31).jump('lt', R7, R2, out)),
    because: OUTSIDE,
  },
  {
    name: 'a bit that is tested at 32 bits is one of the lower half',
    accept: index((p, out) => p.jump('set', R7, -32, out)),
    refuse: index((p, out) => p.jump32('set', R7, -32, out)),
    because: OUTSIDE,
  },
  {
    name: 'equal lower halves are not equal numbers',
    accept: index((p, out) => p.and(R8, 31).jump('ne', R7, R8, out)),
    refuse: index((p, out) => p.and(R8, 31).jump32('ne', R7, R8, out)),
    because: OUTSIDE,
  },
  {
    name: 'a sum that wraps around is no larger than its parts by that',
    accept: index((p, out) => p.jump('gt', R7, 15, out).jump('gt', R8, 16, out).add(R7, R8)),
    refuse: index((p, out) => p.jump('lt', R7, -16, out).jump('gt', R8, 32, out).add(R7, R8)),
    because: OUTSIDE,
  },
  {
    name: 'a product that wraps around at 32 bits',
    accept: index((p, out) => p.jump('gt', R7, 3, out).mul32(R7, 10)),
    refuse: index((p, out) =>
      p
        .mov32(R7, R7)
        .jump('lt', R7, 1 << 30, out)
        .mul32(R7, 4),
    ),
    because: OUTSIDE,
  },
  {
    // CVE-2022-23222
    name: 'what may be null is not moved, and its copy neither',
    accept: p =>
      end(withExit(keyed(p, MAPS.wide).call(1), out => p.jump('eq', R0, 0, out).add(R0, 8).load(8, R1, R0))),
    refuse: p =>
      end(
        withExit(keyed(p, MAPS.wide).call(1), out =>
          p.mov(R7, R0).add(R7, 8).jump('eq', R0, 0, out).load(8, R1, R7),
        ),
      ),
    because: 'pointer arithmetic on map_value_or_null prohibited',
  },
  {
    // CVE-2023-2163: what decided how large the index is, decided on another way
    name: 'a number that decided which number becomes an index matters',
    accept: index((p, out) => {
      const small = p.label();
      p.mov(R7, 100).jump('eq', R8, 7, small).mov(R7, 31).bind(small).jump('eq', R7, 100, out);
    }),
    refuse: index((p, out) => {
      const small = p.label();
      const same = p.label();
      p.mov(R7, 31).jump('ne', R8, 7, small).mov(R7, 100).bind(small);
      p.mov(R2, R7).jump('ne', R5, 3, same).mov(R2, 0).bind(same).jump('eq', R2, 100, out);
    }),
    because: OUTSIDE,
  },
  {
    // The other half of the same: a bound that is itself different on two ways
    name: 'a bound that is larger on one way',
    accept: index((p, out) => {
      const other = p.label();
      p.mov(R2, 8).jump('eq', R8, 7, other).mov(R2, 31).bind(other).jump('gt', R7, R2, out);
    }),
    refuse: index((p, out) => {
      const other = p.label();
      p.mov(R2, 32).jump('eq', R8, 7, other).mov(R2, 31).bind(other).jump('gt', R7, R2, out);
    }),
    because: OUTSIDE,
  },
  {
    name: 'four bytes on the stack are a copy on one way only',
    accept: index((p, out) => {
      const join = p.label();
      p.mov32(R7, R7)
        .mov(R3, R7)
        .mov(R3, 0)
        .store(4, R10, -32, R7)
        .jump('eq', R8, 0, join)
        .mov(R8, 0)
        .bind(join);
      p.load(4, R7, R10, -32).jump('gt', R7, 31, out);
    }),
    refuse: index((p, out) => {
      const other = p.label();
      const join = p.label();
      p.mov32(R7, R7).mov32(R5, R5).jump('eq', R8, 0, other).mov(R3, R7).store(4, R10, -32, R7).goto(join);
      p.bind(other).store(4, R10, -32, R5).bind(join).mov(R3, 0).load(4, R4, R10, -32);
      p.jump('gt', R7, 31, out).mov(R7, R4);
    }),
    because: OUTSIDE,
  },
  {
    name: 'a number is no copy of what a loop has changed',
    accept: index((p, out) => {
      const again = p.label();
      const behind = p.label();
      p.store(8, R10, -32, R7).bind(again).mayGoto(behind).add(R7, 1).goto(again).bind(behind);
      p.load(8, R7, R10, -32).jump('gt', R7, 31, out);
    }),
    refuse: index((p, out) => {
      const again = p.label();
      const behind = p.label();
      p.store(8, R10, -32, R7).bind(again).mayGoto(behind).add(R7, 1).goto(again).bind(behind);
      p.jump('gt', R7, 31, out).load(8, R7, R10, -32);
    }),
    because: OUTSIDE,
  },
  {
    name: 'a copy to which a number was added is bounded with it',
    accept: index((p, out) => p.mov(R2, R7).add(R7, 1).jump('gt', R2, 30, out)),
    refuse: index((p, out) => p.mov(R2, R7).add(R7, 2).jump('gt', R2, 30, out)),
    because: OUTSIDE,
  },
  {
    name: 'a copy from which a number was taken is bounded with it',
    accept: index((p, out) => p.mov(R2, R7).sub(R7, 4).jump('gt', R2, 35, out).jump('lt', R2, 4, out)),
    refuse: index((p, out) => p.mov(R2, R7).sub(R7, 4).jump('gt', R2, 35, out).jump('lt', R2, 3, out)),
    because: OUTSIDE,
  },
  {
    name: 'copies at different distances are bounded each by its own',
    accept: index((p, out) =>
      p.mov(R2, R7).add(R2, 8).add(R7, 1).jump('gt', R2, 38, out).jump('lt', R2, 8, out),
    ),
    refuse: index((p, out) =>
      p.mov(R2, R7).add(R2, 8).add(R7, 1).jump('gt', R2, 39, out).jump('lt', R2, 8, out),
    ),
    because: OUTSIDE,
  },
  {
    name: 'a copy to which a number was added may have wrapped around',
    accept: index((p, out) => p.mov(R2, R7).add(R2, 4).jump('gt', R2, 35, out).jump('lt', R2, 4, out)),
    refuse: index((p, out) => p.mov(R2, R7).add(R2, 4).jump('gt', R2, 35, out)),
    because: OUTSIDE,
  },
  {
    // As clang writes x < 31 ? value[x + 1] : …
    name: 'a copy to which a number was added at 32 bits is bounded with it',
    accept: index((p, out) => p.mov32(R7, R7).mov32(R2, R7).add32(R7, 1).jump32('ge', R2, 31, out)),
    refuse: index((p, out) => p.mov32(R7, R7).mov32(R2, R7).add32(R7, 2).jump32('ge', R2, 31, out)),
    because: OUTSIDE,
  },
  {
    name: 'a copy of a sum is bounded with it',
    accept: index((p, out) =>
      p.mov32(R7, R7).mov32(R2, R7).add32(R7, 1).mov32(R3, R7).jump32('ge', R2, 31, out).mov(R7, R3),
    ),
    refuse: index((p, out) =>
      p
        .mov32(R7, R7)
        .mov32(R2, R7)
        .add32(R7, 1)
        .mov32(R3, R7)
        .add32(R3, 1)
        .jump32('ge', R2, 31, out)
        .mov(R7, R3),
    ),
    because: OUTSIDE,
  },
  {
    name: 'a sum of 32 bits says nothing of the upper half',
    accept: index((p, out) =>
      p
        .mov32(R7, R7)
        .mov(R2, R7)
        .add32(R2, 8)
        .jump('gt', R2, 39, out)
        .jump('lt', R2, 8, out)
        .mov(R7, R2)
        .sub(R7, 8),
    ),
    refuse: index((p, out) => p.mov(R2, R7).add32(R2, 8).jump('gt', R2, 39, out).jump('lt', R2, 8, out)),
    because: OUTSIDE,
  },
  {
    name: 'a sum of 32 bits may have wrapped around',
    accept: index((p, out) =>
      p.mov32(R7, R7).mov32(R2, R7).sub32(R7, 4).jump('gt', R2, 35, out).jump('lt', R2, 4, out),
    ),
    refuse: index((p, out) => p.mov32(R7, R7).mov32(R2, R7).sub32(R7, 4).jump('gt', R2, 35, out)),
    because: OUTSIDE,
  },
  {
    // As clang writes loops: what is tested is the counter before it counts.
    name: 'a counter is bounded by the test of what it was',
    accept: index((p, out) => {
      const again = p.label();
      p.jump('gt', R7, 31, out).bind(again).mov(R2, R7).mov(R3, R9).add(R3, R2).load(1, R4, R3).mayGoto(out);
      p.mov(R7, R2).add(R7, 1).jump('lt', R2, 31, again).mov(R7, 0);
    }),
    refuse: index((p, out) => {
      const again = p.label();
      p.jump('gt', R7, 31, out).bind(again).mov(R2, R7).mov(R3, R9).add(R3, R2).load(1, R4, R3).mayGoto(out);
      p.mov(R7, R2).add(R7, 1).jump('lt', R2, 32, again).mov(R7, 0);
    }),
    because: OUTSIDE,
  },
  {
    name: 'a copy at 32 bits is none of what has more',
    accept: index((p, out) => p.mov32(R7, R7).mov32(R2, R7).jump('gt', R2, 31, out)),
    refuse: index((p, out) => p.mov32(R2, R7).jump('gt', R2, 31, out)),
    because: OUTSIDE,
  },
  {
    name: 'half of a spilled number is not the whole',
    accept: index((p, out) => p.store(8, R10, -32, R7).load(8, R2, R10, -32).jump('gt', R2, 31, out)),
    refuse: index((p, out) => p.store(8, R10, -32, R7).load(4, R2, R10, -32).jump('gt', R2, 31, out)),
    because: OUTSIDE,
  },
  {
    name: 'a byte stored into a spilled number changes it',
    accept: index(p => p.store(8, R10, -32, 0).store(1, R10, -31, 0).load(8, R7, R10, -32)),
    refuse: index(p => p.store(8, R10, -32, 0).store(1, R10, -31, R8).load(8, R7, R10, -32)),
    because: OUTSIDE,
  },
  {
    // CVE-2023-52676 and its kin
    name: 'a constant stored is extended by its sign to eight bytes',
    accept: index(p => p.store(8, R10, -32, -1).load(8, R7, R10, -32).add(R7, 1)),
    refuse: index(p => p.store(8, R10, -32, -1).load(4, R7, R10, -32).add(R7, 1)),
    because: OUTSIDE,
  },
  {
    // Callbacks once were walked a single time
    name: 'a callback runs again with what it left',
    accept: index((p, out) => {
      const callback = p.label();
      p.store(8, R10, -32, 0).mov(R1, 100).ldFunction(R2, callback).mov(R3, R10).add(R3, -32).mov(R4, 0);
      p.call(HELPER.loop).load(8, R7, R10, -32).jump('gt', R7, 31, out);
      written.push(() => p.bind(callback).load(8, R3, R2).add(R3, 1).store(8, R2, 0, R3).mov(R0, 0).exit());
    }),
    refuse: index((p, out) => {
      const callback = p.label();
      p.store(8, R10, -32, 0).mov(R1, 100).ldFunction(R2, callback).mov(R3, R10).add(R3, -32).mov(R4, 0);
      p.call(HELPER.loop).load(8, R7, R10, -32).jump('eq', R8, 3, out);
      written.push(() => p.bind(callback).load(8, R3, R2).add(R3, 1).store(8, R2, 0, R3).mov(R0, 0).exit());
    }),
    because: OUTSIDE,
  },
  {
    name: 'a callback may not run at all',
    accept: index(p => {
      const callback = p.label();
      p.store(8, R10, -32, 31).mov(R1, R8).ldFunction(R2, callback).mov(R3, R10).add(R3, -32).mov(R4, 0);
      p.call(HELPER.loop).load(8, R7, R10, -32);
      written.push(() => p.bind(callback).store(8, R2, 0, 0).mov(R0, 0).exit());
    }),
    refuse: index(p => {
      const callback = p.label();
      p.store(8, R10, -32, 32).mov(R1, R8).ldFunction(R2, callback).mov(R3, R10).add(R3, -32).mov(R4, 0);
      p.call(HELPER.loop).load(8, R7, R10, -32);
      written.push(() => p.bind(callback).store(8, R2, 0, 0).mov(R0, 0).exit());
    }),
    because: OUTSIDE,
  },
  {
    name: 'an iterator’s loop runs again with what it left',
    accept: index((p, out) => {
      iterate(p, () => p.add(R7, 1));
      p.jump('gt', R7, 31, out);
    }),
    refuse: index(p => {
      p.mov(R7, 0);
      iterate(p, () => p.add(R7, 1));
    }),
    because: OUTSIDE,
  },
  {
    name: 'a callee leaves r6 to r9 alone, and not what it was pointed to',
    accept: index(p => {
      const name = p.label();
      p.mov(R7, 31).mov(R1, R10).add(R1, -32).callSubprogram(name);
      written.push(() => p.bind(name).mov(R7, 99).store(8, R1, 0, R7).mov(R0, 0).exit());
    }),
    refuse: index(p => {
      const name = p.label();
      p.store(8, R10, -32, 31).mov(R1, R10).add(R1, -32).callSubprogram(name).load(8, R7, R10, -32);
      written.push(() => p.bind(name).mov(R7, 99).store(8, R1, 0, R7).mov(R0, 0).exit());
    }),
    because: OUTSIDE,
  },
  {
    // CVE-2024-49861
    name: 'a number that a helper makes is not put into constants',
    accept: p =>
      end(
        at(p.store(8, R10, -8, 49).store(8, R10, -16, 0).mov(R2, 8).mov(R3, 0), R1, -8)
          .mov(R4, R10)
          .add(R4, -16)
          .call(HELPER.strtol),
      ),
    refuse: p =>
      end(
        at(p.store(8, R10, -8, 49).mov(R2, 8).mov(R3, 0), R1, -8)
          .ldMapValue(R4, MAPS.rodata)
          .call(HELPER.strtol),
      ),
    because: 'write into map forbidden',
  },
  {
    // CVE-2022-0500, CVE-2022-23222's sister
    name: 'a helper does not fill what is only read',
    accept: p => end(iterate(p.mov(R6, R1), () => p.mov(R3, R0).mov(R2, 4), true)),
    refuse: p =>
      end(iterate(p.mov(R6, R1), () => p.mov(R1, R0).mov(R2, 4).mov(R3, 0).call(HELPER.probe_read_kernel))),
    because: 'cannot write into rdonly_mem',
  },
  {
    // CVE-2023-39191
    name: 'half a dynptr is none',
    accept: p => end(discardDynptr(reservedDynptr(p))),
    refuse: p => end(discardDynptr(reservedDynptr(p).store(8, R10, -8, 0))),
    because: 'cannot overwrite referenced dynptr',
  },
  {
    // CVE-2023-39191
    name: 'a dynptr does not begin in the middle of another',
    accept: p => end(discardDynptr(discardDynptr(reservedDynptr(reservedDynptr(p), -32)), -32)),
    refuse: p => end(discardDynptr(reservedDynptr(reservedDynptr(p), -24), -24)),
    because: 'cannot overwrite referenced dynptr',
  },
  {
    name: 'a copy of a record is gone with it',
    accept: p => end(submit(reserved(p).mov(R7, R6).store(8, R7, 0, 1))),
    refuse: p => end(submit(reserved(p).mov(R7, R6)).store(8, R7, 0, 1)),
    because: 'R7 !read_ok',
  },
  {
    name: 'a spilled copy of a record is gone with it',
    accept: p => end(submit(reserved(p).store(8, R10, -32, R6).load(8, R7, R10, -32).store(8, R7, 0, 1))),
    refuse: p =>
      end(
        submit(reserved(p).store(8, R10, -32, R6))
          .load(8, R7, R10, -32)
          .store(8, R7, 0, 1),
      ),
    because: /!read_ok|invalid mem access|invalid read from stack/,
  },
  {
    name: 'two look-ups are two, whatever the key',
    accept: p =>
      end(
        withExit(keyed(p, MAPS.counts).call(1), out => p.mov(R6, R0).jump('eq', R6, 0, out).load(8, R7, R6)),
      ),
    refuse: p =>
      end(
        withExit(keyed(keyed(p, MAPS.counts).call(1).mov(R6, R0), MAPS.counts).call(1), out =>
          p.jump('eq', R0, 0, out).load(8, R7, R6),
        ),
      ),
    because: "R6 invalid mem access 'map_value_or_null'",
  },
  {
    name: 'equal addresses are both there only where one is known to be',
    accept: p =>
      end(withExit(found(p, MAPS.counts).mov(R6, R0), out => p.jump('eq', R6, 0, out).load(8, R7, R6))),
    refuse: p =>
      end(
        withExit(keyed(keyed(p, MAPS.counts).call(1).mov(R6, R0), MAPS.counts).call(1), out =>
          p.jump('ne', R0, R6, out).jump('eq', R6, 0, out).load(8, R7, R0),
        ),
      ),
    because: "R0 invalid mem access 'map_value_or_null'",
  },
  {
    // CVE-2017-17854 and CVE-2017-17857
    name: 'a pointer does not wrap around',
    accept: index((p, out) => p.jump('gt', R7, 31, out).mov(R2, R9).add(R2, R7)),
    refuse: p => {
      found(p.mov(R6, R1), MAPS.wide).mov(R9, R0);
      for (let i = 0; i < 8; i++) p.add(R9, 0x1fff_ffff);
      return end(p.load(1, R2, R9));
    },
    because: 'out of bounds',
  },
  {
    // CVE-2017-17856
    name: 'a stack pointer is aligned for what is spilled',
    accept: p => end(p.mov(R2, R10).add(R2, -16).store(8, R2, 0, R1).load(8, R3, R2).load(8, R4, R3)),
    refuse: p => end(p.mov(R2, R10).add(R2, -12).store(8, R2, 0, R1).load(8, R3, R2).load(8, R4, R3)),
    because: 'misaligned stack access',
  },
  {
    // CVE-2017-17852
    name: 'no arithmetic of 32 bits on pointers',
    accept: p => end(found(p, MAPS.wide).add(R0, 4).load(4, R1, R0)),
    refuse: p => end(found(p, MAPS.wide).add32(R0, 4).load(4, R1, R0)),
    because: '32-bit pointer arithmetic prohibited',
  },
];

/** Functions behind the program that is being written. */
const written: (() => unknown)[] = [];

/** A loop of an iterator at r10-40 around `body`. */
function iterate(p: ProgramBuilder, body: () => unknown, read = false): ProgramBuilder {
  const next = p.label();
  const done = p.label();
  p.mov(R1, R10).add(R1, -40).mov(R2, 0).mov(R3, 100).callKfunc(KFUNC.bpf_iter_num_new);
  p.bind(next).mov(R1, R10).add(R1, -40).callKfunc(KFUNC.bpf_iter_num_next).jump('eq', R0, 0, done);
  body();
  if (read) p.mov(R1, R10).add(R1, -48).call(HELPER.probe_read_kernel);
  return p.goto(next).bind(done).mov(R1, R10).add(R1, -40).callKfunc(KFUNC.bpf_iter_num_destroy);
}

/** The pairs, each with the functions that its program calls behind it. */
const withFunctions = (write: Write): Write => {
  return p => {
    written.length = 0;
    write(p);
    for (const one of written) one();
    return p;
  };
};

testPairs(
  'what has got past verifiers',
  PAIRS.map(pair => ({ ...pair, accept: withFunctions(pair.accept), refuse: withFunctions(pair.refuse) })),
);

/** The walk, on the stack of this very process: from our code through koffi, node and V8 to the start of the program. */

import { expect, test } from 'vitest';
import { callCode, MAP as MMAP, mmap, PROT, viewMemory } from '../../../ffi/libc.js';
import { readModules } from '../../../process/image.js';
import { readMappings } from '../../../process/mappings.js';
import { Assembler, mem, r10, rax, rcx, rdx, rsp } from '../../../x86/assembler.js';
import { RECORD } from '../kfunc_md/record.js';
import type { Arena, Block } from '../region/arena.js';
import { FRAME } from '../trampoline/frame.js';
import { UnwindTable } from './table.js';
import { emitWalk, type LoadFixup } from './walk_code.js';

const BYTES = 64 << 20;

/** An arena of this process: addresses are our own. */
function localArena(): Arena {
  const at = mmap(0n, BYTES, PROT.READ | PROT.WRITE, MMAP.PRIVATE | MMAP.ANONYMOUS, -1, 0);
  const all = new Uint8Array(viewMemory(at, BYTES));
  let used = 0;
  return {
    alloc(size): Block {
      const start = used;
      used = (used + size + 63) & ~63;
      return { address: at + BigInt(start), bytes: all.subarray(start, start + size), size };
    },
    free() {},
  };
}

/** Walks from the entry of code that is called here; `max` addresses, the first `skip` left out. */
function walkHere(max: number, skip = 0): { ips: bigint[]; ms: number; entry: bigint } {
  const arena = localArena();
  const table = new UnwindTable(arena);
  const from = performance.now();
  table.update(readModules(process.pid).modules);
  const ms = performance.now() - from;
  const a = new Assembler();
  const fixups: LoadFixup[] = [];
  const walk = emitWalk(a, { root: table.root }, fixups);
  const start = a.here();
  // rdi = out, rsi = max, rdx = skip, rcx = record: make the part of a trampoline's frame that the walk reads.
  a.mov(r10, rsp);
  a.mov(rax, rdx);
  a.lea(rdx, mem(rsp, -8));
  a.mov(mem(rdx, FRAME.record), rcx);
  a.mov(mem(rdx, FRAME.stack), r10);
  a.mov(rcx, rax);
  a.sub(rsp, 64);
  a.call(walk);
  a.add(rsp, 64);
  a.ret();
  const code = mmap(0n, 1 << 16, PROT.READ | PROT.WRITE | PROT.EXEC, MMAP.PRIVATE | MMAP.ANONYMOUS, -1, 0);
  new Uint8Array(viewMemory(code, 1 << 16)).set(a.finish(code));
  const record = arena.alloc(RECORD.size);
  const entry = code + BigInt(a.offsetOf(start));
  new DataView(record.bytes.buffer, record.bytes.byteOffset).setBigUint64(RECORD.func, entry, true);
  const out = arena.alloc(max * 8);
  const count = Number(callCode(entry, out.address, max, skip, record.address));
  const view = new BigUint64Array(out.bytes.buffer, out.bytes.byteOffset, max);
  expect(fixups.length).toBeGreaterThan(3);
  return { ips: [...view.subarray(0, count)], ms, entry };
}

test('it reaches the start of the program, and every address follows a call', () => {
  const { ips, ms, entry } = walkHere(500);
  expect(ips[0]).toBe(entry);
  expect(ips.length).toBeGreaterThan(8);
  const mappings = readMappings(process.pid);
  const { modules } = readModules(process.pid);
  const names = ips.slice(1).map(ip => {
    const mapping = mappings.find(m => ip >= m.start && ip < m.end);
    expect(mapping?.executable, `0x${ip.toString(16)} is code`).toBe(true);
    return modules.find(m => ip >= m.start && ip < m.end)?.name ?? mapping!.path;
  });
  console.log(`${ips.length} frames, table made in ${ms.toFixed(0)} ms:`, [...new Set(names)].join(' '));
  // The last two are the C library's start and the program's _start.
  expect(names.at(-1)).toBe('node');
  expect(names.at(-2)).toBe('libc.so.6');
  for (const ip of ips.slice(1, -1)) {
    const bytes = new Uint8Array(viewMemory(ip - 7n, 7));
    const direct = bytes[2] === 0xe8;
    const indirect = [0, 1, 3, 4, 5].some(i => bytes[i] === 0xff && (bytes[i + 1]! & 0x38) === 0x10);
    expect(direct || indirect, `0x${ip.toString(16)} follows a call`).toBe(true);
  }
});

test('there is room for as many as asked for, and the first are skipped', () => {
  // Two calls stand on stacks that differ in their lower frames only by where they were called from.
  const { ips } = walkHere(5);
  expect(ips).toHaveLength(5);
  const skipped = walkHere(5, 3);
  expect(skipped.ips).toHaveLength(5);
  expect(skipped.ips).not.toContain(skipped.entry);
});

import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { readProcessMemory } from '../../../ffi/libc.js';
import { openProcess } from '../../../process/process.js';
import { Stopper } from '../stopper.js';
import { planDataAddress } from './region.js';
import { mapRingHere, RingRegion } from './ring_region.js';

const PAGE = 4096;

/** Whether both copies show the same memory, also across their border. */
function expectTwice(bytes: Uint8Array, size: number): void {
  expect(bytes.length).toBe(2 * size);
  bytes[5] = 0xa5;
  expect(bytes[size + 5]).toBe(0xa5);
  bytes.set([1, 2, 3, 4], size - 2);
  expect([...bytes.subarray(0, 2)]).toEqual([3, 4]);
  expect([...bytes.subarray(2 * size - 2)]).toEqual([1, 2]);
}

it('maps the memory of a ring twice in a row in this process', () => {
  const ring = mapRingHere(2 * PAGE);
  expectTwice(ring.bytes, 2 * PAGE);
  ring.free();
});

it('maps it twice in a row in another process, shares it, and takes it away again', async () => {
  const child = spawn('sleep', ['60']);
  await new Promise(resolve => setTimeout(resolve, 50));
  const pid = child.pid!;
  try {
    const target = openProcess(pid);
    const stopper = new Stopper(target);
    const size = 4 * PAGE;
    const address = planDataAddress(target, 2 * size);
    const map = (at: bigint): RingRegion =>
      stopper.during(stop => stop.remote(remote => RingRegion.map(remote, pid, at, size))).value;
    const ring = map(address);
    expectTwice(ring.bytes, size);
    ring.bytes.set(Buffer.from('across the border'), size - 8);
    const seen = Buffer.alloc(17);
    expect(readProcessMemory(pid, address + BigInt(size - 8), seen)).toBe(17);
    expect(seen.toString()).toBe('across the border');
    const mappings = (): string[] =>
      readFileSync(`/proc/${pid}/maps`, 'utf8')
        .split('\n')
        .filter(line => line.includes('multitrace'));
    expect(mappings().length).toBe(2);
    expect(mappings().every(line => / rw-s /.test(line))).toBe(true);

    // Where the second half has no room, neither is left.
    expect(() => map(address - BigInt(size))).toThrow();
    expect(mappings().length).toBe(2);

    stopper.during(stop => stop.remote(remote => ring.unmapRemote(remote)));
    expect(mappings()).toEqual([]);
    ring.unmapLocal();
  } finally {
    child.kill('SIGKILL');
  }
});

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import { viewMemory } from '../../../ffi/libc.js';
import type { Label } from '../../../x86/assembler.js';
import { BpfError, errnoNumber } from '../../errno.js';
import { DYNPTR, DYNPTR_MAX_SIZE, DYNPTR_TYPE, DYNPTR_TYPE_SHIFT } from '../helpers/dynptr_layout.js';
import { emitPerfHelpers } from '../helpers/perf_code.js';
import { emitRingbufHelpers, emitRingRoutines } from '../helpers/ringbuf_code.js';
import { randomNumbers } from './fixture.js';
import { PerfEventArray } from './perf.js';
import { RingBufferMap } from './ringbuf.js';
import { PlacedCode, RingsHere, TestMemory } from './ringbuf_fixture.js';
import { RB_QUERY, RECORD_HEADER, RINGBUF } from './ringbuf_layout.js';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const SOAK = process.env.MULTITRACE_SOAK === '1';
const EINVAL = -BigInt(errnoNumber('EINVAL'));

let code: PlacedCode;
let memory: TestMemory;
const rings = new RingsHere();

beforeAll(() => {
  memory = new TestMemory(1 << 20);
  code = new PlacedCode(a => {
    const routines = emitRingRoutines(a);
    const labels = new Map<string, Label>([
      ...emitRingbufHelpers(a, routines),
      ...emitPerfHelpers(a, routines),
    ]);
    // perf_event_output takes the slot in r9d, where the sixth argument of a call is: (ctx, map, flags, data, size, slot).
    return labels;
  });
});

afterAll(() => code[Symbol.dispose]());

const signed = (value: bigint): bigint => BigInt.asIntN(64, value);

/** One ring buffer, with the helpers called as a program would. */
function makeRing(size = 4096, whenQuiet?: (discard: () => void) => void) {
  const attr = { type: MAP_TYPE.RINGBUF, name: 'events', keySize: 0, valueSize: 0, maxEntries: size };
  const map = new RingBufferMap(attr, 1, memory, rings.mapRing, whenQuiet);
  const block = memory.alloc(8192);
  const call = (helper: number, ...args: (number | bigint)[]): bigint =>
    signed(code.call(`helper_${helper}`, ...args));
  return {
    map,
    block,
    output(bytes: Uint8Array, flags = 0): bigint {
      block.bytes.set(bytes);
      return call(130, map.address, block.address, bytes.length, flags);
    },
    reserve: (bytes: number, flags = 0): bigint => call(131, map.address, bytes, flags),
    submit: (sample: bigint): bigint => call(132, sample, 0),
    discard: (sample: bigint): bigint => call(133, sample, 0),
    query: (what: number): bigint => call(134, map.address, what),
    call,
    read(limit?: number): Uint8Array[] {
      const records: Uint8Array[] = [];
      map.consume(bytes => records.push(bytes.slice()), limit);
      return records;
    },
  };
}

const bytesOf = (length: number, start = 0): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (start + i * 7) & 0xff);

describe(`ring buffer (seed ${seed})`, () => {
  it('hands over what was put in, byte for byte, in order, for every length', () => {
    const ring = makeRing(65536);
    for (let length = 0; length < 300; length++) expect(ring.output(bytesOf(length, length))).toBe(0n);
    const records = ring.read();
    expect(records.length).toBe(300);
    for (let length = 0; length < 300; length++) expect(records[length]).toEqual(bytesOf(length, length));
    expect(ring.read()).toEqual([]);
    expect(ring.map.dropped).toBe(0n);
  });

  it('agrees with a model over many laps of random operations', () => {
    const random = randomNumbers(seed);
    const ring = makeRing(4096);
    const size = 4096;
    interface Entry {
      bytes: Uint8Array;
      total: number;
      state: 'busy' | 'done' | 'discarded';
      sample: bigint;
    }
    const queue: Entry[] = [];
    let used = 0;
    let dropped = 0n;
    let produced = 0;
    for (let step = 0; step < (SOAK ? 100_000 : 6_000); step++) {
      const length = random(8) === 0 ? random(2000) : random(64);
      const total = (length + 15) & ~7;
      const fits = used + total <= size;
      switch (random(6)) {
        case 0: {
          const bytes = bytesOf(length, step);
          expect(ring.output(bytes, random(3))).toBe(fits ? 0n : BigInt(-errnoNumber('EAGAIN')));
          if (fits) queue.push({ bytes, total, state: 'done', sample: 0n });
          break;
        }
        case 1: {
          const sample = ring.reserve(length);
          expect(sample !== 0n).toBe(fits);
          if (!fits) break;
          expect(sample % 8n).toBe(0n);
          const bytes = bytesOf(length, step * 3);
          new Uint8Array(viewMemory(sample, length + 8)).set(bytes);
          queue.push({ bytes, total, state: 'busy', sample });
          break;
        }
        case 2:
        case 3: {
          const busy = queue.filter(entry => entry.state === 'busy');
          const entry = busy[random(Math.max(busy.length, 1))];
          if (entry === undefined) continue;
          const keep = random(3) > 0;
          if (keep) ring.submit(entry.sample);
          else ring.discard(entry.sample);
          entry.state = keep ? 'done' : 'discarded';
          continue;
        }
        default: {
          const limit = 1 + random(10);
          const expected: Uint8Array[] = [];
          while (queue.length > 0 && queue[0]!.state !== 'busy' && expected.length < limit) {
            const entry = queue.shift()!;
            used -= entry.total;
            if (entry.state === 'done') expected.push(entry.bytes);
          }
          expect(ring.read(limit)).toEqual(expected);
          continue;
        }
      }
      if (fits) {
        used += total;
        produced += total;
      } else dropped++;
      expect(ring.map.dropped).toBe(dropped);
      expect(ring.query(RB_QUERY.AVAIL_DATA)).toBe(BigInt(used));
      expect(ring.query(RB_QUERY.PROD_POS)).toBe(BigInt(produced));
      expect(ring.query(RB_QUERY.CONS_POS)).toBe(BigInt(produced - used));
    }
    expect(ring.query(RB_QUERY.RING_SIZE)).toBe(4096n);
    expect(ring.query(77)).toBe(0n);
    expect(produced).toBeGreaterThan(5 * size);
    expect(dropped).toBeGreaterThan(0n);
  });

  it('takes a record that fills the ring, and none that is longer; refuses unknown flags', () => {
    const ring = makeRing(4096);
    expect(ring.output(bytesOf(4088))).toBe(0n);
    expect(ring.reserve(0)).toBe(0n);
    expect(ring.read()).toEqual([bytesOf(4088)]);
    expect(ring.reserve(4089)).toBe(0n);
    expect(ring.reserve(0x4000_0000)).toBe(0n);
    expect(ring.call(131, ring.map.address, -1n, 0)).toBe(0n);
    expect(ring.map.dropped).toBe(4n);
    expect(ring.reserve(8, 1)).toBe(0n);
    expect(ring.output(bytesOf(8), 4)).toBe(EINVAL);
    expect(ring.map.dropped).toBe(4n);
    expect(ring.output(bytesOf(8), 3)).toBe(0n);
  });

  it('reads up to an unfinished record, and that and all behind it when it is finished', () => {
    const ring = makeRing();
    ring.output(bytesOf(4, 1));
    const sample = ring.reserve(5);
    ring.output(bytesOf(6, 2));
    expect(ring.read()).toEqual([bytesOf(4, 1)]);
    expect(ring.read()).toEqual([]);
    new Uint8Array(viewMemory(sample, 8)).set(bytesOf(5, 3));
    ring.submit(sample);
    expect(ring.read()).toEqual([bytesOf(5, 3), bytesOf(6, 2)]);
  });

  it('goes on behind a reservation whose owner vanished before it moved the write position', () => {
    const ring = makeRing();
    const producer = memoryWord(ring.map.address + BigInt(RINGBUF.PRODUCER));
    const before = producer[0]!;
    const lost = ring.reserve(24);
    producer[0] = before;
    const next = ring.reserve(8);
    expect(next).toBe(lost + 32n);
    expect(producer[0]).toBe(before + 48n);
    ring.discard(lost);
    ring.submit(next);
    expect(ring.read().length).toBe(1);
  });

  it('does not reserve by a write position that is laps old', () => {
    // What a thread sees that slept between reading PRODUCER and the exchange: the ring is laps further.
    const ring = makeRing();
    const producer = memoryWord(ring.map.address + BigInt(RINGBUF.PRODUCER));
    const old = producer[0]!;
    for (let i = 0; i < 1000; i++) {
      ring.output(new Uint8Array(56));
      ring.read();
    }
    ring.output(bytesOf(40));
    const now = producer[0]!;
    expect(now - old).toBeGreaterThan(10n * 4096n);
    const whole = new Uint8Array(viewMemory(memoryWord(ring.map.address + BigInt(RINGBUF.DATA))[0]!, 4096));
    const image = whole.slice();
    const free = memoryWord(ring.map.address + BigInt(RINGBUF.FREE))[0]!;
    const words = new BigUint64Array(image.buffer);
    // No word anywhere is free for a lap that is over, nor for one that has not begun.
    for (let at = 0; at < 4096; at += 8) {
      const lap = words[at / 8]! - free;
      if (lap >= 0n && lap < 1n << 40n) {
        const position = lap + BigInt(at);
        expect(position).toBeGreaterThanOrEqual(now);
        expect(position).toBeLessThan(now + 4096n);
      }
    }
  });

  it('discards unfinished records only at a quiet moment, asked for after a while', async () => {
    let asked = 0;
    let quiet = false;
    const ring = makeRing(4096, discard => {
      asked++;
      if (quiet) discard();
    });
    ring.reserve(16);
    ring.output(bytesOf(3));
    expect(ring.read()).toEqual([]);
    expect(await ring.map.wait(300)).toBe(false);
    expect(asked).toBe(0);
    quiet = true;
    expect(await ring.map.wait(3000)).toBe(true);
    expect(asked).toBe(1);
    expect(ring.read()).toEqual([bytesOf(3)]);
  });

  it('waits without holding up node, until a record comes or time is up', async () => {
    const ring = makeRing();
    let ticks = 0;
    const ticking = setInterval(() => ticks++, 5);
    expect(await ring.map.wait(100)).toBe(false);
    const waiting = ring.map.wait(10_000);
    setTimeout(() => ring.output(bytesOf(1)), 50);
    expect(await waiting).toBe(true);
    clearInterval(ticking);
    // Thirty on a quiet machine; one or two if it did not let node go on.
    expect(ticks).toBeGreaterThan(4);
  });

  it('never keeps node from other events, though records never run out', async () => {
    const ring = makeRing();
    let over = false;
    setTimeout(() => {
      over = true;
    }, 30);
    for (let turns = 0; !over; turns++) {
      ring.output(bytesOf(8));
      expect(await ring.map.wait(1000)).toBe(true);
      expect(ring.read().length).toBe(1);
      if (turns > 1_000_000) throw new Error('the timer never came');
    }
  });

  it('ends at what the callback throws, behind its record, and may not be entered again', () => {
    const ring = makeRing();
    for (let i = 0; i < 5; i++) ring.output(bytesOf(8, i));
    let seen = 0;
    expect(() =>
      ring.map.consume(() => {
        if (++seen === 3) throw new RangeError('enough');
      }),
    ).toThrow('enough');
    expect(ring.read()).toEqual([bytesOf(8, 3), bytesOf(8, 4)]);
    ring.output(bytesOf(1));
    expect(() => ring.map.consume(() => ring.map.consume(() => {}))).toThrow(/consumed already/);
  });

  it('says so when the process wrote over it, whatever it wrote, and goes on', () => {
    const random = randomNumbers(seed ^ 0x5555);
    const ring = makeRing();
    const data = new Uint8Array(viewMemory(memoryWord(ring.map.address + BigInt(RINGBUF.DATA))[0]!, 4096));
    const producer = memoryWord(ring.map.address + BigInt(RINGBUF.PRODUCER));
    let refused = 0;
    for (let round = 0; round < 300; round++) {
      for (let i = random(20); i >= 0; i--) ring.output(bytesOf(random(100), i));
      if (random(2) === 0) producer[0] = BigInt(random(2 ** 31)) << BigInt(random(30));
      else for (let i = 0; i < 4096; i++) data[i] = random(256);
      for (let i = 0; i < 3; i++) {
        try {
          ring.read();
        } catch (error) {
          expect(error).toBeInstanceOf(BpfError);
          expect((error as BpfError).code).toBe('EIO');
          refused++;
        }
      }
      // Garbage may also look like an unfinished record.
      const left = ring.query(RB_QUERY.AVAIL_DATA);
      expect(left >= 0n && left <= 4096n).toBe(true);
      if (left > 0n) {
        producer[0] = 1n;
        expect(() => ring.read()).toThrow(/wrote over/);
      }
      ring.output(bytesOf(9));
      expect(ring.read()).toEqual([bytesOf(9)]);
    }
    expect(refused).toBeGreaterThan(50);
  });

  it('has dynptrs for its records', () => {
    const ring = makeRing();
    const at = memory.alloc(DYNPTR.BYTES);
    const words = new DataView(at.bytes.buffer, at.bytes.byteOffset, DYNPTR.BYTES);
    const isNull = (): boolean => at.bytes.every(byte => byte === 0);
    at.bytes.fill(0xee);
    expect(ring.call(198, ring.map.address, 10, 0, at.address)).toBe(0n);
    const sample = words.getBigUint64(DYNPTR.DATA, true);
    expect(words.getUint32(DYNPTR.SIZE, true)).toBe(10 | (DYNPTR_TYPE.RINGBUF << DYNPTR_TYPE_SHIFT));
    expect(words.getUint32(DYNPTR.OFFSET, true)).toBe(0);
    new Uint8Array(viewMemory(sample, 10)).set(bytesOf(10));
    expect(ring.call(199, at.address, 0)).toBe(0n);
    expect(isNull()).toBe(true);
    expect(ring.read()).toEqual([bytesOf(10)]);
    expect(ring.call(199, at.address, 0)).toBe(0n);
    expect(ring.call(198, ring.map.address, 20, 0, at.address)).toBe(0n);
    expect(ring.call(200, at.address, 0)).toBe(0n);
    expect(ring.read()).toEqual([]);
    for (const [size, flags, error] of [
      [8, 1, EINVAL],
      [5000, 0, EINVAL],
      [DYNPTR_MAX_SIZE + 1, 0, BigInt(-errnoNumber('E2BIG'))],
    ] as const) {
      at.bytes.fill(0xee);
      expect(ring.call(198, ring.map.address, size, flags, at.address)).toBe(error);
      expect(isNull()).toBe(true);
    }
  });

  it('refuses attributes that make no ring, and operations on keys', () => {
    const make = (change: object): RingBufferMap =>
      new RingBufferMap(
        { type: MAP_TYPE.RINGBUF, name: 'r', keySize: 0, valueSize: 0, maxEntries: 4096, ...change },
        1,
        memory,
        rings.mapRing,
      );
    expect(() => make({ maxEntries: 4095 })).toThrow(/power of two/);
    expect(() => make({ maxEntries: 12288 })).toThrow(/power of two/);
    expect(() => make({ maxEntries: 0 })).toThrow(/power of two/);
    expect(() => make({ maxEntries: 2 ** 31 })).toThrow(/limit/);
    expect(() => make({ keySize: 4 })).toThrow(/no keys/);
    expect(() => make({ flags: 1 })).toThrow(/flags/);
    const map = make({});
    expect(() => map.lookup(new Uint8Array(4))).toThrow(/looked up/);
    expect([...map.entries()]).toEqual([]);
    map.free();
    expect(() => map.consume(() => {})).toThrow(/closed/);
  });
});

describe('perf event array', () => {
  const make = (maxEntries = 4): PerfEventArray =>
    new PerfEventArray(
      { type: MAP_TYPE.PERF_EVENT_ARRAY, name: 'perf', keySize: 4, valueSize: 4, maxEntries },
      2,
      memory,
      rings.mapRing,
    );
  const CURRENT = 0xffff_ffffn;

  it('hands over samples with the slot that they were sent from, and counts those without room', () => {
    const map = make();
    const block = memory.alloc(64);
    block.bytes.set(bytesOf(64));
    const output = (flags: bigint, size: number, slot: number): bigint =>
      signed(code.call('helper_25', 0, map.address, flags, block.address, size, slot));
    expect(output(CURRENT, 13, 77)).toBe(0n);
    expect(output(2n, 8, 2)).toBe(0n);
    expect(output(2n, 8, 3)).toBe(BigInt(-errnoNumber('EOPNOTSUPP')));
    expect(output(4n, 8, 4)).toBe(BigInt(-errnoNumber('E2BIG')));
    expect(output(CURRENT | (1n << 32n), 8, 0)).toBe(EINVAL);
    const seen: [number, Uint8Array][] = [];
    expect(map.consume((bytes, cpu) => seen.push([cpu, bytes.slice()]))).toBe(2);
    expect(seen).toEqual([
      [77, bytesOf(13)],
      [2, bytesOf(8)],
    ]);
    let sent = 0;
    while (output(CURRENT, 56, 0) === 0n) sent++;
    expect(output(CURRENT, 56, 0)).toBe(BigInt(-errnoNumber('ENOSPC')));
    expect(sent).toBe(2 ** 20 / 64);
    expect(map.dropped).toBe(2n);
    expect(map.consume(() => {})).toBe(sent);
  });

  it('refuses other sizes than those of the kernel', () => {
    expect(
      () =>
        new PerfEventArray(
          { type: MAP_TYPE.PERF_EVENT_ARRAY, name: 'perf', keySize: 4, valueSize: 8, maxEntries: 1 },
          2,
          memory,
          rings.mapRing,
        ),
    ).toThrow(/must have 4/);
    expect(() => make(0)).toThrow(/number of CPUs/);
  });
});

function memoryWord(address: bigint): BigUint64Array {
  return new BigUint64Array(viewMemory(address, 8));
}

describe('record headers', () => {
  it('can not be mistaken for a free word', () => {
    const ring = makeRing();
    const free = memoryWord(ring.map.address + BigInt(RINGBUF.FREE))[0]!;
    expect(free >> 63n).toBe(1n);
    expect((free + (1n << 50n)) >> 63n).toBe(1n);
    const sample = ring.reserve(100);
    const header = memoryWord(sample - BigInt(RECORD_HEADER.BYTES))[0]!;
    expect(header).toBe(BigInt(RECORD_HEADER.BUSY + 100));
  });
});

import { spawn, spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_TYPE } from '../../../bpf/map_type.js';
import { viewMemory } from '../../../ffi/libc.js';
import { emitRingbufHelpers, emitRingRoutines } from '../helpers/ringbuf_code.js';
import { RingBufferMap } from './ringbuf.js';
import {
  CProgram,
  PlacedCode,
  RingsHere,
  STRESS_DEFINES,
  type StressRun,
  stressArguments,
  TestMemory,
} from './ringbuf_fixture.js';
import { RINGBUF } from './ringbuf_layout.js';

const SOAK = process.env.MULTITRACE_SOAK === '1';
const TIMEOUT = SOAK ? 600_000 : 60_000;
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const HEADER = 16;

let code: PlacedCode;
let program: CProgram;

const hasCompiler = (): boolean => spawnSync('gcc', ['--version']).status === 0;

beforeAll(() => {
  code = new PlacedCode(a => emitRingbufHelpers(a, emitRingRoutines(a)));
  const source = join(dirname(fileURLToPath(import.meta.url)), 'ringbuf_stress.c');
  program = new CProgram(source, STRESS_DEFINES);
});

afterAll(() => {
  code[Symbol.dispose]();
  program[Symbol.dispose]();
});

interface Outcome {
  /** Records read of each writer, and what it says it wrote. */
  readonly read: Map<number, number>;
  readonly written: Map<number, number>;
  readonly failed: bigint;
  readonly handled: number;
  readonly dropped: bigint;
  /** Out of order, or not as written. */
  readonly wrong: string[];
}

/** Runs the writers and reads all the while, but for the pauses (ms) that `reads` asks for after each round. */
async function run(size: number, what: StressRun, pause = 0): Promise<Outcome> {
  using memory = new TestMemory();
  const rings = new RingsHere();
  const map = new RingBufferMap(
    { type: MAP_TYPE.RINGBUF, name: 'r', keySize: 0, valueSize: 0, maxEntries: size },
    1,
    memory,
    rings.mapRing,
  );
  const ring = { address: map.address, fd: rings.fds[0]!, size };
  const child = spawn(program.path, stressArguments(code, memory, ring, what));
  let output = '';
  child.stdout.on('data', chunk => {
    output += chunk;
  });
  let errors = '';
  child.stderr.on('data', chunk => {
    errors += chunk;
  });
  let status: number | null | undefined;
  child.on('close', code => {
    status = code ?? -1;
  });

  const read = new Map<number, number>();
  const wrong: string[] = [];
  const check = (bytes: Uint8Array): void => {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, HEADER / 4);
    const [writer, length, number] = [words[0]!, words[1]!, words[2]!];
    const expected = read.get(writer) ?? 0;
    if (number !== expected || length !== bytes.length || words[3] !== 0)
      wrong.push(`writer ${writer}: ${number} of ${length} bytes where ${expected} should be`);
    let c = (writer * 31 + number) & 0xff;
    for (let i = HEADER; i < bytes.length; i++, c = (c + 1) & 0xff)
      if (bytes[i] !== c) {
        wrong.push(`writer ${writer}: ${number} is torn at byte ${i}`);
        break;
      }
    read.set(writer, number + 1);
  };
  while (status === undefined) {
    map.consume(check, 20_000);
    if (pause > 0) await new Promise(resolve => setTimeout(resolve, pause));
    else await map.wait(20);
  }
  map.consume(check);
  if (status !== 0) throw new Error(`ringbuf_stress.c ended with ${status}: ${errors}`);
  const lines = output
    .trim()
    .split('\n')
    .map(line => line.split(' '));
  const number = (name: string): string => lines.find(line => line[0] === name)![1]!;
  const written = new Map(
    lines.filter(line => line[0] === 'written').map(([, writer, count]) => [Number(writer), Number(count)]),
  );
  const outcome: Outcome = {
    read,
    written,
    failed: BigInt(number('failed')),
    handled: Number(number('handled')),
    dropped: map.dropped,
    wrong: wrong.slice(0, 5),
  };
  map.free();
  return outcome;
}

function expectAllThere({ read, written, wrong, dropped, failed }: Outcome): void {
  expect(wrong).toEqual([]);
  for (const [writer, count] of written) expect(read.get(writer) ?? 0, `writer ${writer}`).toBe(count);
  expect(dropped).toBe(failed);
}

describe.skipIf(!hasCompiler())(`ring buffer under stress (seed ${seed})`, () => {
  it(
    'loses and tears nothing of 4 threads while the reader keeps up, and keeps each thread in order',
    async () => {
      const records = SOAK ? 2_500_000 : 100_000;
      const outcome = await run(1 << 20, { threads: 4, records, seed, throttle: true });
      expectAllThere(outcome);
      expect(outcome.dropped).toBe(0n);
    },
    TIMEOUT,
  );

  it(
    'is right when signal handlers write in the middle of writing, on 8 threads',
    async () => {
      const records = SOAK ? 500_000 : 20_000;
      const outcome = await run(1 << 18, { threads: 8, records, seed, throttle: true, signals: true });
      expectAllThere(outcome);
      expect(outcome.handled).toBeGreaterThan(20);
    },
    TIMEOUT,
  );

  for (const size of [4096, 1 << 16])
    it(
      `counts exactly what it drops when the reader is slow: ${size} bytes`,
      async () => {
        const records = SOAK ? 1_000_000 : 50_000;
        const outcome = await run(size, { threads: 4, records, seed, signals: true }, 1);
        expectAllThere(outcome);
        expect(outcome.dropped).toBeGreaterThan(0n);
      },
      TIMEOUT,
    );

  for (const size of [1 << 16, 4096])
    it(
      `is right after a signal or a death behind any single instruction: ${size} bytes`,
      async () => {
        using memory = new TestMemory();
        const rings = new RingsHere();
        const attr = { type: MAP_TYPE.RINGBUF, name: 'r', keySize: 0, valueSize: 0, maxEntries: size };
        let quiet = false;
        const map = new RingBufferMap(attr, 1, memory, rings.mapRing, discard => {
          if (quiet) discard();
        });
        const ringAddress = new BigUint64Array(viewMemory(map.address, RINGBUF.BYTES))[RINGBUF.DATA / 8]!;
        // Not in the first lap, nor at its beginning.
        const data = memory.alloc(512);
        for (let i = 0; i < 1000 + (seed % 100); i++) {
          code.call('helper_130', map.address, data.address, (i * 40) % 500, 0);
          map.consume(() => {});
        }
        const ring = { address: map.address, fd: rings.fds[0]!, size };
        const args = stressArguments(code, memory, ring, { threads: 1, records: 0, seed, steps: true });
        const run = spawnSync(program.path, args, { encoding: 'utf8' });
        expect(run.stderr).toBe('');
        const numbers = new Map(
          run.stdout
            .trim()
            .split('\n')
            .map(line => [
              line.slice(0, line.lastIndexOf(' ')),
              Number(line.slice(line.lastIndexOf(' ') + 1)),
            ]),
        );
        const steps = numbers.get('steps')!;
        expect(steps).toBeGreaterThan(20);

        const read: number[][] = [[], [], [], []];
        const take = (bytes: Uint8Array): void => {
          const words = new Uint32Array(bytes.buffer, bytes.byteOffset, 3);
          read[words[0]!]!.push(words[2]!);
        };
        map.consume(take);
        quiet = true;
        while (await map.wait(1200)) map.consume(take);
        const [outer, nested, abandoned, after] = read as [number[], number[], number[], number[]];
        for (const [writer, numbersRead] of [outer, nested, [], after].entries())
          if (writer !== 2) {
            expect(numbersRead).toEqual(numbersRead.map((_, i) => i));
            expect(numbersRead.length).toBe(numbers.get(`written ${writer}`));
          }
        // Those are there that were finished before their thread was gone, each once.
        expect(abandoned.length).toBeLessThan(steps / 2);
        expect(new Set(abandoned).size).toBe(abandoned.length);
        expect(map.dropped).toBeGreaterThanOrEqual(numbers.get('failed')!);
        if (size === 1 << 16) {
          expect(map.dropped).toBe(0n);
          expect([outer.length, nested.length, after.length]).toEqual([steps + 1, steps, steps]);
          expect(abandoned.length).toBeGreaterThan(0);
        } else expect(map.dropped).toBeGreaterThan(0n);
        // Nothing is stuck: the ring takes as much as ever, here where its address is another one again.
        const header = new BigUint64Array(viewMemory(map.address, RINGBUF.BYTES));
        header[RINGBUF.DATA / 8] = ringAddress;
        expect(code.call('helper_130', map.address, data.address, 500, 0)).toBe(0n);
        expect(map.consume(() => {})).toBe(1);
        map.free();
      },
      TIMEOUT,
    );
});

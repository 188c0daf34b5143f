import { spawn, spawnSync } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import { inspectHash, RoutinesInMemory, randomNumbers, SharedMemory, StressProgram } from './fixture.js';
import { HashMap } from './hash.js';

const THREADS = 8;
const SOAK = process.env.MULTITRACE_SOAK === '1';
const TIMEOUT = SOAK ? 1_800_000 : 120_000;
/** Operations of each thread. */
const OPERATIONS = SOAK ? 10_000_000 : 300_000;
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

function hasCompiler(): boolean {
  return spawnSync('gcc', ['--version']).status === 0;
}

let code: RoutinesInMemory;
let program: StressProgram;

beforeAll(() => {
  code = new RoutinesInMemory();
  program = new StressProgram();
});

afterAll(() => {
  code[Symbol.dispose]();
  program[Symbol.dispose]();
});

interface Report {
  [line: string]: number;
}

/** Runs stress.c on `map` and resolves to the numbers it prints; `meanwhile` runs here until it ends. */
async function stress(
  memory: SharedMemory,
  map: HashMap,
  mode: string[],
  meanwhile?: () => void,
): Promise<Report> {
  const child = spawn(program.path, [...program.arguments(code, memory, map.address), ...mode]);
  let output = '';
  let errors = '';
  child.stdout.on('data', chunk => {
    output += chunk;
  });
  child.stderr.on('data', chunk => {
    errors += chunk;
  });
  let running = true;
  const ended = new Promise<number | null>(resolve => {
    child.on('close', status => {
      running = false;
      resolve(status);
    });
  });
  while (running && meanwhile !== undefined) {
    meanwhile();
    await new Promise(resolve => setImmediate(resolve));
  }
  const status = await ended;
  if (status !== 0) throw new Error(`stress.c ended with ${status}: ${errors}`);
  const report: Report = {};
  for (const line of output.trim().split('\n')) {
    const at = line.lastIndexOf(' ');
    report[line.slice(0, at)] = Number(line.slice(at + 1));
  }
  return report;
}

function createHash(memory: SharedMemory, keySize: number, valueSize: number, maxEntries: number): HashMap {
  return new HashMap({ type: MAP_TYPE.HASH, keySize, valueSize, maxEntries, name: 'h' }, 1, memory);
}

/** Key number `n`, as stress.c makes it. */
function key(size: number, n: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => (n >> (8 * (i % 4))) ^ (i >> 2));
}

/** Four words that belong together, as stress.c checks them. */
function value(n: number, stamp: bigint): Uint8Array {
  return new Uint8Array(BigUint64Array.of(stamp, stamp ^ BigInt(n), ~stamp, stamp * 3n).buffer);
}

function belongsTogether(bytes: Uint8Array, n: number): boolean {
  const [stamp] = new BigUint64Array(bytes.buffer, bytes.byteOffset, 4);
  return Buffer.compare(bytes, value(n, stamp!)) === 0;
}

describe.skipIf(!hasCompiler())(`a hash map under stress (seed ${seed})`, () => {
  for (const keySize of [4, 8, 16]) {
    it(
      `counts every event of ${THREADS} threads and their signal handlers: keys of ${keySize}`,
      async () => {
        using memory = new SharedMemory(1 << 20);
        const map = createHash(memory, keySize, 32, 512);
        const report = await stress(memory, map, ['count', `${seed}`, `${THREADS}`, '512', `${OPERATIONS}`]);
        let total = 0n;
        for (let k = map.nextKey(); k !== undefined; k = map.nextKey(k)) {
          total += new BigUint64Array(map.lookup(k)!.buffer, 0, 1)[0]!;
        }
        expect(report.missed).toBe(0);
        expect(report.interrupted).toBeGreaterThan(50);
        expect(total).toBe(BigInt(report.operations!));
        const contents = inspectHash(memory.bytesFrom(map.address));
        expect(contents).toMatchObject({ marked: 0, lost: 0, free: 0, spare: 128 });
        expect(contents.keys.length).toBe(512);
      },
      TIMEOUT,
    );
  }

  for (const [what, keySize, maxEntries, keys] of [
    ['few keys, so that all threads meet at each', 8, 4, 4],
    ['nearly always full', 4, 40, 64],
    ['long keys in many buckets', 20, 1000, 900],
  ] as const) {
    it(
      `loses, doubles and tears nothing while ${THREADS} threads and this one change it: ${what}`,
      async () => {
        using memory = new SharedMemory(1 << 20);
        const map = createHash(memory, keySize, 32, maxEntries);
        const random = randomNumbers(seed);
        const balance = new Array<number>(keys).fill(0);
        let here = 0;
        let tornHere = 0;
        const meanwhile = (): void => {
          for (let i = 0; i < 200; i++, here++) {
            const n = random(keys);
            const k = key(keySize, n);
            try {
              switch (random(5)) {
                case 0:
                  map.update(k, value(n, BigInt(random(2 ** 31))), UPDATE.NOEXIST);
                  balance[n]!++;
                  break;
                case 1:
                  map.update(k, value(n, BigInt(random(2 ** 31))), UPDATE.EXIST);
                  break;
                case 2:
                  map.delete(k);
                  balance[n]!--;
                  break;
                case 3: {
                  const got = map.lookup(k);
                  if (got !== undefined && !belongsTogether(got, n)) tornHere++;
                  break;
                }
                default:
                  map.nextKey(k);
              }
            } catch (error) {
              if (!(error instanceof BpfError)) throw error;
            }
          }
        };
        const report = await stress(
          memory,
          map,
          ['churn', `${seed}`, `${THREADS}`, `${keys}`, `${OPERATIONS}`],
          meanwhile,
        );
        expect(here).toBeGreaterThanOrEqual(1_000);
        expect(tornHere).toBe(0);
        expect(report).toMatchObject({ torn: 0, busy: 0 });
        const contents = inspectHash(memory.bytesFrom(map.address));
        expect(contents).toMatchObject({ marked: 0, lost: 0, spare: 128 });
        expect(contents.free + contents.keys.length).toBe(maxEntries);
        const present = new Set(contents.keys);
        for (let n = 0; n < keys; n++) {
          const inserted = balance[n]! + (report[`balance ${n}`] ?? 0);
          expect(inserted, `key ${n}`).toBe(
            present.has(Buffer.from(key(keySize, n)).toString('hex')) ? 1 : 0,
          );
        }
        if (maxEntries < keys) expect(report.full).toBeGreaterThan(0);
        for (const k of contents.keys) {
          const bytes = Buffer.from(k, 'hex');
          const n = bytes.readUInt32LE(0);
          expect(belongsTogether(map.lookup(bytes)!, n)).toBe(true);
        }
      },
      TIMEOUT,
    );
  }

  it(
    'stays whole when processes that use it are killed at any moment',
    async () => {
      using memory = new SharedMemory(1 << 21);
      const map = createHash(memory, 8, 32, 6000);
      const report = await stress(memory, map, ['kill', `${seed}`, SOAK ? '5000' : '200', '300']);
      // The first walk by us unlinks what the dead had only marked.
      let live = 0;
      for (let k = map.nextKey(); k !== undefined; k = map.nextKey(k)) live++;
      const contents = inspectHash(memory.bytesFrom(map.address));
      expect(contents.keys.length).toBe(live);
      expect(contents.marked).toBe(0);
      expect(contents.lost).toBeLessThanOrEqual(report.kills!);
      for (let n = 0; n < 300; n++) map.update(key(8, n), value(n, 1n));
      for (let n = 0; n < 300; n++) expect(belongsTogether(map.lookup(key(8, n))!, n)).toBe(true);
    },
    TIMEOUT,
  );

  // Each run steps up to the instruction that it is about, so all of them take minutes: a random share without soak.
  for (const keySize of [4, 12]) {
    const every = SOAK ? 1 : 60;
    it(
      `is right after a signal or a death behind any single instruction: keys of ${keySize}`,
      async () => {
        using memory = new SharedMemory(1 << 20);
        const map = createHash(memory, keySize, 32, 2);
        // stress.c goes from one run to the next in steps of `every` instructions, from a random first one.
        const report = await stress(memory, map, ['step', `${seed}`, `${every}`, '3']);
        expect(report.runs).toBeGreaterThan(300);
      },
      TIMEOUT,
    );
  }
});

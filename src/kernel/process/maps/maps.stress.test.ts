import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAP_FLAG, MAP_TYPE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import { keyOfIndex } from './array.js';
import type { BloomFilter } from './bloom.js';
import { inspectHash, RoutinesInMemory, randomNumbers, SharedMemory } from './fixture.js';
import { HASH } from './layout.js';
import { type BpfMap, createMap, type MapAttributes } from './map.js';
import type { QueueOrStack } from './queue.js';
import { type MapRoutines, mapRoutineFor } from './routines.js';

const SOAK = process.env.MULTITRACE_SOAK === '1';
const TIMEOUT = SOAK ? 1_800_000 : 60_000;
const THREADS = 6;
/** Operations of each thread. */
const OPERATIONS = SOAK ? 5_000_000 : 100_000;
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const VALUE = 32;

let code: RoutinesInMemory;
let directory: string;
let path: string;

const hasCompiler = spawnSync('gcc', ['--version']).status === 0;

beforeAll(() => {
  code = new RoutinesInMemory();
  directory = mkdtempSync(join(tmpdir(), 'multitrace-maps-'));
  path = join(directory, 'map_stress');
  const source = join(dirname(fileURLToPath(import.meta.url)), 'map_stress.c');
  // Without a red zone, because stepping pushes onto the stack behind the compiler's back.
  if (hasCompiler)
    execFileSync('gcc', ['-O2', '-Wall', '-Werror', '-pthread', '-mno-red-zone', source, '-o', path]);
});

afterAll(() => {
  code[Symbol.dispose]();
  rmSync(directory, { recursive: true });
});

interface Run {
  readonly memory: SharedMemory;
  readonly map: BpfMap;
  /** As map_stress.c names it. */
  readonly type: string;
  readonly mode: 'threads' | 'kill' | 'step';
  readonly routines: readonly [keyof MapRoutines, keyof MapRoutines, keyof MapRoutines];
  readonly keys: number;
  readonly count: number;
  readonly threads?: number;
  readonly meanwhile?: () => void;
}

/** Runs map_stress.c and resolves to the numbers that it prints; `meanwhile` runs here until it ends. */
async function stress(run: Run): Promise<Record<string, number>> {
  const { memory, map } = run;
  const child = spawn(
    path,
    [
      ...[process.pid, memory.fd, memory.size, Number(map.address - memory.address)],
      memory.size - Number(map.address - memory.address),
      ...[code.fd, code.size, ...run.routines.map(name => code.offset(code.routines[name]))],
      ...[run.type, run.mode, seed, run.threads ?? THREADS, run.keys, map.keySize, run.count],
    ].map(String),
  );
  let output = '';
  let errors = '';
  child.stdout.on('data', chunk => {
    output += chunk;
  });
  child.stderr.on('data', chunk => {
    errors += chunk;
  });
  let running = true;
  const ended = new Promise<number | NodeJS.Signals | null>(resolve => {
    child.on('close', (status, signal) => {
      running = false;
      resolve(status ?? signal);
    });
  });
  while (running && run.meanwhile !== undefined) {
    run.meanwhile();
    await new Promise(resolve => setImmediate(resolve));
  }
  const status = await ended;
  if (status !== 0) throw new Error(`map_stress.c ended with ${status}: ${errors}`);
  const lines = output
    .trim()
    .split('\n')
    .map(line => line.split(' '));
  return Object.fromEntries(lines.map(([name, value]) => [name, Number(value)]));
}

function create(memory: SharedMemory, attr: Partial<MapAttributes> & { type: number }): BpfMap {
  return createMap({ keySize: 4, valueSize: VALUE, maxEntries: 16, name: 's', ...attr }, 1, memory);
}

/** Whether four words belong together, as map_stress.c makes them. */
function belongsTogether(bytes: Uint8Array, n: number): boolean {
  const [stamp, ...rest] = new BigUint64Array(bytes.slice().buffer);
  const wanted = [stamp! ^ BigInt(n), ~stamp!, stamp! * 3n].map(word => BigInt.asUintN(64, word));
  return wanted.every((word, i) => word === rest[i]);
}

/** Runs an operation that may be refused while others work. */
function attempt<T>(operation: () => T): T | undefined {
  try {
    return operation();
  } catch (error) {
    if (error instanceof BpfError) return undefined;
    throw error;
  }
}

/** Nodes in the free list of a pool. */
function freeNodes(memory: SharedMemory, map: BpfMap): number {
  const bytes = memory.bytesFrom(map.address);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  let count = 0;
  for (let low = view.getUint32(HASH.FREE, true); low !== 0; count++) low = view.getUint32(low * 2 + 8, true);
  return count;
}

describe.skipIf(!hasCompiler)(`maps under stress (seed ${seed})`, () => {
  for (const [name, type] of [
    ['queue', MAP_TYPE.QUEUE],
    ['stack', MAP_TYPE.STACK],
  ] as const) {
    const routines = (['peek', 'push', 'pop'] as const).map(operation => mapRoutineFor(type, operation)!) as [
      keyof MapRoutines,
      keyof MapRoutines,
      keyof MapRoutines,
    ];
    for (const maxEntries of [3, 100]) {
      for (const signals of [true, false]) {
        it(
          `a ${name} of ${maxEntries} loses, doubles and tears nothing ${signals ? 'with' : 'without'} signals`,
          async () => {
            using memory = new SharedMemory(1 << 16);
            const map = create(memory, { type, keySize: 0, maxEntries }) as QueueOrStack;
            let here = 0;
            let sum = 0n;
            const pop = (): boolean => {
              const value = map.pop();
              if (value === undefined) return false;
              expect(belongsTogether(value, 7)).toBe(true);
              here++;
              sum += new BigUint64Array(value.slice().buffer)[0]!;
              return true;
            };
            const count = signals ? OPERATIONS : -OPERATIONS;
            const meanwhile = (): void => {
              for (let i = 0; i < 50; i++) pop();
              const value = map.peek();
              if (value !== undefined) expect(belongsTogether(value, 7)).toBe(true);
            };
            const report = await stress({
              memory,
              map,
              type: name,
              mode: 'threads',
              routines,
              keys: 1,
              count,
              meanwhile,
            });
            expect(report).toMatchObject({ torn: 0, disordered: 0 });
            if (signals) expect(report.interrupted).toBeGreaterThan(20);
            while (pop());
            expect(here + report.popped!).toBe(report.pushed!);
            expect(Number(sum & 0xff_ffff_ffffn)).toBe(report.sum);
            // All nodes are there: the map takes as many as at first.
            for (let i = 0; i < maxEntries; i++) map.push(new Uint8Array(VALUE));
            expect(() => map.push(new Uint8Array(VALUE))).toThrow(expect.objectContaining({ code: 'E2BIG' }));
          },
          TIMEOUT,
        );
      }
    }

    it(
      `a ${name} is right after another operation or a death behind any single instruction`,
      async () => {
        for (const keys of [1, 2]) {
          using memory = new SharedMemory(4096);
          const map = create(memory, { type, keySize: 0, maxEntries: keys + 1 });
          const every = SOAK ? 1 : 29;
          const run = {
            memory,
            map,
            type: name,
            mode: 'step',
            routines,
            keys: keys + 1,
            count: every,
          } as const;
          const report = await stress(run);
          expect(report.torn).toBe(0);
          expect(report.runs).toBeGreaterThan(150);
        }
      },
      TIMEOUT,
    );

    it(
      `a ${name} goes on when processes that use it are killed at any moment`,
      async () => {
        using memory = new SharedMemory(1 << 20);
        const map = create(memory, { type, keySize: 0, maxEntries: 1000 }) as QueueOrStack;
        const report = await stress({
          memory,
          map,
          type: name,
          mode: 'kill',
          routines,
          keys: 1,
          count: SOAK ? 5000 : 100,
        });
        while (map.pop() !== undefined);
        let room = 0;
        const push = (): boolean => {
          map.push(new Uint8Array(VALUE));
          return true;
        };
        while (attempt(push) === true) room++;
        expect(room).toBeGreaterThanOrEqual(1000 - report.kills!);
        expect(room).toBeLessThanOrEqual(1000);
      },
      TIMEOUT,
    );
  }

  for (const maxEntries of [8, 300]) {
    it(
      `an LRU hash of ${maxEntries} tears and loses nothing, and is never full`,
      async () => {
        using memory = new SharedMemory(1 << 20);
        const map = create(memory, { type: MAP_TYPE.LRU_HASH, maxEntries });
        const random = randomNumbers(seed);
        const keys = maxEntries * 2;
        const meanwhile = (): void => {
          for (let i = 0; i < 100; i++) {
            const n = random(keys);
            const value = map.lookup(keyOfIndex(n));
            if (value !== undefined) expect(belongsTogether(value, n)).toBe(true);
            if (i % 10 === 0) attempt(() => map.delete(keyOfIndex(random(keys))));
          }
        };
        const routines = ['lruLookup', 'hashUpdate', 'hashDelete'] as const;
        const count = OPERATIONS;
        const report = await stress({
          memory,
          map,
          type: 'lru',
          mode: 'threads',
          routines,
          keys,
          count,
          meanwhile,
        });
        // With fewer nodes than are in use by threads at once, there can be none to evict.
        if (maxEntries > 100) expect(report.refused).toBe(0);
        for (let n = 0; n < keys; n++) map.lookup(keyOfIndex(n));
        for (const { key, value } of map.entries()) {
          expect(belongsTogether(value, new DataView(key.buffer).getUint32(0, true))).toBe(true);
        }
        const contents = inspectHash(memory.bytesFrom(map.address));
        expect(contents).toMatchObject({ marked: 0, lost: 0, spare: 128 });
        expect(contents.keys.length + contents.free).toBe(maxEntries);
      },
      TIMEOUT,
    );
  }

  it(
    'an LRU hash goes on when processes that use it are killed at any moment',
    async () => {
      using memory = new SharedMemory(1 << 20);
      const map = create(memory, { type: MAP_TYPE.LRU_HASH, maxEntries: 1000 });
      const routines = ['lruLookup', 'hashUpdate', 'hashDelete'] as const;
      const count = SOAK ? 5000 : 100;
      const report = await stress({ memory, map, type: 'lru', mode: 'kill', routines, keys: 2000, count });
      for (let n = 0; n < 2000; n++) map.update(keyOfIndex(n), new Uint8Array(VALUE));
      for (let n = 0; n < 2000; n++) map.lookup(keyOfIndex(n));
      const contents = inspectHash(memory.bytesFrom(map.address));
      expect(contents.lost).toBeLessThanOrEqual(report.kills!);
      expect(contents.keys.length).toBeGreaterThan(800);
    },
    TIMEOUT,
  );

  it(
    'an LPM trie finds whole values of a prefix of the key',
    async () => {
      using memory = new SharedMemory(1 << 20);
      const map = create(memory, {
        type: MAP_TYPE.LPM_TRIE,
        keySize: 8,
        maxEntries: 50,
        flags: MAP_FLAG.NO_PREALLOC,
      });
      const random = randomNumbers(seed);
      const keys = 60;
      const meanwhile = (): void => {
        for (let i = 0; i < 50; i++) {
          const n = random(keys);
          const key = Uint8Array.of(32, 0, 0, 0, 10, 0, n >> 1, 1);
          const value = map.lookup(key);
          if (value !== undefined) expect(belongsTogether(value, n >> 1)).toBe(true);
        }
      };
      const routines = ['lpmLookup', 'lpmUpdate', 'lpmDelete'] as const;
      const report = await stress({
        ...{ memory, map, type: 'lpm', mode: 'threads', routines, keys, meanwhile },
        count: OPERATIONS,
      });
      expect(report.torn).toBe(0);
      for (const { key } of map.entries()) map.delete(key);
      expect(inspectHash(memory.bytesFrom(map.address))).toMatchObject({
        marked: 0,
        lost: 0,
        free: 50,
        spare: 128,
      });
    },
    TIMEOUT,
  );

  for (const [what, attr, routines] of [
    ['hash', { type: MAP_TYPE.PERCPU_HASH }, ['percpuHashLookup', 'percpuHashUpdate', 'hashDelete']],
    ['LRU hash', { type: MAP_TYPE.LRU_PERCPU_HASH }, ['percpuHashLookup', 'percpuHashUpdate', 'hashDelete']],
    ['array', { type: MAP_TYPE.PERCPU_ARRAY }, ['percpuArrayLookup', 'percpuArrayUpdate', 'arrayDelete']],
  ] as const) {
    it(
      `a per-CPU ${what} counts every event of every thread`,
      async () => {
        using memory = new SharedMemory(8 << 20);
        const map = create(memory, { ...attr, maxEntries: 64 });
        const meanwhile = (): void => {
          for (let i = 0; i < 10; i++) map.lookup(keyOfIndex(i));
        };
        const count = OPERATIONS;
        const report = await stress({
          ...{ memory, map, type: 'percpu', mode: 'threads', routines, keys: 64, count, meanwhile },
        });
        let total = 0n;
        for (const { value } of map.entries()) {
          const words = new BigUint64Array(value.slice().buffer);
          for (let cpu = 0; cpu < THREADS; cpu++) total += words[cpu * (VALUE / 8)]!;
        }
        expect(total).toBe(BigInt(report.added!));
        expect(total).toBe(BigInt(THREADS * OPERATIONS));
      },
      TIMEOUT,
    );
  }

  it(
    'a stack trace map has whole stacks only, and loses no node',
    async () => {
      using memory = new SharedMemory(1 << 20);
      const map = create(memory, { type: MAP_TYPE.STACK_TRACE, valueSize: 16 * 8, maxEntries: 32 });
      const check = (value: Uint8Array): void => {
        const ips = new BigUint64Array(value.slice().buffer);
        const count = Number(1n + (ips[0]! % 9n));
        for (let i = 0; i < 16; i++) expect(ips[i]).toBe(i < count ? ips[0]! + BigInt(i) * 0x100000n : 0n);
      };
      const random = randomNumbers(seed);
      const meanwhile = (): void => {
        for (let i = 0; i < 20; i++) {
          const value = map.lookup(keyOfIndex(random(32)));
          if (value !== undefined) check(value);
          if (i % 5 === 0) attempt(() => map.delete(keyOfIndex(random(32))));
        }
      };
      const routines = ['stackMapStore', 'stackMapStore', 'stackMapStore'] as const;
      const count = OPERATIONS;
      await stress({ memory, map, type: 'trace', mode: 'threads', routines, keys: 60, count, meanwhile });
      let used = 0;
      for (const { value } of map.entries()) {
        check(value);
        used++;
      }
      expect(freeNodes(memory, map)).toBe(64 - used);
    },
    TIMEOUT,
  );

  it(
    'a bloom filter finds what it was given at once, on whatever thread',
    async () => {
      using memory = new SharedMemory(1 << 20);
      const map = create(memory, { type: MAP_TYPE.BLOOM_FILTER, keySize: 0, valueSize: 8, maxEntries: 2000 });
      const routines = ['bloomPeek', 'bloomPush', 'bloomPush'] as const;
      const count = OPERATIONS;
      const report = await stress({
        memory,
        map,
        type: 'bloom',
        mode: 'threads',
        routines,
        keys: 2000,
        count,
      });
      expect(report.torn).toBe(0);
      for (let n = 0; n < 2000; n++) {
        expect((map as BloomFilter).peek(new Uint8Array(BigUint64Array.of(BigInt(n)).buffer))).toBe(true);
      }
    },
    TIMEOUT,
  );
});

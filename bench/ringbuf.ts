/**
 * What a ring buffer carries: records and bytes a second from threads of another process, which run the helpers'
 * machine code, to a reader here that consumes all the while and counts every record.
 */

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { MAP_TYPE } from '../src/bpf/map_type.js';
import { BpfError } from '../src/kernel/errno.js';
import { emitRingbufHelpers, emitRingRoutines } from '../src/kernel/process/helpers/ringbuf_code.js';
import { RingBufferMap } from '../src/kernel/process/maps/ringbuf.js';
import {
  CProgram,
  PlacedCode,
  RingsHere,
  STRESS_DEFINES,
  stressArguments,
  TestMemory,
} from '../src/kernel/process/maps/ringbuf_fixture.js';
import { median, spread } from './statistics.js';

export interface RingbufRow {
  readonly by: 'reserve' | 'output';
  readonly threads: number;
  /** Bytes of a record, without its header. */
  readonly size: number;
  /** Medians over the rounds. */
  readonly recordsPerSecond: number;
  readonly bytesPerSecond: number;
  readonly spread: number;
}

/** Where the sources are: benchmarks run from there. */
const SOURCE = join('src', 'kernel', 'process', 'maps', 'ringbuf_stress.c');
const RING_BYTES = 4 << 20;
const RECORDS = 4_000_000;
const ROUNDS = 5;
const SIZES = [8, 64, 256] as const;

/** One round: seconds from the first record to the last, as the reader gets them; none may be missing. */
async function measure(
  code: PlacedCode,
  program: CProgram,
  row: Pick<RingbufRow, 'by' | 'threads' | 'size'>,
): Promise<number> {
  using memory = new TestMemory();
  const rings = new RingsHere();
  const attr = { type: MAP_TYPE.RINGBUF, name: 'bench', keySize: 0, valueSize: 0, maxEntries: RING_BYTES };
  const map = new RingBufferMap(attr, 1, memory, rings.mapRing);
  const ring = { address: map.address, fd: rings.fds[0]!, size: RING_BYTES };
  const records = RECORDS / row.threads;
  const child = spawn(
    program.path,
    stressArguments(code, memory, ring, { ...row, records, seed: 1, throttle: true }),
  );
  let ended = false;
  child.on('close', () => {
    ended = true;
  });
  let seen = 0;
  let first = 0;
  let last = 0;
  const count = (): void => {
    if (seen++ === 0) first = performance.now();
    else if (seen === RECORDS) last = performance.now();
  };
  while (!ended) {
    map.consume(count, 100_000);
    await map.wait(10);
  }
  map.consume(count);
  const lost = Number(map.dropped);
  map.free();
  if (seen !== RECORDS || lost !== 0)
    throw new BpfError(
      'EIO',
      `${seen} of ${RECORDS} records came, ${lost} were dropped: the benchmark is not valid`,
    );
  return (last - first) / 1000;
}

/** Measures all rows; `say` is told what goes on. */
export async function ringbufRates(say: (text: string) => void): Promise<RingbufRow[]> {
  using code = new PlacedCode(a => emitRingbufHelpers(a, emitRingRoutines(a)));
  using program = new CProgram(SOURCE, STRESS_DEFINES);
  const rows: RingbufRow[] = [];
  for (const by of ['reserve', 'output'] as const)
    for (const threads of [1, 4])
      for (const size of SIZES) {
        say(`ring buffer: ${by}, ${threads} threads, ${size} bytes`);
        const rates: number[] = [];
        for (let round = 0; round < ROUNDS; round++)
          rates.push(RECORDS / (await measure(code, program, { by, threads, size })));
        const recordsPerSecond = median(rates);
        rows.push({
          by,
          threads,
          size,
          recordsPerSecond,
          bytesPerSecond: recordsPerSecond * size,
          spread: spread(rates),
        });
      }
  return rows;
}

/** Prints the rows as a table. */
export function printRingbuf(rows: readonly RingbufRow[]): void {
  console.log('\nRing buffer: what a reader gets from another process while it writes; none lost\n');
  console.log('  million/s      MB/s   spread   what');
  for (const row of rows)
    console.log(
      [
        (row.recordsPerSecond / 1e6).toFixed(2).padStart(11),
        (row.bytesPerSecond / 1e6).toFixed(0).padStart(9),
        `±${(row.spread * 100).toFixed(0)}%`.padStart(8),
        `  ${row.size} bytes, ${row.by === 'output' ? 'output' : 'reserve and submit'}, ${row.threads} thread${row.threads > 1 ? 's' : ''}`,
      ].join(' '),
    );
}

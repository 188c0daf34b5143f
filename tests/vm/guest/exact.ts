/**
 * Counts system calls of a known number by one program on hundreds of kernel functions, and by another program on the raw
 * tracepoint of system calls. Arguments: the compiled object, the way, the kinds of program, selectors. Prints a line for
 * each kind.
 */

import { ProgramBuilder, R0, R1, R2, R6, R10 } from '../../../src/bpf/builder.js';
import { HELPER } from '../../../src/bpf/helpers.js';
import { MAP_TYPE } from '../../../src/bpf/map_type.js';
import { SystemError, systemCall } from '../../../src/ffi/libc.js';
import type { Way } from '../../../src/kernel/kernel.js';
import { Attr, bpf, Fd } from '../../../src/kernel/linux/bpf.js';
import { LinuxKernel } from '../../../src/kernel/linux/machine.js';
import { loadProgram } from '../../../src/kernel/linux/program.js';
import { BpfObject } from '../../../src/libbpf/object.js';
import { SelectorSet } from '../../../src/process/symbols/selector.js';

/** What one kind of program saw. */
export interface Exactness {
  readonly kind: string;
  readonly way: string;
  readonly functions: number;
  readonly skipped: number;
  readonly attachMs: number;
  readonly missed: string;
  /** By function: [entries, returns, sum of results]; all that were called. */
  readonly counts: Record<string, readonly [number, number, number]>;
  /** By number, what the raw tracepoint counted. */
  readonly systemCalls: Record<string, number>;
  /** What was made. */
  readonly made: Record<string, number>;
  readonly lost: number;
  readonly mistaken: number;
  readonly mixed: number;
}

const COOKIE = 0x5a5a_0000_0000_0000n;
const PROG_TYPE_RAW_TRACEPOINT = 17;
const SYS_GETTID = 186;
/** Offsets in `struct gate`. */
const [THREAD, OPEN] = [0, 4];
/** Calls of the loop: number, arguments, how often. */
const CALLS: readonly { name: string; number: number; args: readonly number[]; times: number }[] = [
  { name: 'getpgid', number: 121, args: [-5], times: 700 },
  { name: 'getppid', number: 110, args: [], times: 1100 },
  { name: 'access', number: 21, args: [0, 0], times: 300 },
  { name: 'umask', number: 95, args: [0o22], times: 500 },
  { name: 'getsid', number: 124, args: [0x7fff_ffff], times: 13 },
];

function call(number: number, ...args: readonly number[]): void {
  try {
    systemCall('a system call', number, ...args);
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
  }
}

const [path, way, kinds, ...selectors] = process.argv.slice(2);
const kernel = new LinuxKernel({ way: way as Way });
const functions = kernel.functions(SelectorSet.parse(selectors));

for (const kind of kinds.split(',')) {
  using object = BpfObject.open(path);
  object.program(kind).autoload = true;
  object.load(kernel);
  const gate = gateOf(object);
  gate.setUint32(THREAD, Number(systemCall('gettid', SYS_GETTID)), true);
  const rows = object.map('rows');
  for (const [slot, { address }] of functions.entries())
    rows.set(slot, { ip: address, entries: 0n, returns: 0n, results: 0n });
  const slots = new Map(functions.map(({ address }, slot) => [address, BigInt(slot)]));
  const link = kernel.linkCreate({
    prog: object.program(kind).prog,
    targets: functions.map(target => ({ target, cookie: COOKIE + slots.get(target.address)! })),
    skipInvalid: true,
  });
  const { counter, detach } = countSystemCalls(object);
  // Memory that is shared with the kernel: it is opened and closed without a system call.
  gate.setUint32(OPEN, 1, true);
  for (const { number, args, times } of CALLS) for (let i = 0; i < times; i++) call(number, ...args);
  gate.setUint32(OPEN, 0, true);
  const seen: Record<string, readonly [number, number, number]> = {};
  for (const [slot, { name }] of functions.entries()) {
    const row = rows.get(slot) as Record<string, bigint>;
    if (row.entries + row.returns > 0n)
      seen[name] = [Number(row.entries), Number(row.returns), Number(row.results)];
  }
  const { lost, mistaken, mixed } = object.globals.bss.gate as unknown as Record<string, bigint>;
  const result: Exactness = {
    kind,
    way: link.way,
    functions: link.targets.length,
    skipped: link.skipped.length,
    attachMs: Math.round(link.attachMs),
    missed: `${link.missed}`,
    counts: seen,
    systemCalls: Object.fromEntries(
      [...counter.entries()].flatMap(({ key, value }) => {
        const count = Buffer.from(value).readBigUInt64LE();
        return count === 0n ? [] : [[Buffer.from(key).readUInt32LE(), Number(count)]];
      }),
    ),
    made: Object.fromEntries(CALLS.map(({ name, times }) => [`__x64_sys_${name}`, times])),
    lost: Number(lost),
    mistaken: Number(mistaken),
    mixed: Number(mixed),
  };
  console.log(JSON.stringify(result));
  link.detach();
  detach();
}
kernel.close();

/** `struct gate` of the program. */
function gateOf(object: BpfObject): DataView {
  const { memory } = object.sectionOf('gate').map!;
  return new DataView(memory!.buffer, memory!.byteOffset + gateOffset(object));
}

function gateOffset(object: BpfObject): number {
  return object.sectionOf('gate').variables.get('gate')!.offset;
}

/** Another program, on the tracepoint of system calls, behind the same gate: counts them by their numbers. */
function countSystemCalls(object: BpfObject) {
  const counter = kernel.mapCreate({
    type: MAP_TYPE.ARRAY,
    name: 'system_calls',
    keySize: 4,
    valueSize: 8,
    maxEntries: 512,
  });
  const gateMap = object.sectionOf('gate').map!;
  const b = new ProgramBuilder();
  const out = b.label();
  b.load(8, R6, R1, 8);
  b.store(4, R10, -4, R6);
  b.ldMapValue(R6, gateMap, gateOffset(object));
  b.load(4, R1, R6, OPEN);
  b.jump('eq', R1, 0, out);
  b.call(HELPER.get_current_pid_tgid);
  b.load(4, R1, R6, THREAD);
  b.mov32(R0, R0);
  b.jump('ne', R0, R1, out);
  b.mov(R2, R10);
  b.add(R2, -4);
  b.ldMap(R1, counter);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, out);
  b.mov(R1, 1);
  b.atomicAdd(8, R0, 0, R1);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  const maps = new Map([counter, gateMap].map(map => [map.id, map as typeof counter]));
  const prog = loadProgram(
    {
      name: 'system_calls',
      type: PROG_TYPE_RAW_TRACEPOINT,
      attachType: 0,
      insns: b.build(),
      license: 'GPL',
    },
    {
      mapFd: id => maps.get(id)!.fd.number,
      kernelFunction: () => {
        throw new Error('it calls none');
      },
    },
  );
  const link = new Fd(
    bpf('RAW_TRACEPOINT_OPEN', new Attr().pointer(0, Buffer.from('sys_enter\0')).u32(8, prog.fd.number)),
  );
  return {
    counter,
    detach: () => {
      link.close();
      prog.fd.close();
      counter.free();
    },
  };
}

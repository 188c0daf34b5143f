/**
 * The peer: a kernel uprobe on a function, with a kernel BPF program that adds one to a slot of an array map, through
 * bpf(2) and perf_event_open(2). Says why where the kernel refuses.
 */

import { readFileSync } from 'node:fs';
import { ProgramBuilder, R0, R1, R2, R10 } from '../src/bpf/builder.js';
import { encodeProgram } from '../src/bpf/encoding.js';
import { HELPER } from '../src/bpf/helpers.js';
import { addressOf, SYS, SystemError, systemCall } from '../src/ffi/libc.js';

const SYS_BPF = 321;
const SYS_PERF_EVENT_OPEN = 298;
const SYS_IOCTL = 16;
/** linux/bpf.h */
const BPF = {
  MAP_CREATE: 0,
  MAP_LOOKUP_ELEM: 1,
  PROG_LOAD: 5,
  MAP_TYPE_ARRAY: 2,
  PROG_TYPE_KPROBE: 2,
} as const;
const ATTR_BYTES = 128;
/** linux/perf_event.h */
const PERF_ATTR_BYTES = 136;
const PERF_FLAG_FD_CLOEXEC = 8;
const PERF_EVENT_IOC_ENABLE = 0x2400;
const PERF_EVENT_IOC_SET_BPF = 0x40042408;

function bpf(name: string, command: number, attr: Buffer): number {
  return Number(systemCall(name, SYS_BPF, command, addressOf(attr), attr.length));
}

function close(fd: number): void {
  systemCall('close', SYS.close, fd);
}

export class CountingUprobe implements Disposable {
  readonly #map: number;
  readonly #program: number;
  readonly #event: number;

  /** Probes the function at `offset` of `file` in process `pid`. Throws `SystemError` where the kernel refuses. */
  constructor(pid: number, file: string, offset: number) {
    const fds: number[] = [];
    try {
      const create = Buffer.alloc(ATTR_BYTES);
      create.writeUInt32LE(BPF.MAP_TYPE_ARRAY, 0);
      create.writeUInt32LE(4, 4);
      create.writeUInt32LE(8, 8);
      create.writeUInt32LE(1, 12);
      this.#map = bpf('bpf(BPF_MAP_CREATE)', BPF.MAP_CREATE, create);
      fds.push(this.#map);

      const insns = Buffer.from(encodeProgram(counting(this.#map)));
      const license = Buffer.from('GPL\0');
      const load = Buffer.alloc(ATTR_BYTES);
      load.writeUInt32LE(BPF.PROG_TYPE_KPROBE, 0);
      load.writeUInt32LE(insns.length / 8, 4);
      load.writeBigUInt64LE(addressOf(insns), 8);
      load.writeBigUInt64LE(addressOf(license), 16);
      this.#program = bpf('bpf(BPF_PROG_LOAD)', BPF.PROG_LOAD, load);
      fds.push(this.#program);

      const path = Buffer.from(`${file}\0`);
      const event = Buffer.alloc(PERF_ATTR_BYTES);
      event.writeUInt32LE(Number(readFileSync('/sys/bus/event_source/devices/uprobe/type', 'utf8')), 0);
      event.writeUInt32LE(PERF_ATTR_BYTES, 4);
      event.writeBigUInt64LE(1n, 16);
      event.writeBigUInt64LE(addressOf(path), 56);
      event.writeBigUInt64LE(BigInt(offset), 64);
      this.#event = Number(
        systemCall(
          'perf_event_open',
          SYS_PERF_EVENT_OPEN,
          addressOf(event),
          pid,
          -1,
          -1,
          PERF_FLAG_FD_CLOEXEC,
        ),
      );
      fds.push(this.#event);
      systemCall(
        'ioctl(PERF_EVENT_IOC_SET_BPF)',
        SYS_IOCTL,
        this.#event,
        PERF_EVENT_IOC_SET_BPF,
        this.#program,
      );
      systemCall('ioctl(PERF_EVENT_IOC_ENABLE)', SYS_IOCTL, this.#event, PERF_EVENT_IOC_ENABLE, 0);
    } catch (cause) {
      for (const fd of fds) close(fd);
      throw cause;
    }
  }

  /** What the program has counted. */
  count(): number {
    const key = Buffer.alloc(4);
    const value = Buffer.alloc(8);
    const attr = Buffer.alloc(ATTR_BYTES);
    attr.writeUInt32LE(this.#map, 0);
    attr.writeBigUInt64LE(addressOf(key), 8);
    attr.writeBigUInt64LE(addressOf(value), 16);
    bpf('bpf(BPF_MAP_LOOKUP_ELEM)', BPF.MAP_LOOKUP_ELEM, attr);
    return Number(value.readBigUInt64LE(0));
  }

  [Symbol.dispose](): void {
    close(this.#event);
    close(this.#program);
    close(this.#map);
  }
}

function counting(map: number): ReturnType<ProgramBuilder['build']> {
  const b = new ProgramBuilder();
  const out = b.label();
  b.store(4, R10, -4, 0);
  b.mov(R2, R10);
  b.add(R2, -4);
  b.ldMap(R1, { id: map });
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, out);
  b.mov(R1, 1);
  b.atomicAdd(8, R0, 0, R1);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

/** One sentence for a person. */
export function whyRefused(cause: unknown): string {
  if (cause instanceof SystemError) return `${cause.call} was refused (errno ${cause.errno})`;
  return cause instanceof Error ? cause.message : String(cause);
}
